//! The clients everybody has, `psql` and `pgbench`, in a sandbox that is wired to a database.

use api_node::{CreateSandbox, FileWriteQuery, WireDatabase};
use bytes::Bytes;
use futures_util::stream;
use tokio::time::timeout;

use crate::host::{PATIENCE, shared};
use crate::wired::{database, wire};

/// What an ordinary server is asked, and what `psql` shows of its answers.
const SMOKE: (&str, &str) =
    (include_str!("../smoke/smoke.sql"), include_str!("../smoke/smoke.out"));
const PROGRAMS: &str = "/usr/lib/sandflare/postgres";

#[tokio::test]
async fn psql_and_pgbench_see_no_difference_to_any_other_server() {
    let host = shared().await;
    let client = host.client();
    database(&host, &client, "clients", "Secret#42").await;
    // The template of databases has their clients too.
    let create =
        CreateSandbox { template: "postgres".parse().unwrap(), ..CreateSandbox::default() };
    let sandbox = host.sandbox_of(&create).await;
    wire(&client, &sandbox, "clients", &WireDatabase::default()).await;
    let path = "/home/agent/smoke.sql".to_owned();
    let query = FileWriteQuery { path, mode: None, user: None };
    let content = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(SMOKE.0.as_bytes()))]);
    let writing = client.file_write(sandbox.id(), &query, content);
    timeout(PATIENCE, writing).await.unwrap().unwrap();
    let psql = format!(
        "{PROGRAMS}/psql -Xaqw \"$DATABASE_URL_UNPOOLED\" </home/agent/smoke.sql >/home/agent/said 2>&1; \
         cat /home/agent/said"
    );
    let said = sandbox.sh(&psql).await.stdout();
    for (number, (found, wanted)) in said.lines().zip(SMOKE.1.lines()).enumerate() {
        assert_eq!(found, wanted, "line {}", number + 1);
    }
    assert_eq!(said.lines().count(), SMOKE.1.lines().count(), "{said}");

    let fill = format!("{PROGRAMS}/pgbench -i -q \"$DATABASE_URL_UNPOOLED\" 2>&1");
    let filled = sandbox.sh(&fill).await;
    assert_eq!(filled.code(), 0, "{}", filled.stdout());
    // By the pool, where each transaction may get another session.
    let run = format!("{PROGRAMS}/pgbench -n -c 4 -t 10 \"$DATABASE_URL\" 2>&1");
    let ran = sandbox.sh(&run).await.stdout();
    assert!(ran.contains("transactions actually processed: 40/40"), "{ran}");
    assert!(ran.contains("number of failed transactions: 0 "), "{ran}");
    let books = format!(
        "{PROGRAMS}/psql -XAtqw \"$DATABASE_URL\" -c 'SELECT (SELECT sum(delta) FROM pgbench_history) = \
         (SELECT sum(abalance) FROM pgbench_accounts), (SELECT count(*) FROM pgbench_history)'"
    );
    assert_eq!(sandbox.text(&books).await, "t|40");
    sandbox.kill().await.unwrap();
    client.database_delete("clients").await.unwrap();
}
