//! Clients of a database that are no sandboxes: what its rule lets them do, over the node's listener.

use std::time::Duration;

use api_node::{AuditQuery, CreateDatabase, Database, DatabaseStatus, Outside, SetOutside};
use base_types::Size;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::daemon::{Daemon, PATIENCE, log_text};

const NAME: &str = "shared";
const LISTEN: &str = "127.0.0.1:5432";
/// What a server begins with that asks for a password.
const ASKS: u8 = b'R';
/// What one begins with that refuses.
const REFUSES: u8 = b'E';

/// A session of `user` that has begun: what the first byte of its answer was, and the rest of it.
async fn session(user: &str) -> (u8, TcpStream) {
    let mut stream = timeout(PATIENCE, TcpStream::connect(LISTEN)).await.unwrap().unwrap();
    let parameters = format!("user\0{user}\0database\0main\0\0");
    let length = u32::try_from(parameters.len() + 8).unwrap();
    let packet =
        [&length.to_be_bytes()[..], &196_608_u32.to_be_bytes(), parameters.as_bytes()].concat();
    stream.write_all(&packet).await.unwrap();
    let first = timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap();
    (first, stream)
}

async fn get(daemon: &Daemon) -> Database {
    daemon.client.database_get(NAME).await.unwrap()
}

async fn set(daemon: &Daemon, rule: &str) {
    let request = SetOutside { outside: rule.parse().unwrap() };
    let set = timeout(PATIENCE, daemon.client.database_set_outside(NAME, &request)).await.unwrap();
    assert_eq!(set.unwrap().outside, request.outside);
}

async fn is_paused(daemon: &Daemon) {
    let pausing = async {
        while get(daemon).await.status != DatabaseStatus::Paused {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let paused = timeout(PATIENCE, pausing).await;
    assert!(paused.is_ok(), "{}", log_text());
}

async fn denials(daemon: &Daemon) -> usize {
    let query = AuditQuery { after: None, limit: Some(1000) };
    let entries = daemon.client.audit_list(&query).await.unwrap().entries;
    entries.iter().filter(|entry| entry.action == "database.denied").count()
}

pub(crate) async fn clients_by_the_rule_of_a_database() {
    // Its template is made here when no scenario before did, of a disk that takes minutes to compare.
    let args = ["--pool", "nano=0", "--check-roots", "off", "--database-listen", LISTEN];
    let daemon = Daemon::start(&args).await;
    daemon.build_of(&"postgres".parse().unwrap(), Size::Nano).await.unwrap();
    let request =
        CreateDatabase { outside: Outside::Off, idle_timeout_s: 1, ..CreateDatabase::named(NAME) };
    let made = timeout(PATIENCE, daemon.client.database_create(&request)).await.unwrap();
    let user = made.unwrap().user;
    let direct = format!("{user}.direct");
    is_paused(&daemon).await;
    for user in [&user, &direct] {
        assert_eq!(session(user).await.0, REFUSES);
    }
    assert_eq!(get(&daemon).await.status, DatabaseStatus::Paused, "a client woke it that may not");
    assert_eq!(denials(&daemon).await, 2);
    // Both its pool and its server ask for a password.
    set(&daemon, "loopback").await;
    assert_eq!(get(&daemon).await.status, DatabaseStatus::Paused, "another rule woke it");
    let mut sessions = Vec::new();
    for user in [&user, &direct] {
        let (first, stream) = session(user).await;
        assert_eq!(first, ASKS, "{}", log_text());
        sessions.push(stream);
    }
    assert_eq!(get(&daemon).await.status, DatabaseStatus::Running);
    set(&daemon, "203.0.113.0/24,2001:db8::/32").await;
    for mut stream in sessions {
        // Closed or reset.
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
    }
    assert_eq!(session(&direct).await.0, REFUSES);
    assert_eq!(denials(&daemon).await, 3);
    // The rule is another daemon's as well.
    is_paused(&daemon).await;
    daemon.leave().await;
    let daemon = Daemon::start(&args).await;
    assert_eq!(get(&daemon).await.outside.to_string(), "203.0.113.0/24,2001:db8::/32");
    assert_eq!(session(&user).await.0, REFUSES);
    set(&daemon, "127.0.0.0/8").await;
    assert_eq!(session(&user).await.0, ASKS, "{}", log_text());
    daemon.client.database_delete(NAME).await.unwrap();
    daemon.stop().await;
}
