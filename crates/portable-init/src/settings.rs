//! Kernel settings of a machine whose only job is to run microVMs.

use std::fs;

use rustix::process::{Resource, Rlimit};

use crate::kernel_log;

const SETTINGS: [(&str, &str); 7] = [
    ("/proc/sys/kernel/hostname", "sandflare"),
    // Only what went wrong reaches the emulated serial port, each byte of which is a VM exit.
    ("/proc/sys/kernel/printk", "4 4 1 7"),
    // Clones map far more than there is and touch little of it; refusing the mapping would be the only effect.
    ("/proc/sys/vm/overcommit_memory", "1"),
    // A machine of a few GiB: keep enough free for bursts of copy-on-write faults.
    ("/proc/sys/vm/min_free_kbytes", "32768"),
    // Lazily filled memory maps many small ranges.
    ("/proc/sys/vm/max_map_count", "1048576"),
    // A clone that touches one byte must not be given 2 MiB.
    ("/sys/kernel/mm/transparent_hugepage/enabled", "madvise"),
    ("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "never"),
];

/// LIMIT: 30 sandboxes with a few dozen descriptors each, with room; the kernel's own ceiling is the same.
const OPEN_FILES: u64 = 1 << 20;

/// Applies them. One the kernel does not know is noted, not fatal: none decides whether the node works.
pub(crate) fn apply() {
    for (path, value) in SETTINGS {
        if let Err(error) = fs::write(path, value) {
            kernel_log::note(&format!("cannot set {path}: {error}"));
        }
    }
    let limit = Rlimit { current: Some(OPEN_FILES), maximum: Some(OPEN_FILES) };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, limit) {
        kernel_log::note(&format!("cannot raise the limit of open files: {error}"));
    }
}
