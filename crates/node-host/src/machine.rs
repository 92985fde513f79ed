//! Bringing a guest into a shell: by booting its kernel, or by restoring a template's snapshot.

mod files;
mod freeze;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use api_guest::{AGENT_PORT, Identify, Request, SetClock};
use api_vmm::{
    Answer, BootSpec, Command, MemoryPath, PrimeSpec, PrimeTimes, RestoreSpec, RestoreTimes,
};
use base_types::SandboxId;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use crate::console;
use crate::control::{Control, ControlError, PendingReply};
use crate::guest::{GuestConnection, GuestError};
use crate::images::Kernel;
use crate::template::Template;
use crate::vmm::{MachineOver, VmmProcess};

pub(crate) use files::MachineFiles;
use files::disk_spec;
pub(crate) use freeze::{FreezeFiles, Frozen, Gate, Held, freeze};

/// Kernel command line of every guest.
///
/// `init_on_alloc=0`: what a guest's kernel hands out comes from its own machine alone, and pages
/// given to its processes are cleared anyway; clearing all the others too would make every clone
/// write, and so copy, pages it need not.
pub(crate) const CMDLINE: &str =
    "console=ttyS0 quiet panic=-1 reboot=t root=/dev/vda rw init_on_alloc=0";
/// LIMIT: connecting and simple commands are answered from memory; this is for a machine with
/// twenty creates at once.
const ORDER_WITHIN: Duration = Duration::from_secs(20);
/// LIMIT: all memory layers of the largest size from a slow disk; a template's own memory is there.
const PRIME_WITHIN: Duration = Duration::from_secs(120);
/// LIMIT: a boot command loads a kernel of some 60 MB into memory before it answers.
const BOOT_WITHIN: Duration = Duration::from_secs(60);
/// LIMIT: a machine that dies closes its connections a moment before its process is reaped.
const OVER_WITHIN: Duration = Duration::from_secs(2);
/// Between two attempts to reach the agent of a booting guest.
const KNOCK_PAUSE: Duration = Duration::from_millis(100);
/// LIMIT: how long one attempt may hang while the guest's vsock driver is not there yet.
const KNOCK_WITHIN: Duration = Duration::from_secs(2);
/// Bytes of host randomness each clone gets; twice what its kernel's generator holds.
const ENTROPY_BYTES: usize = 64;

/// Why no guest runs.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A command to the VMM failed.
    #[error("{doing}")]
    Vmm {
        /// What was being done.
        doing: &'static str,
        /// What the VMM said.
        source: ControlError,
    },
    /// The guest ended before its agent answered.
    #[error("the guest ended before its agent answered{}", told(.console))]
    GuestOver {
        /// The console's most telling line.
        console: Option<String>,
    },
    /// The VMM ended before the agent answered.
    #[error("the machine failed before its agent answered: {0}")]
    VmmOver(String),
    /// The agent did not answer in time.
    #[error("the guest's agent did not answer within {} ms{}", .limit.as_millis(), told(.console))]
    Silent {
        /// How long was waited.
        limit: Duration,
        /// The console's most telling line.
        console: Option<String>,
    },
    /// The agent answered with something else.
    #[error("the guest's agent did not take its new identity")]
    Agent(#[source] GuestError),
    /// A socket pair or randomness could not be had.
    #[error("prepare a connection to the guest")]
    Prepare(#[source] io::Error),
}

/// What is being done when a restore fails.
const RESTORING: &str = "restore the snapshot";
/// What is being done when there is no way to the agent.
const CONNECTING: &str = "open a connection to the guest";

fn told(console: &Option<String>) -> String {
    console.as_ref().map_or_else(String::new, |line| format!("; its console's last word: {line}"))
}

/// How a snapshot's memory comes into a shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RestoreOptions {
    pub(crate) memory: MemoryPath,
    /// Bring in the working set before the guest runs, where there is one.
    pub(crate) prefetch: bool,
    /// Record what the guest touches.
    pub(crate) record: bool,
}

/// How long a restore took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Restored {
    pub(crate) times: RestoreTimes,
    /// From the resumed guest to its new identity, in microseconds.
    pub(crate) reseed_us: u64,
}

/// Opens a connection to the agent. The request may be sent before the guest runs.
pub(crate) async fn connect(control: &Control) -> Result<GuestConnection, MachineError> {
    let (ours, theirs) = StdUnixStream::pair().map_err(MachineError::Prepare)?;
    let command = Command::Connect { port: AGENT_PORT };
    control.order(command, &[theirs.as_fd()], ORDER_WITHIN).await.map_err(failed(CONNECTING))?;
    connection(ours)
}

/// As [`connect`], but the request is on its way before the VMM has answered; that it did not open the
/// connection is the first answer then.
pub(crate) async fn connect_soon(control: &Control) -> Result<GuestConnection, MachineError> {
    let (ours, theirs) = StdUnixStream::pair().map_err(MachineError::Prepare)?;
    let command = Command::Connect { port: AGENT_PORT };
    let opening = control.send(command, &[theirs.as_fd()]).await.map_err(failed(CONNECTING))?;
    Ok(connection(ours)?.opened_by(opening))
}

fn connection(ours: StdUnixStream) -> Result<GuestConnection, MachineError> {
    ours.set_nonblocking(true).map_err(MachineError::Prepare)?;
    Ok(GuestConnection::over(UnixStream::from_std(ours).map_err(MachineError::Prepare)?))
}

/// What a shell is primed with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory<'a> {
    /// Processor and device state.
    pub(crate) state: &'a File,
    /// Sealed memory of the template below.
    pub(crate) template: BorrowedFd<'a>,
    /// Layers over it, top first.
    pub(crate) layers: &'a [File],
    /// Pages touched first, when they were recorded.
    pub(crate) working_set: Option<&'a File>,
}

impl<'a> Memory<'a> {
    /// That of the template's own snapshot.
    pub(crate) fn of(template: &'a Template) -> Self {
        Self {
            state: &template.state,
            template: template.memory.as_fd(),
            layers: &[],
            working_set: template.working_set.as_ref(),
        }
    }
}

/// Puts `memory` into the shell `process`, so that a restore only sets state.
pub(crate) async fn prime(
    process: &VmmProcess,
    memory: Memory<'_>,
    options: RestoreOptions,
) -> Result<PrimeTimes, MachineError> {
    let working_set = memory.working_set.filter(|_| options.prefetch);
    let spec = PrimeSpec {
        memory: options.memory,
        layers: u8::try_from(memory.layers.len()).unwrap_or(u8::MAX),
        working_set: working_set.is_some(),
        record: options.record,
    };
    let mut descriptors = vec![memory.state.as_fd(), memory.template];
    descriptors.extend(memory.layers.iter().map(AsFd::as_fd));
    descriptors.extend(working_set.map(AsFd::as_fd));
    let failed = |source| MachineError::Vmm { doing: "load the snapshot's memory", source };
    // Layers come from the disk, a template's memory does not.
    let _unlimited = if memory.layers.is_empty() { None } else { process.io_unlimited() };
    let answer = process.control().request(Command::Prime(spec), &descriptors, PRIME_WITHIN);
    match answer.await.map_err(failed)? {
        Answer::Primed(times) => Ok(times),
        _ => Err(failed(ControlError::Protocol)),
    }
}

/// A machine that is ordered to continue a snapshot, and then to be another.
pub(crate) struct Restoring<'a> {
    process: &'a VmmProcess,
    console: &'a File,
    agent: GuestConnection,
    restoring: PendingReply,
    connecting: PendingReply,
}

/// Continues the snapshot that `process` is primed with, runs it, and tells it that it is the machine of
/// `identity` now. Returns once its agent said that it is, at most `limit` after it ran.
pub(crate) async fn restore(
    process: &VmmProcess,
    files: MachineFiles<'_>,
    identity: &Identity,
    limit: Duration,
) -> Result<Restored, MachineError> {
    begin_restore(process, files, identity).await?.finish(identity, limit).await
}

/// Sends what [`restore`] sends before it waits for anything.
pub(crate) async fn begin_restore<'a>(
    process: &'a VmmProcess,
    files: MachineFiles<'a>,
    identity: &Identity,
) -> Result<Restoring<'a>, MachineError> {
    let control = process.control();
    let spec =
        RestoreSpec { disk: files.disk(), resume: true, generation_id: identity.generation_id };
    let descriptors: Vec<_> = files.descriptors().collect();
    // The guest finds the connection waiting when it wakes.
    let (ours, theirs) = StdUnixStream::pair().map_err(MachineError::Prepare)?;
    let agent = connection(ours)?;
    let console = files.console;
    let ordered = async {
        let restoring =
            control.send(Command::Restore(spec), &descriptors).await.map_err(failed(RESTORING))?;
        let connecting = control
            .send(Command::Connect { port: AGENT_PORT }, &[theirs.as_fd()])
            .await
            .map_err(failed(CONNECTING))?;
        Ok((restoring, connecting))
    };
    match ordered.await {
        Ok((restoring, connecting)) => {
            Ok(Restoring { process, console, agent, restoring, connecting })
        }
        Err(error) => Err(better_reason(process, console, error).await),
    }
}

impl Restoring<'_> {
    /// Does what [`restore`] does from then on.
    pub(crate) async fn finish(
        self,
        identity: &Identity,
        limit: Duration,
    ) -> Result<Restored, MachineError> {
        let Self { process, console, mut agent, restoring, connecting } = self;
        let times = match restoring.within(ORDER_WITHIN).await {
            Ok(Answer::Restored(times)) => times,
            Ok(_) => return Err(failed(RESTORING)(ControlError::Protocol)),
            Err(error) => {
                return Err(better_reason(process, console, failed(RESTORING)(error)).await);
            }
        };
        let resumed = Instant::now();
        // Only now, because it carries the time of day. The guest is still taking the connection.
        let sent = agent.identify(identity.request()).await;
        let answered = async {
            sent.map_err(MachineError::Agent)?;
            connecting.within(ORDER_WITHIN).await.map_err(failed(CONNECTING))?;
            answer(agent.identified(limit).await.map(drop), console)
        };
        unless_over(process, console, answered).await?;
        Ok(Restored { times, reseed_us: micros(resumed) })
    }
}

/// Puts the state of the snapshot that `process` is primed with in place, with a new generation id for
/// its kernel to reseed from. The guest does not run yet: see [`wake`].
pub(crate) async fn stand(
    process: &VmmProcess,
    files: MachineFiles<'_>,
) -> Result<RestoreTimes, MachineError> {
    let spec = RestoreSpec { disk: files.disk(), resume: false, generation_id: random()? };
    let descriptors: Vec<_> = files.descriptors().collect();
    let restoring = process.control().request(Command::Restore(spec), &descriptors, ORDER_WITHIN);
    match restoring.await.map_err(failed(RESTORING))? {
        Answer::Restored(times) => Ok(times),
        _ => Err(failed(RESTORING)(ControlError::Protocol)),
    }
}

/// Runs a guest that stands, and tells it what time it is. Returns once its agent said that it knows, at
/// most `limit` after it ran, with how long that took in microseconds.
pub(crate) async fn wake(
    process: &VmmProcess,
    console: &File,
    limit: Duration,
) -> Result<u64, MachineError> {
    let (ours, theirs) = StdUnixStream::pair().map_err(MachineError::Prepare)?;
    let agent = connection(ours)?;
    // The guest finds the connection waiting when it wakes.
    let command = Command::Connect { port: AGENT_PORT };
    let connecting =
        process.control().send(command, &[theirs.as_fd()]).await.map_err(failed(CONNECTING))?;
    drop(theirs);
    go_on(process).await?;
    let woken = Instant::now();
    let answered = async {
        connecting.within(ORDER_WITHIN).await.map_err(failed(CONNECTING))?;
        answer(set_clock(agent, limit).await, console)
    };
    unless_over(process, console, answered).await?;
    Ok(micros(woken))
}

/// Tells the guest what time it is; a guest that stood still does not know.
pub(crate) async fn set_clock(agent: GuestConnection, limit: Duration) -> Result<(), GuestError> {
    let clock = SetClock { wall_clock_ns: wall_clock_ns() };
    agent.simple_within(Request::SetClock(clock), limit).await
}

fn failed(doing: &'static str) -> impl Fn(ControlError) -> MachineError {
    move |source| MachineError::Vmm { doing, source }
}

/// What the first answer of an agent says of its machine.
fn answer(told: Result<(), GuestError>, console: &File) -> Result<(), MachineError> {
    match told {
        Ok(()) => Ok(()),
        Err(GuestError::Silent(limit)) => {
            Err(MachineError::Silent { limit, console: console::last_words(console) })
        }
        Err(error) => Err(MachineError::Agent(error)),
    }
}

/// Lets a machine that was stopped go on.
pub(crate) async fn go_on(process: &VmmProcess) -> Result<(), MachineError> {
    let resumed = process.control().order(Command::Resume, &[], ORDER_WITHIN).await;
    resumed.map_err(|source| MachineError::Vmm { doing: "let the machine go on", source })
}

/// Boots `kernel` in `process` and waits until the agent answers, at most `limit`.
pub(crate) async fn boot(
    process: &VmmProcess,
    kernel: &Kernel,
    files: MachineFiles<'_>,
    limit: Duration,
) -> Result<(), MachineError> {
    let open = |path| File::open(path).map_err(MachineError::Prepare);
    let (vmlinux, initrd) = (open(&kernel.vmlinux)?, open(&kernel.initrd)?);
    let spec = BootSpec { cmdline: CMDLINE.to_owned(), disk: files.disk() };
    let mut descriptors = vec![vmlinux.as_fd(), initrd.as_fd()];
    descriptors.extend(files.descriptors());
    process
        .control()
        .order(Command::Boot(spec), &descriptors, BOOT_WITHIN)
        .await
        .map_err(|source| MachineError::Vmm { doing: "boot the kernel", source })?;
    let knocking = async {
        let begun = Instant::now();
        loop {
            let agent = connect(process.control()).await?;
            // A guest that is still booting resets the connection, or does not answer it.
            if agent.health(KNOCK_WITHIN).await.is_ok() {
                return Ok(());
            }
            if begun.elapsed() > limit {
                let console = console::last_words(files.console);
                return Err(MachineError::Silent { limit, console });
            }
            sleep(KNOCK_PAUSE).await;
        }
    };
    unless_over(process, files.console, knocking).await
}

/// Gives a booted guest its identity.
pub(crate) async fn identify(
    process: &VmmProcess,
    identity: &Identity,
    limit: Duration,
) -> Result<(), MachineError> {
    let mut agent = connect(process.control()).await?;
    agent.identify(identity.request()).await.map_err(MachineError::Agent)?;
    agent.identified(limit).await.map_err(MachineError::Agent)?;
    Ok(())
}

/// What `work` comes to, unless the machine ends first: then why it did.
pub(crate) async fn unless_over<T>(
    process: &VmmProcess,
    console: &File,
    work: impl Future<Output = Result<T, MachineError>>,
) -> Result<T, MachineError> {
    let error = tokio::select! {
        over = process.over() => return Err(ended(over, console)),
        worked = work => match worked {
            Ok(value) => return Ok(value),
            Err(error) => error,
        },
    };
    Err(better_reason(process, console, error).await)
}

/// A machine that dies closes its connections first; its death is the better reason.
async fn better_reason(process: &VmmProcess, console: &File, error: MachineError) -> MachineError {
    let broken_off = matches!(
        error,
        MachineError::Agent(GuestError::Closed | GuestError::Io(_))
            | MachineError::Vmm { source: ControlError::Gone, .. }
    );
    if broken_off && let Ok(over) = timeout(OVER_WITHIN, process.over()).await {
        return ended(over, console);
    }
    error
}

fn ended(over: MachineOver, console: &File) -> MachineError {
    match over {
        MachineOver::Guest => MachineError::GuestOver { console: console::last_words(console) },
        MachineOver::Vmm(reason) => MachineError::VmmOver(reason),
    }
}

/// What makes a clone a machine of its own.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    sandbox: SandboxId,
    hostname: String,
    generation_id: [u8; 16],
    machine_id: [u8; 16],
    boot_id: [u8; 16],
    entropy: [u8; ENTROPY_BYTES],
}

impl Identity {
    /// A new one, all random but for the names.
    pub(crate) fn random(sandbox: SandboxId, hostname: String) -> Result<Self, MachineError> {
        Ok(Self {
            sandbox,
            hostname,
            generation_id: random()?,
            machine_id: random()?,
            boot_id: random()?,
            entropy: random()?,
        })
    }

    fn request(&self) -> Identify {
        Identify {
            sandbox_id: self.sandbox.to_string(),
            hostname: self.hostname.clone(),
            machine_id: self.machine_id,
            boot_id: self.boot_id,
            entropy: self.entropy.to_vec(),
            wall_clock_ns: wall_clock_ns(),
        }
    }
}

/// Random bytes from the kernel.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], MachineError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|e| MachineError::Prepare(io::Error::other(e.to_string())))?;
    Ok(bytes)
}

/// Nanoseconds since 1970 UTC.
pub(crate) fn wall_clock_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Microseconds since `begun`.
pub(crate) fn micros(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX)
}
