//! The process that QEMU is, as the kernel tells of it.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

use crate::qemu;

/// Whether `pid` is the QEMU that listens on `qmp`: process ids are used again, paths on command lines are not.
pub(crate) fn is_our_qemu(pid: i32, qmp: &Path) -> bool {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let needle = qmp.as_os_str().as_encoded_bytes();
    line.split(|&byte| byte == 0)
        .any(|word| word.strip_prefix(b"unix:").is_some_and(|word| word.starts_with(needle)))
}

/// Whether `pid` is a QEMU whose end has begun: it has its name yet, and no command line, which goes with the memory.
pub(crate) fn is_ending_qemu(pid: i32) -> bool {
    /// What the kernel keeps of a program's name.
    const NAME_BYTES_MAX: usize = 15;
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    let is_qemu = name.trim_ascii_end() == &qemu::PROGRAM.as_bytes()[..NAME_BYTES_MAX];
    is_qemu && fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.is_empty())
}

/// The process `pid`, unless it is gone.
pub(crate) fn open(pid: i32) -> Option<OwnedFd> {
    rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

/// Whether all of a process is gone within `time`, with what it had open. It tells the end of the last thread, where
/// `/proc` shows a zombie from the end of the first.
pub(crate) fn ends_within(process: impl AsFd, time: Duration) -> bool {
    let Ok(time) = Timespec::try_from(time) else { return false };
    let mut wait = [PollFd::new(&process, PollFlags::IN)];
    matches!(rustix::event::poll(&mut wait, Some(&time)), Ok(1..))
}
