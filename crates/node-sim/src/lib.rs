//! A node without machines: the API of `api-node` over plain memory, for tests of everything that
//! talks to a node.
//!
//! Its sandboxes are entries in a map, their files are bytes in another, and the programs they know
//! are the few in `program.rs`. It is never shipped: it appears under `[dev-dependencies]` only.

mod api;
mod databases;
mod files;
mod life;
mod policy;
mod ports;
mod process;
mod program;
mod vault;
mod watched;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use api_node::{
    AccessApi as _, Addresses, ErrorCode, Failure, FlowEntry, Limits, PhaseTimes, Policy,
    ProcessId, PtySize, Sandbox, Secret, SecretName, Snapshot, StoredSecret, TemplateState, Used,
};
use base_types::{ProjectId, SandboxId, Size, SnapshotId, TemplateName};
use node_access::Access;
use node_audit::AuditLog;
use node_store::Store;
use node_witness::Witness;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::{self, Runtime};
use tokio::sync::{mpsc, watch};

/// The time it always is here.
pub(crate) const NOW_MS: u64 = 1_750_000_000_000;

/// What a program gets while it runs.
pub(crate) enum Input {
    Stdin(Vec<u8>),
    Close,
    Signal(u8),
    Resize(PtySize),
}

/// What a sandbox is here.
#[derive(Debug)]
pub(crate) struct SimSandbox {
    pub(crate) project: ProjectId,
    pub(crate) shown: Sandbox,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) timeout_s: u32,
    pub(crate) network: Policy,
    /// Variables and the secrets they stand for.
    pub(crate) secrets: BTreeMap<String, SecretName>,
    pub(crate) flows: Vec<FlowEntry>,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Those that were made; others are there as long as something is in them.
    pub(crate) directories: BTreeSet<String>,
    pub(crate) watches: Vec<files::Watch>,
    pub(crate) processes: BTreeMap<ProcessId, mpsc::Sender<Input>>,
    /// Those of them that live on their own, with all they ever said.
    pub(crate) kept: BTreeMap<ProcessId, process::Kept>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) sandboxes: BTreeMap<SandboxId, SimSandbox>,
    /// With a sandbox as it was then.
    pub(crate) snapshots: BTreeMap<SnapshotId, (Snapshot, SimSandbox)>,
    pub(crate) templates: HashMap<(TemplateName, Size), TemplateState>,
    pub(crate) made: u64,
    pub(crate) processes_made: u32,
    pub(crate) fail_next_create: Option<Failure>,
    pub(crate) ports: ports::Ports,
    pub(crate) databases: databases::Databases,
    pub(crate) secrets: BTreeMap<(ProjectId, SecretName), StoredSecret>,
}

/// A node without machines. Clones are the same node.
#[derive(Clone, Debug)]
pub struct SimNode {
    state: Arc<Mutex<State>>,
    /// How many commands ended because their caller went away.
    abandoned: watch::Sender<usize>,
    stopped: watch::Sender<bool>,
    /// Who may do what, once it is served.
    access: Arc<OnceLock<Access>>,
    /// What sees its requests, once it is served.
    witness: Arc<OnceLock<Arc<Witness>>>,
}

impl Default for SimNode {
    fn default() -> Self {
        Self {
            state: Arc::default(),
            abandoned: watch::Sender::new(0),
            stopped: watch::Sender::new(false),
            access: Arc::default(),
            witness: Arc::default(),
        }
    }
}

/// A node being served on a port of its own. Dropping it is what `kill -9` is to a real node: every
/// connection breaks.
#[derive(Debug)]
pub struct Served {
    /// Its address, such as `http://127.0.0.1:40123`.
    pub url: String,
    runtime: Option<Runtime>,
    /// Where keys and projects are remembered.
    dir: TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Served {
    /// Directory of its audit log.
    pub fn audit_dir(&self) -> PathBuf {
        self.dir.path().join("audit")
    }
}

impl SimNode {
    /// A node where every snapshot is there already.
    pub fn new() -> Self {
        let node = Self::default();
        let agent: TemplateName = "agent".parse().expect("a legal name");
        for size in Size::ALL {
            node.lock().templates.insert((agent.clone(), size), TemplateState::Ready);
        }
        node
    }

    /// Serves it over HTTP without keys, on a free port of 127.0.0.1. Once only.
    ///
    /// # Panics
    ///
    /// When no port is free: a test cannot go on.
    pub async fn serve(&self) -> Served {
        self.serve_to(false, Limits::default()).await
    }

    /// As [`Self::serve`], to callers with a key; with the first one, an administrator's.
    ///
    /// # Panics
    ///
    /// As there.
    pub async fn serve_with_keys(&self) -> (Served, Secret) {
        self.serve_within(Limits::default()).await
    }

    /// As [`Self::serve_with_keys`], with bounds of its own.
    ///
    /// # Panics
    ///
    /// As there.
    pub async fn serve_within(&self, limits: Limits) -> (Served, Secret) {
        let served = self.serve_to(true, limits).await;
        let access = self.access.get().expect("it is served");
        let secret = access.first_key(|_| Ok(())).await.expect("the store works");
        (served, secret.expect("a new node has no key yet"))
    }

    async fn serve_to(&self, wants_keys: bool, limits: Limits) -> Served {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let store = Store::open(&dir.path().join("node.db")).expect("a new database");
        let access = Access::open(store, now_ms, wants_keys).await.expect("a new database");
        assert!(self.access.set(access.clone()).is_ok(), "a node is served once");
        let log = AuditLog::open(&dir.path().join("audit"), now_ms()).expect("a new log");
        let witness = Witness::new(log, now_ms);
        assert!(self.witness.set(witness.clone()).is_ok(), "a node is served once");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(address).await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound socket's address"));
        // A runtime of its own, because connections live in tasks of their own.
        let listener = listener.into_std().expect("a socket nobody else uses");
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime for the node");
        let router = api_node::router(
            Arc::new(self.clone()),
            Arc::new(access),
            limits,
            Addresses::default(),
            |router| witness.watch(router),
        );
        let mut stopped = self.stopped.subscribe();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a socket that does not block");
            tokio::select! {
                () = api_node::serve(listener, router, None, limits, std::future::pending()) => {}
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
        });
        Served { url, runtime: Some(runtime), dir }
    }

    /// Makes a template's snapshot missing, so that the next create has to build it.
    pub fn forget_snapshot(&self, name: &TemplateName, size: Size) {
        self.lock().templates.insert((name.clone(), size), TemplateState::Missing);
    }

    /// As a node does it: refused while something stands on the template.
    fn delete_template(&self, name: TemplateName, size: Size) -> Result<(), Failure> {
        let mut state = self.lock();
        let of = |shown: &Sandbox| (&shown.template, shown.size) == (&name, size);
        let sandboxes = state.sandboxes.values().filter(|one| of(&one.shown)).count();
        let snapshots = state.snapshots.values().filter(|(_, moment)| of(&moment.shown)).count();
        if (sandboxes, snapshots) != (0, 0) {
            let message = format!("in use (sandboxes: {sandboxes}, snapshots: {snapshots})");
            return Err(Failure::new(ErrorCode::Conflict, message));
        }
        match state.templates.get_mut(&(name.clone(), size)) {
            None => Err(Failure::new(ErrorCode::TemplateUnknown, "there is no such template")),
            Some(TemplateState::Ready) => {
                state.templates.insert((name, size), TemplateState::Missing);
                Ok(())
            }
            Some(_) => Err(Failure::no_template_snapshot(&name, size)),
        }
    }

    /// Makes the next create fail.
    pub fn fail_next_create(&self, failure: Failure) {
        self.lock().fail_next_create = Some(failure);
    }

    /// How many sandboxes there are.
    pub fn sandbox_count(&self) -> usize {
        self.lock().sandboxes.len()
    }

    /// Returns once `count` commands have ended because their caller went away.
    pub async fn abandoned_reaches(&self, count: usize) {
        let mut abandoned = self.abandoned.subscribe();
        let reached = abandoned.wait_for(|abandoned| *abandoned >= count).await;
        drop(reached.expect("the sender lives in self"));
    }

    /// Returns once a sandbox exists.
    pub async fn sandbox_exists(&self) {
        while self.sandbox_count() == 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Returns once somebody asked it to stop.
    pub async fn stop_asked(&self) {
        let mut stopped = self.stopped.subscribe();
        let asked = stopped.wait_for(|stopped| *stopped).await;
        drop(asked.expect("the sender lives in self"));
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn abandoned(&self) -> watch::Sender<usize> {
        self.abandoned.clone()
    }

    pub(crate) fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// Whether a project may have another sandbox, and notes that it asked for one.
    pub(crate) fn admit(&self, project: ProjectId, size: Size) -> Result<(), Failure> {
        let Some(access) = self.access.get() else { return Ok(()) };
        access.count_creates(project, 1)?;
        let quota = access.quota(project).unwrap_or_default();
        node_quota::admit(&quota, &self.used_by(project), size, 1)
            .map_err(|error| node_access::exceeded(&error))
    }

    pub(crate) fn used_by(&self, project: ProjectId) -> Used {
        let creates = self.access.get().map(|access| access.creates_within_a_minute(project));
        let state = self.lock();
        let of_project = state.sandboxes.values().filter(|sandbox| sandbox.project == project);
        let sizes = of_project.map(|sandbox| sandbox.shown.size);
        let used = node_quota::used_by(sizes.chain(state.databases.sizes_of(project)));
        let snapshots = snapshots_of(&state, project);
        Used { creates_per_minute: creates.unwrap_or_default(), snapshots, ..used }
    }

    /// Whether a project may keep another snapshot.
    pub(crate) fn admit_snapshot(&self, state: &State, project: ProjectId) -> Result<(), Failure> {
        let Some(access) = self.access.get() else { return Ok(()) };
        let quota = access.quota(project).unwrap_or_default();
        node_quota::admit_snapshot(&quota, snapshots_of(state, project))
            .map_err(|error| node_access::exceeded(&error))
    }

    /// As [`Self::with_sandbox`], for what goes on inside: it runs then.
    pub(crate) fn with_guest<T>(
        &self,
        id: SandboxId,
        act: impl FnOnce(&mut SimSandbox) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.with_sandbox(id, |sandbox| {
            sandbox.wake();
            act(sandbox)
        })
    }

    pub(crate) fn with_sandbox<T>(
        &self,
        id: SandboxId,
        act: impl FnOnce(&mut SimSandbox) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        match self.lock().sandboxes.get_mut(&id) {
            Some(sandbox) => act(sandbox),
            None => Err(Failure::no_sandbox(id)),
        }
    }
}

fn snapshots_of(state: &State, project: ProjectId) -> u64 {
    let of_project = state.snapshots.values().filter(|(_, moment)| moment.project == project);
    (of_project.count() + state.databases.snapshots_of(project)) as u64
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The same figures for every sandbox, so that what is printed of them can be compared.
pub(crate) const PHASES: PhaseTimes = PhaseTimes {
    claim_us: 100,
    parse_us: 200,
    map_us: 3_000,
    state_us: 4_000,
    devices_us: 500,
    resume_us: 600,
    reseed_us: 7_000,
    total_us: 15_400,
    pool_empty: false,
};
