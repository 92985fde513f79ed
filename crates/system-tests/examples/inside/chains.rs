//! A sandbox that is forked and kept again and again, step by step, as an agent explores.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use api_node::{CreateSandbox, CreateSnapshot, Fork, SandboxState};
use base_types::SandboxId;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{sleep, timeout};

use crate::daemon::{Daemon, PATIENCE, log_text, request};
use crate::full::free_bytes;
use crate::left::{moments, until, until_nothing, vmms};

/// More than a machine could have overlays.
const STEPS: u32 = 24;
/// Overlays a sandbox may have: eight that are frozen, and its own.
const OVERLAYS_MAX: usize = 9;
/// What the node's own database and log may have grown by.
const GROWN_MAX: u64 = 16 << 20;

/// Overlays in the directory of a sandbox.
fn overlays(id: SandboxId) -> usize {
    let names = fs::read_dir(format!("/data/sandboxes/{id}")).unwrap().flatten();
    names.filter(|entry| entry.file_name().to_string_lossy().starts_with("disk-")).count()
}

/// Every file of sandboxes, snapshots and templates.
fn files() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut dirs: Vec<_> =
        ["sandboxes", "snapshots", "templates"].map(|dir| format!("/data/{dir}").into()).into();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            found.insert(path.display().to_string());
            if path.is_dir() {
                dirs.push(path);
            }
        }
    }
    found
}

/// Changes something at every step: one file that grows, one that is written over, one that goes.
async fn change(daemon: &Daemon, id: SandboxId, step: u32) {
    let last = step.saturating_sub(1);
    let script = format!(
        "echo {step} >> /root/log && head -c 200000 /dev/urandom > /root/new && \
         rm -f /root/file-{last} && cp /root/new /root/file-{step} && \
         (cat /root/sums 2>/dev/null; sha256sum < /root/new) > /root/sums.new && \
         mv /root/sums.new /root/sums && echo {step} > /dev/shm/step && sync"
    );
    let done = daemon.shell(id, &script).await;
    assert_eq!(done.code, 0, "step {step}: {done:?}");
}

/// Checks that it has all that [`change`] did up to `step`, in memory and, from the disk itself, there.
async fn check(daemon: &Daemon, id: SandboxId, step: u32) {
    let script = "echo 3 > /proc/sys/vm/drop_caches; cat /dev/shm/step; ls /root/file-*; \
                  sha256sum < /root/new; tail -n 1 /root/sums; wc -l < /root/sums; cat /root/log";
    let done = daemon.shell(id, script).await;
    let lines: Vec<_> = done.stdout.lines().collect();
    let [in_memory, file, sum, noted, sums, log @ ..] = lines.as_slice() else {
        panic!("{done:?}");
    };
    let number = step.to_string();
    assert_eq!((*in_memory, *file), (number.as_str(), format!("/root/file-{step}").as_str()));
    assert_eq!((sum, sums.trim()), (noted, (step + 1).to_string().as_str()));
    let wanted: Vec<_> = (0..=step).map(|step| step.to_string()).collect();
    assert_eq!(log, wanted);
}

pub(crate) async fn a_long_chain_of_forks_and_snapshots() {
    let daemon = Daemon::start(&["--pool", "nano=0", "--check-roots", "off"]).await;
    let client = &daemon.client;
    daemon.snapshot().await;
    let (files_before, free_before) = (files(), free_bytes());
    let fork = Fork::of(1);
    let mut id = daemon.sandbox().await;
    let mut snapshots = Vec::new();
    let mut deepest = 0;
    for step in 0..STEPS {
        change(&daemon, id, step).await;
        match step % 4 {
            // It goes on, and so does a child, for a while.
            0 => {
                let child = client.sandbox_fork(id, &fork).await.unwrap().sandboxes.remove(0).id;
                check(&daemon, child, step).await;
                daemon.kill_sandbox(child).await;
            }
            // The child goes on.
            1 => {
                let child = client.sandbox_fork(id, &fork).await.unwrap().sandboxes.remove(0).id;
                daemon.kill_sandbox(id).await;
                id = child;
            }
            // One that is made from a snapshot goes on, which stays.
            2 => {
                let kept = client.snapshot_create(id, &CreateSnapshot::default()).await.unwrap();
                let create = CreateSandbox { snapshot: Some(kept.id), ..request() };
                let made = daemon.create_as(&create).await.unwrap().id;
                daemon.kill_sandbox(id).await;
                snapshots.push((kept.id, step));
                id = made;
            }
            // It is kept while it is paused.
            _ => {
                client.sandbox_pause(id).await.unwrap();
                let kept = client.snapshot_create(id, &CreateSnapshot::default()).await.unwrap();
                snapshots.push((kept.id, step));
            }
        }
        deepest = deepest.max(overlays(id));
        check(&daemon, id, step).await;
    }
    println!("{STEPS} steps, at most {deepest} overlays");
    assert!(deepest <= OVERLAYS_MAX, "{deepest} overlays");

    // Every moment on the way is what it was, also under the next daemon.
    client.sandbox_pause(id).await.unwrap();
    daemon.kill().await;
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    check(&daemon, id, STEPS - 1).await;
    for (snapshot, step) in snapshots.iter().copied() {
        let create = CreateSandbox { snapshot: Some(snapshot), ..request() };
        let made = daemon.create_as(&create).await.unwrap().id;
        check(&daemon, made, step).await;
        daemon.kill_sandbox(made).await;
    }

    // Layers go with the last who needs them.
    for (snapshot, _) in snapshots {
        daemon.client.snapshot_delete(snapshot).await.unwrap();
    }
    check(&daemon, id, STEPS - 1).await;
    daemon.kill_sandbox(id).await;
    until_nothing().await;
    assert_eq!(files(), files_before);
    let (free, grown) = (free_bytes(), free_before.saturating_sub(free_bytes()));
    assert!(grown <= GROWN_MAX, "{free_before} bytes were free before, {free} are now");
    daemon.stop().await;
}

/// The steps of a merge after which a machine is adopted with the files it had before.
const MERGE: [&str; 2] = ["merge: written", "merge: counts"];
/// Snapshots after which the next one has overlays merged before.
const UNMERGED: u32 = 8;

pub(crate) async fn a_sandbox_adopted_in_the_middle_of_a_merge() {
    for step in MERGE {
        let daemon = Daemon::start_to_die_at(step).await;
        let id = daemon.sandbox().await;
        let mut snapshots = Vec::new();
        for number in 0..UNMERGED {
            change(&daemon, id, number).await;
            let kept = daemon.client.snapshot_create(id, &CreateSnapshot::default()).await;
            snapshots.push((kept.unwrap().id, number));
        }
        change(&daemon, id, UNMERGED).await;
        let refused = daemon.client.snapshot_create(id, &CreateSnapshot::default()).await;
        assert!(refused.is_err(), "{step}: answered");
        daemon.died().await;

        let daemon = Daemon::start(&["--pool", "nano=0"]).await;
        assert_eq!(daemon.listed().await, [id], "{step}");
        check(&daemon, id, UNMERGED).await;
        // Its machine was never told of the merged overlay; what it is from now on is told here.
        let kept = daemon.client.snapshot_create(id, &CreateSnapshot::default()).await.unwrap();
        change(&daemon, id, UNMERGED + 1).await;
        check(&daemon, id, UNMERGED + 1).await;
        snapshots.push((kept.id, UNMERGED));
        let kept = daemon.client.snapshot_create(id, &CreateSnapshot::default()).await.unwrap();
        snapshots.push((kept.id, UNMERGED + 1));
        println!("{step}: {} overlays", overlays(id));
        assert!(overlays(id) <= OVERLAYS_MAX, "{step}");
        daemon.kill_sandbox(id).await;
        for (snapshot, number) in snapshots {
            let create = CreateSandbox { snapshot: Some(snapshot), ..request() };
            let made = daemon.create_as(&create).await.unwrap().id;
            check(&daemon, made, number).await;
            daemon.kill_sandbox(made).await;
            daemon.client.snapshot_delete(snapshot).await.unwrap();
        }
        until_nothing().await;
        daemon.stop().await;
    }
}

/// Begins a fork that has overlays merged before, and holds the process that does it in the middle of
/// it. The client that asked leaves when what is returned is dropped.
async fn held_in_a_merge<'d>(
    daemon: &'d Daemon,
    id: SandboxId,
) -> (impl Future<Output = ()> + 'd, Pid) {
    let before = vmms();
    let mut forking = Box::pin(async move {
        let forked = daemon.client.sandbox_fork(id, &Fork::of(1)).await;
        println!("forked: {forked:?}");
    });
    let merging = async {
        loop {
            if let Some(pid) = vmms().into_iter().find(|pid| !before.contains(pid)) {
                return Pid::from_raw(pid).unwrap();
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    let pid = tokio::select! {
        pid = timeout(PATIENCE, merging) => pid.unwrap(),
        () = &mut forking => panic!("no merge was seen"),
    };
    kill_process(pid, Signal::STOP).unwrap();
    (forking, pid)
}

pub(crate) async fn a_client_that_leaves_and_a_stop_in_the_middle_of_a_merge() {
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    let id = daemon.sandbox().await;
    for number in 0..UNMERGED {
        change(&daemon, id, number).await;
        let kept = daemon.client.snapshot_create(id, &CreateSnapshot::default()).await.unwrap();
        daemon.client.snapshot_delete(kept.id).await.unwrap();
    }
    // Whoever asked is gone, and the place its fork was to be made in.
    let (forking, pid) = held_in_a_merge(&daemon, id).await;
    drop(forking);
    until("moments", 0, || moments().len()).await;
    kill_process(pid, Signal::CONT).unwrap();
    for _ in 0..2 {
        let fork = Fork::of(1);
        let child = daemon.client.sandbox_fork(id, &fork).await.unwrap().sandboxes.remove(0).id;
        check(&daemon, child, UNMERGED - 1).await;
        daemon.kill_sandbox(child).await;
    }
    assert!(overlays(id) <= OVERLAYS_MAX);

    // A daemon that stops does not wait for it, and what is paused stays.
    let mut last = UNMERGED;
    change(&daemon, id, last).await;
    while overlays(id) < OVERLAYS_MAX {
        let kept = daemon.client.snapshot_create(id, &CreateSnapshot::default()).await.unwrap();
        daemon.client.snapshot_delete(kept.id).await.unwrap();
        last += 1;
        change(&daemon, id, last).await;
    }
    daemon.client.sandbox_pause(id).await.unwrap();
    let before = overlays(id);
    let (forking, _) = held_in_a_merge(&daemon, id).await;
    drop(forking);
    daemon.leave().await;
    assert!(!log_text().contains("are not gone"), "{}", log_text());
    until("VMM processes", 0, || vmms().len()).await;
    assert_eq!(overlays(id), before);

    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    assert_eq!(daemon.client.sandbox_get(id).await.unwrap().state, SandboxState::Paused);
    check(&daemon, id, last).await;
    let kept = daemon.client.snapshot_create(id, &CreateSnapshot::default()).await.unwrap();
    assert!(overlays(id) < before, "{} overlays", overlays(id));
    daemon.client.snapshot_delete(kept.id).await.unwrap();
    daemon.kill_sandbox(id).await;
    until_nothing().await;
    daemon.stop().await;
}
