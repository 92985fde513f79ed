//! Databases with a real Postgres. Their machines are nobody's sandbox, so what their server lets in is
//! tried from inside of it, by its own client library: `dblink` connects to an address as any program would.

use std::time::Instant;

use api_node::{
    CreateDatabase, CreateDatabaseSnapshot, CreateSandbox, Database, DatabaseListQuery,
    DatabaseStats, DatabaseStatus, ErrorCode, ForkDatabase, QUERY_TIMEOUT_MS_MAX, QueryAnswer,
    QueryDatabase, RestoreDatabase, SetPassword, WireDatabase, WireRole,
};
use base_types::Size;
use client::{Client, ClientError};
use futures_util::{StreamExt as _, stream};
use tokio::time::timeout;

use crate::host::{Host, PATIENCE, shared};

/// A database that is gone when the test has passed.
pub(crate) struct Made<'host> {
    pub(crate) client: Client,
    host: &'host Host,
    pub(crate) database: Database,
}

impl<'host> Made<'host> {
    pub(crate) async fn new(host: &'host Host, request: &CreateDatabase) -> Self {
        host.snapshot("postgres", Size::Nano).await;
        let client = host.client();
        let made = timeout(PATIENCE, client.database_create(request)).await.unwrap();
        Self::of(host, made.unwrap_or_else(|error| panic!("create: {error}")))
    }

    pub(crate) fn of(host: &'host Host, database: Database) -> Self {
        Self { client: host.client(), host, database }
    }

    pub(crate) async fn query(&self, sql: &str) -> Result<QueryAnswer, ClientError> {
        // Beside another host a machine that was just made of a moment finds little in memory.
        let request = QueryDatabase { timeout_ms: QUERY_TIMEOUT_MS_MAX, ..QueryDatabase::new(sql) };
        timeout(PATIENCE, self.client.database_query(&self.database.name, &request)).await.unwrap()
    }

    /// The only value SQL gives.
    pub(crate) async fn value(&self, sql: &str) -> String {
        let answer = self.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        answer.rows[0][0].clone().unwrap()
    }

    /// What SQL gives to whoever connects to `url`, which is the server's own.
    async fn at(&self, url: &str, sql: &str) -> Result<String, ClientError> {
        let (before, rest) = url.split_once('@').unwrap();
        let (host, rest) = rest.split_once(':').unwrap();
        assert_eq!(host, format!("{}.db.internal", self.database.name.to_lowercase()));
        let inside = format!("{before}@127.0.0.1:{rest}");
        let call =
            format!("SELECT * FROM dblink({}, {}) AS t(x text)", quoted(&inside), quoted(sql));
        self.query(&call).await.map(|answer| answer.rows[0][0].clone().unwrap_or_default())
    }

    async fn stats(&self) -> DatabaseStats {
        let stats = self.client.database_stats(&self.database.name);
        timeout(PATIENCE, stats).await.unwrap().unwrap()
    }

    /// All of its figures once they are as `fit` says: a session tells what it did a moment after its answer,
    /// and a server that is just being resumed may leave out its queries. It is in use meanwhile.
    async fn stats_that(&self, fit: impl Fn(&DatabaseStats) -> bool) -> DatabaseStats {
        let waiting = async {
            loop {
                self.value("SELECT 1").await;
                let stats = self.stats().await;
                if stats.answered_us.is_some() && stats.slow_queries.is_some() && fit(&stats) {
                    return stats;
                }
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        };
        timeout(PATIENCE, waiting).await.expect("figures that fit")
    }

    pub(crate) async fn delete(self) {
        let name = &self.database.name;
        timeout(PATIENCE, self.client.database_delete(name)).await.unwrap().unwrap();
        assert_eq!(code(self.client.database_get(name).await), ErrorCode::NotFound);
        let _ = self.host;
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn code<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> ErrorCode {
    match answer {
        Err(ClientError::Refused(failure)) => failure.code,
        other => panic!("{other:?}"),
    }
}

/// As by default, with what the tests connect by.
pub(crate) fn wanted(name: &str) -> CreateDatabase {
    let extensions = ["vector", "dblink"].map(str::to_owned).to_vec();
    CreateDatabase { extensions, ..CreateDatabase::named(name) }
}

#[tokio::test]
async fn a_database_answers_at_once_and_is_nobodys_sandbox() {
    let host = shared().await;
    host.snapshot("postgres", Size::Nano).await;
    let before = host.client().sandbox_list().await.unwrap();
    let began = Instant::now();
    let seed = "CREATE TABLE seeded (x int); INSERT INTO seeded VALUES (1), (2);";
    let request = CreateDatabase { seed: Some(seed.to_owned()), ..wanted("first") };
    let made = Made::new(&host, &request).await;
    let created = began.elapsed();
    assert_eq!(made.value("SELECT 1").await, "1");
    eprintln!(
        "a database was made in {created:?} and answered SELECT 1 after {:?}",
        began.elapsed()
    );
    assert_eq!(made.value("SELECT count(*) FROM seeded").await, "2");
    assert_eq!(made.value("SELECT '[1,2,3]'::vector <-> '[1,2,5]'").await, "2");
    assert_eq!(made.value("SELECT current_user").await, "owner");
    assert_eq!(made.value("SHOW data_checksums").await, "on");
    assert_eq!(made.value("SHOW fsync").await, "on");
    let answer = made.query("SELECT n, null FROM generate_series(1, 5000) n").await.unwrap();
    assert_eq!(
        (answer.rows.len(), answer.truncated, answer.rows_affected),
        (1000, true, Some(5000))
    );
    assert_eq!(answer.rows[7], [Some("8".to_owned()), None]);
    assert_eq!(code(made.query("SELECT nonsense").await), ErrorCode::SqlFailed);
    // What is no text is refused, and the node goes on.
    assert!(made.query("SET client_encoding = 'LATIN1'; SELECT 'é'").await.is_err());
    assert_eq!(made.value("SELECT 'é'").await, "é");

    let all = made.client.sandbox_list().await.unwrap();
    let hidden = made.database.id.to_string().replace("db_", "sbx_");
    assert!(all.sandboxes.iter().all(|one| one.id.to_string() != hidden), "{all:?}");
    assert!(before.sandboxes.iter().all(|one| one.template.as_str() != "postgres"), "{before:?}");
    let hidden = made.client.sandbox_get(hidden.parse().unwrap()).await;
    assert_eq!(code(hidden), ErrorCode::NotFound);

    // Its name is taken, whatever its case, and found again by those who ask so.
    let again = made.client.database_create(&wanted("FIRST")).await;
    assert_eq!(code(again), ErrorCode::AlreadyExists);
    let found = CreateDatabase { exist_ok: true, ..wanted("First") };
    let found = made.client.database_create(&found).await.unwrap();
    assert_eq!(found, made.database);
    let listed = made.client.database_list(&DatabaseListQuery::default()).await.unwrap();
    let listed = listed.databases.iter().find(|one| one.id == made.database.id).unwrap();
    assert_eq!((&listed.password, listed.status), (&None, DatabaseStatus::Running));
    made.delete().await;
}

#[tokio::test]
async fn a_password_of_any_characters_lets_in_and_no_other_does() {
    let host = shared().await;
    let printable: String = (' '..='~').collect();
    let password = format!("{printable}é🔒");
    let request = CreateDatabase { password: Some(password.clone()), ..wanted("secrets") };
    let made = Made::new(&host, &request).await;
    let (pooled, direct) =
        (made.database.url.clone().unwrap(), made.database.direct_url.clone().unwrap());
    for url in [&pooled, &direct] {
        let user = made.at(url, "SELECT session_user").await.unwrap();
        assert_eq!(user, made.database.user, "{url}");
        let wrong = url.replace("%F0%9F%94%92", "x");
        assert_ne!(&wrong, url);
        assert_eq!(code(made.at(&wrong, "SELECT 1").await), ErrorCode::SqlFailed);
        let superuser = url.replace(&made.database.user, "postgres");
        assert_eq!(code(made.at(&superuser, "SELECT 1").await), ErrorCode::SqlFailed);
    }
    let set = SetPassword { password: Some("Secret#42".to_owned()) };
    let changed = made.client.database_set_password("secrets", &set).await.unwrap();
    assert_eq!(changed.password.as_deref(), Some("Secret#42"));
    assert_eq!(made.at(&changed.direct_url.unwrap(), "SELECT 2").await.unwrap(), "2");
    assert_eq!(code(made.at(&direct, "SELECT 1").await), ErrorCode::SqlFailed);
    // The pooler asks for what it checks with again, when that did not fit.
    assert_eq!(made.at(&changed.url.unwrap(), "SELECT 3").await.unwrap(), "3");
    made.delete().await;
}

#[tokio::test]
async fn a_failing_seed_leaves_no_database_behind() {
    let host = shared().await;
    host.snapshot("postgres", Size::Nano).await;
    let client = host.client();
    let used = client.usage().await.unwrap().used.sandboxes;
    for seed in ["CREATE TABLE a (x int); SELECT nonsense", "CREATE EXTENSION file_fdw"] {
        let request = CreateDatabase { seed: Some(seed.to_owned()), ..wanted("half") };
        let refused = timeout(PATIENCE, client.database_create(&request)).await.unwrap();
        assert_eq!(code(refused), ErrorCode::SqlFailed, "{seed}");
    }
    let unknown = CreateDatabase { extensions: vec!["nonsense".to_owned()], ..wanted("half") };
    let refused = timeout(PATIENCE, client.database_create(&unknown)).await.unwrap();
    assert_eq!(code(refused), ErrorCode::SqlFailed);
    let gone = async {
        while client.database_get("half").await.is_ok()
            || client.usage().await.unwrap().used.sandboxes > used
        {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
}

#[tokio::test]
async fn a_role_of_a_sandbox_may_what_was_said_and_goes_with_it() {
    let host = shared().await;
    let made = Made::new(&host, &wanted("Shared")).await;
    made.query("CREATE TABLE t (x int); INSERT INTO t VALUES (7)").await.unwrap();
    let (writer, reader) = (host.sandbox("base").await, host.sandbox("base").await);
    let client = &made.client;
    let wire = |role| WireDatabase { role, ..WireDatabase::default() };
    let began = Instant::now();
    let written = client.database_wire(writer.id(), "shared", &wire(WireRole::ReadWrite)).await;
    let written = written.unwrap();
    eprintln!("a sandbox was wired in {:?}", began.elapsed());
    let read =
        client.database_wire(reader.id(), "shared", &wire(WireRole::ReadOnly)).await.unwrap();
    for name in ["DATABASE_URL", "DATABASE_URL_UNPOOLED"] {
        let url = &written.env[name];
        assert_eq!(made.at(url, "INSERT INTO t VALUES (8) RETURNING x").await.unwrap(), "8");
        let table = format!("made_by_{}", name.to_lowercase());
        made.at(url, &format!("CREATE TABLE {table} (x int)")).await.unwrap();
        // What one makes is everybody's: its owner's, and those who read.
        made.query(&format!("INSERT INTO {table} VALUES (1)")).await.unwrap();
        let url = &read.env[name];
        assert_eq!(made.at(url, &format!("SELECT x FROM {table}")).await.unwrap(), "1");
        assert_eq!(made.at(url, "SELECT min(x) FROM t").await.unwrap(), "7");
        for sql in [
            "INSERT INTO t VALUES (9) RETURNING x",
            "SET default_transaction_read_only = off; INSERT INTO t VALUES (9) RETURNING x",
            "SET default_transaction_read_only = off; CREATE TABLE mine (x int)",
            "SET default_transaction_read_only = off; CREATE TEMP TABLE mine (x int)",
            "SET default_transaction_read_only = off; SELECT lo_create(0)",
            "SET default_transaction_read_only = off; SET ROLE owner",
            "SELECT rolpassword FROM pg_authid",
            "CREATE ROLE other",
        ] {
            assert_eq!(code(made.at(url, sql).await), ErrorCode::SqlFailed, "{sql}");
        }
    }
    for sql in ["DROP DATABASE main", "SELECT pg_read_file('/etc/passwd')", "CREATE ROLE other"] {
        let said = made.at(&written.env["DATABASE_URL_UNPOOLED"], sql).await;
        assert_eq!(code(said), ErrorCode::SqlFailed, "{sql}");
    }
    // Processes have the variables.
    let said = writer.text("echo $DATABASE_URL $PGUSER").await;
    let user = &written.env["PGUSER"];
    assert_eq!(said.trim(), format!("{} {user}", written.env["DATABASE_URL"]));
    let wired = client.database_wired(writer.id()).await.unwrap().databases;
    assert_eq!(wired.iter().collect::<Vec<_>>(), [&written]);

    // What an owner sets for all sessions of its database does not hold for those of the node.
    made.query("ALTER DATABASE main SET statement_timeout = '1ms'").await.unwrap();
    client.database_unwire(writer.id(), "shared").await.unwrap();
    made.query("ALTER DATABASE main RESET ALL").await.unwrap();
    for name in ["DATABASE_URL", "DATABASE_URL_UNPOOLED"] {
        let said = made.at(&written.env[name], "SELECT 1").await;
        assert_eq!(code(said), ErrorCode::SqlFailed, "{name}");
    }
    assert_eq!(writer.text("echo \"<$DATABASE_URL>\"").await.trim(), "<>");
    let again = client.database_unwire(writer.id(), "shared").await;
    assert_eq!(code(again), ErrorCode::NotFound);

    // One that is killed takes its role along.
    let roles = "SELECT count(*) FROM pg_roles WHERE rolname = ";
    let roles = format!("{roles}{}", quoted(&read.env["PGUSER"]));
    assert_eq!(made.value(&roles).await, "1");
    client.sandbox_kill(reader.id()).await.unwrap();
    let dropped = async {
        while made.value(&roles).await != "0" {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
    };
    timeout(PATIENCE, dropped).await.unwrap();
    made.delete().await;
}

#[tokio::test]
async fn a_fork_is_a_database_of_its_own_from_one_moment() {
    let host = shared().await;
    let made = Made::new(&host, &wanted("trunk")).await;
    made.query("CREATE TABLE t (x int); INSERT INTO t VALUES (1)").await.unwrap();
    let began = Instant::now();
    let fork = ForkDatabase { name: "branch".to_owned(), password: None, snapshot: None };
    let forked = timeout(PATIENCE, made.client.database_fork("trunk", &fork)).await.unwrap();
    let database = forked.unwrap();
    eprintln!("a database was forked in {:?}", began.elapsed());
    let branch = Made::of(&host, database);
    assert_ne!(branch.database.user, made.database.user);
    made.query("INSERT INTO t VALUES (2)").await.unwrap();
    branch.query("INSERT INTO t VALUES (3), (4)").await.unwrap();
    assert_eq!(made.value("SELECT string_agg(x::text, ',' ORDER BY x) FROM t").await, "1,2");
    assert_eq!(branch.value("SELECT string_agg(x::text, ',' ORDER BY x) FROM t").await, "1,3,4");
    // Who got in there does not get in here.
    let url = branch.database.direct_url.clone().unwrap();
    assert_eq!(branch.at(&url, "SELECT 1").await.unwrap(), "1");
    let theirs = made.database.direct_url.clone().unwrap().replace("trunk", "branch");
    assert_eq!(code(branch.at(&theirs, "SELECT 1").await), ErrorCode::SqlFailed);
    branch.delete().await;
    made.delete().await;
}

#[tokio::test]
async fn a_database_goes_back_to_a_snapshot_and_keeps_its_name_its_passwords_and_who_is_wired() {
    let host = shared().await;
    let made = Made::new(&host, &wanted("kept")).await;
    let client = &made.client;
    made.query("CREATE TABLE t (x int); INSERT INTO t VALUES (1)").await.unwrap();
    let before = CreateDatabaseSnapshot { name: "before".to_owned() };
    let kept = timeout(PATIENCE, client.database_snapshot("kept", &before)).await.unwrap().unwrap();
    assert_eq!(
        client.database_snapshots("kept").await.unwrap().snapshots,
        *std::slice::from_ref(&kept)
    );
    // No sandbox is made from it, and it is in no list of theirs.
    assert!(client.snapshot_list().await.unwrap().snapshots.iter().all(|one| one.id != kept.id));
    let create = CreateSandbox { snapshot: Some(kept.id), ..CreateSandbox::default() };
    assert_eq!(code(client.sandbox_create(&create).await), ErrorCode::NotFound);
    let again = client.database_snapshot("kept", &before).await;
    assert_eq!(code(again), ErrorCode::AlreadyExists);

    // What is since then, but for who may log in, is gone.
    let sandbox = host.sandbox("base").await;
    let wire = WireDatabase::default();
    let wired = client.database_wire(sandbox.id(), "kept", &wire).await.unwrap();
    let password = SetPassword { password: Some("another".to_owned()) };
    let changed = client.database_set_password("kept", &password).await.unwrap();
    made.query("INSERT INTO t VALUES (2); CREATE TABLE since (y int)").await.unwrap();
    let back = RestoreDatabase { snapshot: "BEFORE".to_owned() };
    let began = Instant::now();
    let after = timeout(PATIENCE, client.database_go_back("kept", &back)).await.unwrap().unwrap();
    eprintln!("a database went back in {:?}", began.elapsed());
    assert_eq!((after.url, after.direct_url), (changed.url, changed.direct_url.clone()));
    assert_eq!(made.value("SELECT string_agg(x::text, ',') FROM t").await, "1");
    assert_eq!(code(made.query("SELECT * FROM since").await), ErrorCode::SqlFailed);
    assert_eq!(made.at(&changed.direct_url.unwrap(), "SELECT 1").await.unwrap(), "1");
    let old = made.database.direct_url.clone().unwrap();
    assert_eq!(code(made.at(&old, "SELECT 1").await), ErrorCode::SqlFailed);
    let roles =
        format!("SELECT count(*) FROM pg_roles WHERE rolname = {}", quoted(&wired.env["PGUSER"]));
    assert_eq!(made.value(&roles).await, "1");
    assert_eq!(client.database_wired(sandbox.id()).await.unwrap().databases, [wired]);

    // Another one from it, also when the database has gone on.
    made.query("DELETE FROM t").await.unwrap();
    let fork = ForkDatabase {
        name: "from-kept".to_owned(),
        password: None,
        snapshot: Some(kept.id.to_string()),
    };
    let database = timeout(PATIENCE, client.database_fork("kept", &fork)).await.unwrap().unwrap();
    let branch = Made::of(&host, database);
    assert_eq!(branch.value("SELECT count(*) FROM t").await, "1");
    let roles = "SELECT count(*) FROM pg_roles WHERE rolname ~ '^u[0-9a-f]{12}$'";
    assert_eq!(branch.value(roles).await, "1");
    branch.delete().await;

    let nothing = RestoreDatabase { snapshot: "after".to_owned() };
    assert_eq!(code(client.database_go_back("kept", &nothing).await), ErrorCode::NotFound);
    client.database_snapshot_delete("kept", "before").await.unwrap();
    assert_eq!(code(client.database_go_back("kept", &back).await), ErrorCode::NotFound);
    made.delete().await;
}

#[tokio::test]
async fn a_dump_makes_the_same_in_another_database_and_a_broken_one_nothing() {
    let host = shared().await;
    let made = Made::new(&host, &wanted("source")).await;
    let fill = "CREATE TABLE facts (n int PRIMARY KEY, text text, v vector(3)); \
                INSERT INTO facts SELECT n, repeat('é' || n, 100), '[1,2,3]' \
                FROM generate_series(1, 3000) n; \
                CREATE VIEW few AS SELECT * FROM facts WHERE n < 10; \
                COMMENT ON TABLE facts IS 'what is known'";
    made.query(fill).await.unwrap();
    let mut dump = Vec::new();
    let dumped = timeout(PATIENCE, made.client.database_dump("source")).await.unwrap().unwrap();
    let mut pieces = std::pin::pin!(dumped);
    while let Some(piece) = timeout(PATIENCE, pieces.next()).await.unwrap() {
        dump.extend_from_slice(&piece.unwrap());
    }
    let text = String::from_utf8(dump.clone()).unwrap();
    assert!(text.contains("PostgreSQL database dump complete"), "{}", text.len());
    assert!(!text.contains(&made.database.user) && !text.contains("EXTENSION"));

    let other = Made::new(&host, &wanted("target")).await;
    let restore = async |sql: Vec<u8>| {
        let pieces: Vec<_> = sql.chunks(10_000).map(|piece| Ok(piece.to_vec().into())).collect();
        let restoring = other.client.database_restore("target", stream::iter(pieces));
        timeout(PATIENCE, restoring).await.unwrap()
    };
    // One statement of it fails: nothing of it is there. Programs that it names run as nobody.
    let broken = [&*dump, b"\nSELECT nonsense;\n"].concat();
    let refused = restore(broken).await.unwrap_err();
    assert!(refused.to_string().contains("nonsense"), "{refused}");
    assert_eq!(code(other.query("SELECT * FROM facts").await), ErrorCode::SqlFailed);
    let escape = b"\\! /usr/lib/sandflare/postgres/psql -h /run/postgresql -U postgres -c \
                   'CREATE TABLE public.escaped ()' main\n"
        .to_vec();
    let _ = restore(escape).await;
    assert_eq!(code(other.query("SELECT * FROM escaped").await), ErrorCode::SqlFailed);

    restore(dump).await.unwrap();
    let sum =
        "SELECT count(*) || ' ' || md5(string_agg(n || text || v, ',' ORDER BY n)) FROM facts";
    assert_eq!(other.value(sum).await, made.value(sum).await);
    assert_eq!(other.value("SELECT count(*) FROM few").await, "9");
    other.query("INSERT INTO facts VALUES (0, 'new', '[0,0,0]')").await.unwrap();
    other.delete().await;
    made.delete().await;
}

/// Mean times of the queries that are shown, by their text.
fn slow(stats: &DatabaseStats, text: &str) -> Option<f64> {
    let queries = stats.slow_queries.as_ref().expect("this server counts queries");
    queries.iter().find(|one| one.query == text).map(|one| one.mean_ms)
}

#[tokio::test]
async fn figures_move_with_what_is_done_and_wake_nobody() {
    let host = shared().await;
    let request = CreateDatabase {
        password: Some("Secret#41".to_owned()),
        idle_timeout_s: 20,
        ..wanted("figures")
    };
    let made = Made::new(&host, &request).await;
    let before = made.stats_that(|_| true).await;
    assert_eq!((before.status, &before.reason), (DatabaseStatus::Running, &None));
    assert_eq!(before.connections.unwrap().max, 95);
    assert!(before.uptime_ms.unwrap() < u64::try_from(2 * PATIENCE.as_millis()).unwrap());
    assert!(before.answered_us > Some(0) && before.size_bytes > Some(1 << 20), "{before:?}");

    let fill = "CREATE TABLE t AS SELECT n, repeat('x', 100) AS x FROM generate_series(1, 30000) n";
    made.query(fill).await.unwrap();
    assert_eq!(code(made.query("SELECT 1 / 0").await), ErrorCode::SqlFailed);
    made.query("SELECT pg_sleep(0.4), 'Secret#42' /* Secret#43 */").await.unwrap();
    made.query("RESET ROLE; ALTER ROLE CURRENT_USER PASSWORD 'Secret#44'").await.unwrap();
    const SLEEP: &str = "SELECT pg_sleep($1), $2";
    let after = made
        .stats_that(|stats| {
            let (was, is) = (before.transactions.unwrap(), stats.transactions.unwrap());
            is.committed > was.committed
                && is.rolled_back > was.rolled_back
                && slow(stats, SLEEP).is_some()
        })
        .await;
    assert!(slow(&after, SLEEP) > Some(400.0), "{after:?}");
    assert!(after.size_bytes.unwrap() > before.size_bytes.unwrap() + 30_000 * 100, "{after:?}");
    assert!(after.cache.unwrap().hit > before.cache.unwrap().hit, "{after:?}");
    assert!((0.0..=1.0).contains(&after.cache.unwrap().ratio.unwrap()), "{after:?}");
    // No value is shown, and nothing of those who have a password to say: not the node either.
    let text = serde_json::to_string(&after).unwrap();
    assert!(!text.contains("Secret") && !text.contains("ROLE"), "{text}");
    // A session that runs something is one that is active; those that look are not.
    let (_, busy) = tokio::join!(
        made.query("SELECT pg_sleep(15)"),
        made.stats_that(|stats| stats.connections.unwrap().active > 0),
    );
    assert!(busy.connections.unwrap().open >= busy.connections.unwrap().active, "{busy:?}");

    // A fork has its own queries, and goes on counting the rest.
    let fork = ForkDatabase { name: "figures-fork".to_owned(), password: None, snapshot: None };
    let forked = timeout(PATIENCE, made.client.database_fork("figures", &fork)).await.unwrap();
    let branch = Made::of(&host, forked.unwrap());
    let of_fork = branch.stats_that(|stats| slow(stats, SLEEP).is_none()).await;
    // Not all that its source had: what is read when sessions begin is made again when one does.
    assert!(of_fork.size_bytes.unwrap() > before.size_bytes.unwrap() + 30_000 * 100, "{of_fork:?}");
    branch.delete().await;

    // Who only looks keeps it from no pause, and ends none.
    let pausing = async {
        loop {
            let stats = made.stats().await;
            if stats.status == DatabaseStatus::Paused {
                return stats;
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    let paused = timeout(PATIENCE, pausing).await.expect("it is paused");
    assert_eq!(paused, DatabaseStats::without_figures(DatabaseStatus::Paused, None));
    for _ in 0..5 {
        assert_eq!(made.stats().await, paused);
    }
    let shown = made.client.database_get("figures").await.unwrap();
    assert_eq!(shown.status, DatabaseStatus::Paused);
    let again = made.stats_that(|_| true).await;
    assert!(again.uptime_ms > after.uptime_ms && slow(&again, SLEEP).is_some(), "{again:?}");
    made.delete().await;
}
