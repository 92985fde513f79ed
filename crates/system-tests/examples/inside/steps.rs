//! The daemon ends at each step of each operation that changes something, twice: what was promised is
//! still there, what was not is gone, and the next daemon serves.
//!
//! These run a daemon with debug assertions, because one for users cannot be told to die.

use api_node::SandboxState;
use base_types::SandboxId;
use tokio::time::timeout;

use crate::daemon::{Daemon, PATIENCE};
use crate::left::{groups, sandboxes, until, vmms};

/// Each time the other way round would be luck.
const TIMES: usize = 2;

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
