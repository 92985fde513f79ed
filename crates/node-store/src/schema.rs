//! The tables, and the way from every earlier version of them.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use crate::OpenStoreError;

/// One step per version, never changed once it was released. The database's `user_version` says
/// how many were taken.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE sandboxes (
        id            TEXT PRIMARY KEY,
        name          TEXT,
        template      TEXT NOT NULL,
        size          TEXT NOT NULL,
        state         TEXT NOT NULL,
        created_at_ms INTEGER NOT NULL,
        reason        TEXT
    ) STRICT;
",
    // What a sandbox needs to go on under another daemon.
    "
    ALTER TABLE sandboxes ADD COLUMN env TEXT NOT NULL DEFAULT '{}';
    ALTER TABLE sandboxes ADD COLUMN times TEXT NOT NULL DEFAULT '';
",
    // Who may do what.
    "
    CREATE TABLE projects (
        id            TEXT PRIMARY KEY,
        name          TEXT NOT NULL UNIQUE,
        quota         TEXT NOT NULL,
        created_at_ms INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE keys (
        id              TEXT PRIMARY KEY,
        project         TEXT NOT NULL,
        name            TEXT NOT NULL,
        admin           INTEGER NOT NULL,
        hash            BLOB NOT NULL UNIQUE,
        created_at_ms   INTEGER NOT NULL,
        expires_at_ms   INTEGER,
        last_used_at_ms INTEGER
    ) STRICT;
    CREATE TABLE answers (
        project       TEXT NOT NULL,
        key           TEXT NOT NULL,
        fingerprint   BLOB NOT NULL,
        status        INTEGER NOT NULL,
        body          BLOB NOT NULL,
        created_at_ms INTEGER NOT NULL,
        PRIMARY KEY (project, key)
    ) STRICT;
    ALTER TABLE sandboxes ADD COLUMN project TEXT NOT NULL DEFAULT 'prj_0000000000000000';
",
    // How long a sandbox lives, what it is found by, what it was made from.
    "
    ALTER TABLE sandboxes ADD COLUMN metadata TEXT NOT NULL DEFAULT '{}';
    ALTER TABLE sandboxes ADD COLUMN snapshot TEXT;
    ALTER TABLE sandboxes ADD COLUMN timeout_s INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE sandboxes ADD COLUMN idle_timeout_s INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE sandboxes ADD COLUMN on_timeout TEXT NOT NULL DEFAULT 'kill';
    ALTER TABLE sandboxes ADD COLUMN ends_at_ms INTEGER;
",
    // Creates that must not happen twice, and how many there were lately: a sandbox that was killed
    // since counts all the same.
    "
    ALTER TABLE sandboxes ADD COLUMN errand BLOB;
    CREATE TABLE creates (
        project TEXT NOT NULL,
        at_ms   INTEGER NOT NULL
    ) STRICT;
    CREATE TRIGGER sandbox_created AFTER INSERT ON sandboxes BEGIN
        INSERT INTO creates (project, at_ms) VALUES (NEW.project, NEW.created_at_ms);
        DELETE FROM creates WHERE at_ms < NEW.created_at_ms - 120000;
    END;
",
    // Who may reach the ports of sandboxes.
    "
    CREATE TABLE ports (
        sandbox TEXT PRIMARY KEY REFERENCES sandboxes (id) ON DELETE CASCADE,
        token   BLOB NOT NULL,
        public  TEXT NOT NULL
    ) STRICT;
",
    // Old answers are found without reading all the others.
    "
    CREATE INDEX answers_of_project ON answers (project, created_at_ms);
    CREATE INDEX answers_by_age ON answers (created_at_ms);
",
    // What sandboxes may reach. Those of before reached nothing.
    "
    ALTER TABLE sandboxes ADD COLUMN network TEXT NOT NULL DEFAULT '{\"base\":\"none\"}';
    ",
    // Databases, and the sandboxes that may use them.
    "
    CREATE TABLE databases (
        id            TEXT PRIMARY KEY,
        project       TEXT NOT NULL,
        name          TEXT NOT NULL COLLATE NOCASE,
        sandbox       TEXT NOT NULL UNIQUE,
        size          TEXT NOT NULL,
        extensions    TEXT NOT NULL,
        user          TEXT NOT NULL UNIQUE,
        password      TEXT NOT NULL,
        ready         INTEGER NOT NULL,
        created_at_ms INTEGER NOT NULL,
        expires_at_ms INTEGER,
        errand        BLOB,
        UNIQUE (project, name)
    ) STRICT;
    CREATE TABLE wirings (
        sandbox   TEXT NOT NULL,
        database  TEXT NOT NULL REFERENCES databases (id) ON DELETE CASCADE,
        env       TEXT NOT NULL,
        host      TEXT NOT NULL,
        read_only INTEGER NOT NULL,
        user      TEXT NOT NULL,
        password  TEXT NOT NULL,
        number    INTEGER NOT NULL,
        PRIMARY KEY (sandbox, database),
        UNIQUE (database, user)
    ) STRICT;
",
    // Secrets, and which of them a sandbox may use.
    "
    CREATE TABLE secrets (
        project       TEXT NOT NULL,
        name          TEXT NOT NULL,
        value         TEXT NOT NULL,
        hosts         TEXT NOT NULL,
        created_at_ms INTEGER NOT NULL,
        updated_at_ms INTEGER NOT NULL,
        PRIMARY KEY (project, name)
    ) STRICT;
    CREATE TRIGGER project_deleted AFTER DELETE ON projects BEGIN
        DELETE FROM secrets WHERE project = OLD.id;
    END;
    ALTER TABLE sandboxes ADD COLUMN secrets TEXT NOT NULL DEFAULT '[]';
",
    // A machine that is to take the place of a database's, or whose place was taken.
    "
    ALTER TABLE databases ADD COLUMN spare TEXT;
",
    // Who may connect to a database from outside. Those of before let in the node's own machine.
    "
    ALTER TABLE databases ADD COLUMN outside TEXT NOT NULL DEFAULT 'loopback';
",
    // How much disk a database may take.
    "
    ALTER TABLE databases ADD COLUMN disk_mib INTEGER;
",
];

/// LIMIT: only a person with a SQLite shell competes for the lock.
const BUSY_WITHIN: Duration = Duration::from_secs(5);

/// For its owner only.
const MODE: u32 = 0o600;

/// Opens `path` and brings it to the newest version.
pub(crate) fn open(path: &Path) -> Result<Connection, OpenStoreError> {
    let failed = |source| OpenStoreError::Open { path: path.into(), source };
    // Environments hold secrets. The log beside it gets the mode of the database.
    keep_private(path);
    let mut connection = Connection::open(path).map_err(failed)?;
    connection.busy_timeout(BUSY_WITHIN).map_err(failed)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    connection.pragma_update(None, "synchronous", "NORMAL").map_err(failed)?;
    connection.pragma_update(None, "foreign_keys", true).map_err(failed)?;

    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let found: u32 =
        transaction.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    let newest = MIGRATIONS.len() as u32;
    if found > newest {
        return Err(OpenStoreError::FromTheFuture { path: path.into(), found, newest });
    }
    for step in MIGRATIONS.iter().skip(found as usize) {
        transaction.execute_batch(step).map_err(failed)?;
    }
    transaction.pragma_update(None, "user_version", newest).map_err(failed)?;
    transaction.commit().map_err(failed)?;
    Ok(connection)
}

/// Makes the database its owner's alone, new or not. What cannot be done here, opening it says.
fn keep_private(path: &Path) {
    use std::fs::{File, Permissions};
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    let file = File::options().create(true).append(true).mode(MODE).open(path);
    let _ = file.and_then(|file| file.set_permissions(Permissions::from_mode(MODE)));
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::Store;

    /// A database as a node of an earlier version left it.
    fn database(path: &Path, version: usize) -> Connection {
        let connection = Connection::open(path).unwrap();
        for step in &MIGRATIONS[..version] {
            connection.execute_batch(step).unwrap();
        }
        connection.pragma_update(None, "user_version", version as u32).unwrap();
        connection
    }

    #[tokio::test]
    async fn sandboxes_of_every_earlier_version_are_read_and_reach_nothing() {
        for version in 1..MIGRATIONS.len() {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("node.db");
            let connection = database(&path, version);
            let row = "INSERT INTO sandboxes (id, name, template, size, state, created_at_ms)
                VALUES ('sbx_0000000000000001', 'charts', 'agent', 'nano', 'running', 7)";
            connection.execute(row, []).unwrap();
            drop(connection);
            let rows = Store::open(&path).unwrap().sandbox_list().await.unwrap();
            let [row] = &rows[..] else { panic!("{version}: {rows:?}") };
            assert_eq!((row.name.as_deref(), row.created_at_ms), (Some("charts"), 7), "{version}");
            assert_eq!(row.network, r#"{"base":"none"}"#, "{version}");
            assert_eq!(row.secrets, "[]", "{version}");
        }
    }

    #[tokio::test]
    async fn databases_of_every_earlier_version_let_in_the_nodes_own_machine() {
        let began = MIGRATIONS.iter().position(|step| step.contains("TABLE databases")).unwrap();
        for version in began + 1..MIGRATIONS.len() {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("node.db");
            let connection = database(&path, version);
            let columns = "id, project, name, sandbox, size, extensions, user, password, ready,
                created_at_ms";
            let values = "'db_0000000000000001', 'prj_0000000000000000', 'memory',
                'sbx_0000000000000001', 'nano', '[]', 'u000000000001', 'x', 1, 7";
            let sql = format!("INSERT INTO databases ({columns}) VALUES ({values})");
            connection.execute(&sql, []).unwrap();
            drop(connection);
            let rows = Store::open(&path).unwrap().database_list().await.unwrap();
            let [row] = &rows[..] else { panic!("{version}: {rows:?}") };
            assert_eq!(
                (row.name.as_str(), row.outside.as_str()),
                ("memory", "loopback"),
                "{version}"
            );
        }
    }
}
