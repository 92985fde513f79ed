//! Databases under kills: whatever an answer said was committed is there afterwards, whoever was killed.
//!
//! One writer inserts numbers, one at a time, for as long as the scenario lasts, and keeps those it got an
//! answer for. What it was not answered for may be there or not; nothing else may.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api_node::{
    CreateDatabase, CreateDatabaseSnapshot, DatabaseListQuery, DatabaseStatus, ErrorCode,
    QueryDatabase, RestoreDatabase,
};
use base_types::Size;
use client::{Client, ClientError};
use rustix::process::{Pid, Signal};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::daemon::{AHEAD, Daemon, PATIENCE, log_text, raw};
use crate::left::{groups, sandboxes, until, vmm_of, vmms};
use crate::steps::{TIMES, found};

/// How many numbers must have been answered for between two kills.
const EACH: usize = 5;
const NAME: &str = "ledger";

/// What a writer was answered for, and what it has tried.
#[derive(Debug, Default)]
struct Written {
    answered: BTreeSet<u64>,
    tried: u64,
}

/// Inserts numbers until it is dropped.
struct Writer {
    written: Arc<Mutex<Written>>,
    task: JoinHandle<()>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Writer {
    fn start(client: Client) -> Self {
        let written = Arc::<Mutex<Written>>::default();
        let noting = Arc::clone(&written);
        let task = tokio::spawn(async move {
            for number in 1.. {
                noting.lock().unwrap().tried = number;
                let insert = QueryDatabase::new(format!("INSERT INTO ledger VALUES ({number})"));
                match timeout(2 * PATIENCE, client.database_query(NAME, &insert)).await.unwrap() {
                    Ok(_) => drop(noting.lock().unwrap().answered.insert(number)),
                    Err(_) => sleep(Duration::from_millis(50)).await,
                }
            }
        });
        Self { written, task }
    }

    fn answered(&self) -> usize {
        self.written.lock().unwrap().answered.len()
    }

    /// Waits until [`EACH`] more were answered for, and says how long that took.
    async fn goes_on(&self, after: &str) {
        let (begun, wanted) = (Instant::now(), self.answered() + EACH);
        while self.answered() < wanted {
            assert!(!self.task.is_finished(), "the writer ended");
            // Two machines that boot again side by side took 173 s.
            let patient = begun.elapsed() < 2 * PATIENCE;
            assert!(patient, "{after}: {:?}: {}", self.written, log_text());
            sleep(Duration::from_millis(20)).await;
        }
        println!("{after}: {EACH} more after {} ms", begun.elapsed().as_millis());
    }
}

async fn numbers(daemon: &Daemon, name: &str) -> BTreeSet<u64> {
    let ask = QueryDatabase { rows_max: 10_000, ..QueryDatabase::new("SELECT n FROM ledger") };
    let asked = timeout(PATIENCE, daemon.client.database_query(name, &ask)).await.unwrap();
    let rows = asked.unwrap_or_else(|error| panic!("{name}: {error}")).rows;
    rows.iter().map(|row| row[0].as_deref().unwrap().parse().unwrap()).collect()
}

async fn machine(daemon: &Daemon) -> i32 {
    machine_of(daemon, NAME).await
}

async fn machine_of(daemon: &Daemon, name: &str) -> i32 {
    let database = daemon.client.database_get(name).await.unwrap();
    let sandbox = database.id.to_string().replace("db_", "sbx_");
    vmm_of(&sandbox).unwrap_or_else(|| panic!("{database:?} has no machine"))
}

fn kill(pid: i32) {
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// A database with a table for numbers.
async fn ledger(daemon: &Daemon) {
    let postgres = "postgres".parse().unwrap();
    daemon.build_of(&postgres, Size::Nano).await.unwrap();
    let seed = Some("CREATE TABLE ledger (n bigint PRIMARY KEY)".to_owned());
    let request = CreateDatabase { seed, ..CreateDatabase::named(NAME) };
    timeout(PATIENCE, daemon.client.database_create(&request)).await.unwrap().unwrap();
}

pub(crate) async fn what_a_database_answered_for_outlives_every_kill() {
    // Its template is made here, of a disk of 8 GiB that takes minutes to compare.
    let mut daemon = Daemon::start(&["--pool", "nano=0", "--check-roots", "off"]).await;
    ledger(&daemon).await;
    let writer = Writer::start(daemon.client.clone());
    writer.goes_on("made").await;
    kill(machine(&daemon).await);
    writer.goes_on("its VMM was killed").await;
    daemon.kill().await;
    daemon = Daemon::start(&["--pool", "nano=0"]).await;
    writer.goes_on("the daemon was killed").await;
    let both = machine(&daemon).await;
    daemon.kill().await;
    kill(both);
    until("VMM processes", vec![], vmms).await;
    daemon = Daemon::start(&["--pool", "nano=0"]).await;
    writer.goes_on("both were killed").await;
    // A stop pauses it, and loses nothing either.
    daemon.leave().await;
    until("VMM processes", vec![], vmms).await;
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    writer.goes_on("the node was stopped").await;

    let found = numbers(&daemon, NAME).await;
    {
        let written = writer.written.lock().unwrap();
        assert!(found.is_superset(&written.answered), "lost: {:?}", written.answered);
        // The one under way may be there by now.
        assert!(found.iter().all(|number| *number <= written.tried), "{found:?}");
        println!("{} of {} tried were answered for", written.answered.len(), written.tried);
    }
    drop(writer);
    a_full_one_comes_back_with_every_row(&daemon).await;
    let status = daemon.client.database_get(NAME).await.unwrap().status;
    assert_eq!(status, DatabaseStatus::Running);
    daemon.client.database_delete(NAME).await.unwrap();
    daemon.stop().await;
}

/// The step of the machine that a database is made in, or goes back by, after which it is whole and nobody
/// was told.
const MACHINE_RUNS: &str = "create: running";

/// Starts the next daemon, and checks that the ledger is there with these numbers and nothing else.
async fn ledger_alone(after: &str, wanted: &BTreeSet<u64>) -> Daemon {
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    let listed = daemon.client.database_list(&DatabaseListQuery::default()).await.unwrap();
    let names: Vec<_> = listed.databases.into_iter().map(|database| database.name).collect();
    assert_eq!(names, [NAME], "{after}");
    let there = || (vmms().len(), groups().len(), sandboxes().len());
    until(after, (1, 1, 1), there).await;
    assert_eq!(numbers(&daemon, NAME).await, *wanted, "{after}");
    daemon
}

pub(crate) async fn a_daemon_that_dies_while_a_database_is_made_or_goes_back() {
    let daemon = Daemon::start(&["--pool", "nano=0", "--check-roots", "off"]).await;
    ledger(&daemon).await;
    let before = CreateDatabaseSnapshot { name: "before".to_owned() };
    let kept = timeout(PATIENCE, daemon.client.database_snapshot(NAME, &before));
    kept.await.unwrap().unwrap();
    let insert = QueryDatabase::new("INSERT INTO ledger VALUES (1), (2)".to_owned());
    daemon.client.database_query(NAME, &insert).await.unwrap();
    daemon.kill().await;
    let (both, back) = ([1, 2].into(), RestoreDatabase { snapshot: before.name.clone() });
    let (mut made, mut went) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        let dying = Daemon::start_to_die_at(MACHINE_RUNS).await;
        let half = CreateDatabase::named("half");
        let answer = timeout(PATIENCE, dying.client.database_create(&half)).await.unwrap();
        assert!(answer.is_err(), "{answer:?}");
        dying.died().await;
        ledger_alone("a database was made", &both).await.kill().await;
        made.push("nothing of it".to_owned());

        let dying = Daemon::start_to_die_at(MACHINE_RUNS).await;
        let answer = timeout(PATIENCE, dying.client.database_go_back(NAME, &back)).await.unwrap();
        assert!(answer.is_err(), "{answer:?}");
        dying.died().await;
        ledger_alone("a database went back", &both).await.kill().await;
        went.push("all of it, not gone back".to_owned());
    }
    found("create a database", MACHINE_RUNS, &made);
    made_ahead(&both).await;
    found("restore a database to a snapshot", MACHINE_RUNS, &went);
    let daemon = ledger_alone("all that", &both).await;
    let gone = timeout(PATIENCE, daemon.client.database_go_back(NAME, &back)).await.unwrap();
    gone.unwrap();
    assert_eq!(numbers(&daemon, NAME).await, BTreeSet::new());
    daemon.client.database_delete(NAME).await.unwrap();
    daemon.stop().await;
}

/// The step after which a machine that was made ahead is a database's, and nobody was told.
const GIVEN: &str = "give: remembered";

/// Daemons that die while they give away what they made ahead: neither that nor what they made after it stays.
async fn made_ahead(wanted: &BTreeSet<u64>) {
    let mut given = Vec::new();
    for _ in 0..TIMES {
        let dying = Daemon::start_to_die_with(GIVEN, &[AHEAD, "1"]).await;
        // The first one is made, and has others made ahead.
        let first = CreateDatabase::named("first");
        timeout(PATIENCE, dying.client.database_create(&first)).await.unwrap().unwrap();
        dying.client.database_delete("first").await.unwrap();
        let there = || vmms().len();
        until("what is made ahead", 2, there).await;
        let ready = async {
            let one = "sandflare_databases{status=\"ahead\"} 1";
            while !raw("GET /metrics", &[], "").await.unwrap().1.contains(one) {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(PATIENCE, ready).await.unwrap_or_else(|_| panic!("{}", log_text()));
        let half = CreateDatabase::named("half");
        let answer = timeout(PATIENCE, dying.client.database_create(&half)).await.unwrap();
        assert!(answer.is_err(), "{answer:?}");
        dying.died().await;
        ledger_alone("what was made ahead was given", wanted).await.kill().await;
        given.push("nothing of it".to_owned());
    }
    found("create a database that was made ahead", GIVEN, &given);
}

/// How many rows are inserted at once.
const ROWS: usize = 2000;

/// Inserts into the table of a database that is narrow until there is no room; how often it went well.
async fn fill(daemon: &Daemon, name: &str) -> usize {
    let insert =
        format!("INSERT INTO filled SELECT repeat('x', 1000) FROM generate_series(1, {ROWS})");
    for inserts in 0.. {
        let insert = QueryDatabase::new(insert.clone());
        match timeout(PATIENCE, daemon.client.database_query(name, &insert)).await.unwrap() {
            Ok(_) => assert!(inserts < 100, "there is no limit"),
            Err(ClientError::Refused(failure)) if failure.code == ErrorCode::DiskFull => {
                return inserts;
            }
            Err(error) => panic!("{name}: {error}: {}", log_text()),
        }
    }
    unreachable!("it is full, or has no limit")
}

async fn a_full_one_comes_back_with_every_row(daemon: &Daemon) {
    const NARROW: &str = "narrow";
    let seed = Some("CREATE TABLE filled (x text)".to_owned());
    let request = CreateDatabase { seed, disk_mib: Some(64), ..CreateDatabase::named(NARROW) };
    timeout(PATIENCE, daemon.client.database_create(&request)).await.unwrap().unwrap();
    let ask = async |sql: &str| {
        let query = QueryDatabase::new(sql);
        let asked = timeout(PATIENCE, daemon.client.database_query(NARROW, &query)).await.unwrap();
        let answer = asked.unwrap_or_else(|error| panic!("{sql}: {error}: {}", log_text()));
        answer.rows.first().and_then(|row| row[0].clone()).unwrap_or_default()
    };
    let count = "SELECT count(*) FROM filled";
    let before = fill(daemon, NARROW).await * ROWS;
    // What its log tells to make again is more than there is room for: a table that is gone by then.
    let anew = async || {
        ask("DROP TABLE filled").await;
        ask("CREATE TABLE filled (x text)").await;
    };
    anew().await;
    let rows = fill(daemon, NARROW).await * ROWS;
    // Catalogs may have grown by a page.
    assert!(rows + ROWS >= before, "{rows} after {before}");
    let begun = Instant::now();
    kill(machine_of(daemon, NARROW).await);
    let comes_back = async {
        let query = QueryDatabase::new(count);
        while daemon.client.database_query(NARROW, &query).await.is_err() {
            sleep(Duration::from_millis(200)).await;
        }
    };
    // It makes again all that was written; beside another host it took four minutes.
    timeout(2 * PATIENCE, comes_back).await.unwrap_or_else(|_| panic!("{}", log_text()));
    println!("a full database came back after {} ms", begun.elapsed().as_millis());
    assert_eq!(ask(count).await, rows.to_string());
    // The limit is back with it. It is set a moment after the first connections.
    let limited = async { while fill(daemon, NARROW).await > 0 {} };
    timeout(PATIENCE, limited).await.unwrap();
    anew().await;
    assert!(fill(daemon, NARROW).await > 0);
    daemon.client.database_delete(NARROW).await.unwrap();
}
