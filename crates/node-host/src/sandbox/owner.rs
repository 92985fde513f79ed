//! The task that owns a sandbox.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api_vmm::{MemoryPath, PrimeTimes};
use base_types::Chain;
use node_store::{SandboxRow, Store, StoreError, StoredState};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::files::SandboxFiles;
use super::{
    ASKS_PENDING_MAX, CreateError, CreateSpec, CreateTimes, SandboxFacts, SandboxHandle,
    SandboxView,
};
use crate::images::{ImageError, open};
use crate::machine::{self, Identity, MachineFiles, RestoreOptions, micros};
use crate::phase::{Action, Event, Phase};
use crate::shells::{Recipe, Shell, Shells};
use crate::template::{TemplateError, Templates};
use crate::vmm::{MachineOver, VmmProcess};

/// What a sandbox is made with.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) shells: Shells,
    pub(crate) templates: Templates,
    pub(crate) store: Store,
    /// Directory the directories of sandboxes are in.
    pub(crate) dir: PathBuf,
    pub(crate) memory: MemoryPath,
    pub(crate) prefetch: bool,
    /// How long the agent of a restored guest may take to answer.
    pub(crate) ready_within: Duration,
    /// How long the agent of a booted guest may take to answer.
    pub(crate) boot_within: Duration,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// Told once whether the sandbox serves.
pub(crate) type Ready = oneshot::Sender<Result<(), CreateError>>;

/// The sandbox of these facts: a handle, and the task that makes it, serves it and removes it.
/// `registration` is dropped when nothing of it is left. When `ready` is abandoned before the
/// sandbox serves, it is removed again.
pub(crate) fn own<R: Send + 'static>(
    around: Arc<Surroundings>,
    facts: SandboxFacts,
    spec: CreateSpec,
    ready: Ready,
    registration: R,
) -> (SandboxHandle, impl Future<Output = ()> + Send + 'static) {
    let (kills_sender, kills) = mpsc::channel(ASKS_PENDING_MAX);
    let (view_sender, view) = watch::channel(SandboxView {
        phase: Phase::Creating,
        times: CreateTimes::default(),
        reason: None,
        control: None,
    });
    let facts = Arc::new(facts);
    let handle = SandboxHandle { facts: facts.clone(), view, kills: kills_sender };
    let owner = Owner {
        around,
        facts,
        view: view_sender,
        kills,
        killers: Vec::new(),
        process: None,
        files: None,
    };
    (handle, owner.live(spec, ready, registration))
}

/// What a machine was made of.
struct Made {
    process: VmmProcess,
    files: SandboxFiles,
    times: CreateTimes,
}

#[derive(Debug)]
struct Owner {
    around: Arc<Surroundings>,
    facts: Arc<SandboxFacts>,
    view: watch::Sender<SandboxView>,
    kills: mpsc::Receiver<oneshot::Sender<()>>,
    /// Told when nothing is left.
    killers: Vec<oneshot::Sender<()>>,
    process: Option<VmmProcess>,
    files: Option<SandboxFiles>,
}

impl Owner {
    async fn live<R>(mut self, spec: CreateSpec, ready: Ready, registration: R) {
        let failure = self.create(&spec, ready).await.err();
        if failure.is_some() {
            self.happened(Event::Kill).await;
        }
        while self.phase() != Phase::Stopped {
            let event = self.next_event().await;
            self.happened(event).await;
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

    fn phase(&self) -> Phase {
        self.view.borrow().phase
    }

    /// Makes the sandbox and tells whoever asked for it. On an error nobody was told yet.
    async fn create(
        &mut self,
        spec: &CreateSpec,
        mut ready: Ready,
    ) -> Result<(), (Ready, CreateError)> {
        let made = tokio::select! {
            biased;
            () = self.around.stop.cancelled() => Err(CreateError::Stopping),
            () = ready.closed() => Err(CreateError::Killed),
            Some(killer) = self.kills.recv() => {
                self.killers.push(killer);
                Err(CreateError::Killed)
            }
            made = make(&self.around, &self.facts, spec) => made,
        };
        let Made { process, files, times } = match made {
            Ok(made) => made,
            Err(error) => return Err((ready, error)),
        };
        let control = process.control().clone();
        self.process = Some(process);
        self.files = Some(files);
        self.view.send_modify(|view| {
            view.times = times;
            view.control = Some(control);
        });
        self.happened(Event::Ready).await;
        // Nobody waits any more: then nobody knows of it.
        if ready.send(Ok(())).is_err() {
            self.happened(Event::Kill).await;
        }
        Ok(())
    }

    async fn next_event(&mut self) -> Event {
        let over = async {
            match &self.process {
                Some(process) => process.over().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            over = over => {
                let reason = self.explain(over);
                tracing::warn!(sandbox = %self.facts.id, "sandbox failed: {reason}");
                self.view.send_modify(|view| view.reason = Some(reason));
                Event::Over
            }
            killer = self.kills.recv() => {
                self.killers.extend(killer);
                Event::Kill
            }
            () = self.around.stop.cancelled() => Event::Kill,
        }
    }

    fn explain(&self, over: MachineOver) -> String {
        let words = self.files.as_ref().and_then(|f| crate::console::last_words(&f.console));
        match (over, words) {
            (MachineOver::Guest, Some(line)) if line.contains("Kernel panic") => {
                format!("the guest's kernel panicked: {line}")
            }
            (MachineOver::Guest, Some(line))
                if crate::console::RESTART.iter().any(|said| line.contains(said)) =>
            {
                "the guest shut itself down".to_owned()
            }
            // A kernel that means to end says so first.
            (MachineOver::Guest, _) => {
                "a processor of the guest stopped without a word from its kernel (triple fault)"
                    .to_owned()
            }
            // It switched off a machine that has no switch, and answers nobody any more.
            (MachineOver::Vmm(_), Some(line)) if line.contains(crate::console::POWER_DOWN) => {
                "the guest shut itself down".to_owned()
            }
            (MachineOver::Vmm(reason), _) => format!("the machine failed: {reason}"),
        }
    }

    /// Moves on, and does what that asks for.
    async fn happened(&mut self, event: Event) {
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
                self.remember(StoredState::Running).await;
            }
            Action::Bury => {
                self.enter(phase);
                self.end_process().await;
                self.remember(StoredState::Failed).await;
            }
            Action::TearDown => {
                self.enter(phase);
                self.end_process().await;
                self.remove_files().await;
                let deleted = self.around.store.sandbox_delete(self.facts.id).await;
                self.complain(deleted);
                Box::pin(self.happened(Event::Cleaned)).await;
            }
            Action::Forget => self.enter(phase),
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
            && self.around.tasks.spawn_blocking(move || drop(files)).await.is_err()
        {
            tracing::error!(sandbox = %self.facts.id, "removing the sandbox's files panicked");
        }
    }

    async fn remember(&self, state: StoredState) {
        let reason = self.view.borrow().reason.clone();
        let stored = self.around.store.sandbox_set_state(self.facts.id, state, reason).await;
        self.complain(stored);
    }

    /// A sandbox goes on when it cannot be written down; the next start removes what is left.
    fn complain(&self, stored: Result<(), StoreError>) {
        if let Err(error) = stored {
            tracing::error!(sandbox = %self.facts.id, "{}", Chain(&error));
        }
    }
}

/// Makes the machine. Whatever was made is undone when this fails or is dropped.
async fn make(
    around: &Arc<Surroundings>,
    facts: &SandboxFacts,
    spec: &CreateSpec,
) -> Result<Made, CreateError> {
    let remembered = around.store.sandbox_insert(SandboxRow {
        id: facts.id,
        name: facts.name.clone(),
        template: facts.template.clone(),
        size: facts.size,
        state: StoredState::Creating,
        created_at_ms: facts.created_at_ms,
        reason: None,
        env: facts.env.clone(),
        times: String::new(),
    });
    let made = if spec.cold {
        make_cold(around, facts, spec).await
    } else {
        make_warm(around, facts, spec).await
    }?;
    remembered.await.map_err(CreateError::Store)?;
    Ok(made)
}

async fn make_warm(
    around: &Arc<Surroundings>,
    facts: &SandboxFacts,
    spec: &CreateSpec,
) -> Result<Made, CreateError> {
    let template = around.templates.ready(&spec.template, spec.size).await?;
    let begun = Instant::now();
    let _busy = around.shells.busy();
    let options = RestoreOptions {
        memory: spec.memory.unwrap_or(around.memory),
        prefetch: spec.prefetch.unwrap_or(around.prefetch),
        record: false,
    };
    let recipe = Recipe { template: Arc::clone(&template), options };
    if (options.memory, options.prefetch) == (around.memory, around.prefetch) {
        around.shells.expect(facts.size, &recipe);
    }
    let (shell, files, claim_us) =
        gather(around, facts, template.root_bytes, Some(&recipe)).await?;
    let identity = identity_of(facts)?;
    let machine_files = MachineFiles {
        root: &template.root,
        frozen: &[&template.disk],
        overlay: &files.overlay,
        console: &files.console,
    };
    let limit = spec.ready_within.unwrap_or(around.ready_within);
    let Shell { process, built_for_claim, primed } = shell;
    let primed_for_claim = match primed {
        Some(_) => PrimeTimes::default(),
        None => machine::prime(&process, &template, options).await?,
    };
    let restored = machine::restore(&process, machine_files, &identity, limit).await?;
    let steps = restored.times;
    let times = CreateTimes {
        claim_us,
        parse_us: primed_for_claim.parse_us.into(),
        map_us: primed_for_claim.map_us.into(),
        state_us: steps.state_us.into(),
        devices_us: steps.devices_us.into(),
        resume_us: steps.resume_us.into(),
        reseed_us: restored.reseed_us,
        total_us: micros(begun),
        pool_empty: built_for_claim,
    };
    Ok(Made { process, files, times })
}

async fn make_cold(
    around: &Arc<Surroundings>,
    facts: &SandboxFacts,
    spec: &CreateSpec,
) -> Result<Made, CreateError> {
    let image = |error: ImageError| Arc::new(TemplateError::Image(error));
    let kernel = around.templates.images().kernel().map_err(image)?;
    let root = around.templates.images().root(&spec.template).map_err(image)?;
    let base = open(&root.root).map_err(image)?;
    let begun = Instant::now();
    let (shell, files, claim_us) = gather(around, facts, root.manifest.root_bytes, None).await?;
    let Shell { process, built_for_claim, .. } = shell;
    let machine_files =
        MachineFiles { root: &base, frozen: &[], overlay: &files.overlay, console: &files.console };
    let limit = spec.ready_within.unwrap_or(around.boot_within);
    let booting = Instant::now();
    machine::boot(&process, &kernel, machine_files, limit).await?;
    machine::identify(&process, &identity_of(facts)?, around.ready_within).await?;
    let times = CreateTimes {
        claim_us,
        reseed_us: micros(booting),
        total_us: micros(begun),
        pool_empty: built_for_claim,
        ..CreateTimes::default()
    };
    Ok(Made { process, files, times })
}

/// A shell and, meanwhile, the sandbox's files.
async fn gather(
    around: &Arc<Surroundings>,
    facts: &SandboxFacts,
    disk_bytes: u64,
    recipe: Option<&Recipe>,
) -> Result<(Shell, SandboxFiles, u64), CreateError> {
    let (dir, id) = (around.dir.clone(), facts.id);
    let making = around.tasks.spawn_blocking(move || SandboxFiles::create(&dir, id, disk_bytes));
    let claiming = async {
        let begun = Instant::now();
        let shell = around.shells.claim(facts.size, recipe).await?;
        Ok::<_, CreateError>((shell, micros(begun)))
    };
    let files = async { making.await.unwrap_or(Err(CreateError::Stopping)) };
    let ((shell, claim_us), files) = tokio::try_join!(claiming, files)?;
    Ok((shell, files, claim_us))
}

fn identity_of(facts: &SandboxFacts) -> Result<Identity, CreateError> {
    let short = facts.id.bits() >> 32;
    let hostname = match &facts.name {
        Some(name) => name.chars().map(host_character).collect(),
        None => format!("sandbox-{short:08x}"),
    };
    Ok(Identity::random(facts.id, hostname)?)
}

/// Names may hold what host names may not.
fn host_character(c: char) -> char {
    if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '-' }
}
