//! Shells: jailed VMM processes whose VM, interrupt controller, vCPUs and memory slots exist, and
//! which only wait to be told what to run.
//!
//! ```text
//!   claim ──▶ ready? ── yes ──▶ take it
//!               │ no
//!               ▼
//!            waiters ◀── delivered first ── builders ──▶ ready, up to the target of its size
//! ```
//!
//! Only builders make shells. They serve waiting claims before they fill the pool, and fill the
//! pool only while no sandbox is being made, so that refilling does not take processor time from a
//! create under way.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api_vmm::{Command, ShellSpec};
use base_types::{Chain, Size};
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control::ControlError;
use crate::vmm::{VmmLauncher, VmmProcess, VmmStartError};

/// LIMIT: building is bound by processors; more at once only makes each slower.
const BUILDERS: usize = 2;
/// LIMIT: building a shell takes a memory-slot grace period and some ioctls, 100 ms at worst; this
/// allows for a machine that is busy with twenty others.
const BUILD_WITHIN: Duration = Duration::from_secs(20);
/// LIMIT: refilling waits this long for creates under way to end, then goes on beside them, so that
/// a node that is never quiet still fills its pool.
const QUIET_WITHIN: Duration = Duration::from_millis(500);
/// First pause after a refill failed; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
/// LIMIT: a node whose KVM came back refills within half a minute.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Why there is no shell.
#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    /// The VMM process did not start.
    #[error("start a VMM process")]
    Start(#[source] VmmStartError),
    /// The VMM could not build the machine.
    #[error("build a machine of {memory_mib} MiB")]
    Build {
        /// Memory of the machine.
        memory_mib: u32,
        /// What the VMM said.
        source: ControlError,
    },
    /// The node is stopping.
    #[error("the node is shutting down")]
    Closed,
}

/// A machine without a guest.
#[derive(Debug)]
pub(crate) struct Shell {
    /// Its process.
    pub process: VmmProcess,
    /// Whether it had to be built for this claim.
    pub built_for_claim: bool,
}

/// What the pool holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Shells ready to be claimed, over all sizes.
    pub ready: usize,
    /// How many are kept, over all sizes.
    pub target: usize,
    /// Claims served from the pool since the node started.
    pub hits: u64,
    /// Claims that had to wait for a shell to be built.
    pub misses: u64,
}

/// The pool. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Shells {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// There may be something to build.
    work: Notify,
    /// The last create under way has ended.
    quiet: Notify,
    stop: CancellationToken,
}

type Waiter = oneshot::Sender<Result<Shell, ShellError>>;

#[derive(Debug, Default)]
struct State {
    targets: BTreeMap<Size, usize>,
    ready: HashMap<Size, VecDeque<Shell>>,
    waiters: VecDeque<(Size, Waiter)>,
    building: HashMap<Size, usize>,
    busy: usize,
    hits: u64,
    misses: u64,
}

/// Held while a sandbox is being made: refilling waits.
#[derive(Debug)]
pub(crate) struct Busy {
    shared: Arc<Shared>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.busy -= 1;
        if state.busy == 0 {
            self.shared.quiet.notify_waiters();
        }
    }
}

impl Shells {
    /// Starts the builders. `targets` says how many shells of each size are kept ready.
    pub(crate) fn start(
        launcher: &VmmLauncher,
        targets: BTreeMap<Size, usize>,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let state = Mutex::new(State { targets, ..State::default() });
        let shared = Arc::new(Shared { state, work: Notify::new(), quiet: Notify::new(), stop });
        for _ in 0..BUILDERS {
            tasks.spawn(shared.clone().build_all(launcher.clone()));
        }
        Self { shared }
    }

    /// A shell of `size`: from the pool, or as soon as one is built.
    pub(crate) async fn claim(&self, size: Size) -> Result<Shell, ShellError> {
        let waiting = {
            let mut state = self.shared.lock();
            let ready = state.ready.entry(size).or_default();
            // A shell may have died while it waited; dropping it reaps what is left.
            let shell = std::iter::from_fn(|| ready.pop_front()).find(|s| s.process.is_alive());
            match shell {
                Some(shell) => {
                    state.hits += 1;
                    self.shared.work.notify_one();
                    return Ok(shell);
                }
                None => {
                    state.misses += 1;
                    let (sender, waiting) = oneshot::channel();
                    state.waiters.push_back((size, sender));
                    waiting
                }
            }
        };
        self.shared.work.notify_one();
        tokio::select! {
            delivered = waiting => delivered.map_err(|_| ShellError::Closed)?,
            () = self.shared.stop.cancelled() => Err(ShellError::Closed),
        }
    }

    /// Keeps refilling away until the guard is dropped.
    pub(crate) fn busy(&self) -> Busy {
        self.shared.lock().busy += 1;
        Busy { shared: self.shared.clone() }
    }

    /// What the pool holds now.
    pub(crate) fn stats(&self) -> PoolStats {
        let state = self.shared.lock();
        PoolStats {
            ready: state.ready.values().map(VecDeque::len).sum(),
            target: state.targets.values().sum(),
            hits: state.hits,
            misses: state.misses,
        }
    }

    /// Kills every shell that waits. No more are built once `stop` is cancelled.
    pub(crate) fn drain(&self) -> Vec<VmmProcess> {
        let mut state = self.shared.lock();
        state.waiters.clear();
        state.ready.drain().flat_map(|(_, shells)| shells).map(|shell| shell.process).collect()
    }
}

/// What a builder does next.
enum Job {
    /// Somebody waits for a shell of this size.
    Claimed(Size),
    /// The pool is short of this size.
    Refill(Size),
}

impl State {
    /// The next thing to build, already counted as being built.
    fn next_job(&mut self) -> Option<Job> {
        self.waiters.retain(|(_, waiter)| !waiter.is_closed());
        let waiting = self.waiters.iter().fold(BTreeMap::new(), |mut counts, (size, _)| {
            *counts.entry(*size).or_insert(0_usize) += 1;
            counts
        });
        let building = |size| self.building.get(&size).copied().unwrap_or(0);
        let claimed = self
            .waiters
            .iter()
            .map(|(size, _)| *size)
            .find(|size| building(*size) < waiting.get(size).copied().unwrap_or(0));
        let job = claimed.map(Job::Claimed).or_else(|| {
            let short = |(size, target): (&Size, &usize)| {
                let ready = self.ready.get(size).map_or(0, VecDeque::len);
                (ready + building(*size) < *target).then_some(Job::Refill(*size))
            };
            self.targets.iter().find_map(short)
        })?;
        let (Job::Claimed(size) | Job::Refill(size)) = job;
        *self.building.entry(size).or_insert(0) += 1;
        Some(job)
    }

    /// The claim that has waited longest for this size.
    fn waiter(&mut self, size: Size) -> Option<Waiter> {
        let live = |(of, waiter): &(Size, Waiter)| *of == size && !waiter.is_closed();
        let index = self.waiters.iter().position(live)?;
        self.waiters.remove(index).map(|(_, waiter)| waiter)
    }

    fn built(&mut self, size: Size) {
        if let Some(count) = self.building.get_mut(&size) {
            *count -= 1;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One builder. Ends when the node stops; a failure of a build fails the claim it was for.
    async fn build_all(self: Arc<Self>, launcher: VmmLauncher) {
        let mut pause = RETRY_MIN;
        while !self.stop.is_cancelled() {
            let job = self.lock().next_job();
            let (size, refill) = match job {
                None => {
                    tokio::select! {
                        () = self.work.notified() => {}
                        () = self.stop.cancelled() => {}
                    }
                    continue;
                }
                Some(Job::Claimed(size)) => (size, false),
                Some(Job::Refill(size)) => (size, true),
            };
            if refill && self.wait_for_quiet().await == Quiet::Outranked {
                self.lock().built(size);
                continue;
            }
            // A second builder may find more to do.
            self.work.notify_one();
            let built = tokio::select! {
                built = build(&launcher, size) => built,
                () = self.stop.cancelled() => Err(ShellError::Closed),
            };
            match self.deliver(size, built) {
                Ok(()) => pause = RETRY_MIN,
                Err(error) => {
                    if !self.stop.is_cancelled() {
                        tracing::warn!("cannot refill the pool: {}", Chain(&error));
                        tokio::select! {
                            () = sleep(pause) => {}
                            () = self.stop.cancelled() => {}
                        }
                    }
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
        self.lock().waiters.clear();
    }

    /// Hands the result to a claim that waits, or puts the shell into the pool. An error comes back
    /// when nobody waits for it.
    fn deliver(&self, size: Size, built: Result<Shell, ShellError>) -> Result<(), ShellError> {
        let mut state = self.lock();
        state.built(size);
        let mut result = built;
        while let Some(waiter) = state.waiter(size) {
            if let Ok(shell) = &mut result {
                shell.built_for_claim = true;
            }
            match waiter.send(result) {
                Ok(()) => return Ok(()),
                Err(returned) => result = returned,
            }
        }
        let mut shell = result?;
        shell.built_for_claim = false;
        state.ready.entry(size).or_default().push_back(shell);
        Ok(())
    }

    /// Waits until no sandbox is being made, or the limit for waiting is reached.
    async fn wait_for_quiet(&self) -> Quiet {
        let quiet = async {
            loop {
                let notified = self.quiet.notified();
                if self.lock().busy == 0 {
                    return;
                }
                notified.await;
            }
        };
        tokio::select! {
            _ = timeout(QUIET_WITHIN, quiet) => {}
            () = self.work.notified() => {}
            () = self.stop.cancelled() => {}
        }
        if self.lock().waiters.is_empty() { Quiet::Build } else { Quiet::Outranked }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Quiet {
    /// Refill now.
    Build,
    /// A claim waits; it comes first.
    Outranked,
}

async fn build(launcher: &VmmLauncher, size: Size) -> Result<Shell, ShellError> {
    let process = launcher.start(size).await.map_err(ShellError::Start)?;
    let memory_mib = size.memory_mib();
    let spec = ShellSpec { vcpus: size.vcpus(), memory_mib };
    process
        .control()
        .order(Command::Build(spec), &[], BUILD_WITHIN)
        .await
        .map_err(|source| ShellError::Build { memory_mib, source })?;
    Ok(Shell { process, built_for_claim: false })
}
