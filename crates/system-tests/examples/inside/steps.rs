//! The daemon ends at each step of each operation that changes something, twice: what was promised is
//! still there, what was not is gone, and the next daemon serves.
//!
//! These run a daemon with debug assertions, because one for users cannot be told to die.

use std::time::{SystemTime, UNIX_EPOCH};

use api_node::{CreateSandbox, CreateSnapshot, Fork, SandboxState};
use base_types::{SandboxId, SnapshotId};
use client::ClientError;
use tokio::time::timeout;

use crate::daemon::{Daemon, PATIENCE, request};
use crate::left::{groups, moments, sandboxes, until, vmms};

/// Each time the other way round would be luck.
pub(crate) const TIMES: usize = 2;
/// Seconds a guest's clock may be off: what reading it through a busy emulated machine takes.
const CLOCK_OFF_MAX: u64 = 10;

/// What must be left of a sandbox that was being made or removed when its daemon died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    /// It runs: all of it was there already.
    Sandbox,
}

impl Left {
    const fn word(self) -> &'static str {
        match self {
            Self::Nothing => "nothing of it",
            Self::Sandbox => "all of it, running",
        }
    }
}

/// Says what was found after a daemon died at `step` of `operation`, as a row of the table that the
/// guide shows; the test outside compares the two.
pub(crate) fn found(operation: &str, step: &str, times: &[String]) {
    let step = step.split_once(": ").map_or(step, |(_, step)| step);
    println!("| {operation} | {step} | {} |", times.join(" | "));
}

const CREATE: [(&str, Left); 7] = [
    ("create: directory made", Left::Nothing),
    ("create: files made", Left::Nothing),
    ("create: machine claimed", Left::Nothing),
    ("create: agent answered", Left::Nothing),
    ("create: kept", Left::Nothing),
    ("create: remembered", Left::Nothing),
    // Only its answer is missing.
    ("create: running", Left::Sandbox),
];

const DELETE: [(&str, Left); 3] = [
    ("delete: forgotten", Left::Nothing),
    ("delete: machine ended", Left::Nothing),
    ("delete: files removed", Left::Nothing),
];

/// What a sandbox that stays is asked for when its daemon dies.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Pause,
    Resume,
    Fork,
    Snapshot,
}

impl Asked {
    const fn word(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Fork => "fork",
            Self::Snapshot => "snapshot",
        }
    }
}

/// The step, what was asked for, what the sandbox must be afterwards, and how many snapshots there are.
const STAY: [(&str, Asked, SandboxState, usize); 10] = [
    ("pause: written", Asked::Pause, SandboxState::Running, 0),
    ("pause: counts as paused", Asked::Pause, SandboxState::Paused, 0),
    ("resume: kept", Asked::Resume, SandboxState::Paused, 0),
    ("resume: counts as running", Asked::Resume, SandboxState::Running, 0),
    ("branch: overlay named", Asked::Fork, SandboxState::Running, 0),
    ("branch: written", Asked::Fork, SandboxState::Running, 0),
    ("branch: overlay named", Asked::Snapshot, SandboxState::Running, 0),
    ("branch: written", Asked::Snapshot, SandboxState::Running, 0),
    ("snapshot: named", Asked::Snapshot, SandboxState::Running, 1),
    // Only its answer is missing.
    ("snapshot: kept", Asked::Snapshot, SandboxState::Running, 1),
];

/// The step of the deletion of a snapshot, and whether it is still there afterwards.
const DISCARD: [(&str, bool); 4] = [
    ("snapshot delete: begun", true),
    ("snapshot delete: name removed", false),
    ("snapshot delete: forgotten", false),
    ("snapshot delete: files removed", false),
];

/// Starts the next daemon and checks that what is left is `left` beside one sandbox that was there
/// all the time, and that all of it works.
async fn check(step: &str, bystander: SandboxId, left: Left) -> String {
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    let mut ids = daemon.listed().await;
    assert!(ids.contains(&bystander), "{step}");
    let found = if ids.len() == 1 { Left::Nothing } else { Left::Sandbox };
    assert_eq!(found, left, "{step}");
    let wanted = ids.len();
    assert!(wanted <= 2, "{step}: {ids:?}");
    let machines = || (vmms().len(), groups().len(), sandboxes().len());
    until(step, (wanted, wanted, wanted), machines).await;
    for id in &ids {
        let sandbox = daemon.client.sandbox_get(*id).await.unwrap();
        assert_eq!(sandbox.state, SandboxState::Running, "{step}: {:?}", sandbox.reason);
        daemon.works(*id).await;
    }
    // The one that was there stays for the next step.
    ids.retain(|id| *id != bystander);
    for id in ids {
        daemon.kill_sandbox(id).await;
    }
    daemon.kill().await;
    found.word().to_owned()
}

/// A sandbox that nothing may happen to.
async fn bystander() -> SandboxId {
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    let id = daemon.sandbox().await;
    daemon.kill().await;
    id
}

async fn no_more(bystander: SandboxId) {
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    daemon.works(bystander).await;
    daemon.stop().await;
}

pub(crate) async fn a_daemon_that_dies_at_each_step_of_a_create() {
    let bystander = bystander().await;
    for (step, left) in CREATE {
        let mut times = Vec::new();
        for _ in 0..TIMES {
            let daemon = Daemon::start_to_die_at(step).await;
            let outcome = daemon.create().await;
            assert!(outcome.is_err(), "{step}: {outcome:?}");
            daemon.died().await;
            times.push(check(step, bystander, left).await);
        }
        found("create", step, &times);
    }
    no_more(bystander).await;
}

pub(crate) async fn a_daemon_that_dies_at_each_step_of_a_kill() {
    let bystander = bystander().await;
    for (step, left) in DELETE {
        let mut times = Vec::new();
        for _ in 0..TIMES {
            let daemon = Daemon::start_to_die_at(step).await;
            let id = daemon.sandbox().await;
            let outcome = timeout(PATIENCE, daemon.client.sandbox_kill(id));
            assert!(outcome.await.unwrap().is_err(), "{step}: answered");
            daemon.died().await;
            times.push(check(step, bystander, left).await);
        }
        found("kill", step, &times);
    }
    no_more(bystander).await;
}

pub(crate) async fn a_daemon_that_dies_at_each_step_of_a_pause_a_resume_or_a_branch() {
    for (step, asked, state, snapshots) in STAY {
        let mut times = Vec::new();
        for _ in 0..TIMES {
            let daemon = Daemon::start_to_die_at(step).await;
            let id = daemon.sandbox().await;
            let script = "echo before > /root/disk; echo before > /dev/shm/memory";
            assert_eq!(daemon.shell(id, script).await.code, 0, "{step}");
            if matches!(asked, Asked::Resume) {
                timeout(PATIENCE, daemon.client.sandbox_pause(id)).await.unwrap().unwrap();
            }
            let refused = timeout(PATIENCE, ask(&daemon, id, asked)).await.unwrap();
            assert!(refused.is_err(), "{step}: {asked:?} was answered");
            daemon.died().await;
            times.push(survives(step, id, state, snapshots).await);
        }
        found(asked.word(), step, &times);
    }
}

async fn ask(daemon: &Daemon, id: SandboxId, asked: Asked) -> Result<(), ClientError> {
    let client = &daemon.client;
    match asked {
        Asked::Pause => client.sandbox_pause(id).await.map(drop),
        Asked::Resume => client.sandbox_resume(id).await.map(drop),
        Asked::Fork => client.sandbox_fork(id, &Fork::of(2)).await.map(drop),
        Asked::Snapshot => client.snapshot_create(id, &CreateSnapshot::default()).await.map(drop),
    }
}

/// Starts the next daemon and checks that one sandbox is left, in this state, with all it had, and as
/// many snapshots of it, that it can be paused, resumed and forked, and that nothing else is there.
async fn survives(step: &str, id: SandboxId, state: SandboxState, snapshots: usize) -> String {
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    assert_eq!(daemon.listed().await, [id], "{step}");
    let seen = daemon.client.sandbox_get(id).await.unwrap();
    assert_eq!(seen.state, state, "{step}: {:?}", seen.reason);
    let kept = daemon.client.snapshot_list().await.unwrap().snapshots;
    assert_eq!(kept.len(), snapshots, "{step}");
    let machines = usize::from(state == SandboxState::Running);
    let there = || (vmms().len(), groups().len(), sandboxes().len(), moments().len());
    until(step, (machines, machines, 1, snapshots), there).await;
    for snapshot in &kept {
        let made = made_from(&daemon, snapshot.id).await;
        assert_eq!(daemon.shell(made, HOLDS).await.stdout, "before\nbefore\n", "{step}");
        daemon.kill_sandbox(made).await;
        daemon.client.snapshot_delete(snapshot.id).await.unwrap();
    }
    let look = "cat /root/disk /dev/shm/memory && echo after > /root/disk && date +%s";
    let holds = async |id| {
        let done = daemon.shell(id, look).await;
        let lines: Vec<_> = done.stdout.lines().collect();
        assert!(matches!(lines[..], [_, "before", _]), "{step}: {done:?}");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let off = now.abs_diff(lines[2].parse().unwrap());
        assert!(off <= CLOCK_OFF_MAX, "{step}: the guest's clock is {off} s off");
        lines[0].to_owned()
    };
    assert_eq!(holds(id).await, "before", "{step}");
    timeout(PATIENCE, daemon.client.sandbox_pause(id)).await.unwrap().unwrap();
    let one = Fork::of(1);
    let fork = daemon.client.sandbox_fork(id, &one);
    let child = timeout(PATIENCE, fork).await.unwrap().unwrap().sandboxes[0].id;
    for id in [id, child] {
        assert_eq!(holds(id).await, "after", "{step}");
        daemon.kill_sandbox(id).await;
    }
    daemon.stop().await;
    let also = if snapshots == 1 { ", and the snapshot" } else { "" };
    let state = if seen.state == SandboxState::Paused { "paused" } else { "running" };
    format!("all of it, {state}{also}")
}

/// Shows what the sandboxes of these tests hold on disk and in memory.
const HOLDS: &str = "cat /root/disk /dev/shm/memory";

async fn made_from(daemon: &Daemon, snapshot: SnapshotId) -> SandboxId {
    let create = CreateSandbox { snapshot: Some(snapshot), ..request() };
    daemon.create_as(&create).await.unwrap().id
}

/// A sandbox with something on disk and in memory, a snapshot of it, and that one's id.
async fn shared() -> (SandboxId, SnapshotId) {
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    let origin = daemon.sandbox().await;
    let script = "echo shared > /root/disk; echo shared > /dev/shm/memory";
    assert_eq!(daemon.shell(origin, script).await.code, 0);
    let snapshot = snapshot_of(&daemon, origin).await;
    daemon.kill().await;
    (origin, snapshot)
}

async fn snapshot_of(daemon: &Daemon, id: SandboxId) -> SnapshotId {
    let request = CreateSnapshot::default();
    let made = timeout(PATIENCE, daemon.client.snapshot_create(id, &request));
    made.await.unwrap().unwrap().id
}

/// Starts the next daemon and checks that these sandboxes, which share layers, have what they had.
async fn next_with(step: &str, all: &[SandboxId]) -> Daemon {
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    let mut listed = daemon.listed().await;
    let mut wanted = all.to_vec();
    listed.sort();
    wanted.sort();
    assert_eq!(listed, wanted, "{step}");
    for id in all {
        assert_eq!(daemon.shell(*id, HOLDS).await.stdout, "shared\nshared\n", "{step}");
    }
    daemon
}

pub(crate) async fn a_daemon_that_dies_at_each_step_of_the_deletion_of_a_snapshot() {
    let (origin, mut snapshot) = shared().await;
    for (step, stays) in DISCARD {
        let mut times = Vec::new();
        for _ in 0..TIMES {
            let daemon = Daemon::start_to_die_at(step).await;
            // One of them in use, one only on disk.
            let (used, paused) =
                (made_from(&daemon, snapshot).await, made_from(&daemon, snapshot).await);
            timeout(PATIENCE, daemon.client.sandbox_pause(paused)).await.unwrap().unwrap();
            let deleted = timeout(PATIENCE, daemon.client.snapshot_delete(snapshot));
            assert!(deleted.await.unwrap().is_err(), "{step}: answered");
            daemon.died().await;

            let daemon = next_with(step, &[origin, used, paused]).await;
            let listed = daemon.client.snapshot_list().await.unwrap().snapshots;
            assert_eq!(listed.len(), usize::from(stays), "{step}");
            until(step, listed.len(), || moments().len()).await;
            times.push(if stays { "all of it" } else { "nothing of it" }.to_owned());
            if stays {
                daemon.kill_sandbox(made_from(&daemon, snapshot).await).await;
                daemon.client.snapshot_delete(snapshot).await.unwrap();
            }
            for id in [used, paused] {
                daemon.kill_sandbox(id).await;
            }
            snapshot = snapshot_of(&daemon, origin).await;
            daemon.kill().await;
        }
        found("delete a snapshot", step, &times);
    }
    end(origin, snapshot).await;
}

pub(crate) async fn a_daemon_that_dies_at_each_step_of_a_kill_of_one_that_shares_layers() {
    let (origin, snapshot) = shared().await;
    for (step, left) in DELETE {
        let mut times = Vec::new();
        for _ in 0..TIMES {
            let daemon = Daemon::start_to_die_at(step).await;
            let made = made_from(&daemon, snapshot).await;
            timeout(PATIENCE, daemon.client.sandbox_pause(made)).await.unwrap().unwrap();
            let killed = timeout(PATIENCE, daemon.client.sandbox_kill(made));
            assert!(killed.await.unwrap().is_err(), "{step}: answered");
            daemon.died().await;

            let daemon = next_with(step, &[origin]).await;
            until(step, (1, 1), || (sandboxes().len(), moments().len())).await;
            let again = made_from(&daemon, snapshot).await;
            assert_eq!(daemon.shell(again, HOLDS).await.stdout, "shared\nshared\n", "{step}");
            daemon.kill_sandbox(again).await;
            daemon.kill().await;
            times.push(left.word().to_owned());
        }
        found("kill one made from a snapshot", step, &times);
    }
    end(origin, snapshot).await;
}

/// Steps of what a fork or a create from a snapshot makes, and how many are asked for at once: with more
/// than one, none of them has come further than the step.
const BRANCH: [(&str, u32, Left); 6] = [
    ("create: files made", 2, Left::Nothing),
    ("create: machine claimed", 2, Left::Nothing),
    ("create: agent answered", 2, Left::Nothing),
    ("create: kept", 2, Left::Nothing),
    ("create: remembered", 2, Left::Nothing),
    // Only its answer is missing.
    ("create: running", 1, Left::Sandbox),
];

pub(crate) async fn a_daemon_that_dies_at_each_step_of_the_children_of_a_fork() {
    let (origin, snapshot) = shared().await;
    for (step, count, left) in BRANCH {
        let mut times = Vec::new();
        for _ in 0..TIMES {
            let daemon = Daemon::start_to_die_at(step).await;
            let fork = Fork::of(count);
            let forked = timeout(PATIENCE, daemon.client.sandbox_fork(origin, &fork)).await;
            assert!(forked.unwrap().is_err(), "{step}: answered");
            daemon.died().await;
            times.push(beside(step, origin, snapshot, left).await);
        }
        found("children of a fork", step, &times);
    }
    end(origin, snapshot).await;
}

pub(crate) async fn a_daemon_that_dies_at_each_step_of_a_create_from_a_snapshot() {
    let (origin, snapshot) = shared().await;
    for (step, count, left) in BRANCH {
        let mut times = Vec::new();
        for _ in 0..TIMES {
            let daemon = Daemon::start_to_die_at(step).await;
            let create = CreateSandbox { snapshot: Some(snapshot), ..request() };
            let creates = (0..count).map(|_| daemon.create_as(&create));
            let outcomes = futures_util::future::join_all(creates).await;
            assert!(outcomes.iter().all(Result::is_err), "{step}: {outcomes:?}");
            daemon.died().await;
            times.push(beside(step, origin, snapshot, left).await);
        }
        found("create from a snapshot", step, &times);
    }
    end(origin, snapshot).await;
}

/// Starts the next daemon and checks that `left` is what is there of a child or a clone, with all its
/// parent had, beside the original and the snapshot, which are whole.
async fn beside(step: &str, origin: SandboxId, snapshot: SnapshotId, left: Left) -> String {
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    let mut ids = daemon.listed().await;
    assert!(ids.contains(&origin), "{step}: {ids:?}");
    let found = if ids.len() == 1 { Left::Nothing } else { Left::Sandbox };
    assert_eq!(found, left, "{step}: {ids:?}");
    let wanted = ids.len();
    assert!(wanted <= 2, "{step}: {ids:?}");
    let there = || (vmms().len(), groups().len(), sandboxes().len(), moments().len());
    until(step, (wanted, wanted, wanted, 1), there).await;
    let kept = daemon.client.snapshot_list().await.unwrap().snapshots;
    assert_eq!(kept.iter().map(|kept| kept.id).collect::<Vec<_>>(), [snapshot], "{step}");
    ids.push(made_from(&daemon, snapshot).await);
    for id in &ids {
        assert_eq!(daemon.shell(*id, HOLDS).await.stdout, "shared\nshared\n", "{step}");
    }
    // The original stays for the next step.
    ids.retain(|id| *id != origin);
    for id in ids {
        daemon.kill_sandbox(id).await;
    }
    daemon.kill().await;
    found.word().to_owned()
}

/// Removes what is left of [`shared`].
async fn end(origin: SandboxId, snapshot: SnapshotId) {
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    daemon.client.snapshot_delete(snapshot).await.unwrap();
    daemon.kill_sandbox(origin).await;
    until("moments", 0, || moments().len()).await;
    daemon.stop().await;
}

/// As many frozen overlays as make a node merge them.
const DEEP: usize = 8;

pub(crate) async fn a_daemon_that_dies_at_each_step_of_a_merge_of_overlays() {
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    let origin = daemon.sandbox().await;
    let mut deep = None;
    for layer in 0..DEEP {
        let script = format!("echo {layer} > /root/layer-{layer}; sync");
        assert_eq!(daemon.shell(origin, &script).await.code, 0);
        let next = snapshot_of(&daemon, origin).await;
        if let Some(before) = deep.replace(next) {
            daemon.client.snapshot_delete(before).await.unwrap();
        }
    }
    let deep = deep.unwrap();
    daemon.kill_sandbox(origin).await;
    daemon.kill().await;
    let layers: String = (0..DEEP).map(|layer| format!("{layer}\n")).collect();
    let look = "cat /root/layer-*";
    for step in ["merge: written", "merge: counts"] {
        let mut times = Vec::new();
        for _ in 0..TIMES {
            let daemon = Daemon::start_to_die_at(step).await;
            let made = made_from(&daemon, deep).await;
            let asked = timeout(PATIENCE, ask(&daemon, made, Asked::Snapshot)).await.unwrap();
            assert!(asked.is_err(), "{step}: answered");
            daemon.died().await;

            let daemon = Daemon::start(&["--pool", "nano=0"]).await;
            assert_eq!(daemon.listed().await, [made], "{step}");
            assert_eq!(daemon.shell(made, look).await.stdout, layers, "{step}");
            until(step, (1, 1, 1), || (vmms().len(), sandboxes().len(), moments().len())).await;
            // Also when its disk is opened anew, and when it is merged after all.
            timeout(PATIENCE, daemon.client.sandbox_pause(made)).await.unwrap().unwrap();
            let merged = snapshot_of(&daemon, made).await;
            assert_eq!(daemon.shell(made, look).await.stdout, layers, "{step}");
            daemon.kill_sandbox(made).await;
            daemon.client.snapshot_delete(merged).await.unwrap();
            daemon.kill().await;
            times.push("all of it, running".to_owned());
        }
        found("snapshot of a deep disk", step, &times);
    }
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    daemon.client.snapshot_delete(deep).await.unwrap();
    daemon.stop().await;
}
