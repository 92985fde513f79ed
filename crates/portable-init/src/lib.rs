//! What the launcher and PID 1 of the portable host agree upon.
//!
//! The portable host is a Linux in QEMU that runs the whole node on a machine without usable KVM. Its launcher lays
//! a [`Boot`] into the initrd; PID 1 (the binary of this crate) does what it says and powers off.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Where in the initrd the [`Boot`] lies, as JSON, without a leading slash.
pub const BOOT_FILE: &str = "etc/sandflare/boot.json";

/// The first virtio console, in the order the launcher adds them: the output of the program.
pub const CONSOLE: &str = "/dev/hvc0";

/// The second virtio console: launcher and PID 1 talk over it, one line of text each.
pub const CONTROL: &str = "/dev/hvc1";

/// Launcher to PID 1: end the program, then power off.
pub const CONTROL_STOP: &str = "stop";

/// virtio-blk serial of the disk that is mounted read-write at [`DATA_DIR`].
pub const DATA_DISK: &str = "data";

/// virtio-blk serial of the disk that is mounted read-only at [`IMAGES_DIR`].
pub const IMAGES_DISK: &str = "images";

/// Where the data disk is mounted inside.
pub const DATA_DIR: &str = "/data";

/// Where the images disk is mounted inside.
pub const IMAGES_DIR: &str = "/images";

/// Where the monitor of microVMs is inside, if it is brought along.
pub const VMM: &str = "/bin/sandflare-vmm";

/// The address of the portable host in QEMU's user network.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

/// The way out of QEMU's user network.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// Who is asked for names in QEMU's user network: it asks whoever the machine around asks.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// How many processors, from the first on, run no program and so no microVM.
///
/// QEMU up to 10.0 at least, emulating several processors on threads of their own: whenever a processor restores
/// floating point state (`FXRSTOR`, `XRSTOR`: every switch of tasks), it clears a flag in the state word of the
/// *first* processor without an atomic instruction (`cpu_clear_ignne` on `hflags2`). Entry to a guest and exit from
/// it change the same word. A change that is lost there leaves the first processor in a guest without nested
/// paging, or in the host with it: the microVM, or the portable host itself, dies of a triple fault.
pub const RESERVED_PROCESSORS: u32 = 1;

/// What the portable host is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// The program, an absolute path inside.
    pub program: String,
    /// Its arguments, without its own name.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Whether its standard streams are the console itself rather than pipes, as a shell wants.
    pub terminal: bool,
    /// How many bytes of its output reach the console before the rest is dropped.
    pub console_bytes_max: u64,
    /// How long it may take to end after being asked, in seconds.
    pub stop_seconds: u64,
    /// How often within a minute it is started again when it crashes; with 0 its first end is the end.
    #[serde(default)]
    pub restarts_per_minute: u32,
}

/// How the program ended; PID 1 writes it to [`CONTROL`] as its last word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It exited with this status.
    Exit(i32),
    /// A signal ended it.
    Signal(i32),
}

impl End {
    /// The line that says so, without its newline.
    pub fn line(self) -> String {
        match self {
            Self::Exit(code) => format!("exit {code}"),
            Self::Signal(signal) => format!("signal {signal}"),
        }
    }

    /// Reads what [`Self::line`] wrote.
    pub fn parse(line: &str) -> Option<Self> {
        let (kind, number) = line.trim().split_once(' ')?;
        let number = number.parse().ok()?;
        match kind {
            "exit" => Some(Self::Exit(number)),
            "signal" => Some(Self::Signal(number)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_survives_its_line() {
        for end in [End::Exit(0), End::Exit(255), End::Signal(9)] {
            assert_eq!(End::parse(&end.line()), Some(end));
        }
        assert_eq!(End::parse("exit"), None);
        assert_eq!(End::parse("exit x"), None);
        assert_eq!(End::parse("fine 0"), None);
    }
}
