//! One `sandflare-vmm machine` process, from its start to the last trace of it.
//!
//! Whatever the process is doing, `SIGKILL` ends it, and the watcher task that was started with it
//! reaps it, removes its cgroup and gives its user id back. So nobody has to wait for the end of a
//! machine, and nothing is forgotten when somebody does not.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api_vmm::{Answer, Command};
use base_types::Size;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use rustix::process::{Signal, WaitId, WaitIdOptions};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::cgroup::{Cgroup, CgroupTree, IoUnlimited};
use crate::control::{Control, ControlError, MachineEnd, PendingReply, shown};
use crate::keeper;
use crate::network::{NetworkGuard, Plugged};
use crate::spawn::{Program, SpawnError, Spawned, Spawner};
use crate::uid::{UidLease, Uids};
use crate::watched::watched;

/// LIMIT: start, jail and hello take about 100 ms on the slowest machine this is tested on; twenty
/// at once on two cores take a second or two.
const HELLO_WITHIN: Duration = Duration::from_secs(20);
/// LIMIT: a socket changes hands; this is for a machine with twenty creates at once.
const KEEP_WITHIN: Duration = Duration::from_secs(20);
/// LIMIT: reading at most a pipe's worth of text.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(5);
/// LIMIT: what one VMM may write to the node's log; a hijacked one must not fill the disk.
const STDERR_BYTES_MAX: usize = 16 * 1024;

/// Why a VMM process could not be brought to its hello.
#[derive(Debug, thiserror::Error)]
pub enum VmmStartError {
    /// The process could not be started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// `/dev/kvm` cannot be opened.
    #[error("open /dev/kvm; run `sandflare doctor` to learn what is missing")]
    Kvm(#[source] io::Error),
    /// The resource group of the sandbox could not be made.
    #[error("make the cgroup of the sandbox")]
    Cgroup(#[source] io::Error),
    /// Sockets and pipes to the process could not be made.
    #[error("make the control socket of a VMM process")]
    Socket(#[source] io::Error),
    /// Every user id for VMM processes is in use.
    #[error("no user id is left for another VMM process")]
    Uids,
    /// The process did not say hello.
    #[error("the VMM process did not become ready{}", if .stderr.is_empty() { String::new() } else { format!(" (it said: {})", .stderr) })]
    Hello {
        /// Last line it wrote to its standard error, if any.
        stderr: String,
        /// What its control socket said.
        source: ControlError,
    },
}

/// Why a machine of an earlier daemon is not taken over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdoptError {
    /// Nobody answers for it any more.
    #[error("its machine ended while no node was running")]
    Gone,
    /// Somebody answers, who is no VMM of this node.
    #[error("process {pid} of user {uid} answers in its place")]
    Stranger {
        /// Its number.
        pid: i32,
        /// Its user.
        uid: u32,
    },
    /// It could not be asked.
    #[error("look for its machine")]
    Find(#[source] io::Error),
}

/// Why a machine cannot outlive this daemon.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The socket could not be made.
    #[error("make a socket in the sandbox's directory")]
    Bind(#[source] io::Error),
    /// The VMM did not take it.
    #[error("let the machine outlive the node")]
    Vmm(#[source] ControlError),
}

/// Everything needed to start VMM processes.
#[derive(Clone, Debug)]
pub(crate) struct VmmLauncher {
    program: PathBuf,
    spawner: Spawner,
    cgroups: CgroupTree,
    uids: Uids,
    tasks: TaskTracker,
}

impl VmmLauncher {
    pub(crate) fn new(
        program: PathBuf,
        cgroups: CgroupTree,
        tasks: TaskTracker,
    ) -> io::Result<Self> {
        Ok(Self { program, spawner: Spawner::start()?, cgroups, uids: Uids::default(), tasks })
    }

    /// Starts a jailed process for a machine of `size`, and returns when it is ready for its first
    /// command.
    pub(crate) async fn start(&self, size: Size) -> Result<VmmProcess, VmmStartError> {
        let uid = self.uids.lease().ok_or(VmmStartError::Uids)?;
        let cgroup = self.cgroups.create(uid.id(), size).map_err(VmmStartError::Cgroup)?;
        let started = self.spawn(&uid, cgroup.as_ref()).await;
        let (spawned, control_socket, stderr) = match started {
            Ok(started) => started,
            Err(error) => {
                if let Some(cgroup) = cgroup {
                    self.tasks.spawn_blocking(|| cgroup.remove());
                }
                return Err(error);
            }
        };
        let process = self.watch(spawned, cgroup, uid, control_socket, Some(stderr));
        let process = process.map_err(VmmStartError::Socket)?;
        match process.control.hello(HELLO_WITHIN).await {
            Ok(_) => Ok(process),
            Err(source) => {
                process.kill();
                process.gone().await;
                Err(VmmStartError::Hello { stderr: process.last_words(), source })
            }
        }
    }

    /// Takes over the machine of the sandbox in `dir`, which a daemon before this one left running.
    /// Returns before the VMM has said hello.
    pub(crate) fn adopt(&self, dir: &Path) -> Result<VmmProcess, AdoptError> {
        let found = keeper::find(dir).map_err(AdoptError::Find)?.ok_or(AdoptError::Gone)?;
        let keeper::Found { socket, pidfd, pid, uid } = found;
        // Whatever it is, it is nothing of ours: it is left alone.
        let lease = self.uids.lease_again(uid).ok_or(AdoptError::Stranger { pid, uid })?;
        let cgroup = self.cgroups.find(uid);
        let spawned = Spawned { pid, pidfd };
        self.watch(spawned, cgroup, lease, socket, None).map_err(AdoptError::Find)
    }

    /// Limits an adopted machine as one of `size` that is made now.
    pub(crate) fn limit(&self, mut process: VmmProcess, size: Size) -> VmmProcess {
        if let Some(group) = &mut process.group
            && let Err(error) = self.cgroups.limit(group, size)
        {
            tracing::warn!(uid = process.uid, "cannot limit an adopted machine: {error}");
        }
        process
    }

    async fn spawn(
        &self,
        uid: &UidLease,
        cgroup: Option<&Cgroup>,
    ) -> Result<(Spawned, OwnedFd, OwnedFd), VmmStartError> {
        let kvm = open_rw(Path::new("/dev/kvm")).map_err(VmmStartError::Kvm)?;
        let null = || open_rw(Path::new("/dev/null")).map_err(VmmStartError::Socket);
        let procs = match cgroup {
            Some(cgroup) => cgroup.procs().map_err(VmmStartError::Cgroup)?,
            None => null()?,
        };
        let socket = |errno: rustix::io::Errno| VmmStartError::Socket(errno.into());
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(socket)?;
        let (stderr, stderr_writer) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(socket)?;
        // Their end blocks as any other program's.
        rustix::io::ioctl_fionbio(&stderr_writer, false).map_err(socket)?;
        let id = uid.id().to_string();
        let arguments = ["machine", "--uid", &id, "--gid", &id].map(str::to_owned);
        let files = vec![
            (null()?, 0),
            (null()?, 1),
            (stderr_writer, 2),
            (theirs, api_vmm::CONTROL_FD),
            (kvm, api_vmm::KVM_FD),
            (procs, api_vmm::CGROUP_FD),
        ];
        let program = Program::new(&self.program, &arguments, files)?;
        Ok((self.spawner.spawn(program).await?, ours, stderr))
    }

    fn watch(
        &self,
        spawned: Spawned,
        cgroup: Option<Cgroup>,
        uid: UidLease,
        control_socket: OwnedFd,
        stderr: Option<OwnedFd>,
    ) -> io::Result<VmmProcess> {
        let Spawned { pid, pidfd } = spawned;
        let id = uid.id();
        let (pidfd, group) = (Arc::new(pidfd), cgroup.clone());
        let (exit_sender, exit) = watch::channel(None);
        let (words_sender, words) = watch::channel(String::new());
        let watched = watched(pidfd.clone(), Interest::READABLE);
        let guard = KillOnDrop { pidfd, armed: true };
        let control = Control::start(control_socket)?.within(cgroup.clone());
        // Of a process that an earlier daemon started, that daemon had the other end.
        let stderr = stderr.map(pipe::Receiver::from_owned_fd).transpose()?;
        let watched = watched?;
        let relay = stderr.map(|stderr| self.tasks.spawn(relay_stderr(stderr, pid, words_sender)));
        let tasks = self.tasks.clone();
        self.tasks.spawn(async move {
            let mut status = reap(&watched).await;
            if cgroup.as_ref().is_some_and(Cgroup::ran_out_of_memory) {
                status.push_str(", out of the memory it may use");
            }
            // All of the process's namespace died with it, so its standard error ends now.
            if let Some(relay) = relay
                && timeout(LAST_WORDS_WITHIN, relay).await.is_err()
            {
                tracing::warn!(pid, "a dead VMM process's standard error is still open");
            }
            tracing::debug!(pid, status, "VMM process ended");
            if let Some(cgroup) = cgroup {
                cgroup.kill();
                let removed = tasks.spawn_blocking(|| cgroup.remove()).await;
                if removed.is_err() {
                    tracing::error!("removing a cgroup panicked");
                }
            }
            drop(uid);
            exit_sender.send_replace(Some(status));
        });
        Ok(VmmProcess { control, uid: id, group, exit, words, guard, network: None })
    }
}

/// A VMM process. Dropping it kills the machine.
#[derive(Debug)]
pub(crate) struct VmmProcess {
    control: Control,
    uid: u32,
    group: Option<Cgroup>,
    exit: watch::Receiver<Option<String>>,
    words: watch::Receiver<String>,
    guard: KillOnDrop,
    /// What its frames go to.
    network: Option<Plugged>,
}

/// A machine that was told to outlive the daemon.
#[derive(Debug)]
pub(crate) struct Keeping(PendingReply);

impl Keeping {
    /// Returns when it will.
    pub(crate) async fn done(self) -> Result<(), KeepError> {
        match self.0.within(KEEP_WITHIN).await.map_err(KeepError::Vmm)? {
            Answer::Done => Ok(()),
            _ => Err(KeepError::Vmm(ControlError::Protocol)),
        }
    }
}

impl VmmProcess {
    /// A way to ask the VMM.
    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    /// User it runs as, its alone.
    pub(crate) fn uid(&self) -> u32 {
        self.uid
    }

    /// Keeps what is behind its frame socket, as long as this is there.
    pub(crate) fn plug(&mut self, network: NetworkGuard) {
        self.network = Some(Plugged::new(network));
    }

    /// Lifts the limit of its disk requests while what is returned is held: the node waits for them,
    /// not a guest.
    pub(crate) fn io_unlimited(&self) -> Option<IoUnlimited> {
        self.group.as_ref()?.io_unlimited()
    }

    /// Lets the machine outlive this daemon: the next one finds it by the sandbox's directory `dir`.
    pub(crate) async fn keep(&self, dir: &Path) -> Result<(), KeepError> {
        self.keep_soon(dir).await?.done().await
    }

    /// As [`Self::keep`], which is true when the machine says so. Commands that were sent before come
    /// first.
    pub(crate) async fn keep_soon(&self, dir: &Path) -> Result<Keeping, KeepError> {
        let keeper = keeper::bind(dir).map_err(KeepError::Bind)?;
        let sent = self.control.send(Command::Keep, &[keeper.as_fd()]).await;
        sent.map(Keeping).map_err(KeepError::Vmm)
    }

    /// Whether the machine may still answer.
    pub(crate) fn is_alive(&self) -> bool {
        self.exit.borrow().is_none() && self.control.state().borrow().end.is_none()
    }

    /// Ends the process at once, whatever it is doing. Returns before it is over.
    pub(crate) fn kill(&self) {
        self.guard.kill();
    }

    /// Leaves the machine as it is, for the next node, if it is [kept](Self::keep).
    pub(crate) fn let_go(mut self) {
        self.guard.armed = false;
    }

    /// Returns when the process is reaped and its cgroup removed.
    pub(crate) async fn gone(&self) {
        let mut exit = self.exit.clone();
        // An error means that the watcher is gone, which it is only after the process.
        let _ = exit.wait_for(Option::is_some).await;
    }

    /// Waits until the machine is over, and says why in one sentence.
    pub(crate) async fn over(&self) -> MachineOver {
        let mut state = self.control.state();
        let end = match state.wait_for(|state| state.end.is_some()).await {
            Ok(state) => state.end.clone().unwrap_or(MachineEnd::Silent),
            Err(_) => MachineEnd::Silent,
        };
        match end {
            MachineEnd::Guest => MachineOver::Guest,
            MachineEnd::Failed(reason) => MachineOver::Vmm(reason),
            MachineEnd::Silent => {
                // The socket closes as the process dies; it is not coming back.
                self.kill();
                self.gone().await;
                let status = self.exit.borrow().clone().unwrap_or_default();
                let words = self.last_words();
                let said = if words.is_empty() { words } else { format!("; it said: {words}") };
                MachineOver::Vmm(format!("the VMM process ended ({status}){said}"))
            }
        }
    }

    /// The last line the process wrote to its standard error; empty when it wrote none.
    pub(crate) fn last_words(&self) -> String {
        self.words.borrow().clone()
    }
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MachineOver {
    /// The guest shut down, reset or panicked; its console knows more.
    Guest,
    /// KVM or the VMM process failed, for this reason.
    Vmm(String),
}

#[derive(Debug)]
struct KillOnDrop {
    pidfd: Arc<OwnedFd>,
    armed: bool,
}

impl KillOnDrop {
    fn kill(&self) {
        match rustix::process::pidfd_send_signal(&*self.pidfd, Signal::KILL) {
            // Gone already.
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(errno) => tracing::error!("cannot kill a VMM process: {errno}"),
        }
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if self.armed {
            self.kill();
        }
    }
}

fn open_rw(path: &Path) -> io::Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open(path)?.into())
}

/// Waits for the end of the process and says how it ended.
async fn reap(pidfd: &AsyncFd<Arc<OwnedFd>>) -> String {
    loop {
        let readable = pidfd.readable().await;
        let id = WaitId::PidFd(pidfd.get_ref().as_fd());
        match rustix::process::waitid(id, WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(status)) => {
                return match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => format!("exit code {code}"),
                    (None, Some(signal)) => format!("signal {signal}"),
                    (None, None) => "unknown status".to_owned(),
                };
            }
            // Not our child but that of an earlier daemon: whoever inherited it gets its status.
            Err(rustix::io::Errno::CHILD) if is_over(pidfd.get_ref()) => {
                return "an earlier daemon started it, so its status is not known".to_owned();
            }
            Err(rustix::io::Errno::CHILD) => match readable {
                Ok(mut guard) => guard.clear_ready(),
                Err(_) => return "the node is shutting down".to_owned(),
            },
            Ok(None) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => match readable {
                Ok(mut guard) => guard.clear_ready(),
                Err(_) => return "the node is shutting down".to_owned(),
            },
            Err(errno) => return format!("not waited for: {errno}"),
        }
    }
}

/// Whether the process has ended. Works for processes of others too.
fn is_over(pidfd: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(pidfd, PollFlags::IN)];
    rustix::event::poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Logs what the process writes to its standard error, and remembers the last line.
async fn relay_stderr(mut stderr: pipe::Receiver, pid: i32, words: watch::Sender<String>) {
    let mut buffer = [0; 4096];
    let mut line = Vec::new();
    let mut total = 0;
    while let Ok(length @ 1..) = stderr.read(&mut buffer).await {
        if total >= STDERR_BYTES_MAX {
            // Read on, so that the process is not stopped by a full pipe.
            continue;
        }
        total += length;
        for &byte in buffer.get(..length).unwrap_or_default() {
            if byte == b'\n' {
                report(&mut line, pid, &words);
            } else {
                line.push(byte);
            }
        }
    }
    report(&mut line, pid, &words);
}

fn report(line: &mut Vec<u8>, pid: i32, words: &watch::Sender<String>) {
    let text = shown(&String::from_utf8_lossy(line));
    line.clear();
    if !text.is_empty() {
        tracing::warn!(pid, "VMM: {text}");
        words.send_replace(text);
    }
}

#[cfg(test)]
mod test;
