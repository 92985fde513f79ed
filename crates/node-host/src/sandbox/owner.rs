//! The task that owns a sandbox.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api_vmm::MemoryPath;
use base_types::Chain;
use node_store::{Store, StoreError, StoredState};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::activity::{Activity, now_ms};
use super::files::SandboxFiles;
use super::lease::{Due, Lease, OnTimeout, Over, due};
use super::make::{Made, Making, New, Origin, make};
use super::network::Network;
use super::orders::Ask;
use super::over::explain;
use super::ports::{Ports, PortsRule};
use super::{
    ASKS_PENDING_MAX, CreateError, CreateSpec, CreateTimes, SandboxFacts, SandboxHandle,
    SandboxView,
};
use crate::flows::{FlowLog, OpenFlows};
use crate::journal::{Deed, Journal};
use crate::memory::MemoryRoom;
use crate::network::Networks;
use crate::phase::{Action, Event, Phase};
use crate::shells::Shells;
use crate::step;
use crate::template::Templates;
use crate::vmm::{MachineOver, VmmLauncher, VmmProcess};

/// What a sandbox is made with.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) shells: Shells,
    pub(crate) launcher: VmmLauncher,
    pub(crate) templates: Templates,
    pub(crate) store: Store,
    /// Directory the directories of sandboxes are in.
    pub(crate) dir: PathBuf,
    pub(crate) memory: MemoryPath,
    /// Whether there is memory for one more.
    pub(crate) room: MemoryRoom,
    pub(crate) prefetch: bool,
    /// How long the agent of a restored guest may take to answer.
    pub(crate) ready_within: Duration,
    /// How long the agent of a booted guest may take to answer.
    pub(crate) boot_within: Duration,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    pub(crate) journal: Journal,
    pub(crate) flows: FlowLog,
    pub(crate) networks: Arc<dyn Networks>,
}

/// Told once whether the sandbox serves.
pub(crate) type Ready = oneshot::Sender<Result<(), CreateError>>;

/// How a sandbox comes to its owner.
#[derive(Debug)]
pub(crate) enum Birth {
    /// It is to be made. When `ready` is abandoned before it serves, it is removed again.
    New {
        /// What is wanted.
        spec: Box<CreateSpec>,
        /// What it is made from.
        origin: Origin,
        /// Told whether it serves.
        ready: Ready,
    },
    /// A node before this one made it.
    Found(Box<Found>),
}

/// A sandbox that a node before this one made, as it was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// Where it is: running with a process, paused with files, or failed.
    pub(crate) phase: Phase,
    /// Its machine.
    pub(crate) process: Option<VmmProcess>,
    /// What it has on disk.
    pub(crate) files: Option<SandboxFiles>,
    /// How long its making took.
    pub(crate) times: CreateTimes,
    /// Why it failed.
    pub(crate) reason: Option<String>,
    /// What was agreed about its time.
    pub(crate) lease: Lease,
    /// When its lifetime is over.
    pub(crate) ends_at_ms: Option<u64>,
    /// Who may reach its ports.
    pub(crate) ports: PortsRule,
    /// What it may reach.
    pub(crate) network: Network,
}

/// The sandbox of these facts: a handle, and the task that makes it, serves it and removes it.
/// `registration` is dropped when nothing of it is left.
pub(crate) fn own<R: Send + 'static>(
    around: Arc<Surroundings>,
    facts: SandboxFacts,
    birth: Birth,
    registration: R,
) -> (SandboxHandle, impl Future<Output = ()> + Send + 'static) {
    let (kills_sender, kills) = mpsc::channel(ASKS_PENDING_MAX);
    let (asks_sender, asks) = mpsc::channel(ASKS_PENDING_MAX);
    let mut view = SandboxView {
        phase: Phase::Creating,
        times: CreateTimes::default(),
        reason: None,
        lease: Lease::default(),
        ends_at_ms: None,
        control: None,
        running_since: None,
        unsaved: None,
    };
    let (mut process, mut files, mut new) = (None, None, None);
    let mut ports = PortsRule::default();
    let network = match birth {
        Birth::New { spec, origin, ready } => {
            view.lease = spec.lease;
            let policy = spec.network.clone().unwrap_or_default();
            new = Some((spec, origin, ready));
            Network::new(policy)
        }
        Birth::Found(found) => {
            view.phase = found.phase;
            view.times = found.times;
            view.reason = found.reason;
            view.lease = found.lease;
            view.ends_at_ms = found.ends_at_ms;
            view.control = found.process.as_ref().map(|process| process.control().clone());
            (process, files, ports) = (found.process, found.files, found.ports);
            found.network
        }
    };
    let (view_sender, view) = watch::channel(view);
    let facts = Arc::new(facts);
    let activity = Activity::new();
    let handle = SandboxHandle {
        facts: facts.clone(),
        view,
        kills: kills_sender,
        asks: asks_sender,
        activity: activity.clone(),
        ports: Ports::new(ports),
        network,
    };
    let killers = Vec::new();
    let view = view_sender;
    let (network, flows) = (handle.network.clone(), around.flows.open(facts.id));
    let owner = Owner {
        around,
        facts,
        view,
        kills,
        asks,
        activity,
        killers,
        process,
        files,
        network,
        _flows: flows,
    };
    (handle, owner.live(new, registration))
}

#[derive(Debug)]
pub(super) struct Owner {
    pub(super) around: Arc<Surroundings>,
    pub(super) facts: Arc<SandboxFacts>,
    pub(super) view: watch::Sender<SandboxView>,
    pub(super) kills: mpsc::Receiver<oneshot::Sender<()>>,
    asks: mpsc::Receiver<Ask>,
    pub(super) activity: Activity,
    /// Told when nothing is left.
    pub(super) killers: Vec<oneshot::Sender<()>>,
    pub(super) process: Option<VmmProcess>,
    pub(super) files: Option<SandboxFiles>,
    /// What it may reach.
    pub(super) network: Network,
    /// They are kept as long as there is an owner.
    _flows: OpenFlows,
}

/// What an owner is to do next.
enum Next {
    Event(Event),
    Ask(Ask),
    /// Its time may be over.
    Look,
}

impl Owner {
    async fn live<R>(mut self, new: Option<(Box<CreateSpec>, Origin, Ready)>, registration: R) {
        let failure = match new {
            Some((spec, origin, ready)) => self.create(&spec, &origin, ready).await.err(),
            None => None,
        };
        if failure.is_some() {
            self.happened(Event::Kill).await;
        }
        while !self.phase().is_last() {
            match self.next().await {
                Next::Event(event) => self.happened(event).await,
                Next::Ask(ask) => self.carry_out(ask).await,
                Next::Look => self.time_over().await,
            }
        }
        // Who is told that it is gone does not find it any more.
        drop(registration);
        if let Some((ready, error)) = failure {
            // Whoever asked may be the one who withdrew.
            let _ = ready.send(Err(error));
        }
        for killer in self.killers {
            let _ = killer.send(());
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.view.borrow().phase
    }

    /// Makes the sandbox and tells whoever asked for it. On an error nobody was told yet.
    async fn create(
        &mut self,
        spec: &CreateSpec,
        origin: &Origin,
        mut ready: Ready,
    ) -> Result<(), (Ready, CreateError)> {
        let new = New { row: self.row(), policy: self.network.watch() };
        let making = async {
            let making = make(&self.around, &self.facts, spec, origin, new).await?;
            let Making { made, keeping, remembered } = making;
            step::reached("create: agent answered");
            keeping.done().await?;
            step::reached("create: kept");
            remembered.await.map_err(CreateError::Store)?;
            step::reached("create: remembered");
            Ok(made)
        };
        let made = tokio::select! {
            biased;
            () = self.around.stop.cancelled() => Err(CreateError::Stopping),
            () = ready.closed() => Err(CreateError::Killed),
            Some(killer) = self.kills.recv() => {
                self.killers.push(killer);
                Err(CreateError::Killed)
            }
            made = making => made,
        };
        let Made { process, mut files, times } = match made {
            Ok(made) => made,
            Err(error) => return Err((ready, error)),
        };
        files.serve();
        self.files = Some(files);
        self.serve_by(process, times);
        self.happened(Event::Ready).await;
        step::reached("create: running");
        // Nobody waits any more: then nobody knows of it.
        if ready.send(Ok(())).is_err() {
            self.happened(Event::Kill).await;
        }
        Ok(())
    }

    /// Takes a machine into use. Its lifetime begins.
    pub(super) fn serve_by(&mut self, process: VmmProcess, times: CreateTimes) {
        let control = process.control().clone();
        self.process = Some(process);
        self.view.send_modify(|view| {
            view.times = times;
            view.control = Some(control);
            view.running_since = Some(Instant::now());
            view.ends_at_ms = view.lease.end_after(now_ms());
        });
    }

    async fn next(&mut self) -> Next {
        let over = async {
            match &self.process {
                Some(process) => process.over().await,
                None => std::future::pending().await,
            }
        };
        let mut changes = self.activity.watch();
        let due = self.due();
        let time = async {
            match due {
                Due::Never => changes.next().await,
                Due::After(wait) => tokio::select! {
                    () = sleep(wait) => {}
                    () = changes.next() => {}
                },
                Due::Now(_) => {}
            }
        };
        let at_stop = match self.phase() {
            Phase::Paused => Event::Leave,
            Phase::Failed if self.is_durable() => Event::Leave,
            // Its machine ends, and the next daemon finds its disk.
            Phase::Running if self.is_durable() => Event::Over,
            _ => Event::Kill,
        };
        tokio::select! {
            over = over => {
                self.ended(over);
                Next::Event(Event::Over)
            }
            killer = self.kills.recv() => {
                self.killers.extend(killer);
                Next::Event(Event::Kill)
            }
            Some(ask) = self.asks.recv() => Next::Ask(ask),
            () = self.around.stop.cancelled() => Next::Event(at_stop),
            () = time => Next::Look,
        }
    }

    /// When its time is over; only one that runs has a time.
    fn due(&self) -> Due {
        let view = self.view.borrow();
        if view.phase != Phase::Running {
            return Due::Never;
        }
        let idle_since = self.activity.idle_since_ms();
        due(now_ms(), view.ends_at_ms, view.lease.idle_timeout_s, idle_since)
    }

    /// Ends or pauses it, if its time is over.
    async fn time_over(&mut self) {
        let Due::Now(over) = self.due() else { return };
        let why = match over {
            Over::Lifetime => "its time was over",
            Over::Idle => "nobody used it for its idle time",
        };
        let on_timeout = self.view.borrow().lease.on_timeout;
        tracing::info!(sandbox = %self.facts.id, "{why}: {on_timeout:?}");
        let deed = match on_timeout {
            OnTimeout::Kill => Deed::TimeoutKill,
            OnTimeout::Pause => Deed::TimeoutPause,
        };
        self.around.journal.tell(self.facts.id, deed, why);
        if on_timeout == OnTimeout::Pause {
            match self.pause().await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(sandbox = %self.facts.id, "cannot pause: {}", Chain(&error));
                    // It would be over again at once: it gets another turn instead of an end that
                    // nobody asked for.
                    self.view.send_modify(|view| view.ends_at_ms = view.lease.end_after(now_ms()));
                    drop(self.activity.begin());
                    return;
                }
            }
        }
        self.view.send_modify(|view| view.reason = Some(why.to_owned()));
        self.happened(Event::Kill).await;
    }

    /// Keeps why its machine is over.
    pub(super) fn ended(&self, over: MachineOver) {
        let words = self.files.as_ref().and_then(|f| crate::console::last_words(&f.console));
        let reason = explain(over, words);
        tracing::warn!(sandbox = %self.facts.id, "sandbox failed: {reason}");
        self.around.journal.tell(self.facts.id, Deed::Failed, &reason);
        self.view.send_modify(|view| view.reason = Some(reason));
    }

    /// Moves on, and does what that asks for. Freezing and thawing are work of their own.
    pub(super) async fn happened(&mut self, event: Event) {
        let (phase, action) = match self.phase().on(event) {
            Ok(next) => next,
            Err(refused) => {
                tracing::error!(sandbox = %self.facts.id, "{refused}");
                return;
            }
        };
        match action {
            Action::Serve => {
                self.enter(phase);
                self.remember_running().await;
            }
            Action::Freeze | Action::Thaw | Action::Forget => self.enter(phase),
            Action::Rest => {
                self.end_process().await;
                self.view.send_modify(|view| view.ends_at_ms = None);
                self.enter(phase);
                self.remember(StoredState::Paused).await;
            }
            Action::Bury => {
                self.enter(phase);
                self.end_process().await;
                self.remember(StoredState::Failed).await;
            }
            Action::TearDown => {
                self.enter(phase);
                // First, so that a node that finds the rest of it finishes this.
                let mut deleted = self.around.store.sandbox_delete(self.facts.id).await;
                step::reached("delete: forgotten");
                self.end_process().await;
                step::reached("delete: machine ended");
                self.remove_files().await;
                step::reached("delete: files removed");
                if matches!(deleted, Err(StoreError::DiskFull)) {
                    // There is room now.
                    deleted = self.around.store.sandbox_delete(self.facts.id).await;
                }
                self.complain(deleted);
                Box::pin(self.happened(Event::Cleaned)).await;
            }
            Action::LetGo => {
                self.enter(phase);
                if let Some(files) = self.files.take() {
                    files.let_go();
                }
            }
            Action::Nothing => {}
        }
    }

    fn enter(&self, phase: Phase) {
        tracing::info!(sandbox = %self.facts.id, "sandbox is {phase:?}");
        self.view.send_modify(|view| view.phase = phase);
    }

    async fn end_process(&mut self) {
        self.view.send_modify(|view| view.control = None);
        if let Some(process) = self.process.take() {
            process.kill();
            process.gone().await;
        }
    }

    async fn remove_files(&mut self) {
        if let Some(files) = self.files.take()
            && self.around.tasks.spawn_blocking(move || files.remove()).await.is_err()
        {
            tracing::error!(sandbox = %self.facts.id, "removing the sandbox's files panicked");
        }
    }
}
