//! The control loop: the one thread that answers the node, serves the devices and hears of the
//! guest's end.
//!
//! It owns the machine; nothing else does. Every request is checked against [`Phase`] first, then
//! carried out, then answered, one at a time and in order. What happens when the node goes away is
//! in [`crate::line`].

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use api_vmm::{
    Answer, Command, DISK_FILES_MAX, MEMORY_LAYERS_MAX, MachineStats, Message, PROTOCOL, PrimeSpec,
    Request, RestoreSpec, ShellSpec, StopReason,
};
use base_types::Chain;
use kvm_ioctls::Kvm;
use vmm_jail::{KernelFiles, Thread};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_virtio::split_token;

use crate::devices::{DeviceFiles, Devices};
use crate::line::{CONTROL_TOKEN, Heard, KEEPER_TOKEN, Line};
use crate::machine::{BootFiles, Machine, MachineError, RestoreFiles, Surroundings};
use crate::memory::PageScanner;
use crate::packet::{ControlError, Packet};
use crate::phase::{Phase, Refused};
use crate::prime::{PrimeFiles, Primed};
use crate::shell::{Shell, ShellError};
use crate::vcpu::VcpuEnd;

/// An event-loop "device" that is not one, as those of [`crate::line`]; far above any device number.
const EXITED_TOKEN: u64 = u64::MAX - 1;
/// Events taken from the kernel at once.
const EVENTS_PER_WAIT: usize = 32;
/// LIMIT: a machine has fewer devices, and each breaks once until the next boot.
const BROKEN_MAX: usize = 16;

/// What a VMM process starts with.
#[derive(Debug)]
pub struct Inputs {
    /// Connected `SOCK_SEQPACKET` socket to the node.
    pub control: OwnedFd,
    /// `/dev/kvm`.
    pub kvm: OwnedFd,
    /// Files of the kernel opened before the jail closed.
    pub files: KernelFiles,
    /// Whether to install seccomp filters. Only tests say no.
    pub confine: bool,
}

/// Why the process ends other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The control socket failed.
    #[error("talk to the node")]
    Control(#[from] ControlError),
    /// The event loop failed.
    #[error("wait for events")]
    Epoll(#[source] std::io::Error),
    /// The process could not be confined.
    #[error("install the seccomp filter")]
    Confine(#[source] vmm_jail::FilterError),
}

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("build a shell")]
    Shell(#[from] ShellError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("{asked} takes {wanted} file descriptors, {found} came")]
    Descriptors { asked: &'static str, wanted: usize, found: usize },
    #[error(
        "a disk has 1 to {DISK_FILES_MAX} files and a machine at most {MEMORY_LAYERS_MAX} layers"
    )]
    TooMany,
    #[error("open a connection to the guest")]
    Connect(#[source] std::io::Error),
    #[error("use another frame socket")]
    Network(#[source] std::io::Error),
    #[error("watch a file descriptor")]
    Watch(#[source] std::io::Error),
    #[error(transparent)]
    Merge(vmm_virtio::block::DiskError),
    #[error("listen for the next node")]
    Keep(#[source] std::io::Error),
}

/// Serves the node until it says stop, goes away, or the guest ends.
pub fn run(inputs: Inputs) -> Result<(), RunError> {
    if inputs.confine {
        vmm_jail::install(Thread::Control).map_err(RunError::Confine)?;
    }
    Control::new(inputs)?.serve()
}

/// What the process holds at the moment.
#[derive(Debug)]
enum Held {
    Nothing(Kvm),
    Shell(Box<Shell>),
    Primed(Box<Primed>),
    Machine(Box<Machine>),
    Gone,
}

struct Control {
    line: Line,
    /// What every node that connects must know.
    broken: Vec<Message>,
    epoll: Arc<Epoll>,
    phase: Phase,
    held: Held,
    around: Surroundings,
    confine: bool,
    sealed: bool,
}

enum Next {
    Continue,
    End,
}

impl Control {
    fn new(inputs: Inputs) -> Result<Self, RunError> {
        use std::os::fd::IntoRawFd;
        let epoll = Arc::new(Epoll::new().map_err(RunError::Epoll)?);
        let line = Line::new(inputs.control, Arc::clone(&epoll)).map_err(RunError::Epoll)?;
        let KernelFiles { userfaultfd, pagemap, smaps } = inputs.files;
        #[expect(unsafe_code, reason = "kvm-ioctls takes /dev/kvm as a number only")]
        let kvm = {
            use std::os::fd::FromRawFd;
            // SAFETY: the number was owned until this very call and now belongs to `Kvm`.
            unsafe { Kvm::from_raw_fd(inputs.kvm.into_raw_fd()) }
        };
        Ok(Self {
            line,
            broken: Vec::new(),
            epoll: Arc::clone(&epoll),
            phase: Phase::Empty,
            held: Held::Nothing(kvm),
            around: Surroundings {
                scanner: PageScanner::new(pagemap),
                smaps,
                userfaultfd: Some(userfaultfd),
                epoll,
            },
            confine: inputs.confine,
            sealed: false,
        })
    }

    fn serve(mut self) -> Result<(), RunError> {
        self.greet()?;
        let mut events = [EpollEvent::default(); EVENTS_PER_WAIT];
        loop {
            let ready = match self.epoll.wait(-1, &mut events) {
                Ok(ready) => ready,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => 0,
                Err(error) => return Err(RunError::Epoll(error)),
            };
            for event in events.iter().take(ready) {
                let next = match event.data() {
                    CONTROL_TOKEN => self.on_packet()?,
                    KEEPER_TOKEN => self.on_next_node()?,
                    EXITED_TOKEN => self.on_guest_end()?,
                    token => self.on_device(token, event.event_set())?,
                };
                if matches!(next, Next::End) {
                    return Ok(());
                }
            }
        }
    }

    /// The first words of a connection.
    fn greet(&mut self) -> Result<(), RunError> {
        let progress = self.phase.progress();
        self.line.say(&Message::Hello { protocol: PROTOCOL, progress })?;
        for message in &self.broken {
            self.line.say(message)?;
        }
        Ok(())
    }

    fn on_next_node(&mut self) -> Result<Next, RunError> {
        if self.line.take_next()? {
            self.greet()?;
        }
        Ok(Next::Continue)
    }

    fn on_packet(&mut self) -> Result<Next, RunError> {
        let Packet { bytes, fds } = match self.line.hear()? {
            Heard::Nothing => return Ok(Next::Continue),
            Heard::Over => return Ok(Next::End),
            Heard::Packet(packet) => packet,
        };
        let request: Request = api_vmm::decode(&bytes).map_err(ControlError::Codec)?;
        let seq = request.seq;
        let stop = request.command == Command::Stop;
        let ends_on_failure = matches!(
            request.command,
            Command::Build(_) | Command::Boot(_) | Command::Prime(_) | Command::Restore(_)
        );
        let result = self.carry_out(request.command, fds);
        let failed = result.is_err();
        let result = result.map_err(|error| Chain(&error).to_string());
        self.line.say(&Message::Reply { seq, result })?;
        // A machine half made is of no use to anybody.
        let half_made = failed && ends_on_failure && matches!(self.held, Held::Gone);
        Ok(if stop || half_made { Next::End } else { Next::Continue })
    }

    fn carry_out(&mut self, command: Command, fds: Vec<OwnedFd>) -> Result<Answer, RequestError> {
        let after = self.phase.after(&command)?;
        let answer = match command {
            Command::Build(spec) => self.build(spec)?,
            Command::Boot(spec) => {
                let files = self.boot_files(spec.disk.files, fds)?;
                let machine = Machine::boot(self.take_shell(), &spec, files, &self.around)?;
                self.install(machine)?;
                self.seal();
                self.machine(Machine::release);
                Answer::Done
            }
            Command::Prime(spec) => self.prime(&spec, fds)?,
            Command::Restore(spec) => self.restore(&spec, fds)?,
            Command::Pause => {
                self.machine(Machine::hold);
                Answer::Done
            }
            Command::Resume => {
                self.machine(Machine::release);
                Answer::Done
            }
            Command::Snapshot(spec) => {
                let disk = spec.disk.map_or(Ok(0), |disk| disk_files(disk.files))?;
                let mut files = take_files("snapshot", disk + 2, fds)?.into_iter();
                let started = Instant::now();
                let (Some(state), Some(memory)) = (files.next(), files.next()) else {
                    return Err(RequestError::TooMany);
                };
                let disk = spec.disk.map(|_| files.collect());
                let Held::Machine(machine) = &self.held else { return Ok(Answer::Done) };
                let pages = machine.snapshot(state, memory, disk, spec.only_dirty, &self.around)?;
                Answer::Snapshotted { pages, took_us: micros(started) }
            }
            Command::Merge(spec) => {
                let (below, run) = (usize::from(spec.below), usize::from(spec.run));
                if below == 0 || run == 0 || below + run > DISK_FILES_MAX {
                    return Err(RequestError::TooMany);
                }
                let mut below = take_files("merge", below + run + 1, fds)?;
                let mut run = below.split_off(usize::from(spec.below));
                let merged = run.pop().ok_or(RequestError::TooMany)?;
                // A guest wrote what is read now; this process does nothing after it.
                self.seal();
                vmm_virtio::block::merge(below, run, merged).map_err(RequestError::Merge)?;
                Answer::Done
            }
            Command::Connect { port } => {
                let stream = take("connect", 1, fds)?.pop();
                if let (Held::Machine(machine), Some(stream)) = (&self.held, stream) {
                    machine.devices().connect(port, stream).map_err(RequestError::Connect)?;
                }
                Answer::Done
            }
            Command::Network => {
                let frames = take("network", 1, fds)?.pop();
                if let (Held::Machine(machine), Some(frames)) = (&self.held, frames) {
                    machine.devices().use_frames(frames).map_err(RequestError::Network)?;
                }
                Answer::Done
            }
            Command::TakeWorkingSet => {
                let to = take_files("working set", 1, fds)?.pop();
                if let (Held::Machine(machine), Some(to)) = (&self.held, to) {
                    // Its pages are compared with the template's, so nobody may write them now.
                    machine.hold();
                    let taken = machine.take_working_set(to, &self.around);
                    if self.phase == Phase::Running {
                        machine.release();
                    }
                    taken?;
                }
                Answer::Done
            }
            Command::Keep => {
                let keeper = take("keep", 1, fds)?.pop();
                if let Some(keeper) = keeper {
                    self.line.keep(keeper).map_err(RequestError::Keep)?;
                }
                Answer::Done
            }
            Command::Stats => Answer::Stats(match &self.held {
                Held::Machine(machine) => machine.stats(&self.around)?,
                Held::Primed(primed) => {
                    MachineStats { pages_prefetched: primed.prefetched(), ..Default::default() }
                }
                Held::Nothing(_) | Held::Shell(_) | Held::Gone => MachineStats::default(),
            }),
            Command::Stop => Answer::Done,
        };
        self.phase = after;
        Ok(answer)
    }

    fn build(&mut self, spec: ShellSpec) -> Result<Answer, RequestError> {
        if let Held::Nothing(kvm) = std::mem::replace(&mut self.held, Held::Gone) {
            let shell = Shell::build(kvm, spec, &Devices::QUEUES, self.confine)?;
            self.held = Held::Shell(Box::new(shell));
        }
        Ok(Answer::Done)
    }

    fn prime(&mut self, spec: &PrimeSpec, fds: Vec<OwnedFd>) -> Result<Answer, RequestError> {
        let files = Self::prime_files(spec, fds)?;
        let (primed, times) = Primed::new(self.take_shell(), spec, files, &mut self.around)?;
        self.held = Held::Primed(Box::new(primed));
        Ok(Answer::Primed(times))
    }

    fn restore(&mut self, spec: &RestoreSpec, fds: Vec<OwnedFd>) -> Result<Answer, RequestError> {
        let files = Self::restore_files(spec, fds)?;
        let primed = match std::mem::replace(&mut self.held, Held::Gone) {
            Held::Primed(primed) => *primed,
            Held::Nothing(_) | Held::Shell(_) | Held::Machine(_) | Held::Gone => {
                unreachable!("phase and what is held change together")
            }
        };
        let (machine, mut times) = Machine::restore(primed, spec, files, &self.around)?;
        let started = Instant::now();
        self.install(machine)?;
        self.seal();
        if spec.resume {
            self.machine(Machine::release);
        }
        times.resume_us = u32::try_from(micros(started)).unwrap_or(u32::MAX);
        Ok(Answer::Restored(times))
    }

    /// The shell, which the phase has just said is there.
    fn take_shell(&mut self) -> Shell {
        match std::mem::replace(&mut self.held, Held::Gone) {
            Held::Shell(shell) => *shell,
            Held::Nothing(_) | Held::Primed(_) | Held::Machine(_) | Held::Gone => {
                unreachable!("phase and what is held change together")
            }
        }
    }

    fn install(&mut self, machine: Machine) -> Result<(), RequestError> {
        self.watch_end(&machine).map_err(RequestError::Watch)?;
        self.held = Held::Machine(Box::new(machine));
        Ok(())
    }

    fn watch_end(&self, machine: &Machine) -> std::io::Result<()> {
        use std::os::fd::AsRawFd;
        let event = EpollEvent::new(EventSet::IN, EXITED_TOKEN);
        self.epoll.ctl(ControlOperation::Add, machine.exited().as_raw_fd(), event)
    }

    /// Gives up what only building needs, before the guest's first instruction. A process that
    /// cannot be sealed must not run a guest.
    fn seal(&mut self) {
        if self.confine && !self.sealed {
            if let Err(error) = vmm_jail::install(Thread::Sealed) {
                eprintln!("seal the process: {}", Chain(&error));
                std::process::abort();
            }
            self.sealed = true;
        }
    }

    fn machine(&self, act: impl FnOnce(&Machine)) {
        if let Held::Machine(machine) = &self.held {
            act(machine);
        }
    }

    fn boot_files(&self, disk: u8, fds: Vec<OwnedFd>) -> Result<BootFiles, RequestError> {
        let disk = disk_files(disk)?;
        let mut files = take("boot", disk + 4, fds)?.into_iter();
        let mut next = || files.next().ok_or(RequestError::TooMany);
        let (kernel, initrd) = (next()?.into(), next()?.into());
        let (devices, console) = device_files(disk, next)?;
        Ok(BootFiles { kernel, initrd, devices, console })
    }

    fn prime_files(spec: &PrimeSpec, fds: Vec<OwnedFd>) -> Result<PrimeFiles, RequestError> {
        let layers = usize::from(spec.layers);
        if layers > MEMORY_LAYERS_MAX {
            return Err(RequestError::TooMany);
        }
        let wanted = 2 + layers + usize::from(spec.working_set);
        let mut files = take_files("prime", wanted, fds)?.into_iter();
        let mut next = || files.next().ok_or(RequestError::TooMany);
        let (state, template) = (next()?, next()?);
        let layers = (0..layers).map(|_| next()).collect::<Result<_, _>>()?;
        let working_set = if spec.working_set { Some(next()?) } else { None };
        Ok(PrimeFiles { state, template, layers, working_set })
    }

    fn restore_files(spec: &RestoreSpec, fds: Vec<OwnedFd>) -> Result<RestoreFiles, RequestError> {
        let disk = disk_files(spec.disk.files)?;
        let mut files = take("restore", disk + 2, fds)?.into_iter();
        let next = || files.next().ok_or(RequestError::TooMany);
        let (devices, console) = device_files(disk, next)?;
        Ok(RestoreFiles { devices, console })
    }

    fn on_guest_end(&mut self) -> Result<Next, RunError> {
        let Held::Machine(machine) = &self.held else { return Ok(Next::Continue) };
        let reason = match machine.ended() {
            Some(VcpuEnd::GuestShutdown) => StopReason::GuestShutdown,
            Some(VcpuEnd::KvmFailure(why)) => StopReason::KvmFailure(why),
            // Parked by us, not ended.
            None => return Ok(Next::Continue),
        };
        self.phase = Phase::Stopped;
        // The log's last line may be the panic: it is written before the node hears.
        machine.flush_console();
        self.line.say(&Message::Stopped(reason))?;
        Ok(Next::End)
    }

    fn on_device(&mut self, token: u64, events: vmm_virtio::Events) -> Result<Next, RunError> {
        let Held::Machine(machine) = &self.held else { return Ok(Next::Continue) };
        let (device, sub_token) = split_token(token);
        for (device, reason) in machine.devices().event(device, sub_token, events) {
            let message = Message::DeviceBroken { device, reason };
            self.line.say(&message)?;
            if self.broken.len() < BROKEN_MAX {
                self.broken.push(message);
            }
        }
        Ok(Next::Continue)
    }
}

fn disk_files(files: u8) -> Result<usize, RequestError> {
    match usize::from(files) {
        files @ 1..=DISK_FILES_MAX => Ok(files),
        _ => Err(RequestError::TooMany),
    }
}

/// A disk of `disk` files, a console log and a frame socket, in this order.
fn device_files(
    disk: usize,
    mut next: impl FnMut() -> Result<OwnedFd, RequestError>,
) -> Result<(DeviceFiles, File), RequestError> {
    let disk = (0..disk).map(|_| next().map(File::from)).collect::<Result<_, _>>()?;
    let console = next()?.into();
    Ok((DeviceFiles { disk, frames: next()? }, console))
}

fn take(
    asked: &'static str,
    wanted: usize,
    fds: Vec<OwnedFd>,
) -> Result<Vec<OwnedFd>, RequestError> {
    match fds.len() {
        found if found == wanted => Ok(fds),
        found => Err(RequestError::Descriptors { asked, wanted, found }),
    }
}

fn take_files(
    asked: &'static str,
    wanted: usize,
    fds: Vec<OwnedFd>,
) -> Result<Vec<File>, RequestError> {
    Ok(take(asked, wanted, fds)?.into_iter().map(File::from).collect())
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
