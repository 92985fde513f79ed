//! What a client and its project may count on when the daemon died between doing something and saying so.

use std::time::{SystemTime, UNIX_EPOCH};

use api_node::{
    CreateKey, CreateProject, CreateSandbox, ErrorCode, OnTimeout, Project, Quota, Role,
    SandboxState,
};
use base_types::SandboxId;
use client::Client;
use serde_json::json;

use crate::daemon::{Daemon, client_with, post_once, request};
use crate::left::{sandboxes, until, vmms};

/// Asks `path` for the same thing of a daemon that dies of it and twice of the next one, which must give
/// one answer; before that, it may name what is made in part, which must work until it is killed. Returns
/// the next daemon and the answer.
async fn ask_thrice(
    step: &str,
    path: &str,
    body: serde_json::Value,
) -> (Daemon, serde_json::Value) {
    let key = path.replace('/', "-");
    let dying = Daemon::start_to_die_at(step).await;
    let answer = post_once(path, &body, &key).await;
    assert!(answer.is_none(), "{step}: {answer:?}");
    dying.died().await;
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    let (mut status, mut made) = post_once(path, &body, &key).await.unwrap();
    if status == 409 {
        let parts = made.to_string();
        for id in daemon.listed().await {
            if parts.contains(&id.to_string()) {
                daemon.works(id).await;
                daemon.kill_sandbox(id).await;
            }
        }
        (status, made) = post_once(path, &body, &key).await.unwrap();
    }
    assert_eq!(status, 201, "{made}");
    assert_eq!(post_once(path, &body, &key).await.unwrap(), (status, made.clone()));
    (daemon, made)
}

fn id(made: &serde_json::Value) -> SandboxId {
    made["id"].as_str().unwrap().parse().unwrap()
}

pub(crate) async fn creates_that_nobody_heard_of() {
    let body = json!({"template": "base", "name": "once"});
    let (daemon, made) = ask_thrice("create: running", "/v1/sandboxes", body).await;
    let parent = id(&made);
    assert_eq!(daemon.listed().await, [parent]);
    daemon.works(parent).await;
    daemon.kill().await;

    // The daemon dies when the first of two children is there.
    let path = format!("/v1/sandboxes/{parent}/fork");
    let (daemon, made) = ask_thrice("create: running", &path, json!({"count": 2})).await;
    let mut all: Vec<_> = made["sandboxes"].as_array().unwrap().iter().map(id).collect();
    assert_eq!(all.len(), 2);
    all.push(parent);
    let mut listed = daemon.listed().await;
    all.sort();
    listed.sort();
    assert_eq!(listed, all);
    for id in &all {
        daemon.works(*id).await;
    }
    daemon.kill().await;

    let path = format!("/v1/sandboxes/{parent}/snapshots");
    let (daemon, made) = ask_thrice("snapshot: kept", &path, json!({"name": "once"})).await;
    let snapshots = daemon.client.snapshot_list().await.unwrap().snapshots;
    assert_eq!(snapshots.len(), 1);
    assert_eq!(snapshots[0].id.to_string(), made["id"]);
    daemon.client.snapshot_delete(snapshots[0].id).await.unwrap();
    for id in all {
        daemon.kill_sandbox(id).await;
    }
    daemon.stop().await;
}

/// A project, and a client with a key of its own.
pub(crate) async fn project(daemon: &Daemon, name: &str, quota: Quota) -> (Project, Client) {
    let client = &daemon.client;
    let project = CreateProject { name: name.to_owned(), quota };
    let project = client.project_create(&project).await.unwrap();
    let key = CreateKey {
        project: Some(project.id),
        name: name.to_owned(),
        role: Role::User,
        expires_at_ms: None,
    };
    let key = client.key_create(&key).await.unwrap();
    (project, client_with(&key.secret))
}

/// Checks that another create is refused because of the quota, saying `why`.
async fn refused(client: &Client, why: &str) {
    let error = client.sandbox_create(&request()).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::QuotaExceeded), "{error}");
    assert!(error.to_string().contains(why), "{error}");
}

pub(crate) async fn quotas_and_lifetimes_under_the_next_daemon() {
    let daemon = Daemon::start_with_keys(&[]).await;
    let hasty = Quota { creates_per_minute: 4, ..Quota::default() };
    let (first, hasty) = project(&daemon, "hasty", hasty).await;
    let small = Quota { sandboxes: 1, ..Quota::default() };
    let (second, small) = project(&daemon, "small", small).await;
    let lone = small.sandbox_create(&request()).await.unwrap();

    let of = |timeout_s, on_timeout| CreateSandbox { timeout_s, on_timeout, ..request() };
    let long = hasty.sandbox_create(&of(600, OnTimeout::Kill)).await.unwrap();
    let gone = hasty.sandbox_create(&of(600, OnTimeout::Kill)).await.unwrap();
    hasty.sandbox_kill(gone.id).await.unwrap();
    let paused = hasty.sandbox_create(&of(5, OnTimeout::Pause)).await.unwrap();
    let killed = hasty.sandbox_create(&of(5, OnTimeout::Kill)).await.unwrap();
    let used = async |client: &Client| {
        let used = client.usage().await.unwrap().used;
        (used.sandboxes, used.vcpus, used.memory_mib, used.creates_per_minute)
    };
    let (four, one) = (used(&hasty).await, used(&small).await);
    assert_eq!((four.3, one.0), (4, 1), "{four:?} {one:?}");
    daemon.kill().await;
    let now_ms = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        u64::try_from(since.as_millis()).unwrap()
    };
    // Nobody is there to end them in time.
    let (pause_at, kill_at) = (paused.timeout_at_ms.unwrap(), killed.timeout_at_ms.unwrap());
    until("the ends of two lifetimes", true, || now_ms() > pause_at.max(kill_at)).await;
    assert_eq!(vmms().len(), 4);

    let daemon = Daemon::start_with_keys(&[]).await;
    refused(&hasty, "4 new sandboxes a minute; it has 4 and asked for 1 more").await;
    refused(&small, "1 sandboxes; it has 1 and asked for 1 more").await;
    until("sandboxes", 3, || sandboxes().len()).await;
    until("machines", 2, || vmms().len()).await;
    let seen = |id| hasty.sandbox_get(id);
    assert_eq!(seen(long.id).await.unwrap().timeout_at_ms, long.timeout_at_ms);
    assert_eq!(seen(paused.id).await.unwrap().state, SandboxState::Paused);
    assert_eq!(seen(killed.id).await.unwrap_err().code(), Some(ErrorCode::NotFound));
    assert_eq!(used(&hasty).await.3, 4);
    assert_eq!(used(&small).await.0, 1);
    for id in [lone.id, long.id, paused.id] {
        daemon.works(id).await;
        daemon.kill_sandbox(id).await;
    }
    for project in [first, second] {
        daemon.client.project_delete(project.id).await.unwrap();
    }
    daemon.stop().await;
}
