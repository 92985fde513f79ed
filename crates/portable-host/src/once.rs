use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use portable_init::{Boot, DATA_DISK, End, IMAGES_DISK};
use rustix::process::{Pid, PidfdFlags};

use crate::config::{MEMORY_MIB_DEFAULT, VCPUS_DEFAULT};
use crate::disks;
use crate::error::{HostError, OnFile as _};
use crate::host::{cannot_run, tail, translations_mib};
use crate::initrd;
use crate::process::ends_within;
use crate::qemu::{Console, Control, Disk, Machine};

/// LIMIT: output of one program kept in memory; a test's report is far below.
const OUTPUT_BYTES_MAX: u64 = 64 << 20;
/// How much of a log goes into an error.
const LAST_BYTES: u64 = 2000;

/// One program to run in a portable host of its own.
#[derive(Clone, Debug)]
pub struct Once {
    /// The images directory; `kernel` and `portable` must be there.
    pub images: PathBuf,
    /// The program, an absolute path inside.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Files to bring along, executable: (absolute path under `/bin` or `/etc` inside, file outside).
    pub files: Vec<(String, PathBuf)>,
    /// Where to keep the images disk between runs; `None`: the program sees no images.
    pub images_disk: Option<PathBuf>,
    /// Size in bytes of an empty data disk that is thrown away afterwards; `None`: no data disk.
    pub data_bytes: Option<u64>,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// After this long everything is killed, in seconds.
    pub seconds_max: u64,
    /// Connect the program to this process's own terminal instead of collecting its output.
    pub terminal: bool,
}

impl Once {
    /// A run of `program` without disks, for at most five minutes.
    pub fn new(images: PathBuf, program: &str) -> Self {
        Self {
            images,
            program: program.to_owned(),
            args: Vec::new(),
            env: BTreeMap::new(),
            files: Vec::new(),
            images_disk: None,
            data_bytes: None,
            memory_mib: MEMORY_MIB_DEFAULT,
            vcpus: VCPUS_DEFAULT,
            seconds_max: 300,
            terminal: false,
        }
    }
}

/// What a program did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its standard output and standard error, as they came. Empty when it ran on the terminal.
    pub output: Vec<u8>,
    /// How it ended.
    pub end: End,
}

/// Runs one program in a fresh portable host and waits for its end. `on_output` sees its output as it comes.
///
/// # Errors
/// See [`HostError`]; QEMU is gone in every case.
pub fn run_once(
    once: &Once,
    mut on_output: impl FnMut(&[u8]) + Send,
) -> Result<Outcome, HostError> {
    let work = tempfile::Builder::new()
        .prefix("sandflare-once-")
        .tempdir()
        .on("create", &std::env::temp_dir())?;
    let mut attached = Vec::new();
    if let Some(bytes) = once.data_bytes {
        let file = work.path().join("data.ext4");
        disks::data(&file, bytes)?;
        attached.push(Disk { serial: DATA_DISK, file, read_only: false });
    }
    if let Some(keep) = &once.images_disk {
        fs::create_dir_all(keep).on("create", keep)?;
        let (file, _) = disks::images(&once.images, keep)?;
        attached.push(Disk { serial: IMAGES_DISK, file, read_only: true });
    }
    let boot = Boot {
        program: once.program.clone(),
        args: once.args.clone(),
        env: once.env.clone(),
        terminal: once.terminal,
        console_bytes_max: OUTPUT_BYTES_MAX,
        stop_seconds: 0,
        restarts_per_minute: 0,
    };
    let boot_initrd = work.path().join("initrd");
    initrd::write(&once.images.join("portable/initrd"), &boot, &once.files, &boot_initrd)?;
    let kernel = once.images.join("kernel/vmlinux");
    if !kernel.is_file() {
        return Err(HostError::MissingImage { path: kernel });
    }
    let (kernel_log, end_file) = (work.path().join("kernel.log"), work.path().join("end"));
    let machine = Machine {
        kernel,
        initrd: boot_initrd,
        memory_mib: once.memory_mib,
        vcpus: once.vcpus,
        translations_mib: translations_mib(),
        disks: attached,
        forward: None,
        kernel_log: kernel_log.clone(),
        console: Console::Standard,
        control: Control::File(end_file.clone()),
        qmp: None,
        background: None,
    };
    crate::host::check_qemu()?;
    // If this process is killed, QEMU must not stay behind; it cannot notice by itself.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", crate::qemu::PROGRAM]).args(machine.arguments());
    if !once.terminal {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
    }
    let mut child = command.spawn().map_err(cannot_run)?;
    let stdout = child.stdout.take();
    let (in_time, output) = thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut output = Vec::new();
            let mut buffer = [0_u8; 16 << 10];
            let Some(mut stdout) = stdout else { return output };
            while let Ok(read @ 1..) = stdout.read(&mut buffer) {
                on_output(&buffer[..read]);
                output.extend_from_slice(&buffer[..read]);
            }
            output
        });
        let process = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
        let in_time = process
            .is_ok_and(|process| ends_within(process, Duration::from_secs(once.seconds_max)));
        if !in_time {
            // Fails only when it has just ended by itself.
            let _ = child.kill();
        }
        let _ = child.wait();
        (in_time, reader.join().unwrap_or_default())
    });
    if !in_time {
        let from = output.len().saturating_sub(LAST_BYTES as usize);
        let last = String::from_utf8_lossy(&output[from..]).into_owned();
        return Err(HostError::TimedOut { seconds: once.seconds_max, last });
    }
    let said = fs::read_to_string(&end_file).unwrap_or_default();
    match said.lines().find_map(End::parse) {
        Some(end) => Ok(Outcome { output, end }),
        None => Err(HostError::Died { last: tail(&kernel_log, LAST_BYTES).unwrap_or_default() }),
    }
}
