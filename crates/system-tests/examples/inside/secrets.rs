//! What nobody else may learn is in no log, no figure, no answer and no file of the node but its own.

use std::fs;
use std::path::{Path, PathBuf};

use api_node::{
    CreateSandbox, CreateSnapshot, ExecBody, ExecRequest, FileWriteQuery, Fork, SpawnRequest,
};
use bytes::Bytes;
use futures_util::stream;
use tokio::time::timeout;

use crate::again::project;
use crate::daemon::{Daemon, PATIENCE, follow, log_text, raw, request};
use crate::left::until_nothing;

const LOG: [&str; 2] = ["--log", "debug"];
/// Of a sandbox, for all its commands. The node has to keep it, in its database.
const ENV: &str = "env-4d1c9e";
/// Of one command.
const EXEC_ENV: &str = "exec-env-77ab02";
const SPAWN_ENV: &str = "spawn-env-9f3e51";
const ARGUMENT: &str = "argument-c0ffee";
const STDIN: &str = "stdin-5e11f0";
const FILE: &str = "file-b16b00";
const WRONG: &str = "wrong-d15ea5";
const SECRETS: [&str; 7] = [ENV, EXEC_ENV, SPAWN_ENV, ARGUMENT, STDIN, FILE, WRONG];

fn env(name: &str, value: &str) -> std::collections::BTreeMap<String, String> {
    [(name.to_owned(), value.to_owned())].into()
}

fn argv(script: &str) -> Vec<String> {
    ["sh", "-c", script, "sh", ARGUMENT].map(str::to_owned).to_vec()
}

/// Every file below `dir`; sockets hold nothing.
fn below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files.extend(below(&entry.path()));
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    files
}

/// Whether a file is all a guest's: its memory, its processors or its disk.
fn is_of_a_guest(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy();
    ["memory", "state", "disk"].iter().any(|kind| name.starts_with(kind))
}

/// The secrets that are in `bytes`.
fn leaked<'s>(bytes: &[u8], secrets: &[&'s str]) -> Vec<&'s str> {
    let there = |secret: &&&str| bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
    secrets.iter().filter(there).copied().collect()
}

#[track_caller]
fn clean(what: &str, text: &str, secrets: &[&str]) {
    assert!(!text.is_empty(), "{what} is empty");
    assert_eq!(leaked(text.as_bytes(), secrets), [""; 0], "{what}: {text}");
}

pub(crate) async fn secrets_of_callers() {
    let daemon = Daemon::start_with_keys(&LOG).await;
    let (owner, client) = project(&daemon, "secretive", Default::default()).await;
    let admin = fs::read_to_string("/data/admin.key").unwrap();
    let key = client_key(&daemon, owner.id).await;
    let mut secrets = SECRETS.to_vec();
    secrets.extend([admin.trim(), &key]);

    let create = CreateSandbox { env: env("TOKEN", ENV), ..request() };
    let made = timeout(PATIENCE, client.sandbox_create(&create)).await.unwrap().unwrap().id;
    let exec = ExecRequest {
        argv: argv("read line; echo $TOKEN $EXEC $1 $line"),
        env: env("EXEC", EXEC_ENV),
        stdin: true,
        ..ExecRequest::default()
    };
    let mut events = client.process_exec(made, &exec).await.unwrap();
    let ExecBody::Started { process_id: process, .. } = events.next().await.unwrap().unwrap().body
    else {
        panic!("a command begins with its start")
    };
    let line = Bytes::from(format!("{STDIN}\n"));
    client.process_stdin(made, process, line, true).await.unwrap();
    let done = follow(events).await;
    assert_eq!(done.stdout, format!("{ENV} {EXEC_ENV} {ARGUMENT} {STDIN}\n"), "{done:?}");
    let spawn = SpawnRequest {
        argv: argv("echo $TOKEN $SPAWN; sleep 1000"),
        env: env("SPAWN", SPAWN_ENV),
        ..SpawnRequest::default()
    };
    client.process_spawn(made, &spawn).await.unwrap();
    let query = FileWriteQuery { path: "/root/file".to_owned(), mode: None, user: None };
    let content = stream::iter([Ok(Bytes::from_static(FILE.as_bytes()))]);
    client.file_write(made, &query, content).await.unwrap();
    client.sandbox_pause(made).await.unwrap();
    let snapshot = client.snapshot_create(made, &CreateSnapshot::default()).await.unwrap().id;
    let forked = client.sandbox_fork(made, &Fork::of(1)).await.unwrap();

    // What goes wrong says what, and not with what.
    let bearer = format!("Bearer {key}");
    let authorized = [("authorization", bearer.as_str())];
    let sandboxes = "POST /v1/sandboxes".to_owned();
    let commands = format!("POST /v1/sandboxes/{made}/exec");
    for (request, body) in [
        (&sandboxes, format!(r#"{{"env": "{WRONG}"}}"#)),
        (&sandboxes, format!(r#"{{"env": {{"A=B": "{WRONG}"}}}}"#)),
        (&sandboxes, format!(r#"{{"env": {{"A": "{WRONG}\u0000"}}}}"#)),
        (&sandboxes, format!(r#"{{"template": "nosuch", "env": {{"A": "{WRONG}"}}}}"#)),
        (&sandboxes, format!(r#"{{"env": {{"A": "{WRONG}"}}, "#)),
        (&commands, format!(r#"{{"argv": "{WRONG}"}}"#)),
        (&commands, format!(r#"{{"argv": ["true"], "user": "no", "env": {{"A": "{WRONG}"}}}}"#)),
        (&commands, format!(r#"{{"argv": ["nosuch", "{WRONG}"], "cwd": "/nosuch"}}"#)),
    ] {
        let (status, said) = raw(request, &authorized, &body).await.unwrap();
        println!("{status} {said}");
        clean("an answer", &said, &secrets);
    }
    let wrong = format!("Bearer {}{WRONG}", &key[..10]);
    let refused = raw("GET /v1/usage", &[("authorization", &wrong)], "").await.unwrap();
    assert_eq!(refused.0, 401);
    clean("a refusal", &refused.1, &[WRONG, &key[..10]]);

    let admins = format!("Bearer {}", admin.trim());
    let (_, figures) = raw("GET /metrics", &[("authorization", &admins)], "").await.unwrap();
    clean("the figures", &figures, &secrets);
    for phase in ["claim", "map", "state", "devices", "resume", "reseed"] {
        let series = figures.lines().find(|line| {
            let of = |label: &str| line.contains(label);
            line.starts_with("sandflare_create_phase_seconds_count{")
                && of(&format!("phase=\"{phase}\""))
                && of("template=\"base\"")
                && of("size=\"nano\"")
        });
        let count = series.and_then(|line| line.rsplit_once(' ')).map(|(_, count)| count);
        assert!(count.is_some_and(|count| count != "0"), "{phase}: {figures}");
    }
    let (_, entries) = raw("GET /v1/audit", &[("authorization", &admins)], "").await.unwrap();
    for action in ["key_create", "sandbox_create", "process_exec", "sandbox_pause", "sandbox_fork"]
    {
        assert!(entries.contains(action), "{action}: {entries}");
    }
    clean("the audit log", &entries, &secrets);

    // A daemon that finds all of it again says no more.
    let first = log_text();
    daemon.kill().await;
    let daemon = Daemon::start_with_keys(&LOG).await;
    daemon.works(made).await;
    let logs = [first, log_text()];
    for log in &logs {
        assert!(log.contains(&made.to_string()), "{log}");
        clean("a daemon's log", log, &secrets);
    }
    for path in below(Path::new("/data")) {
        let bytes = fs::read(&path).unwrap();
        // What is a guest's may be anywhere in its memory; the database is for its owner alone.
        let allowed = match path.file_name().unwrap().to_string_lossy() {
            _ if is_of_a_guest(&path) => continue,
            name if name.starts_with("node.db") => vec![ENV],
            name if name == "admin.key" => vec![admin.trim()],
            _ => vec![],
        };
        let mut found = leaked(&bytes, &secrets);
        found.retain(|secret| !allowed.contains(secret));
        assert_eq!(found, [""; 0], "{}", path.display());
    }
    client.snapshot_delete(snapshot).await.unwrap();
    for id in [made, forked.sandboxes[0].id] {
        daemon.kill_sandbox(id).await;
    }
    until_nothing().await;
    daemon.stop().await;
    an_edited_line_is_named().await;
}

/// Another key of a project, in full.
async fn client_key(daemon: &Daemon, project: base_types::ProjectId) -> String {
    let request = api_node::CreateKey {
        project: Some(project),
        name: "second".to_owned(),
        role: api_node::Role::User,
        expires_at_ms: None,
    };
    daemon.client.key_create(&request).await.unwrap().secret
}

/// Of all that every scenario so far left in the audit log, nothing is amiss, and one letter that is
/// changed shows.
async fn an_edited_line_is_named() {
    let verify = || async {
        let output = tokio::process::Command::new("/bin/sandflare")
            .args(["audit", "verify", "/data/audit"])
            .env("SANDFLARE_HOME", "/tmp/none")
            .output();
        let output = timeout(PATIENCE, output).await.unwrap().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    };
    let (code, said) = verify().await;
    println!("verify: {said}");
    assert_eq!(code, 0, "{said}");
    let mut segments = below(Path::new("/data/audit"));
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    segments.sort();
    let path = segments.last().unwrap();
    let whole = fs::read_to_string(path).unwrap();
    let (number, line) =
        whole.lines().enumerate().find(|(_, line)| line.contains("sandbox_kill")).unwrap();
    fs::write(path, whole.replacen(line, &line.replace("sandbox_kill", "sandbox_list"), 1))
        .unwrap();
    let (code, said) = verify().await;
    println!("verify: {said}");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains(&format!("line {}", number + 1)), "{said}");
    fs::write(path, whole).unwrap();
    assert_eq!(verify().await.0, 0);
}
