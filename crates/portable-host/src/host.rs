use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use portable_init::{Boot, CONTROL_STOP, DATA_DISK, IMAGES_DISK};
use rustix::fs::FlockOperation;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::backlog;
use crate::config::Config;
use crate::disks;
use crate::error::{HostError, OnFile as _};
use crate::initrd;
use crate::manifest;
use crate::process::{self, ends_within, is_ending_qemu, is_our_qemu};
use crate::qemu::{self, Console, Control, Disk, Machine};
use crate::qmp;

/// LIMIT: what the program may write to its log in one run; enough for weeks of ordinary lines, and it fits any disk.
const CONSOLE_BYTES_MAX: u64 = 64 << 20;

/// LIMIT: a daemon that crashes more often does not serve anybody; its sandboxes are better ended than left running
/// on a machine nobody can reach.
const RESTARTS_PER_MINUTE: u32 = 5;

/// LIMIT: below this, the first templates would not fit; better said now than by a failing write inside.
const FREE_MIB_MIN: u64 = 2048;

/// What a socket's path may have, by the kernel's definition, with its end.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// How long the inside takes to power off after its program ended; two seconds, seen on a busy machine.
const POWER_OFF_TIME: Duration = Duration::from_secs(20);
const QUIT_TIME: Duration = Duration::from_secs(10);

/// What a start is doing, for whoever shows it. Shown as a short phrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Comparing the kernel with its manifest.
    CheckingImages,
    /// Bringing the images disk up to date; takes seconds when templates changed.
    ImagesDisk,
    /// Making the data disk, on the first start.
    DataDisk,
    /// Starting QEMU.
    Qemu,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CheckingImages => "checking images",
            Self::ImagesDisk => "images disk",
            Self::DataDisk => "data disk",
            Self::Qemu => "starting QEMU",
        })
    }
}

/// A portable host that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// QEMU's process id.
    pub pid: i32,
    /// The port on 127.0.0.1 that leads inside.
    pub port: u16,
    /// Its memory in MiB.
    pub memory_mib: u32,
    /// Its virtual CPUs.
    pub vcpus: u32,
    /// How long the program inside may take to end, in seconds.
    pub stop_seconds: u64,
}

/// What a start found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// QEMU was started now; the inside is booting.
    Started(Running),
    /// It was running already, perhaps with other settings.
    AlreadyRunning(Running),
}

/// Whether the portable host runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It does.
    Running(Running),
    /// It does not.
    Stopped,
}

/// The portable host of one state directory. It outlives the process that starts it, and only [`Self::stop`] ends it.
#[derive(Clone, Debug)]
pub struct PortableHost {
    state: PathBuf,
}

impl PortableHost {
    /// The portable host in `state`, whether it runs or not.
    pub fn at(state: &Path) -> Self {
        Self { state: std::path::absolute(state).unwrap_or_else(|_| state.to_owned()) }
    }

    /// Starts it, if it does not run yet. Returns when QEMU runs; the program inside is then still seconds away.
    ///
    /// # Errors
    /// See [`HostError`]; nothing is left running.
    pub fn start(config: &Config, on_step: &dyn Fn(Step)) -> Result<Start, HostError> {
        let host = Self::at(&config.state);
        fs::create_dir_all(&host.state).on("create", &host.state)?;
        let _lock = host.lock()?;
        host.settle()?;
        if let Some(running) = host.running() {
            return Ok(Start::AlreadyRunning(running));
        }
        host.check_paths()?;
        check_qemu()?;
        on_step(Step::CheckingImages);
        manifest::check_kernel(&config.images)?;
        check_room(&host.state)?;
        check_port(config.port)?;
        on_step(Step::ImagesDisk);
        let (images, _) = disks::images(&config.images, &host.state)?;
        let data = host.state.join("data.ext4");
        on_step(Step::DataDisk);
        disks::data(&data, config.data_bytes)?;
        on_step(Step::Qemu);
        let boot_initrd = host.state.join("boot.initrd");
        let boot = Boot {
            program: config.program.clone(),
            args: config.args.clone(),
            env: config.env.clone(),
            terminal: false,
            console_bytes_max: CONSOLE_BYTES_MAX,
            stop_seconds: config.stop_seconds,
            restarts_per_minute: RESTARTS_PER_MINUTE,
        };
        let files = &config.files;
        initrd::write(&config.images.join("portable/initrd"), &boot, files, &boot_initrd)?;
        host.put_logs_aside()?;
        let machine = Machine {
            kernel: config.images.join("kernel/vmlinux"),
            initrd: boot_initrd,
            memory_mib: config.memory_mib,
            vcpus: config.vcpus,
            translations_mib: translations_mib(),
            disks: vec![
                Disk { serial: DATA_DISK, file: data, read_only: false },
                Disk { serial: IMAGES_DISK, file: images, read_only: true },
            ],
            forward: Some((config.port, config.guest_port)),
            kernel_log: host.kernel_log(),
            console: Console::File(host.console_log()),
            control: Control::Socket(host.control_socket()),
            qmp: Some(host.qmp_socket()),
            background: Some(host.pid_file()),
        };
        launch(&machine, config.port)?;
        let running = Running {
            pid: host.read_pid().ok_or_else(|| HostError::Qemu {
                said: "it went to the background without leaving its process id".to_owned(),
            })?,
            port: config.port,
            memory_mib: config.memory_mib,
            vcpus: config.vcpus,
            stop_seconds: config.stop_seconds,
        };
        // Without it bursts of connections are slow, and everything works.
        let _ = backlog::deepen(running.pid, running.port);
        let description = host.description();
        let text = serde_json::to_vec(&running)
            .map_err(|source| HostError::Manifest { path: description.clone(), source })?;
        fs::write(&description, text).on("write", &description)?;
        Ok(Start::Started(running))
    }

    /// Asks the program inside to end, waits until the machine has powered itself off, and forces it if it does not.
    /// Gives what ran, or `None` when nothing did.
    ///
    /// # Errors
    /// When another start or stop is under way, or QEMU cannot even be killed.
    pub fn stop(&self) -> Result<Option<Running>, HostError> {
        if !self.state.exists() {
            return Ok(None);
        }
        let _lock = self.lock()?;
        let Some(running) = self.running() else { return Ok(None) };
        self.end(&running)?;
        // It describes nothing any more. One that cannot be removed is not believed either: the
        // process it names is gone.
        let _ = fs::remove_file(self.description());
        Ok(Some(running))
    }

    /// Ends the QEMU of `running`, which is ours.
    fn end(&self, running: &Running) -> Result<(), HostError> {
        let Some(process) = process::open(running.pid) else { return Ok(()) };
        let ended = |time: Duration| ends_within(&process, time);
        let asked = UnixStream::connect(self.control_socket()).and_then(|mut control| {
            control.write_all(format!("{CONTROL_STOP}\n").as_bytes()).map(|()| control)
        });
        let patience = Duration::from_secs(running.stop_seconds) + POWER_OFF_TIME;
        // The connection stays open until the end: QEMU drops what a vanished peer sent last.
        if asked.is_ok() && ended(patience) {
            return Ok(());
        }
        if qmp::quit(&self.qmp_socket()).is_ok() && ended(QUIT_TIME) {
            return Ok(());
        }
        rustix::process::pidfd_send_signal(&process, Signal::KILL)
            .on("stop the QEMU of", &self.state)?;
        if ended(QUIT_TIME) {
            return Ok(());
        }
        Err(HostError::Qemu { said: format!("process {} does not end", running.pid) })
    }

    /// Waits until a QEMU that was killed is gone with its port. The kernel takes a process its memory before it
    /// closes its files, which takes a moment for gigabytes; whoever connects in that moment is neither answered nor refused.
    ///
    /// # Errors
    /// When it is not gone after ten seconds.
    pub fn settle(&self) -> Result<(), HostError> {
        let Some(pid) = self.read_pid().filter(|&pid| is_ending_qemu(pid)) else { return Ok(()) };
        let Some(process) = process::open(pid) else { return Ok(()) };
        if ends_within(&process, QUIT_TIME) {
            return Ok(());
        }
        Err(HostError::Qemu { said: format!("process {pid} does not end") })
    }

    /// Whether it runs.
    pub fn status(&self) -> Status {
        self.running().map_or(Status::Stopped, Status::Running)
    }

    /// What the program inside writes, since the last start. The log before it has `.1` at the end.
    pub fn console_log(&self) -> PathBuf {
        self.state.join("console.log")
    }

    /// What the kernel inside says when something is wrong, since the last start.
    pub fn kernel_log(&self) -> PathBuf {
        self.state.join("kernel.log")
    }

    /// The end of both logs, at most `bytes` of each, to show when the inside does not come up.
    pub fn last_words(&self, bytes: u64) -> String {
        let kernel = tail(&self.kernel_log(), bytes).unwrap_or_default();
        let console = tail(&self.console_log(), bytes).unwrap_or_default();
        format!("{}\n{}", kernel.trim(), console.trim()).trim().to_owned()
    }

    fn running(&self) -> Option<Running> {
        let pid = self.read_pid()?;
        if !is_our_qemu(pid, &self.qmp_socket()) {
            return None;
        }
        let text = fs::read(self.description()).ok()?;
        let running: Running = serde_json::from_slice(&text).ok()?;
        // A start that was killed between QEMU and its description leaves the one of the run before.
        Some(Running { pid, ..running })
    }

    fn read_pid(&self) -> Option<i32> {
        fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok().filter(|&pid| pid > 1)
    }

    fn lock(&self) -> Result<File, HostError> {
        let path = self.state.join("lock");
        let file = OpenOptions::new().create(true).append(true).open(&path).on("open", &path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(HostError::Busy { state: self.state.clone() })
            }
            Err(error) => Err(error).on("lock", &path),
        }
    }

    fn check_paths(&self) -> Result<(), HostError> {
        let longest = self.control_socket().as_os_str().len();
        if longest <= SOCKET_PATH_BYTES_MAX {
            return Ok(());
        }
        let beyond = longest - self.state.as_os_str().len();
        Err(HostError::PathTooLong {
            state: self.state.clone(),
            bytes_max: SOCKET_PATH_BYTES_MAX - beyond,
        })
    }

    fn put_logs_aside(&self) -> Result<(), HostError> {
        for log in [self.console_log(), self.kernel_log()] {
            let mut aside = log.clone().into_os_string();
            aside.push(".1");
            match fs::rename(&log, &aside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).on("move", &log);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn description(&self) -> PathBuf {
        self.state.join("running.json")
    }

    fn pid_file(&self) -> PathBuf {
        self.state.join("pid")
    }

    fn qmp_socket(&self) -> PathBuf {
        self.state.join("qmp.sock")
    }

    fn control_socket(&self) -> PathBuf {
        self.state.join("control.sock")
    }
}

/// Room for QEMU's translated code on this machine.
pub(crate) fn translations_mib() -> u64 {
    let all = rustix::system::sysinfo();
    qemu::translations_mib(all.totalram.saturating_mul(u64::from(all.mem_unit)) >> 20)
}

fn launch(machine: &Machine, port: u16) -> Result<(), HostError> {
    let output = Command::new(qemu::PROGRAM)
        .args(machine.arguments())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " | ");
            if said.contains("host forwarding rule") {
                return Err(HostError::PortBusy { port });
            }
            Err(HostError::Qemu { said })
        }
        Err(error) => Err(cannot_run(error)),
    }
}

pub(crate) fn cannot_run(error: io::Error) -> HostError {
    if error.kind() == io::ErrorKind::NotFound {
        return HostError::MissingProgram { program: qemu::PROGRAM, package: qemu::PACKAGE };
    }
    HostError::Qemu { said: error.to_string() }
}

/// Whether QEMU is there. [`PortableHost::start`] asks as well; this is for whoever has long work to do
/// before.
///
/// # Errors
/// With the program and the package it is in.
pub fn check_qemu() -> Result<(), HostError> {
    let directories = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&directories).any(|directory| directory.join(qemu::PROGRAM).is_file())
    {
        return Ok(());
    }
    Err(HostError::MissingProgram { program: qemu::PROGRAM, package: qemu::PACKAGE })
}

/// Asked before QEMU is, for a sentence of its own. Someone may still come in between; QEMU notices that.
fn check_port(port: u16) -> Result<(), HostError> {
    match TcpListener::bind(("127.0.0.1", port)) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(HostError::PortBusy { port }),
        _ => Ok(()),
    }
}

fn check_room(state: &Path) -> Result<(), HostError> {
    let found = rustix::fs::statvfs(state).on("ask about", state)?;
    let free_mib = found.f_bavail.saturating_mul(found.f_frsize) >> 20;
    if free_mib < FREE_MIB_MIN {
        return Err(HostError::DiskFull {
            path: state.to_owned(),
            free_mib,
            needed_mib: FREE_MIB_MIN,
        });
    }
    Ok(())
}

pub(crate) fn tail(path: &Path, bytes: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut text = Vec::new();
    file.take(bytes).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_left_by_a_killed_qemu_does_not_count_as_running() {
        let state = tempfile::tempdir().unwrap();
        let host = PortableHost::at(state.path());
        assert_eq!(host.status(), Status::Stopped);
        // This test's own process is alive, but is no QEMU.
        fs::write(state.path().join("pid"), std::process::id().to_string()).unwrap();
        assert_eq!(host.status(), Status::Stopped);
        assert_eq!(host.stop().unwrap(), None);
        fs::write(state.path().join("pid"), "-1").unwrap();
        assert_eq!(host.status(), Status::Stopped);
    }

    #[test]
    fn a_qemu_that_is_ending_is_waited_for_until_its_port_is_free() {
        // As at QEMU's end, the first thread is gone, and the memory with it as /proc sees it; the port is open yet.
        const ENDING: &str = "\
import ctypes, socket, threading, time
port = socket.create_server(('127.0.0.1', 0))
print(port.getsockname()[1], flush=True)
threading.Thread(target=time.sleep, args=(1,)).start()
ctypes.CDLL(None).syscall(60, 0)";
        let state = tempfile::tempdir().unwrap();
        let qemu = state.path().join(qemu::PROGRAM);
        fs::copy(fs::canonicalize("/usr/bin/python3").unwrap(), &qemu).unwrap();
        let mut ending =
            Command::new(&qemu).args(["-c", ENDING]).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(ending.stdout.take().unwrap()), &mut said)
            .unwrap();
        let port: u16 = said.trim().parse().unwrap();
        let pid = i32::try_from(ending.id()).unwrap();
        let host = PortableHost::at(state.path());
        fs::write(state.path().join("pid"), pid.to_string()).unwrap();
        while !is_ending_qemu(pid) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(host.status(), Status::Stopped);
        assert!(check_port(port).is_err());
        host.settle().unwrap();
        check_port(port).unwrap();
        ending.wait().unwrap();
        host.settle().unwrap();
    }

    #[test]
    fn two_starts_do_not_run_at_once() {
        let state = tempfile::tempdir().unwrap();
        let host = PortableHost::at(state.path());
        let lock = host.lock().unwrap();
        assert!(matches!(host.stop(), Err(HostError::Busy { .. })));
        drop(lock);
        assert_eq!(host.stop().unwrap(), None);
    }

    #[test]
    fn a_busy_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = check_port(port).unwrap_err();
        assert!(matches!(error, HostError::PortBusy { port: found } if found == port));
        drop(listener);
        check_port(port).unwrap();
    }

    #[test]
    fn a_state_directory_too_deep_for_sockets_is_refused() {
        let deep = PortableHost::at(Path::new(&format!("/{}", "d".repeat(100))));
        assert!(matches!(deep.check_paths(), Err(HostError::PathTooLong { .. })));
        assert!(PortableHost::at(Path::new("/var/lib/sandflare")).check_paths().is_ok());
    }

    #[test]
    fn the_end_of_a_log_is_bounded() {
        let state = tempfile::tempdir().unwrap();
        let host = PortableHost::at(state.path());
        fs::write(host.console_log(), "0123456789").unwrap();
        assert_eq!(host.last_words(4), "6789");
        fs::write(host.kernel_log(), "panic").unwrap();
        assert_eq!(host.last_words(100), "panic\n0123456789");
    }
}
