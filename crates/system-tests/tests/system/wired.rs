//! A sandbox and its databases, over the gateway, by the client library that its programs use.

use api_node::{
    CreateDatabase, CreateSandbox, Fork, ForkDatabases, Policy, WireDatabase, WireRole,
};
use base_types::Size;
use client::Client;
use tokio::time::timeout;

use crate::host::{Host, PATIENCE, shared};
use crate::sandbox::Sandbox;

/// SQL by psycopg at the address in `env`; prints the first value of its answer, or the error's name.
fn sql(env: &str, sql: &str) -> String {
    format!(
        r#"python3 -c '
import os, psycopg
try:
    with psycopg.connect(os.environ["{env}"], connect_timeout=120) as c:
        found = c.execute("""{sql}""")
        print(found.fetchone()[0] if found.description else "done")
except (KeyError, psycopg.Error) as error:
    print(type(error).__name__)
'"#
    )
}

pub(crate) async fn database(host: &Host, client: &Client, name: &str, password: &str) {
    host.snapshot("postgres", Size::Nano).await;
    let request =
        CreateDatabase { password: Some(password.to_owned()), ..CreateDatabase::named(name) };
    timeout(PATIENCE, client.database_create(&request)).await.unwrap().unwrap();
}

pub(crate) async fn wire(
    client: &Client,
    sandbox: &Sandbox<'_>,
    name: &str,
    request: &WireDatabase,
) {
    timeout(PATIENCE, client.database_wire(sandbox.id(), name, request)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_wired_sandbox_reaches_its_databases_and_no_other_and_no_longer_than_wired() {
    let host = shared().await;
    let client = host.client();
    database(&host, &client, "memory", "Secret#42").await;
    database(&host, &client, "archive", "@:/?#[]%").await;
    // Whatever its policy says: who wires decides.
    let nothing: Policy = serde_json::from_str(r#"{"base": "none"}"#).unwrap();
    let create = CreateSandbox {
        template: "agent".parse().unwrap(),
        network: Some(nothing),
        ..CreateSandbox::default()
    };
    let (one, other) = (host.sandbox_of(&create).await, host.sandbox_of(&create).await);
    assert_eq!(one.text(&sql("DATABASE_URL", "SELECT 1")).await, "KeyError");
    wire(&client, &one, "memory", &WireDatabase::default()).await;
    let archive = WireDatabase { env: "ARCHIVE_URL".to_owned(), ..WireDatabase::default() };
    wire(&client, &one, "archive", &archive).await;
    let reader = WireDatabase { role: WireRole::ReadOnly, ..WireDatabase::default() };
    wire(&client, &other, "memory", &reader).await;

    // By the pool and around it, with what else programs look for.
    let table = "CREATE TABLE t (x int); INSERT INTO t VALUES (7)";
    assert_eq!(one.text(&sql("DATABASE_URL_UNPOOLED", table)).await, "done");
    assert_eq!(one.text(&sql("DATABASE_URL", "SELECT x FROM t")).await, "7");
    assert_eq!(one.text(&sql("ARCHIVE_URL", "SELECT 2")).await, "2");
    let by_variables = "python3 -c 'import psycopg; \
                        print(psycopg.connect().execute(\"SELECT 3\").fetchone()[0])'";
    assert_eq!(one.text(by_variables).await, "3");
    // Another sandbox shares one of them, and only reads.
    assert_eq!(other.text(&sql("DATABASE_URL", "SELECT x FROM t")).await, "7");
    let refused = other.text(&sql("DATABASE_URL", "INSERT INTO t VALUES (8)")).await;
    assert!(matches!(&*refused, "ReadOnlySqlTransaction" | "InsufficientPrivilege"), "{refused}");
    // A name and an address of one sandbox mean nothing to another.
    let name = "python3 -c 'import socket; print(socket.gethostbyname(\"archive.db.internal\"))'";
    let address = one.text(name).await;
    assert!(address.starts_with("10.107.1."), "{address}");
    assert_ne!(other.sh(name).await.code(), 0);
    let raw = format!(
        "python3 -c 'import socket; socket.create_connection((\"{address}\", 5432), 20)' 2>&1 | \
         tail -n 1"
    );
    if address.ends_with(".2") {
        assert!(other.text(&raw).await.starts_with("ConnectionRefusedError"));
    }

    // A connection that is open ends with the wiring, and no new one begins.
    let line = r#"
cat >/home/agent/line.py <<'EOF'
import os, psycopg, time
c = psycopg.connect(os.environ["DATABASE_URL_UNPOOLED"], autocommit=True)
print(c.execute("SELECT 4").fetchone()[0], flush=True)
while not os.path.exists("/home/agent/cut"):
    time.sleep(0.4)
try:
    c.execute("SELECT 5")
    print("still open", flush=True)
except psycopg.Error:
    print("cut", flush=True)
EOF
nohup python3 /home/agent/line.py >/home/agent/said 2>&1 &
until grep -q 4 /home/agent/said 2>/dev/null; do sleep 0.4; done
"#;
    one.text(line).await;
    client.database_unwire(one.id(), "memory").await.unwrap();
    let said = "touch /home/agent/cut; until [ $(wc -l </home/agent/said) -ge 2 ]; do sleep 0.4; \
                done; tail -n 1 /home/agent/said";
    assert_eq!(one.text(said).await, "cut");
    assert_eq!(one.text(&sql("DATABASE_URL", "SELECT 1")).await, "KeyError");
    assert_eq!(one.text(&sql("ARCHIVE_URL", "SELECT 6")).await, "6");
    for name in ["memory", "archive"] {
        client.database_delete(name).await.unwrap();
    }
}

/// A program that holds a connection, adds a row whenever it is told to, and connects anew when it must.
const LEDGER: &str = r#"
cat >/home/agent/ledger.py <<'EOF'
import os, psycopg, time
url, c, done = os.environ["DATABASE_URL_UNPOOLED"], None, 0
while True:
    wanted = int(open("/home/agent/wanted").read() or 0)
    if wanted == done:
        time.sleep(0.4)
        continue
    try:
        c = c or psycopg.connect(url, autocommit=True, connect_timeout=40)
        who = open("/home/agent/who").read().strip()
        c.execute("INSERT INTO ledger VALUES (%s, %s)", (wanted, who))
        done = wanted
        open("/home/agent/done", "w").write(str(done))
    except psycopg.Error:
        c = None
EOF
echo 0 >/home/agent/wanted
echo parent >/home/agent/who
nohup python3 /home/agent/ledger.py >/home/agent/said 2>&1 &
"#;

async fn add(sandbox: &Sandbox<'_>, row: usize) {
    let told = format!(
        "echo {row} >/home/agent/new; mv /home/agent/new /home/agent/wanted; \
         until [ \"$(cat /home/agent/done 2>/dev/null)\" = {row} ]; do sleep 0.4; done"
    );
    sandbox.text(&told).await;
}

/// All rows, as its own programs see them.
async fn rows(sandbox: &Sandbox<'_>) -> String {
    let all = "SELECT string_agg(who || n, chr(32) ORDER BY n) FROM ledger";
    sandbox.text(&sql("DATABASE_URL", all)).await
}

#[tokio::test]
async fn a_sandbox_and_its_database_fork_together_and_go_on_by_the_same_address() {
    let host = shared().await;
    let client = host.client();
    database(&host, &client, "together", "Secret#42").await;
    let create = CreateSandbox { template: "agent".parse().unwrap(), ..CreateSandbox::default() };
    let parent = host.sandbox_of(&create).await;
    wire(&client, &parent, "together", &WireDatabase::default()).await;
    let table = "CREATE TABLE ledger (n int PRIMARY KEY, who text)";
    assert_eq!(parent.text(&sql("DATABASE_URL", table)).await, "done");
    parent.text(LEDGER).await;
    add(&parent, 1).await;

    let began = std::time::Instant::now();
    let fork = Fork { databases: ForkDatabases::Fork, ..Fork::of(1) };
    let forked = timeout(PATIENCE, client.sandbox_fork(parent.id(), &fork)).await.unwrap().unwrap();
    println!("a pair after {:?}, held {} us", began.elapsed(), forked.held_us);
    let child = Sandbox::new(&host, forked.sandboxes[0].clone());
    let shared = Fork { databases: ForkDatabases::Share, ..Fork::of(1) };
    let sharing =
        timeout(PATIENCE, client.sandbox_fork(parent.id(), &shared)).await.unwrap().unwrap();
    let sharing = Sandbox::new(&host, sharing.sandboxes[0].clone());

    // The very process that ran in the parent goes on in the child, and reaches that one's database.
    child.text("echo child >/home/agent/who").await;
    add(&child, 2).await;
    add(&parent, 3).await;
    assert_eq!(rows(&parent).await, "parent1 parent3");
    assert_eq!(rows(&child).await, "parent1 child2");
    assert_eq!(rows(&sharing).await, "parent1 parent3");

    // Each has its own role, in its own database alone.
    let of = async |sandbox: &Sandbox<'_>| {
        let wired = client.database_wired(sandbox.id()).await.unwrap().databases;
        assert_eq!(wired.len(), 1, "{wired:?}");
        wired[0].clone()
    };
    let (own, forked) = (of(&parent).await, of(&child).await);
    assert_eq!(own.env, forked.env);
    assert_ne!(own.id, forked.id);
    assert!(forked.name.starts_with("together-"), "{forked:?}");
    assert_ne!(of(&sharing).await.env["PGUSER"], own.env["PGUSER"]);
    assert_eq!(of(&sharing).await.id, own.id);
    // What its parent loses the child keeps, and its database outlives it.
    client.database_unwire(parent.id(), "together").await.unwrap();
    add(&child, 4).await;
    for sandbox in [&parent, &sharing, &child] {
        sandbox.kill().await.unwrap();
    }
    for name in ["together", &forked.name] {
        client.database_delete(name).await.unwrap();
    }
}
