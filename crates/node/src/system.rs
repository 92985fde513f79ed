//! What the machine is and has.

use std::fs;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use api_node::{ErrorCode, Failure, MemoryUsage};
use base_types::Size;
use rustix::process::{Resource, Rlimit};

/// Version of the running kernel.
pub(crate) fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The wall clock, in milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        Failure::new(ErrorCode::Internal, "the node has no random numbers")
            .with_internal(error.to_string())
    })?;
    Ok(bytes)
}

/// Memory of the machine; zero where the kernel does not tell.
pub(crate) fn memory() -> MemoryUsage {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    MemoryUsage {
        total_mib: meminfo_mib(&text, "MemTotal"),
        available_mib: meminfo_mib(&text, "MemAvailable"),
    }
}

/// A sandbox larger than the machine would run until its guest uses what it was promised, and then
/// take others with it: it is refused instead. Sandboxes may well be more than the machine has
/// together, because what none of them changed they share.
pub(crate) fn check_memory(size: Size, total_mib: u64) -> Result<(), Failure> {
    let needed_mib = u64::from(size.memory_mib());
    if total_mib == 0 || needed_mib <= total_mib {
        return Ok(());
    }
    let message =
        format!("size {size} has {needed_mib} MiB of memory; this node has {total_mib} MiB");
    let hint = "choose a smaller size, or run the node where there is more memory \
                (in the portable host: `sandflare up --memory MIB`)";
    Err(Failure::new(ErrorCode::NoCapacity, message).with_hint(hint))
}

/// Memory of the machine when this was first asked, in MiB; zero where the kernel does not tell. Reading
/// it makes the kernel count everything else too.
pub(crate) fn total_memory_mib() -> u64 {
    static TOTAL_MIB: LazyLock<u64> = LazyLock::new(|| memory().total_mib);
    *TOTAL_MIB
}

/// Memory this process has; zero where the kernel does not tell.
pub(crate) fn resident_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    meminfo_kib(&text, "VmRSS") * 1024
}

fn meminfo_mib(text: &str, name: &str) -> u64 {
    meminfo_kib(text, name) / 1024
}

fn meminfo_kib(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = value.and_then(|value| value.trim().strip_suffix(" kB")?.parse().ok());
    kib.unwrap_or_default()
}

/// LIMIT: files a node opens for a sandbox, with a command or two in it.
const FILES_PER_SANDBOX: u64 = 8;
/// LIMIT: files a node has open for itself: database, audit log, shells that wait, templates.
const FILES_OF_NODE: u64 = 512;
/// LIMIT: a connection, and the one into a sandbox that its request may take.
const FILES_PER_CONNECTION: u64 = 2;
/// LIMIT: with fewer connections there is no use in a node.
const CONNECTIONS_MIN: usize = 16;

/// Lets this process open as many files as the system allows, and says how many that is.
pub(crate) fn raise_open_files_limit() -> u64 {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
    rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many of the `wanted` connections a process that may open `files` has room for, beside `sandboxes`.
pub(crate) fn connections_within(files: u64, wanted: usize, sandboxes: usize) -> usize {
    let sandboxes = u64::try_from(sandboxes).unwrap_or(u64::MAX);
    let taken = sandboxes.saturating_mul(FILES_PER_SANDBOX).saturating_add(FILES_OF_NODE);
    let room = files.saturating_sub(taken) / FILES_PER_CONNECTION;
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    wanted.min(room.max(CONNECTIONS_MIN))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn connections_leave_files_for_sandboxes() {
        assert_eq!(connections_within(1 << 20, 4096, 64), 4096);
        assert_eq!(connections_within(4096, 4096, 64), (4096 - 512 - 64 * 8) / 2);
        assert_eq!(connections_within(100, 4096, 64), CONNECTIONS_MIN);
    }

    #[test]
    fn a_size_larger_than_the_machine_is_refused_and_an_unknown_machine_is_not() {
        assert_eq!(check_memory(Size::Small, 2048), Ok(()));
        assert_eq!(check_memory(Size::Large, 0), Ok(()));
        let refused = check_memory(Size::Medium, 2496).unwrap_err();
        assert_eq!(refused.code, ErrorCode::NoCapacity);
        let said = "size medium has 4096 MiB of memory; this node has 2496 MiB";
        assert_eq!(refused.message, said);
    }

    #[test]
    fn memory_is_read_in_mib_and_nonsense_is_zero() {
        let text = "MemTotal:        2556396 kB\nMemFree: 1 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(meminfo_mib(text, "MemTotal"), 2496);
        assert_eq!(meminfo_mib(text, "MemAvailable"), 2);
        assert_eq!(meminfo_mib("MemTotal: many\n", "MemTotal"), 0);
    }
}
