//! What the machine is and has.

use std::fs;

use api_node::MemoryUsage;
use rustix::process::{Resource, Rlimit};

/// Version of the running kernel.
pub(crate) fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Memory of the machine; zero where the kernel does not tell.
pub(crate) fn memory() -> MemoryUsage {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    MemoryUsage {
        total_mib: meminfo_mib(&text, "MemTotal"),
        available_mib: meminfo_mib(&text, "MemAvailable"),
    }
}

fn meminfo_mib(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = value.and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

/// Lets this process open as many files as the system allows: each sandbox takes about six.
pub(crate) fn raise_open_files_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn memory_is_read_in_mib_and_nonsense_is_zero() {
        let text = "MemTotal:        2556396 kB\nMemFree: 1 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(meminfo_mib(text, "MemTotal"), 2496);
        assert_eq!(meminfo_mib(text, "MemAvailable"), 2);
        assert_eq!(meminfo_mib("MemTotal: many\n", "MemTotal"), 0);
    }
}
