//! Sandboxes: one task owns each, from the request for it to the last trace of it.
//!
//! The task is told what happens ([`crate::phase::Event`]), asks the phase machine what to do, and
//! does it. Others hold a [`SandboxHandle`], which looks and asks. Whatever goes wrong while a
//! sandbox is made, the same way out is taken as for a kill, so nothing half made stays.

mod activity;
mod files;
mod layout;
mod lease;
mod make;
mod merge;
mod network;
mod orders;
mod over;
mod owner;
mod ports;
mod remember;
mod restart;
mod usage;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api_node::{Errand, Policy, Quota, SecretGrant};
use api_vmm::{Answer, Command, MachineStats, MemoryPath};
use base_types::{ProjectId, SandboxId, Size, SnapshotId, TemplateName};
use node_quota::QuotaExceeded;
use node_store::StoreError;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::control::{Control, ControlError};
use crate::guest::GuestConnection;
use crate::machine::{self, Gate, MachineError};
use crate::phase::Phase;
use crate::shells::ShellError;
use crate::template::TemplateError;
use crate::vmm::KeepError;

use activity::Activity;
use orders::{Ask, word};
use ports::Ports;

pub use activity::Use;
pub(crate) use activity::now_ms;
pub(crate) use files::{Removal, SandboxFiles, check_room, failed};
#[cfg(test)]
pub(crate) use layout::Layout;
pub(crate) use layout::{Moment, Stamp};
pub use lease::{Lease, OnTimeout};
pub(crate) use make::Origin;
pub use network::PolicyError;
pub(crate) use network::{Network, nothing, read as read_policy};
pub use orders::OrderError;
pub(crate) use over::explain;
pub(crate) use owner::{Birth, Found, Surroundings, own};
pub use ports::{PortsError, PortsRule};
pub use usage::SandboxUsage;

/// LIMIT: counters are read from memory and one scan of page tables.
const STATS_WITHIN: Duration = Duration::from_secs(20);
/// LIMIT: an agent answers this from memory, and it is asked only when something is wrong; this is
/// for one on a machine with twenty creates at once.
const ALIVE_WITHIN: Duration = Duration::from_secs(20);
/// LIMIT: a machine that dies closes its connections a moment before its owner knows.
const OVER_WITHIN: Duration = Duration::from_secs(2);
/// LIMIT: asks that wait for an owner; a caller past this waits too.
const ASKS_PENDING_MAX: usize = 32;

/// What sandbox is wanted.
#[derive(Clone, Debug)]
pub struct CreateSpec {
    /// The id it gets; a random one when `None`. Whoever gives one makes sure that it is new.
    pub id: Option<SandboxId>,
    /// The project it belongs to.
    pub project: ProjectId,
    /// What that project may use.
    pub quota: Quota,
    /// Template it is a clone of.
    pub template: TemplateName,
    /// Its size.
    pub size: Size,
    /// Name for people, safe as a host name.
    pub name: Option<String>,
    /// Environment of every command in it.
    pub env: BTreeMap<String, String>,
    /// What its owner finds it by.
    pub metadata: BTreeMap<String, String>,
    /// The snapshot it is made from, rather than its template's.
    pub snapshot: Option<SnapshotId>,
    /// What is agreed about its time.
    pub lease: Lease,
    /// What it may reach; what the snapshot's sandbox might, or else the internet, when `None`.
    pub network: Option<Policy>,
    /// The secrets it is granted, beside those of the snapshot's sandbox.
    pub secrets: Vec<SecretGrant>,
    /// How clean memory reaches it; the node's setting when `None`.
    pub memory: Option<MemoryPath>,
    /// Whether the working set is brought in first; the node's setting when `None`.
    pub prefetch: Option<bool>,
    /// Boot the kernel instead of restoring the snapshot.
    pub cold: bool,
    /// How long its agent may take to answer; the node's setting when `None`.
    pub ready_within: Option<Duration>,
    /// Whether its disk outlives the end of its machine, and of the node, at any moment: then it can be
    /// booted again from it. One made from another sandbox's moment is as that is.
    pub durable: bool,
    /// The create it is made by, where that must not happen twice.
    pub errand: Option<Errand>,
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// As many are alive as the node allows.
    #[error(
        "this node already has {0} sandboxes, as many as it allows; kill one, or raise the limit"
    )]
    Full(usize),
    /// Its project may not have more.
    #[error(transparent)]
    Quota(#[from] QuotaExceeded),
    /// Its template cannot be used.
    #[error(transparent)]
    Template(#[from] Arc<TemplateError>),
    /// There is no snapshot of this id.
    #[error("there is no snapshot {0}")]
    NoSnapshot(SnapshotId),
    /// What it is made from was booted, so that nothing lies below its memory.
    #[error("a machine that was booted has no template below it")]
    Booted,
    /// Its machine could not be made to outlive the node.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// There is no machine for it.
    #[error("get a machine for the sandbox")]
    Shell(#[from] ShellError),
    /// There is no network for it.
    #[error("give the sandbox a network")]
    Network(#[source] io::Error),
    /// Its guest did not come up.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// What is free of the node's memory is too little for it.
    #[error(
        "the node has {available_mib} MiB of memory left, of which it keeps {kept_mib} MiB for itself; this takes {needed_mib} MiB to begin with"
    )]
    MemoryShort {
        /// What is left.
        available_mib: u64,
        /// What is kept back.
        kept_mib: u64,
        /// What would be taken at once.
        needed_mib: u64,
    },
    /// The disk is full.
    #[error("the disk is full: `{}` has {free_mib} MiB left; free some space", path.display())]
    DiskFull {
        /// A directory of that file system.
        path: PathBuf,
        /// What is left.
        free_mib: u64,
    },
    /// Its files could not be made.
    #[error("make `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It could not be written down.
    #[error("remember the sandbox")]
    Store(#[source] StoreError),
    /// It is paused, and that could not be written down.
    #[error("the sandbox is paused, but a power cut would lose it; resume it and pause it again")]
    Unsaved(#[source] Arc<StoreError>),
    /// Somebody killed it before it was there.
    #[error("the sandbox was killed while it was being made")]
    Killed,
    /// The node is stopping.
    #[error("the node is shutting down")]
    Stopping,
}

/// Why a sandbox did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It is not serving: its machine is over, for this reason, or it is being made or destroyed.
    #[error("the sandbox is over: {0}")]
    Over(String),
    /// It is still being made.
    #[error("the sandbox is not ready yet")]
    NotReady,
    /// It was paused while it was asked.
    #[error("the sandbox was paused; what it runs goes on when it is used again")]
    Paused,
    /// It was paused, and does not resume.
    #[error("resume the sandbox")]
    Resume(#[source] Box<OrderError>),
    /// Its VMM failed.
    #[error("ask the machine")]
    Control(#[from] ControlError),
    /// No connection to its agent.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

/// How long each step of making a sandbox's machine took, the first or the one it has now, in
/// microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CreateTimes {
    /// Until a shell was had.
    pub claim_us: u64,
    /// Parsing and checking the state file.
    pub parse_us: u64,
    /// Mapping memory, bringing in the working set.
    pub map_us: u64,
    /// Setting vCPU, interrupt and clock state.
    pub state_us: u64,
    /// Opening the disk and waking devices.
    pub devices_us: u64,
    /// Releasing the vCPUs.
    pub resume_us: u64,
    /// Until the agent said that it has a new identity; of a cold boot, all of the boot.
    pub reseed_us: u64,
    /// All of it, from the moment its template was ready.
    pub total_us: u64,
    /// Whether the pool had no shell.
    pub pool_empty: bool,
}

/// What never changes about a sandbox.
#[derive(Clone, Debug)]
pub struct SandboxFacts {
    /// Its id.
    pub id: SandboxId,
    /// The project it belongs to.
    pub project: ProjectId,
    /// Name its owner gave it.
    pub name: Option<String>,
    /// Template it is a clone of.
    pub template: TemplateName,
    /// Its size.
    pub size: Size,
    /// Environment of every command in it.
    pub env: BTreeMap<String, String>,
    /// What its owner finds it by.
    pub metadata: BTreeMap<String, String>,
    /// The snapshot it was made from.
    pub snapshot: Option<SnapshotId>,
    /// The secrets it was granted.
    pub secrets: Vec<SecretGrant>,
    /// When it was asked for, milliseconds since 1970 UTC.
    pub created_at_ms: u64,
    /// The create it was made by, where that must not happen twice.
    pub errand: Option<Errand>,
}

/// What is to be seen of a sandbox now.
#[derive(Clone, Debug)]
pub struct SandboxView {
    /// Where it is in its life.
    pub phase: Phase,
    /// How long its making took; zero until it is made.
    pub times: CreateTimes,
    /// Why it failed.
    pub reason: Option<String>,
    /// What was agreed about its time.
    pub lease: Lease,
    /// When its lifetime is over, milliseconds since 1970 UTC; never when `None`.
    pub ends_at_ms: Option<u64>,
    control: Option<Control>,
    /// Since when this node lets its guest run; not known of one that an earlier node started.
    running_since: Option<Instant>,
    /// Why it is not remembered where it is.
    unsaved: Option<Arc<StoreError>>,
}

/// A way to look at a sandbox and to ask it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SandboxHandle {
    facts: Arc<SandboxFacts>,
    view: watch::Receiver<SandboxView>,
    kills: mpsc::Sender<oneshot::Sender<()>>,
    asks: mpsc::Sender<Ask>,
    activity: Activity,
    ports: Ports,
    network: Network,
}

impl SandboxHandle {
    /// What never changes about it.
    pub fn facts(&self) -> &SandboxFacts {
        &self.facts
    }

    /// What is to be seen of it now.
    pub fn view(&self) -> SandboxView {
        self.view.borrow().clone()
    }

    /// Where it is in its life.
    pub(crate) fn phase(&self) -> Phase {
        self.view.borrow().phase
    }

    /// Destroys it; returns when nothing of it is left. May be repeated.
    pub async fn kill(&self) {
        let (done, wait) = oneshot::channel();
        // An owner that is gone has left nothing behind.
        if self.kills.send(done).await.is_ok() {
            let _ = wait.await;
        }
    }

    /// Returns when it is over: it has failed, or is being or was destroyed.
    pub async fn ended(&self) {
        let over = |view: &SandboxView| {
            matches!(view.phase, Phase::Failed | Phase::Stopping | Phase::Stopped)
        };
        // An owner that is gone has said its last word before.
        let _ = self.view.clone().wait_for(over).await;
    }

    /// Pauses it; returns when it costs nothing but disk, and outlives a power cut. May be repeated.
    pub async fn pause(&self) -> Result<(), OrderError> {
        self.order("paused", Ask::Pause).await?;
        match &self.view.borrow().unsaved {
            Some(error) => Err(CreateError::Unsaved(Arc::clone(error)).into()),
            None => Ok(()),
        }
    }

    /// Lets it run; returns when its agent answers. May be repeated.
    pub async fn resume(&self) -> Result<(), OrderError> {
        self.order("resumed", Ask::Resume).await
    }

    /// Boots it from its disk, if its machine is over and its disk is durable; returns when what its
    /// template starts is ready. May be repeated.
    pub async fn restart(&self) -> Result<(), OrderError> {
        self.order("restarted", Ask::Restart).await
    }

    /// Gives it `timeout_s` seconds from now; 0 is for ever.
    pub async fn set_timeout(&self, timeout_s: u32) -> Result<(), OrderError> {
        self.order("given another time", |answer| Ask::SetTimeout(timeout_s, answer)).await
    }

    /// As this one, telling `facts`, which are its own but for whose it is.
    pub(crate) fn of(&self, facts: SandboxFacts) -> Self {
        Self { facts: Arc::new(facts), ..self.clone() }
    }

    /// Has the sandbox be of `facts` from now on; handles that were had before tell the ones it had.
    pub(crate) async fn give(&self, facts: SandboxFacts, lease: Lease) -> Result<(), OrderError> {
        self.order("given away", |answer| Ask::Give(Arc::new(facts), lease, answer)).await
    }

    /// Counts as in use until what is returned is dropped.
    pub fn hold(&self) -> Use {
        self.activity.begin()
    }

    /// Writes one moment of it to `dir`, which is there and empty; with a gate, once that is open.
    /// Returns how long it stood still, in microseconds; 0 when it was paused.
    pub(crate) async fn branch(&self, dir: PathBuf, gate: Option<Gate>) -> Result<u64, OrderError> {
        self.order("forked or kept as a snapshot", |answer| Ask::Branch(dir, gate, answer)).await
    }

    async fn order<T>(
        &self,
        asked: &'static str,
        ask: impl FnOnce(oneshot::Sender<Result<T, OrderError>>) -> Ask,
    ) -> Result<T, OrderError> {
        let _use = self.activity.begin();
        let (answer, answered) = oneshot::channel();
        // An owner that is gone has said its last word before.
        let gone = || OrderError::NotNow { phase: self.view.borrow().phase, asked };
        self.asks.send(ask(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// Opens a connection to its agent. It is in use until that is closed, and is resumed first when
    /// it is paused.
    pub async fn connect(&self) -> Result<GuestConnection, AskError> {
        let in_use = self.activity.begin();
        let control = self.awake().await?;
        match machine::connect_soon(&control).await {
            Ok(connection) => Ok(connection.held_by(in_use)),
            // When the machine is over, that is the reason.
            Err(error) => Err(self.over().unwrap_or(AskError::Machine(error))),
        }
    }

    /// Opens a connection to its agent if it runs now. That is no use of it: it is not resumed, and it is
    /// paused all the same when its time is over, which ends the connection.
    pub async fn connect_if_running(&self) -> Result<GuestConnection, AskError> {
        let connecting = machine::connect_soon(&self.control()?).await;
        connecting.map_err(|error| self.over().unwrap_or(AskError::Machine(error)))
    }

    /// Its machine, which is made again when it is paused.
    async fn awake(&self) -> Result<Control, AskError> {
        let phase = self.view.borrow().phase;
        if matches!(phase, Phase::Pausing | Phase::Paused | Phase::Resuming) {
            let resumed = self.resume().await;
            resumed.map_err(|error| AskError::Resume(Box::new(error)))?;
        }
        self.control()
    }

    /// Counters of its machine.
    pub async fn stats(&self) -> Result<MachineStats, AskError> {
        let answer = self.control()?.request(Command::Stats, &[], STATS_WITHIN).await;
        match answer {
            Ok(Answer::Stats(stats)) => Ok(stats),
            Ok(_) => Err(ControlError::Protocol.into()),
            Err(error) => Err(self.over().unwrap_or(AskError::Control(error))),
        }
    }

    /// Why it does not serve any more, if so.
    pub fn over(&self) -> Option<AskError> {
        let view = self.view.borrow();
        match view.phase {
            Phase::Creating => Some(AskError::NotReady),
            Phase::Running => None,
            Phase::Pausing | Phase::Paused | Phase::Resuming => Some(AskError::Paused),
            phase @ (Phase::Failed | Phase::Stopping | Phase::Stopped | Phase::Left) => {
                let reason = view.reason.clone();
                Some(AskError::Over(reason.unwrap_or_else(|| match phase {
                    Phase::Left => format!("it is {}", word(phase)),
                    _ => "it was killed".to_owned(),
                })))
            }
        }
    }

    /// Why a request to its agent broke off: the end of the sandbox, if that is it. An agent that
    /// does not answer a second question either is not coming back, so its machine is given up.
    pub async fn broken_off(&self) -> Option<AskError> {
        if let Ok(over) = timeout(OVER_WITHIN, self.until_over()).await {
            return Some(over);
        }
        let control = match self.control() {
            Ok(control) => control,
            Err(over) => return Some(over),
        };
        let Ok(agent) = machine::connect(&control).await else { return self.over() };
        if agent.health(ALIVE_WITHIN).await.is_ok() {
            return None;
        }
        control.give_up("the guest's agent does not answer any more");
        Some(self.until_over().await)
    }

    /// Returns when it does not serve any more, and says why.
    async fn until_over(&self) -> AskError {
        let mut view = self.view.clone();
        let live = |view: &SandboxView| matches!(view.phase, Phase::Creating | Phase::Running);
        // An owner that is gone has said its last word before.
        let _ = view.wait_for(|view| !live(view)).await;
        self.over().unwrap_or_else(|| AskError::Over("it was killed".to_owned()))
    }

    fn control(&self) -> Result<Control, AskError> {
        let view = self.view.borrow();
        match (&view.control, view.phase) {
            (Some(control), Phase::Running) => Ok(control.clone()),
            _ => {
                drop(view);
                Err(self.over().unwrap_or(AskError::NotReady))
            }
        }
    }
}
