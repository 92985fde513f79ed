//! The daemon ends at each step of each operation that changes something, twice: what was promised is
//! still there, what was not is gone, and the next daemon serves.
//!
//! These run a daemon with debug assertions, because one for users cannot be told to die.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use api_node::{CreateSnapshot, Fork, SandboxState};
use base_types::SandboxId;
use client::ClientError;
use tokio::time::timeout;

use crate::daemon::{Daemon, PATIENCE};
use crate::left::{groups, sandboxes, until, vmms};

/// Each time the other way round would be luck.
const TIMES: usize = 2;
/// Seconds a guest's clock may be off: what reading it through a busy emulated machine takes.
const CLOCK_OFF_MAX: u64 = 10;

/// What must be left of a sandbox that was being made or removed when its daemon died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    /// It runs: all of it was there already.
    Sandbox,
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

/// The step, what was asked for, and what the sandbox must be afterwards.
const STAY: [(&str, Asked, SandboxState); 8] = [
    ("pause: written", Asked::Pause, SandboxState::Running),
    ("pause: counts as paused", Asked::Pause, SandboxState::Paused),
    ("resume: kept", Asked::Resume, SandboxState::Paused),
    ("resume: counts as running", Asked::Resume, SandboxState::Running),
    ("branch: overlay named", Asked::Fork, SandboxState::Running),
    ("branch: written", Asked::Fork, SandboxState::Running),
    ("branch: overlay named", Asked::Snapshot, SandboxState::Running),
    ("branch: written", Asked::Snapshot, SandboxState::Running),
];

/// Starts the next daemon and checks that what is left is `left` beside one sandbox that was there
/// all the time, and that all of it works.
async fn check(step: &str, bystander: SandboxId, left: Left) {
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    let mut ids = daemon.listed().await;
    println!("{step}: {} sandboxes are left", ids.len());
    assert!(ids.contains(&bystander), "{step}");
    let wanted = if left == Left::Sandbox { 2 } else { 1 };
    assert_eq!(ids.len(), wanted, "{step}");
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
        for _ in 0..TIMES {
            let daemon = Daemon::start_to_die_at(step).await;
            let outcome = daemon.create().await;
            assert!(outcome.is_err(), "{step}: {outcome:?}");
            daemon.died().await;
            check(step, bystander, left).await;
        }
    }
    no_more(bystander).await;
}

pub(crate) async fn a_daemon_that_dies_at_each_step_of_a_kill() {
    let bystander = bystander().await;
    for (step, left) in DELETE {
        for _ in 0..TIMES {
            let daemon = Daemon::start_to_die_at(step).await;
            let id = daemon.sandbox().await;
            let outcome = timeout(PATIENCE, daemon.client.sandbox_kill(id));
            assert!(outcome.await.unwrap().is_err(), "{step}: answered");
            daemon.died().await;
            check(step, bystander, left).await;
        }
    }
    no_more(bystander).await;
}

pub(crate) async fn a_daemon_that_dies_at_each_step_of_a_pause_a_resume_or_a_branch() {
    for (step, asked, state) in STAY {
        for _ in 0..TIMES {
            println!("{step}: {asked:?}");
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
            survives(step, id, state).await;
        }
    }
}

async fn ask(daemon: &Daemon, id: SandboxId, asked: Asked) -> Result<(), ClientError> {
    let client = &daemon.client;
    match asked {
        Asked::Pause => client.sandbox_pause(id).await.map(drop),
        Asked::Resume => client.sandbox_resume(id).await.map(drop),
        Asked::Fork => client.sandbox_fork(id, &Fork { count: 2, name: None }).await.map(drop),
        Asked::Snapshot => client.snapshot_create(id, &CreateSnapshot::default()).await.map(drop),
    }
}

/// Starts the next daemon and checks that one sandbox is left, in this state, with all it had, that it
/// can be paused, resumed and forked, and that nothing else is there.
async fn survives(step: &str, id: SandboxId, state: SandboxState) {
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    assert_eq!(daemon.listed().await, [id], "{step}");
    let seen = daemon.client.sandbox_get(id).await.unwrap();
    assert_eq!(seen.state, state, "{step}: {:?}", seen.reason);
    assert_eq!(daemon.client.snapshot_list().await.unwrap().snapshots.len(), 0, "{step}");
    let machines = usize::from(state == SandboxState::Running);
    let branches = || fs::read_dir("/data/snapshots").map_or(0, Iterator::count);
    let there = || (vmms().len(), groups().len(), sandboxes().len(), branches());
    until(step, (machines, machines, 1, 0), there).await;
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
    let fork = daemon.client.sandbox_fork(id, &Fork { count: 1, name: None });
    let child = timeout(PATIENCE, fork).await.unwrap().unwrap().sandboxes[0].id;
    for id in [id, child] {
        assert_eq!(holds(id).await, "after", "{step}");
        daemon.kill_sandbox(id).await;
    }
    daemon.stop().await;
}
