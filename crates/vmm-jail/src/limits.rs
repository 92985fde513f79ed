//! Resource limits of a jailed process.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// LIMIT: every vsock connection is a descriptor, and a machine serves at most a few hundred;
/// beside them a disk chain, memory layers, eventfds and vCPUs take less than a hundred.
const OPEN_FILES: u64 = 4096;
/// LIMIT: the largest file a machine writes is a disk overlay; the second largest a memory layer of
/// 64 GiB. What a sandbox may really store is bounded by its template's disk size.
const FILE_BYTES: u64 = 1 << 40;
/// LIMIT: 8 vCPU threads, the fault handler, the control thread, KVM's own helper of each machine,
/// and as much again to spare. Counted per user, so each machine needs a user of its own.
const THREADS: u64 = 32;
/// LIMIT: kicks to vCPU threads are queued signals, at most a few per thread.
const PENDING_SIGNALS: u64 = 256;

/// Bounds on what the process can take from its host. They only ever lower what it inherited.
/// Its memory is bounded by its cgroup, not here: address space is mostly reservations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Descriptors open at once.
    pub open_files: u64,
    /// Size of the largest file it can write, in bytes.
    pub file_bytes: u64,
    /// Threads and processes of its user.
    pub threads: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { open_files: OPEN_FILES, file_bytes: FILE_BYTES, threads: THREADS }
    }
}

impl Limits {
    pub(crate) fn apply(&self) -> io::Result<()> {
        for (resource, most) in [
            (Resource::Nofile, self.open_files),
            (Resource::Fsize, self.file_bytes),
            (Resource::Nproc, self.threads),
            (Resource::Sigpending, PENDING_SIGNALS),
            // No dumps of guest memory; nothing locked; no message queues; no priorities.
            (Resource::Core, 0),
            (Resource::Memlock, 0),
            (Resource::Msgqueue, 0),
            (Resource::Nice, 0),
            (Resource::Rtprio, 0),
        ] {
            let inherited = getrlimit(resource).maximum.unwrap_or(u64::MAX);
            let most = Some(most.min(inherited));
            setrlimit(resource, Rlimit { current: most, maximum: most })?;
        }
        Ok(())
    }
}
