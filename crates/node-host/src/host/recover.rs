//! What sandboxes an earlier run of the node left behind, and which of them go on.
//!
//! The node may have died at any point of anything it did. What is there now decides, not what was
//! remembered last: whether a machine answers, and whether the files are those of a paused sandbox.
//!
//! | remembered | files | machine | then |
//! |---|---|---|---|
//! | being made | of a machine, unusable | | nobody was told of it: all of it is removed |
//! | being made | paused | | served before, which was not written down: is paused |
//! | failed | | | stays so |
//! | | paused | | is paused; a machine that had not begun to run yet is ended |
//! | | of a machine | there | runs on |
//! | | of a machine | gone | has failed |
//! | | unusable | | has failed |

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use api_node::{Errand, SecretGrant};
use api_vmm::{Command, Progress};
use base_types::{Chain, SandboxId};
use node_store::{SandboxRow, Store, StoreError, StoredState};

use crate::console;
use crate::control::{Control, ControlError};
use crate::machine;
use crate::network::{Networks, PolicyWatch};
use crate::phase::Phase;
use crate::sandbox::{
    CreateError, CreateTimes, Found, Lease, Network, OnTimeout, PortsRule, SandboxFacts,
    SandboxFiles, explain, read_policy,
};
use crate::vmm::{AdoptError, MachineOver, VmmLauncher, VmmProcess};

/// LIMIT: a VMM answers from memory, unless it is writing a snapshot that the daemon before this one
/// asked for, which on a slow disk takes a while.
const HELLO_WITHIN: Duration = Duration::from_secs(60);
/// LIMIT: vCPUs are released, or a socket changes hands; as for other commands, on a machine that is
/// busy.
const ORDER_WITHIN: Duration = Duration::from_secs(20);

/// What becomes of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Forgotten,
    Paused,
    Running,
    /// Its machine ended while nobody looked.
    Lost,
    /// Its files cannot be used.
    Unusable,
    /// It had failed before.
    Failed,
}

/// What the files of a sandbox are those of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    PausedSandbox,
    Machine,
    Nothing,
}

const fn fate(remembered: StoredState, files: Left, machine: bool) -> Fate {
    match (remembered, files, machine) {
        // Nothing is paused that did not serve.
        (StoredState::Creating, Left::PausedSandbox, _) => Fate::Paused,
        (StoredState::Creating, Left::Machine | Left::Nothing, _) => Fate::Forgotten,
        (StoredState::Failed, _, _) => Fate::Failed,
        (StoredState::Running | StoredState::Paused, Left::Nothing, _) => Fate::Unusable,
        (StoredState::Running | StoredState::Paused, Left::PausedSandbox, _) => Fate::Paused,
        (StoredState::Running | StoredState::Paused, Left::Machine, true) => Fate::Running,
        (StoredState::Running | StoredState::Paused, Left::Machine, false) => Fate::Lost,
    }
}

/// What was found. Whoever does not use it leaves it as it is, for another try.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    sandboxes: Vec<(SandboxFacts, Found)>,
    /// Machines of no sandbox that goes on.
    machines: BTreeMap<SandboxId, VmmProcess>,
}

impl Drop for Recovered {
    fn drop(&mut self) {
        for (_, found) in self.sandboxes.drain(..) {
            if let Some(process) = found.process {
                process.let_go();
            }
            if let Some(files) = found.files {
                files.let_go();
            }
        }
        while let Some((_, machine)) = self.machines.pop_first() {
            machine.let_go();
        }
    }
}

/// Finds the sandboxes in `dir` that go on under this node, takes over their machines, and forgets
/// all others. What is left of those, other than their machines, is not removed yet.
pub(super) async fn find(
    store: &Store,
    launcher: &VmmLauncher,
    dir: &Path,
) -> Result<Recovered, StoreError> {
    let rows = store.sandbox_list().await?;
    let rules = store.ports_list().await?.into_iter();
    let mut rules: BTreeMap<_, _> = rules.map(|row| (row.id, PortsRule::from(row))).collect();
    let mut recovered = Recovered { sandboxes: Vec::new(), machines: machines(launcher, dir) };
    for row in rows {
        // Looked at before its machine is ended or goes on: nobody writes files but that machine.
        let files = SandboxFiles::open(dir, row.id);
        let left = match &files {
            Ok(files) if files.layout.state.is_some() => Left::PausedSandbox,
            Ok(_) => Left::Machine,
            Err(_) => Left::Nothing,
        };
        let fate = fate(row.state, left, recovered.machines.contains_key(&row.id));
        tracing::info!(sandbox = %row.id, "a sandbox of an earlier run: {fate:?}");
        if fate == Fate::Forgotten {
            if let Ok(files) = files {
                files.let_go();
            }
            store.sandbox_delete(row.id).await?;
            continue;
        }
        let machine = match fate {
            Fate::Running => {
                let machine = recovered.machines.remove(&row.id);
                machine.map(|machine| launcher.limit(machine, row.size))
            }
            _ => None,
        };
        let ports = rules.remove(&row.id).unwrap_or_default();
        let one = Found { ports, ..take(&row, fate, files, machine) };
        let now = (stored(one.phase), one.reason.clone());
        recovered.sandboxes.push((facts(&row), one));
        if now.0 != row.state {
            store.sandbox_set_state(row.id, now.0, now.1).await?;
        }
    }
    Ok(recovered)
}

impl Recovered {
    /// User ids of the machines that go on.
    pub(super) fn uids(&self) -> BTreeSet<u32> {
        let machines = self.sandboxes.iter().filter_map(|(_, found)| found.process.as_ref());
        machines.map(VmmProcess::uid).collect()
    }

    /// Whether the sandbox whose directory has this name goes on.
    pub(super) fn goes_on(&self, name: &str) -> bool {
        self.sandboxes.iter().any(|(facts, _)| facts.id.to_string() == name)
    }

    /// Ends the machines of sandboxes that do not go on; returns when they are gone.
    pub(super) async fn end_others(&mut self) {
        let machines = std::mem::take(&mut self.machines);
        for (id, machine) in &machines {
            tracing::info!(sandbox = %id, "ending a machine of an earlier run");
            machine.kill();
        }
        for machine in machines.values() {
            machine.gone().await;
        }
    }

    /// The sandboxes, for their new owners.
    pub(super) fn into_sandboxes(mut self) -> Vec<(SandboxFacts, Found)> {
        std::mem::take(&mut self.sandboxes)
    }
}

const fn stored(phase: Phase) -> StoredState {
    match phase {
        Phase::Running => StoredState::Running,
        Phase::Paused => StoredState::Paused,
        _ => StoredState::Failed,
    }
}

/// Every machine that still answers in a directory of `dir`.
fn machines(launcher: &VmmLauncher, dir: &Path) -> BTreeMap<SandboxId, VmmProcess> {
    let mut machines = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(id) = entry.file_name().to_string_lossy().parse::<SandboxId>() else { continue };
        match launcher.adopt(&entry.path()) {
            Ok(machine) => {
                machines.insert(id, machine);
            }
            Err(AdoptError::Gone) => {}
            Err(error) => tracing::error!(sandbox = %id, "{}", Chain(&error)),
        }
    }
    machines
}

fn take(
    row: &SandboxRow,
    fate: Fate,
    files: Result<SandboxFiles, CreateError>,
    machine: Option<VmmProcess>,
) -> Found {
    let (phase, reason) = match (fate, &files) {
        (Fate::Paused, _) => (Phase::Paused, None),
        (Fate::Running, _) => (Phase::Running, None),
        (Fate::Lost, Ok(files)) => (Phase::Failed, Some(lost(console::last_words(&files.console)))),
        (Fate::Unusable, Err(error)) => {
            let reason = format!("what it left on disk cannot be used: {}", Chain(error));
            (Phase::Failed, Some(reason))
        }
        (Fate::Forgotten | Fate::Failed | Fate::Lost | Fate::Unusable, _) => {
            (Phase::Failed, row.reason.clone())
        }
    };
    if let Some(reason) = &reason {
        tracing::warn!(sandbox = %row.id, "sandbox failed: {reason}");
    }
    Found {
        phase,
        process: machine,
        files: files.ok(),
        times: serde_json::from_str::<CreateTimes>(&row.times).unwrap_or_default(),
        reason,
        lease: lease(row),
        ends_at_ms: row.lease.ends_at_ms.filter(|_| phase == Phase::Running),
        ports: PortsRule::default(),
        network: Network::new(read_policy(row.id, &row.network)),
    }
}

/// Why a machine ended while no node was there to be told.
fn lost(console: Option<String>) -> String {
    let by_itself = console.as_ref().is_some_and(|line| console::is_farewell(line));
    let over = match by_itself {
        true => MachineOver::Guest,
        false => MachineOver::Vmm("it ended while no node was running".to_owned()),
    };
    explain(over, console)
}

/// A network for a machine taken over, whose own went with the daemon before this one. Without one it
/// is as it is already: what its guest sends is lost.
pub(super) fn plug(
    process: &mut VmmProcess,
    networks: &dyn Networks,
    facts: &SandboxFacts,
    policy: PolicyWatch,
) -> Option<OwnedFd> {
    match networks.open(facts, policy) {
        Ok((frames, network)) => {
            process.plug(network);
            Some(frames)
        }
        Err(error) => {
            tracing::error!(sandbox = %facts.id, "it has no network any more: {error}");
            None
        }
    }
}

/// Makes sure that a machine taken over serves: its frames go to `frames`, its guest runs and its agent
/// answers within `limit`. Otherwise its owner is told that it failed.
pub(super) async fn greet(control: Control, frames: Option<OwnedFd>, limit: Duration) {
    let fit = async {
        let held = control.hello(HELLO_WITHIN).await? == Progress::Paused;
        if let Some(frames) = frames {
            control.order(Command::Network, &[frames.as_fd()], ORDER_WITHIN).await?;
        }
        if held {
            // The daemon before this one died while it held the guest for something.
            control.order(Command::Resume, &[], ORDER_WITHIN).await?;
        }
        Ok::<_, ControlError>(held)
    };
    let held = match fit.await {
        Ok(held) => held,
        Err(error) => {
            control.give_up(&format!("its machine cannot be taken over: {}", Chain(&error)));
            return;
        }
    };
    let answers = match machine::connect(&control).await {
        Ok(agent) if held => machine::set_clock(agent, limit).await.is_ok(),
        Ok(agent) => agent.health(limit).await.is_ok(),
        Err(_) => false,
    };
    if !answers {
        let limit = limit.as_millis();
        control.give_up(&format!("its agent did not answer the new node within {limit} ms"));
    }
}

fn lease(row: &SandboxRow) -> Lease {
    let on_timeout = if row.lease.pause { OnTimeout::Pause } else { OnTimeout::Kill };
    let (timeout_s, idle_timeout_s) = (row.lease.timeout_s, row.lease.idle_timeout_s);
    Lease { timeout_s, idle_timeout_s, on_timeout }
}

fn facts(row: &SandboxRow) -> SandboxFacts {
    SandboxFacts {
        id: row.id,
        project: row.project,
        name: row.name.clone(),
        template: row.template.clone(),
        size: row.size,
        env: row.env.clone(),
        metadata: row.metadata.clone(),
        snapshot: row.snapshot,
        secrets: granted(row),
        created_at_ms: row.created_at_ms,
        errand: row.errand.map(Errand),
    }
}

/// Without what cannot be read its placeholders are worth nothing, which harms nobody else.
fn granted(row: &SandboxRow) -> Vec<SecretGrant> {
    serde_json::from_str(&row.secrets).unwrap_or_else(|error| {
        tracing::error!(sandbox = %row.id, "it has no secrets, as they cannot be read: {error}");
        Vec::new()
    })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn what_is_there_decides_and_not_what_was_remembered() {
        for remembered in [StoredState::Running, StoredState::Paused] {
            for (files, machine, wanted) in [
                (Left::Machine, true, Fate::Running),
                (Left::Machine, false, Fate::Lost),
                (Left::PausedSandbox, true, Fate::Paused),
                (Left::PausedSandbox, false, Fate::Paused),
                (Left::Nothing, true, Fate::Unusable),
                (Left::Nothing, false, Fate::Unusable),
            ] {
                assert_eq!(fate(remembered, files, machine), wanted, "{remembered:?}");
            }
        }
    }

    #[test]
    fn what_nobody_was_told_of_is_forgotten_and_a_failure_stays_one() {
        for machine in [true, false] {
            for files in [Left::Machine, Left::Nothing] {
                assert_eq!(fate(StoredState::Creating, files, machine), Fate::Forgotten);
            }
            for files in [Left::Machine, Left::PausedSandbox, Left::Nothing] {
                assert_eq!(fate(StoredState::Failed, files, machine), Fate::Failed);
            }
        }
    }

    #[test]
    fn a_paused_sandbox_is_not_removed_because_it_was_not_remembered_that_it_served() {
        for machine in [true, false] {
            assert_eq!(fate(StoredState::Creating, Left::PausedSandbox, machine), Fate::Paused);
        }
    }

    #[test]
    fn a_guest_that_ended_by_itself_is_told_from_a_machine_that_was_lost() {
        let lost = |line: &str| lost(Some(line.to_owned()));
        assert_eq!(lost("reboot: Power down"), "the guest shut itself down");
        let panic = "Kernel panic - not syncing: sysrq triggered crash";
        assert_eq!(lost(panic), format!("the guest's kernel panicked: {panic}"));
        assert_eq!(lost("login:"), "the machine failed: it ended while no node was running");
        assert_eq!(lost("reboot: Restarting system"), "the guest shut itself down");
    }
}
