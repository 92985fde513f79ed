//! A node without machines: the API of `api-node` over plain memory, for tests of everything that
//! talks to a node.
//!
//! Its sandboxes are entries in a map, their files are bytes in another, and the programs they know
//! are the few in `program.rs`. It is never shipped: it appears under `[dev-dependencies]` only.

mod api;
mod program;

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api_node::{ErrorCode, Failure, PhaseTimes, ProcessId, Sandbox, TemplateState};
use base_types::{SandboxId, Size, TemplateName};
use tokio::net::TcpListener;
use tokio::runtime::{self, Runtime};
use tokio::sync::{mpsc, watch};

/// What a program gets while it runs.
pub(crate) enum Input {
    Stdin(Vec<u8>),
    Close,
    Signal(u8),
}

/// What a sandbox is here.
#[derive(Debug)]
pub(crate) struct SimSandbox {
    pub(crate) shown: Sandbox,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) processes: BTreeMap<ProcessId, mpsc::Sender<Input>>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) sandboxes: BTreeMap<SandboxId, SimSandbox>,
    pub(crate) templates: HashMap<(TemplateName, Size), TemplateState>,
    pub(crate) made: u64,
    pub(crate) processes_made: u32,
    pub(crate) fail_next_create: Option<Failure>,
}

/// A node without machines. Clones are the same node.
#[derive(Clone, Debug)]
pub struct SimNode {
    state: Arc<Mutex<State>>,
    /// How many commands ended because their caller went away.
    abandoned: watch::Sender<usize>,
    stopped: watch::Sender<bool>,
}

impl Default for SimNode {
    fn default() -> Self {
        Self {
            state: Arc::default(),
            abandoned: watch::Sender::new(0),
            stopped: watch::Sender::new(false),
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
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
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

    /// Serves it over HTTP, on a free port of 127.0.0.1.
    ///
    /// # Panics
    ///
    /// When no port is free: a test cannot go on.
    pub async fn serve(&self) -> Served {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(address).await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound socket's address"));
        // A runtime of its own, because connections live in tasks of their own.
        let listener = listener.into_std().expect("a socket nobody else uses");
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime for the node");
        let router = api_node::router(Arc::new(self.clone()));
        let mut stopped = self.stopped.subscribe();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a socket that does not block");
            tokio::select! {
                _ = axum::serve(listener, router).into_future() => {}
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
        });
        Served { url, runtime: Some(runtime) }
    }

    /// Makes a template's snapshot missing, so that the next create has to build it.
    pub fn forget_snapshot(&self, name: &TemplateName, size: Size) {
        self.lock().templates.insert((name.clone(), size), TemplateState::Missing);
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

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn abandoned(&self) -> watch::Sender<usize> {
        self.abandoned.clone()
    }

    pub(crate) fn stop(&self) {
        self.stopped.send_replace(true);
    }

    pub(crate) fn with_sandbox<T>(
        &self,
        id: SandboxId,
        act: impl FnOnce(&mut SimSandbox) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        match self.lock().sandboxes.get_mut(&id) {
            Some(sandbox) => act(sandbox),
            None => Err(Failure::new(ErrorCode::NotFound, format!("there is no sandbox {id}"))
                .with_hint("list them with `sandflare ps`")),
        }
    }
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
