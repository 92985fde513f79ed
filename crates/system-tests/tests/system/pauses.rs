//! Pause, resume, fork and snapshots, seen from inside and outside.

use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use api_node::{
    CreateSandbox, CreateSnapshot, ErrorCode, Fork, OnTimeout, SandboxState, SetPort, SpawnRequest,
};
use base_types::{SandboxId, Size};
use client::{Client, ClientError};
use tokio::time::{sleep, timeout};

use crate::host::{Host, PATIENCE, private, shared};
use crate::sandbox::{End, Sandbox, shell};

/// Counts in a file for as long as it runs, on its own.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i > /tmp/count.new; \
                     mv /tmp/count.new /tmp/count; sleep 0.4; done";

fn base() -> CreateSandbox {
    CreateSandbox { template: "base".parse().unwrap(), ..CreateSandbox::default() }
}

/// Starts [`COUNT`], and waits until it counts.
async fn count(sandbox: &Sandbox<'_>) {
    let argv = ["sh", "-c", COUNT].map(str::to_owned).to_vec();
    let request = SpawnRequest { argv, ..SpawnRequest::default() };
    sandbox.client.process_spawn(sandbox.id(), &request).await.unwrap();
    sandbox.text("until test -s /tmp/count; do sleep 0.4; done").await;
}

/// What must be the same after a pause.
async fn identity(sandbox: &Sandbox<'_>) -> String {
    sandbox
        .text("cat /proc/sys/kernel/random/boot_id /etc/machine-id /etc/hostname; hostname")
        .await
}

async fn state(client: &Client, id: SandboxId) -> SandboxState {
    client.sandbox_get(id).await.unwrap().state
}

/// A sandbox that exists already, as tests handle it.
async fn adopt<'h>(host: &'h Host, id: SandboxId) -> Sandbox<'h> {
    Sandbox::new(host, host.client().sandbox_get(id).await.unwrap())
}

#[tokio::test]
async fn a_paused_sandbox_goes_on_where_it_stopped_when_it_is_used() {
    let host = shared().await;
    let create = CreateSandbox { name: Some("sleeper".into()), ..base() };
    let sandbox = host.sandbox_of(&create).await;
    count(&sandbox).await;
    sandbox.text("head -c 3000000 /dev/urandom > /dev/shm/memory; echo disk > ~/file; sync").await;
    let sums = "sha256sum /dev/shm/memory ~/file";
    let (before, sums_before) = (identity(&sandbox).await, sandbox.text(sums).await);

    let begun = Instant::now();
    let paused = sandbox.client.sandbox_pause(sandbox.id()).await.unwrap();
    let pause_took = begun.elapsed();
    assert_eq!((paused.state, paused.timeout_at_ms), (SandboxState::Paused, None));
    // Again is free.
    sandbox.client.sandbox_pause(sandbox.id()).await.unwrap();
    // Time that passes for everybody but the guest.
    sleep(Duration::from_secs(3)).await;
    assert_eq!(state(&sandbox.client, sandbox.id()).await, SandboxState::Paused);

    let begun = Instant::now();
    let count_then: u64 = sandbox.text("cat /tmp/count").await.parse().unwrap();
    let touch_took = begun.elapsed();
    let now: u64 = sandbox.text("date +%s").await.parse().unwrap();
    let here = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(here.abs_diff(now) <= 2, "the guest says {now}, it is {here}");
    assert_eq!(identity(&sandbox).await, before);
    assert_eq!(sandbox.text(sums).await, sums_before);
    let grows = format!("until test $(cat /tmp/count) -gt {count_then}; do sleep 0.4; done");
    sandbox.text(&grows).await;
    let resumed = sandbox.client.sandbox_get(sandbox.id()).await.unwrap();
    assert_eq!(resumed.state, SandboxState::Running);
    assert!(resumed.timeout_at_ms.is_some());
    println!("pause {pause_took:?}, first touch {touch_took:?}, resume {:?}", resumed.phases);

    // Once more, now from a machine that was restored with a layer.
    sandbox.client.sandbox_pause(sandbox.id()).await.unwrap();
    let resumed = sandbox.client.sandbox_resume(sandbox.id()).await.unwrap();
    assert_eq!(resumed.state, SandboxState::Running);
    assert_eq!(sandbox.text(sums).await, sums_before);
    assert_eq!(identity(&sandbox).await, before);
}

#[tokio::test]
async fn a_big_sandbox_is_read_back_as_it_is_touched_and_may_be_paused_again_and_again() {
    let host = shared().await;
    let sandbox = host.sandbox_of(&base()).await;
    sandbox.text("head -c 24000000 /dev/urandom > /dev/shm/memory").await;
    let sum = "sha256sum < /dev/shm/memory";
    let before = sandbox.text(sum).await;
    for round in 0..3 {
        let begun = Instant::now();
        sandbox.client.sandbox_pause(sandbox.id()).await.unwrap();
        let pause_took = begun.elapsed();
        let resumed = sandbox.client.sandbox_resume(sandbox.id()).await.unwrap();
        println!("round {round}: pause {pause_took:?}, resume {:?}", resumed.phases);
        // Changes a part, so that each layer has something of its own.
        sandbox.text(&format!("echo {round} >> /dev/shm/rounds")).await;
    }
    assert_eq!(sandbox.text(sum).await, before);
    assert_eq!(sandbox.text("cat /dev/shm/rounds").await, "0\n1\n2");
}

#[tokio::test]
async fn a_pause_ends_the_streams_of_its_commands_with_a_reason() {
    let host = shared().await;
    let sandbox = host.sandbox_of(&base()).await;
    let (events, _) = sandbox.start(&shell("sleep 1000")).await;
    sandbox.client.sandbox_pause(sandbox.id()).await.unwrap();
    let done = timeout(PATIENCE, crate::sandbox::follow(events)).await.unwrap();
    let End::Error { failure, .. } = done.end else { panic!("{:?}", done.end) };
    assert_eq!(failure.code, ErrorCode::Conflict, "{failure}");
    assert!(failure.message.contains("paused"), "{failure}");
    assert_eq!(sandbox.text("echo here").await, "here");
}

#[tokio::test]
async fn children_of_a_fork_come_from_one_moment_and_share_nothing_they_write() {
    let host = shared().await;
    let parent = host.sandbox_of(&base()).await;
    count(&parent).await;
    parent.text("echo common > ~/file; echo common > /dev/shm/memory").await;
    for from in ["running", "paused"] {
        if from == "paused" {
            parent.client.sandbox_pause(parent.id()).await.unwrap();
        }
        let begun = Instant::now();
        let request = Fork { name: Some("child".into()), ..Fork::of(3) };
        let forked = parent.client.sandbox_fork(parent.id(), &request).await.unwrap();
        println!("fork of a {from} one: held {} us, {:?}", forked.held_us, begun.elapsed());
        assert_eq!(forked.held_us == 0, from == "paused");
        let mut children = Vec::new();
        for made in forked.sandboxes {
            assert_eq!((made.state, made.name.as_deref()), (SandboxState::Running, Some("child")));
            children.push(Sandbox::new(&host, made));
        }
        let mut seen = HashSet::from([identity(&parent).await]);
        for (number, child) in children.iter().enumerate() {
            let random = child.text("head -c 16 /dev/urandom | od -An -tx1").await;
            assert!(seen.insert(random) && seen.insert(identity(child).await), "{seen:?}");
            assert_eq!(child.text("cat ~/file /dev/shm/memory").await, "common\ncommon");
            child.text(&format!("echo {number} > ~/file; echo {number} > /dev/shm/memory")).await;
            let counted: u64 = child.text("cat /tmp/count").await.parse().unwrap();
            let grows = format!("until test $(cat /tmp/count) -gt {counted}; do sleep 0.4; done");
            child.text(&grows).await;
        }
        for (number, child) in children.iter().enumerate() {
            let found = child.text("cat ~/file /dev/shm/memory").await;
            assert_eq!(found, format!("{number}\n{number}"));
        }
        assert_eq!(parent.text("cat ~/file /dev/shm/memory").await, "common\ncommon");
    }
    // A child is a sandbox like any other: it can be paused, and forked itself.
    let forked = parent.client.sandbox_fork(parent.id(), &Fork::of(1)).await;
    let child = Sandbox::new(&host, forked.unwrap().sandboxes.remove(0));
    parent.kill().await.unwrap();
    child.client.sandbox_pause(child.id()).await.unwrap();
    let forked = child.client.sandbox_fork(child.id(), &Fork::of(1)).await;
    let grandchild = Sandbox::new(&host, forked.unwrap().sandboxes.remove(0));
    for sandbox in [&child, &grandchild] {
        assert_eq!(sandbox.text("cat ~/file /dev/shm/memory").await, "common\ncommon");
    }
}

#[tokio::test]
async fn sandboxes_stand_when_the_snapshot_they_were_made_from_is_deleted() {
    let host = shared().await;
    let client = host.client();
    let origin = host.sandbox_of(&base()).await;
    origin.text("echo kept > ~/file; echo kept > /dev/shm/memory").await;
    let named = CreateSnapshot { name: Some("kept".into()) };
    let snapshot = client.snapshot_create(origin.id(), &named).await.unwrap();
    assert_eq!((snapshot.sandbox, snapshot.size), (origin.id(), Size::Nano));
    assert!(snapshot.bytes > 0);
    assert_eq!(origin.text("cat ~/file").await, "kept");
    origin.kill().await.unwrap();
    assert!(client.snapshot_list().await.unwrap().snapshots.contains(&snapshot));

    let create = CreateSandbox { snapshot: Some(snapshot.id), ..CreateSandbox::default() };
    let mut made = Vec::new();
    for _ in 0..2 {
        let sandbox = client.sandbox_create(&create).await.unwrap();
        assert_eq!(sandbox.template.as_str(), "base");
        assert_eq!(sandbox.snapshot, Some(snapshot.id));
        made.push(Sandbox::new(&host, sandbox));
    }
    client.snapshot_delete(snapshot.id).await.unwrap();
    let refused = |error: ClientError| match error {
        ClientError::Refused(failure) => failure.code,
        other => panic!("{other}"),
    };
    assert_eq!(refused(client.snapshot_get(snapshot.id).await.unwrap_err()), ErrorCode::NotFound);
    assert_eq!(refused(client.sandbox_create(&create).await.unwrap_err()), ErrorCode::NotFound);
    for (number, sandbox) in made.iter().enumerate() {
        assert_eq!(sandbox.text("cat ~/file /dev/shm/memory").await, "kept\nkept");
        sandbox.text(&format!("echo {number} > ~/file")).await;
        client.sandbox_pause(sandbox.id()).await.unwrap();
        assert_eq!(sandbox.text("cat ~/file").await, number.to_string());
    }
}

#[tokio::test]
async fn a_sandbox_whose_time_is_over_is_killed_or_paused_as_was_agreed() {
    let host = shared().await;
    let client = host.client();
    let killed = CreateSandbox { timeout_s: 2, ..base() };
    let killed = host.sandbox_of(&killed).await;
    let idle =
        CreateSandbox { idle_timeout_s: 2, on_timeout: OnTimeout::Pause, timeout_s: 0, ..base() };
    let idle = host.sandbox_of(&idle).await;
    let gone = async {
        while client.sandbox_get(killed.id()).await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
    // Looking is no use of it; a command that runs is.
    let slept = timeout(PATIENCE, async {
        while state(&client, idle.id()).await != SandboxState::Paused {
            sleep(Duration::from_millis(100)).await;
        }
    });
    slept.await.unwrap();
    assert_eq!(idle.text("sleep 4; echo up").await, "up");
    let longer = client.sandbox_set_timeout(idle.id(), api_node::SetTimeout { timeout_s: 900 });
    assert!(longer.await.unwrap().timeout_at_ms.is_some());
}

#[tokio::test]
async fn paused_sandboxes_and_snapshots_outlive_the_node() {
    let host = private().await;
    host.up().await;
    let create = CreateSandbox {
        metadata: [("kept".to_owned(), "yes".to_owned())].into(),
        env: [("GREETING".to_owned(), "hello".to_owned())].into(),
        ..base()
    };
    let sandbox = host.sandbox_of(&create).await;
    count(&sandbox).await;
    sandbox.text("echo disk > ~/file; echo memory > /dev/shm/memory").await;
    let snapshot = sandbox.client.snapshot_create(sandbox.id(), &CreateSnapshot::default()).await;
    let snapshot = snapshot.unwrap();
    let before = identity(&sandbox).await;
    let public = SetPort { public: true };
    let port = sandbox.client.port_set(sandbox.id(), 8000, public).await.unwrap();
    let paused = sandbox.client.sandbox_pause(sandbox.id()).await.unwrap();
    host.sandflare(&["down"]).await.succeeded();
    host.up().await;

    let again = adopt(&host, sandbox.id()).await;
    assert_eq!(again.made, paused);
    assert_eq!(again.client.port_get(again.id(), 8000).await.unwrap(), port);
    assert_eq!(
        again.text("cat ~/file /dev/shm/memory; echo $GREETING").await,
        "disk\nmemory\nhello"
    );
    assert_eq!(identity(&again).await, before);
    let counted: u64 = again.text("cat /tmp/count").await.parse().unwrap();
    again.text(&format!("until test $(cat /tmp/count) -gt {counted}; do sleep 0.4; done")).await;
    let client = host.client();
    assert_eq!(client.snapshot_list().await.unwrap().snapshots, std::slice::from_ref(&snapshot));
    let create = CreateSandbox { snapshot: Some(snapshot.id), ..CreateSandbox::default() };
    let made = Sandbox::new(&host, client.sandbox_create(&create).await.unwrap());
    assert_eq!(made.text("cat ~/file").await, "disk");
}
