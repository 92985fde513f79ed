//! Databases, and the sandboxes that are wired to them.
//!
//! Flushed to the disk before it is answered: what a database holds is meant to stay, and a role that
//! was taken away must not be known again after a power cut.

use base_types::{DatabaseId, ProjectId, SandboxId, Size};
use rusqlite::{Row, params};

use crate::access::{all, durably, parsed, unsigned, whole};
use crate::{Store, StoreError};

/// A database, as it is remembered.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseRow {
    /// Its id.
    pub id: DatabaseId,
    /// The project it belongs to.
    pub project: ProjectId,
    /// Its name; no two of a project have the same, whatever the case of the letters.
    pub name: String,
    /// The sandbox that is its machine.
    pub sandbox: SandboxId,
    /// Size of that.
    pub size: Size,
    /// MiB of that one's disk that its data may take, where that was said.
    pub disk_mib: Option<u32>,
    /// Extensions that were asked for.
    pub extensions: Vec<String>,
    /// The role its owner logs in as.
    pub user: String,
    /// The password of that role.
    pub password: String,
    /// Whether it was made whole. One that was not is removed by the next daemon.
    pub ready: bool,
    /// When it was asked for, milliseconds since 1970 UTC.
    pub created_at_ms: u64,
    /// When it is deleted, milliseconds since 1970 UTC.
    pub expires_at_ms: Option<u64>,
    /// Who may connect to it from outside, as one text. Those of before there were rules have `loopback`.
    pub outside: String,
    /// The create it was made by, where that must not happen twice.
    pub errand: Option<[u8; 32]>,
    /// Another machine of it: one that is to take the place of `sandbox`, or whose place that took. It is
    /// not one's any more when nothing is done with the database.
    pub spare: Option<SandboxId>,
}

impl std::fmt::Debug for DatabaseRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatabaseRow")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("sandbox", &self.sandbox)
            .field("ready", &self.ready)
            .finish_non_exhaustive()
    }
}

/// That a sandbox may use a database, as it is remembered.
#[derive(Clone, PartialEq, Eq)]
pub struct WiringRow {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// The database.
    pub database: DatabaseId,
    /// The variable that has its address.
    pub env: String,
    /// The name that the sandbox knows it by.
    pub host: String,
    /// Whether the sandbox may only read.
    pub read_only: bool,
    /// The role it logs in as.
    pub user: String,
    /// The password of that role.
    pub password: String,
    /// Which of the addresses for databases it is reached at.
    pub number: u8,
}

impl std::fmt::Debug for WiringRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WiringRow")
            .field("sandbox", &self.sandbox)
            .field("database", &self.database)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

type Waiting<T> = std::pin::Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

impl Store {
    /// Remembers a database that is being made.
    pub fn database_insert(&self, row: DatabaseRow) -> Waiting<()> {
        self.work(move |connection| {
            let extensions =
                serde_json::to_string(&row.extensions).map_err(StoreError::Unwritable)?;
            durably(connection, |connection| {
                let sql =
                    "INSERT INTO databases (id, project, name, sandbox, size, extensions, user,
                    password, ready, created_at_ms, expires_at_ms, errand, spare, outside, disk_mib)
                    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)";
                connection.execute(
                    sql,
                    params![
                        row.id.to_string(),
                        row.project.to_string(),
                        row.name,
                        row.sandbox.to_string(),
                        row.size.name(),
                        extensions,
                        row.user,
                        row.password,
                        row.ready,
                        whole(row.created_at_ms),
                        row.expires_at_ms.map(whole),
                        row.errand,
                        row.spare.map(|spare| spare.to_string()),
                        row.outside,
                        row.disk_mib,
                    ],
                )
            })
        })
    }

    /// Remembers that a database was made whole.
    pub fn database_set_ready(&self, id: DatabaseId) -> Waiting<()> {
        self.work(move |connection| {
            durably(connection, |connection| {
                let sql = "UPDATE databases SET ready = 1 WHERE id = ?";
                connection.execute(sql, [id.to_string()])
            })
        })
    }

    /// Remembers another password of a database's owner.
    pub fn database_set_password(&self, id: DatabaseId, password: String) -> Waiting<()> {
        self.work(move |connection| {
            durably(connection, |connection| {
                let sql = "UPDATE databases SET password = ?2 WHERE id = ?1";
                connection.execute(sql, params![id.to_string(), password])
            })
        })
    }

    /// Remembers another machine of a database, or that there is none.
    pub fn database_set_spare(&self, id: DatabaseId, spare: Option<SandboxId>) -> Waiting<()> {
        self.work(move |connection| {
            durably(connection, |connection| {
                let sql = "UPDATE databases SET spare = ?2 WHERE id = ?1";
                let spare = spare.map(|spare| spare.to_string());
                connection.execute(sql, params![id.to_string(), spare])
            })
        })
    }

    /// Lets the other machine of a database take the place of its machine, which is the other one then.
    pub fn database_swap(&self, id: DatabaseId) -> Waiting<()> {
        self.work(move |connection| {
            durably(connection, |connection| {
                let sql = "UPDATE databases SET sandbox = spare, spare = sandbox
                    WHERE id = ? AND spare IS NOT NULL";
                connection.execute(sql, [id.to_string()])
            })
        })
    }

    /// Remembers who may connect to a database from outside.
    pub fn database_set_outside(&self, id: DatabaseId, outside: String) -> Waiting<()> {
        self.work(move |connection| {
            durably(connection, |connection| {
                let sql = "UPDATE databases SET outside = ?2 WHERE id = ?1";
                connection.execute(sql, params![id.to_string(), outside])
            })
        })
    }

    /// Forgets a database and what is wired to it. One that is not there is no error.
    pub fn database_delete(&self, id: DatabaseId) -> Waiting<()> {
        self.work(move |connection| {
            durably(connection, |connection| {
                connection.execute("DELETE FROM databases WHERE id = ?", [id.to_string()])
            })
        })
    }

    /// All databases, oldest first.
    pub fn database_list(&self) -> Waiting<Vec<DatabaseRow>> {
        self.work(|connection| {
            let sql = "SELECT id, project, name, sandbox, size, extensions, user, password, ready,
                created_at_ms, expires_at_ms, errand, spare, outside, disk_mib FROM databases
                ORDER BY created_at_ms, id";
            all(connection, sql, read)
        })
    }

    /// Remembers that a sandbox may use a database, in place of what was.
    pub fn wiring_set(&self, row: WiringRow) -> Waiting<()> {
        self.work(move |connection| {
            durably(connection, |connection| {
                let sql = "INSERT OR REPLACE INTO wirings (sandbox, database, env, host, read_only,
                    user, password, number) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
                connection.execute(
                    sql,
                    params![
                        row.sandbox.to_string(),
                        row.database.to_string(),
                        row.env,
                        row.host,
                        row.read_only,
                        row.user,
                        row.password,
                        row.number,
                    ],
                )
            })
        })
    }

    /// Forgets that a sandbox may use a database.
    pub fn wiring_delete(&self, sandbox: SandboxId, database: DatabaseId) -> Waiting<()> {
        self.work(move |connection| {
            durably(connection, |connection| {
                let sql = "DELETE FROM wirings WHERE sandbox = ?1 AND database = ?2";
                connection.execute(sql, params![sandbox.to_string(), database.to_string()])
            })
        })
    }

    /// All that sandboxes may use.
    pub fn wiring_list(&self) -> Waiting<Vec<WiringRow>> {
        self.work(|connection| {
            let sql = "SELECT sandbox, database, env, host, read_only, user, password, number
                FROM wirings";
            all(connection, sql, |row| {
                Ok(WiringRow {
                    sandbox: parsed(row, 0, "sandbox id")?,
                    database: parsed(row, 1, "database id")?,
                    env: row.get(2)?,
                    host: row.get(3)?,
                    read_only: row.get(4)?,
                    user: row.get(5)?,
                    password: row.get(6)?,
                    number: row.get(7)?,
                })
            })
        })
    }
}

fn read(row: &Row<'_>) -> Result<DatabaseRow, StoreError> {
    let extensions: String = row.get(5)?;
    Ok(DatabaseRow {
        id: parsed(row, 0, "database id")?,
        project: parsed(row, 1, "project id")?,
        name: row.get(2)?,
        sandbox: parsed(row, 3, "sandbox id")?,
        size: parsed(row, 4, "size")?,
        extensions: serde_json::from_str(&extensions)
            .map_err(|_| StoreError::Unreadable { what: "extensions", value: extensions })?,
        user: row.get(6)?,
        password: row.get(7)?,
        ready: row.get(8)?,
        created_at_ms: unsigned(row.get(9)?),
        expires_at_ms: row.get::<_, Option<i64>>(10)?.map(unsigned),
        errand: row.get(11)?,
        spare: match row.get::<_, Option<String>>(12)? {
            Some(_) => Some(parsed(row, 12, "sandbox id")?),
            None => None,
        },
        outside: row.get(13)?,
        disk_mib: row.get(14)?,
    })
}

#[cfg(test)]
mod test {
    use super::*;

    fn database(bits: u64, name: &str) -> DatabaseRow {
        DatabaseRow {
            id: DatabaseId::from_bits(bits),
            project: ProjectId::from_bits(1),
            name: name.to_owned(),
            sandbox: SandboxId::from_bits(bits),
            size: Size::Nano,
            disk_mib: (bits == 2).then_some(512),
            extensions: vec!["vector".to_owned()],
            user: format!("u{bits:012x}"),
            password: "Secret#42".to_owned(),
            ready: false,
            created_at_ms: bits,
            expires_at_ms: (bits == 2).then_some(99),
            errand: (bits == 2).then_some([7; 32]),
            spare: None,
            outside: "10.0.0.0/8".to_owned(),
        }
    }

    fn wiring(sandbox: u64, database: u64) -> WiringRow {
        WiringRow {
            sandbox: SandboxId::from_bits(sandbox),
            database: DatabaseId::from_bits(database),
            env: "DATABASE_URL".to_owned(),
            host: "memory.db.internal".to_owned(),
            read_only: sandbox == 2,
            user: format!("u{sandbox:012x}"),
            password: "Secret#43".to_owned(),
            number: 1,
        }
    }

    #[tokio::test]
    async fn databases_survive_the_store_and_their_wirings_go_with_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.db");
        let store = Store::open(&path).unwrap();
        for (bits, name) in [(1, "a"), (2, "b")] {
            store.database_insert(database(bits, name)).await.unwrap();
            store.wiring_set(wiring(1, bits)).await.unwrap();
            store.wiring_set(wiring(2, bits)).await.unwrap();
        }
        let (one, two) = (DatabaseId::from_bits(1), DatabaseId::from_bits(2));
        store.database_delete(one).await.unwrap();
        store.database_set_ready(two).await.unwrap();
        store.database_set_password(two, "other".to_owned()).await.unwrap();
        store.database_set_outside(two, "off".to_owned()).await.unwrap();
        store.wiring_delete(SandboxId::from_bits(1), two).await.unwrap();
        drop(store);
        let store = Store::open(&path).unwrap();
        let (password, outside) = ("other".to_owned(), "off".to_owned());
        let kept = DatabaseRow { ready: true, password, outside, ..database(2, "b") };
        assert_eq!(store.database_list().await.unwrap(), [kept]);
        assert_eq!(store.wiring_list().await.unwrap(), [wiring(2, 2)]);
    }

    #[tokio::test]
    async fn a_database_changes_its_machine_at_once_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("node.db")).unwrap();
        let (row, id) = (database(1, "a"), DatabaseId::from_bits(1));
        store.database_insert(row.clone()).await.unwrap();
        let machines = async || {
            let rows = store.database_list().await.unwrap();
            (rows[0].sandbox.bits(), rows[0].spare.map(SandboxId::bits))
        };
        // Without another one there is nothing to swap.
        store.database_swap(id).await.unwrap();
        assert_eq!(machines().await, (1, None));
        store.database_set_spare(id, Some(SandboxId::from_bits(9))).await.unwrap();
        assert_eq!(machines().await, (1, Some(9)));
        store.database_swap(id).await.unwrap();
        assert_eq!(machines().await, (9, Some(1)));
        store.database_set_spare(id, None).await.unwrap();
        assert_eq!(machines().await, (9, None));
    }

    #[tokio::test]
    async fn a_name_is_one_databases_whatever_the_case_of_its_letters() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("node.db")).unwrap();
        store.database_insert(database(1, "Memory")).await.unwrap();
        assert!(store.database_insert(database(2, "memorY")).await.is_err());
        let elsewhere = DatabaseRow { project: ProjectId::from_bits(2), ..database(2, "memory") };
        store.database_insert(elsewhere).await.unwrap();
    }

    #[test]
    fn rows_do_not_show_passwords() {
        let shown = format!("{:?}{:?}", database(1, "a"), wiring(1, 1));
        assert!(!shown.contains("Secret"), "{shown}");
    }
}
