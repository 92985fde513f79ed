use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Output, Stdio};

use expect_test::expect;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::sandbox::{json, text};
use crate::sandflare::Sandflare;

/// The password of all databases here, of which no output but an address and JSON may have a part.
const PASSWORD: &str = "Secret#42";
const ENCODED: &str = "Secret%2342";

/// What it printed, where it also said something to a person.
fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap().trim().to_owned()
}

async fn with_stdin(sandflare: &Sandflare, args: &[&str], input: &str) -> Output {
    let mut child = sandflare.command(args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    child.wait_with_output().await.unwrap()
}

/// A node with the database `memory`, which has [`PASSWORD`], and its id.
async fn with_memory() -> (Sandflare, String) {
    let sandflare = Sandflare::new().await;
    let file = sandflare.home.path().join("password");
    fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let create = ["db", "create", "memory", "--password-file", file.to_str().unwrap()];
    let output = sandflare.output(&create).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said, "its address, with the password: sandflare db url memory\n");
    let id = printed(&output);
    (sandflare, id)
}

#[tokio::test]
async fn a_database_is_made_as_it_was_asked_for() {
    let sandflare = Sandflare::new().await;
    let seed = sandflare.home.path().join("seed.sql");
    fs::write(&seed, "create table notes ()").unwrap();
    let args = ["db", "create", "notes", "--size", "small", "--ttl", "1h", "-o", "json"];
    let args = [&args[..], &["--disk-mib", "512"]].concat();
    let more = ["--extension", "vector", "--extension", "pg_trgm", "--password-file", "-"];
    let seeded = ["--seed", seed.to_str().unwrap()];
    let all = [&args[..], &more, &seeded].concat();
    let made = json(&with_stdin(&sandflare, &all, "a b\r\n").await);
    assert_eq!((&made["name"], &made["size"]), (&json!("notes"), &json!("small")));
    assert_eq!(made["extensions"], json!(["vector", "pg_trgm"]));
    assert_eq!((&made["password"], &made["disk_mib"]), (&json!("a b"), &json!(512)));
    let at = |field: &str| made[field].as_u64().unwrap();
    assert_eq!(at("expires_at_ms") - at("created_at_ms"), 3_600_000);

    let plain = json(&sandflare.output(&["db", "create", "plain", "--json"]).await);
    assert_eq!((&plain["size"], &plain["extensions"]), (&json!("nano"), &json!(["vector"])));
    assert_eq!((&plain["expires_at_ms"], &plain["disk_mib"]), (&Value::Null, &Value::Null));
    let again = ["db", "create", "Plain", "--exist-ok", "-o", "json"];
    assert_eq!(json(&sandflare.output(&again).await)["id"], plain["id"]);
    let list = json(&sandflare.output(&["db", "ls", "-o", "json"]).await);
    assert_eq!(list["databases"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_password_is_in_an_address_and_in_json_alone() {
    let (sandflare, id) = with_memory().await;
    assert!(id.starts_with("db_"), "{id}");
    let user = format!("u{:0>12}", id.trim_start_matches("db_").trim_start_matches('0'));
    let get = sandflare.shown(&["db", "get", "memory"]).await;
    expect![[r#"
        exit code: 0
        ----- stdout -----
        WHAT           VALUE
        id             ID
        name           memory
        status         running
        size           nano
        disk limit     -
        extensions     vector
        address        127.0.0.1:5432
        open to        loopback
        user           USER
        database       main
        made (UTC)     2025-06-15 15:06:40
        deleted (UTC)  never
        ----- stderr -----
    "#]]
    .assert_eq(&get.replace(&id, "ID").replace(&user, "USER"));
    let list = text(&sandflare.output(&["db", "ls"]).await);
    assert!(list.starts_with("ID ") && list.contains(&id) && list.ends_with("running"), "{list}");
    assert!(![get, list].concat().contains("Secret"));

    let url = async |args: &[&str]| text(&sandflare.output(&[&["db", "url"], args].concat()).await);
    let at = format!("{ENCODED}@127.0.0.1:5432/main");
    assert_eq!(url(&["memory"]).await, format!("postgresql://{user}.pooled:{at}"));
    assert_eq!(url(&[&id, "--direct"]).await, format!("postgresql://{user}:{at}"));
    for verb in ["get", "url"] {
        let facts = json(&sandflare.output(&["db", verb, "MEMORY", "-o", "json"]).await);
        assert_eq!((&facts["id"], &facts["password"]), (&json!(id), &json!(PASSWORD)));
    }
}

#[tokio::test]
async fn who_may_connect_is_said_at_first_and_later() {
    let (sandflare, _) = with_memory().await;
    let create = ["db", "create", "shared", "--outside", "10.0.0.0/8,::1", "-o", "json"];
    let made = json(&sandflare.output(&create).await);
    assert_eq!(made["outside"], json!(["10.0.0.0/8", "::1"]));
    for (who, told) in [
        (&["off"][..], "off"),
        (&["10.0.0.0/8", "2001:db8::/32"], "10.0.0.0/8,2001:db8::/32"),
        (&["loopback"], "loopback"),
    ] {
        let set = [&["db", "outside", "memory"], who].concat();
        assert_eq!(text(&sandflare.output(&set).await), told);
    }
    let set = ["db", "outside", "memory", "203.0.113.7", "-o", "json"];
    assert_eq!(json(&sandflare.output(&set).await)["outside"], json!(["203.0.113.7"]));
}

#[tokio::test]
async fn another_password_and_a_fork_are_told_without_them() {
    let (sandflare, id) = with_memory().await;
    let change = ["db", "password", "memory", "--password-file", "-"];
    let changed = with_stdin(&sandflare, &change, "other").await;
    assert_eq!(printed(&changed), id);
    let facts = json(&sandflare.output(&["db", "get", "memory", "-o", "json"]).await);
    assert_eq!(facts["password"], "other");
    let random = json(&sandflare.output(&["db", "password", "memory", "-o", "json"]).await);
    assert_ne!(random["password"], "other");

    let fork = sandflare.output(&["db", "fork", "memory", "branch"]).await;
    let said = String::from_utf8_lossy(&fork.stderr).into_owned();
    assert!(said.ends_with("sandflare db url branch\n"), "{said}");
    let branch = json(&sandflare.output(&["db", "get", "branch", "-o", "json"]).await);
    assert_eq!(branch["id"], printed(&fork));
    assert_ne!(branch["id"], id);
}

#[tokio::test]
async fn rows_are_a_table_and_other_sql_says_how_many_it_changed() {
    let (sandflare, _) = with_memory().await;
    expect![[r#"
        exit code: 0
        ----- stdout -----
        ?column?
        42
        ----- stderr -----
    "#]]
    .assert_eq(&sandflare.shown(&["db", "query", "memory", "select 42"]).await);
    expect![[r#"
        exit code: 0
        ----- stdout -----
        ----- stderr -----
        rows changed: 0
    "#]]
    .assert_eq(&sandflare.shown(&["db", "query", "memory", "insert into notes"]).await);
    let read = ["db", "query", "memory", "-", "--limit", "5", "--timeout", "1m", "-o", "json"];
    let answer = json(&with_stdin(&sandflare, &read, "select 'x'\n").await);
    assert_eq!((&answer["rows"], &answer["truncated"]), (&json!([["'x'"]]), &json!(false)));
}

#[tokio::test]
async fn figures_are_tables_and_as_json_numbers() {
    let (sandflare, _) = with_memory().await;
    expect![[r#"
        exit code: 0
        ----- stdout -----
        WHAT          VALUE
        status        running
        answered in   1.50 ms
        runs for      1 h 0 min
        connections   2 open, 1 active, at most 95
        transactions  120 committed, 3 rolled back
        size          8.0 MiB
        from cache    99.0 % of 1000 blocks

        MEAN    CALLS  TOTAL  ROWS  SLOW QUERY
        250 ms  4      1.0 s  4     SELECT pg_sleep($1)
        ----- stderr -----
    "#]]
    .assert_eq(&sandflare.shown(&["db", "stats", "memory"]).await);
    let stats = json(&sandflare.output(&["db", "stats", "MEMORY", "-o", "json"]).await);
    assert_eq!((&stats["size_bytes"], &stats["cache"]["hit"]), (&json!(8 << 20), &json!(990)));
}

#[tokio::test]
async fn a_wire_names_its_variables_and_json_has_their_values() {
    let (sandflare, id) = with_memory().await;
    let sandbox = text(&sandflare.output(&["create"]).await);
    let names = text(&sandflare.output(&["db", "wire", &sandbox, "memory"]).await);
    let all = "DATABASE_URL DATABASE_URL_UNPOOLED PGDATABASE PGHOST PGPASSWORD PGPORT PGUSER";
    assert_eq!(names.replace('\n', " "), format!("{all} POSTGRES_URL"));
    let wire = ["db", "wire", &sandbox, &id, "--env", "NOTES_URL", "--readonly", "-o", "json"];
    let wired = json(&sandflare.output(&wire).await);
    assert_eq!((&wired["id"], &wired["role"]), (&json!(id), &json!("readonly")));
    let address = wired["env"]["NOTES_URL"].as_str().unwrap();
    assert!(address.starts_with("postgresql://") && address.contains("memory.db.internal"));

    let unwire = ["db", "unwire", &sandbox, "memory"];
    assert_eq!(text(&sandflare.output(&unwire).await), "memory");
    let again = sandflare.output(&[&unwire[..], &["-o", "json"]].concat()).await;
    assert_eq!(again.status.code(), Some(1));
    let removed: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(removed, json!({ "removed": [] }));
    assert!(String::from_utf8_lossy(&again.stderr).contains("is not wired to"), "{again:?}");
}

#[tokio::test]
async fn databases_are_deleted_though_one_is_not_there() {
    let (sandflare, _) = with_memory().await;
    printed(&sandflare.output(&["db", "create", "notes"]).await);
    expect![[r#"
        exit code: 1
        ----- stdout -----
        memory
        notes
        ----- stderr -----
        error: there is no database `none`
        hint: `GET /v1/databases` lists those there are
    "#]]
    .assert_eq(&sandflare.shown(&["db", "rm", "none", "memory", "notes"]).await);
    let again = sandflare.output(&["db", "rm", "memory", "-o", "json"]).await;
    assert_eq!(again.status.code(), Some(1));
    let removed: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(removed, json!({ "removed": [] }));
}

#[tokio::test]
async fn psql_gets_the_password_where_others_do_not_see_it_and_its_code_is_ours() {
    let (sandflare, id) = with_memory().await;
    let programs = sandflare.home.path().join("bin");
    fs::create_dir(&programs).unwrap();
    let psql = programs.join("psql");
    fs::write(&psql, "#!/bin/sh\necho \"$PGPASSWORD\"\nprintf '%s\\n' \"$@\"\nexit 3\n").unwrap();
    fs::set_permissions(&psql, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = sandflare.command(&["db", "psql", "memory", "--", "-c", "select 1"]);
    let output = command.env("PATH", &programs).output().await.unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = printed.lines().collect();
    let user = format!("u{:0>12}", id.trim_start_matches("db_").trim_start_matches('0'));
    let address = format!("postgresql://{user}@127.0.0.1:5432/main");
    assert_eq!(lines, [PASSWORD, "--dbname", &address, "-c", "select 1"]);

    let mut command = sandflare.command(&["db", "psql", "memory"]);
    let output = command.env("PATH", sandflare.home.path()).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.starts_with("error: there is no `psql` on this machine\nhint: "), "{said}");
}

#[tokio::test]
async fn what_fails_is_one_sentence_and_has_no_secret() {
    let (sandflare, _) = with_memory().await;
    let sandbox = text(&sandflare.output(&["create"]).await);
    let long = sandflare.home.path().join("long");
    fs::write(&long, PASSWORD.repeat(100)).unwrap();
    let bytes = sandflare.home.path().join("bytes");
    fs::write(&bytes, [b'S', b'e', 0xff]).unwrap();
    let (long, bytes) = (long.to_str().unwrap(), bytes.to_str().unwrap());
    for (args, error) in [
        (&["create", "Memory"][..], "there is a database `Memory` already"),
        (&["create", "a", "--password-file", "/nowhere"], "read the password from /nowhere"),
        (&["create", "a", "--password-file", long], "is too long"),
        (&["create", "a", "--password-file", bytes], "is no text"),
        (&["create", "a", "--password-file", "-", "--seed", "-"], "cannot be both"),
        (&["create", "a", "--extension", "A B"], "which is no extension's name"),
        (&["create", "a", "--seed", long], "the seed failed"),
        (&["get", "none"], "there is no database `none`"),
        (&["url", "none"], "there is no database `none`"),
        (&["stats", "none"], "there is no database `none`"),
        (&["psql", "none"], "there is no database `none`"),
        (&["query", "memory", "selekt"], "syntax error"),
        (&["query", "memory", "select 1", "--timeout", "1h"], "`timeout_ms` must be"),
        (&["wire", &sandbox, "none"], "there is no database `none`"),
        (&["wire", &sandbox, "memory", "--env", "1A"], "`env` must be"),
        (&["wire", "sbx_00000000000000aa", "memory"], "there is no sandbox"),
        (&["fork", "memory", "MEMORY"], "there is a database `MEMORY` already"),
        (&["password", "none"], "there is no database `none`"),
        (&["outside", "none", "off"], "there is no database `none`"),
        (&["outside", "memory", "10.0.0.1/8"], "write its first address"),
        (&["outside", "memory", "off", "loopback"], "neither an address nor a CIDR"),
    ] {
        let output = sandflare.output(&[&["db"], args].concat()).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{args:?}: {said}");
        let lines: Vec<_> = said.lines().collect();
        assert!(lines[0].starts_with("error: ") && lines[0].contains(error), "{args:?}: {said}");
        assert!(lines[1..].iter().all(|line| line.starts_with("hint: ")), "{args:?}: {said}");
        assert!(lines.len() < 3 && !said.contains("Secret"), "{args:?}: {said}");
    }
    let narrow = sandflare.output(&["db", "create", "a", "--disk-mib", "63"]).await;
    let said = String::from_utf8_lossy(&narrow.stderr);
    assert_eq!(narrow.status.code(), Some(1), "{said}");
    assert!(said.contains("63 is not in 64..=6144"), "{said}");
    // What would lead elsewhere in the API is no name.
    for wrong in ["", "..", "../sandboxes", "a/b", "a?b", "a#b", "%2e", "é"] {
        let output = sandflare.output(&["db", "rm", wrong]).await;
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{wrong}");
    }
}
