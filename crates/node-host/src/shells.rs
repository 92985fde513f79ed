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
//!
//! A shell may also wait *primed*: with the memory of the template that its size was last created
//! from already in place. Its claim then only sets state. Where more than one shell of a size is
//! kept, one stays bare, for whatever else is asked for.

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
use crate::machine::{self, MachineError, Memory, RestoreOptions};
use crate::template::Template;
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
    /// The memory of a template could not be put into a shell ahead of its claim.
    #[error("prime a shell")]
    Prime(#[source] MachineError),
    /// The node is stopping.
    #[error("the node is shutting down")]
    Closed,
}

/// What a shell is primed with.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    /// Whose memory.
    pub template: Arc<Template>,
    /// How it comes into the shell.
    pub options: RestoreOptions,
}

impl PartialEq for Recipe {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.template, &other.template) && self.options == other.options
    }
}

/// A machine without a guest.
#[derive(Debug)]
pub(crate) struct Shell {
    /// Its process.
    pub process: VmmProcess,
    /// Whether it had to be built for this claim.
    pub built_for_claim: bool,
    /// What memory it holds already; none in a bare shell.
    pub primed: Option<Recipe>,
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
    /// What the next create of a size is expected to ask for.
    expected: HashMap<Size, Recipe>,
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

    /// Primes shells of `size` with `recipe` from now on. Those primed with something else go.
    pub(crate) fn expect(&self, size: Size, recipe: &Recipe) {
        let stale: VecDeque<Shell> = {
            let mut state = self.shared.lock();
            if state.expected.get(&size) == Some(recipe) {
                return;
            }
            state.expected.insert(size, recipe.clone());
            state.take_primed(size, |primed| primed != recipe)
        };
        drop(stale);
        self.shared.work.notify_one();
    }

    /// Primes no more shells of `size` with `template`. Those primed with it go, and it with them.
    pub(crate) fn forget(&self, size: Size, template: &Arc<Template>) {
        let is_of = |recipe: &Recipe| Arc::ptr_eq(&recipe.template, template);
        let stale: VecDeque<Shell> = {
            let mut state = self.shared.lock();
            if state.expected.get(&size).is_some_and(is_of) {
                state.expected.remove(&size);
            }
            state.take_primed(size, is_of)
        };
        drop(stale);
        self.shared.work.notify_one();
    }

    /// A shell of `size`, bare or primed with `recipe`: from the pool, or as soon as one is built.
    pub(crate) async fn claim(
        &self,
        size: Size,
        recipe: Option<&Recipe>,
    ) -> Result<Shell, ShellError> {
        let waiting = {
            let mut state = self.shared.lock();
            let ready = state.ready.entry(size).or_default();
            // A shell may have died while it waited; dropping it reaps what is left.
            ready.retain(|shell| shell.process.is_alive());
            let primed = recipe.and_then(|recipe| {
                ready.iter().position(|shell| shell.primed.as_ref() == Some(recipe))
            });
            let fit = primed.or_else(|| ready.iter().position(|shell| shell.primed.is_none()));
            let shell = fit.and_then(|index| ready.remove(index));
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
    /// This bare shell is to be primed.
    Prime(Size, Box<Shell>, Recipe),
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
        if claimed.is_none() && !self.waiters.is_empty() {
            // All of them are being built for. The pool comes after them: whoever delivers the last
            // looks for more work itself.
            return None;
        }
        let job = claimed.map(Job::Claimed).or_else(|| {
            let short = |(size, target): (&Size, &usize)| {
                let ready = self.ready.get(size).map_or(0, VecDeque::len);
                (ready + building(*size) < *target).then_some(Job::Refill(*size))
            };
            self.targets.iter().find_map(short)
        });
        let job = job.or_else(|| self.next_to_prime())?;
        let (Job::Claimed(size) | Job::Refill(size) | Job::Prime(size, ..)) = job;
        *self.building.entry(size).or_insert(0) += 1;
        Some(job)
    }

    /// Takes out the ready shells of `size` that are primed with something `stale`.
    fn take_primed(&mut self, size: Size, stale: impl Fn(&Recipe) -> bool) -> VecDeque<Shell> {
        let ready = self.ready.entry(size).or_default();
        let (out, keep) = std::mem::take(ready)
            .into_iter()
            .partition(|shell| shell.primed.as_ref().is_some_and(&stale));
        *ready = keep;
        out
    }

    /// A bare shell that is expected to be asked for with memory in place; the last bare one of a
    /// size stays so, unless it is the only one kept.
    fn next_to_prime(&mut self) -> Option<Job> {
        let (size, recipe) = self.expected.iter().find(|(size, _)| {
            let ready = self.ready.get(size);
            let bare = ready.map_or(0, |r| r.iter().filter(|s| s.primed.is_none()).count());
            let kept = self.targets.get(size).copied().unwrap_or(0);
            bare > usize::from(kept > 1)
        })?;
        let (size, recipe) = (*size, recipe.clone());
        let ready = self.ready.get_mut(&size)?;
        let index = ready.iter().position(|shell| shell.primed.is_none())?;
        let shell = ready.remove(index)?;
        Some(Job::Prime(size, Box::new(shell), recipe))
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
            let (size, refill, prime) = match job {
                None => {
                    tokio::select! {
                        () = self.work.notified() => {}
                        () = self.stop.cancelled() => {}
                    }
                    continue;
                }
                Some(Job::Claimed(size)) => (size, false, None),
                Some(Job::Refill(size)) => (size, true, None),
                Some(Job::Prime(size, shell, recipe)) => (size, true, Some((shell, recipe))),
            };
            if refill && self.wait_for_quiet().await == Quiet::Outranked {
                let mut state = self.lock();
                state.built(size);
                if let Some((shell, _)) = prime {
                    state.ready.entry(size).or_default().push_back(*shell);
                }
                continue;
            }
            // A second builder may find more to do.
            self.work.notify_one();
            let built = tokio::select! {
                built = make(&launcher, size, prime) => built,
                () = self.stop.cancelled() => Err(ShellError::Closed),
            };
            match self.deliver(size, built) {
                Ok(()) => pause = RETRY_MIN,
                Err(error) => {
                    if matches!(error, ShellError::Prime(_)) {
                        // Whoever creates from it next gets the reason; the pool stays bare.
                        self.lock().expected.remove(&size);
                    }
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

    /// Hands the result to a claim that waits, or puts the shell into the pool if it is short of
    /// them. An error comes back when nobody waits for it.
    fn deliver(&self, size: Size, built: Result<Shell, ShellError>) -> Result<(), ShellError> {
        let mut state = self.lock();
        state.built(size);
        let mut result = built;
        // A primed shell is not what everybody waits for.
        let bare = result.as_ref().map_or(true, |shell| shell.primed.is_none());
        while let Some(waiter) = bare.then(|| state.waiter(size)).flatten() {
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
        let target = state.targets.get(&size).copied().unwrap_or(0);
        // What is expected may have changed while it was primed.
        let fits = shell.primed.is_none() || shell.primed.as_ref() == state.expected.get(&size);
        let ready = state.ready.entry(size).or_default();
        if fits && ready.len() < target {
            ready.push_back(shell);
        } else {
            // Or its claim was given up, and the pool keeps no more of this size.
            drop(state);
            drop(shell);
        }
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

/// A new bare shell, or the given one with memory in it.
async fn make(
    launcher: &VmmLauncher,
    size: Size,
    prime: Option<(Box<Shell>, Recipe)>,
) -> Result<Shell, ShellError> {
    let Some((mut shell, recipe)) = prime else { return build(launcher, size).await };
    machine::prime(&shell.process, Memory::of(&recipe.template), recipe.options)
        .await
        .map_err(ShellError::Prime)?;
    shell.primed = Some(recipe);
    Ok(*shell)
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
    Ok(Shell { process, built_for_claim: false, primed: None })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_pool_is_not_filled_while_a_claim_waits_for_what_is_being_built() {
        let (sender, waiting) = oneshot::channel();
        let mut state = State {
            targets: BTreeMap::from([(Size::Nano, 1)]),
            waiters: VecDeque::from([(Size::Micro, sender)]),
            ..State::default()
        };
        assert!(matches!(state.next_job(), Some(Job::Claimed(Size::Micro))));
        assert!(state.next_job().is_none(), "a builder that took a refill now would give it back");
        // Whoever waited has left.
        drop(waiting);
        assert!(matches!(state.next_job(), Some(Job::Refill(Size::Nano))));
        assert!(state.next_job().is_none(), "one is enough");
    }
}
