//! Memory of the machine the node runs on, and whether there is some for one more sandbox.
//!
//! Sandboxes may well be promised more than there is, because what none of them changed they share. So
//! what counts is what is free when one begins, and not what all may take.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use crate::sandbox::CreateError;

/// LIMIT: what a machine takes before it does anything: its process, its page tables, and what its guest
/// writes until its agent answers, three times over.
pub(crate) const MACHINE_MIB: u64 = 8;
/// Where the kernel tells it.
const MEMINFO: &str = "/proc/meminfo";
/// LIMIT: more than the kernel writes before the line that is looked for.
const MEMINFO_BYTES: usize = 1024;

/// What is kept back, and the way to ask what is there.
#[derive(Debug)]
pub(crate) struct MemoryRoom {
    kept_mib: u64,
    /// Held open, as it is read for every create. `None` where the kernel does not tell.
    meminfo: Option<File>,
}

impl MemoryRoom {
    /// Keeps `kept_mib` MiB back; 0 admits everything.
    pub(crate) fn new(kept_mib: u64) -> Self {
        let meminfo = if kept_mib == 0 { None } else { File::open(MEMINFO).ok() };
        Self { kept_mib, meminfo }
    }

    /// Whether machines that are about to take `needed_mib` MiB may begin.
    pub(crate) fn admit(&self, needed_mib: u64) -> Result<(), CreateError> {
        let Some(meminfo) = &self.meminfo else { return Ok(()) };
        let mut text = [0; MEMINFO_BYTES];
        let Ok(count) = meminfo.read_at(&mut text, 0) else { return Ok(()) };
        let text = String::from_utf8_lossy(text.get(..count).unwrap_or_default());
        decide(available_mib(&text), self.kept_mib, needed_mib)
    }
}

/// What the kernel could give out without swapping, by its own estimate.
fn available_mib(meminfo: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib / 1024)
}

fn decide(available_mib: Option<u64>, kept_mib: u64, needed_mib: u64) -> Result<(), CreateError> {
    match available_mib {
        Some(available_mib) if available_mib < kept_mib.saturating_add(needed_mib) => {
            Err(CreateError::MemoryShort { available_mib, kept_mib, needed_mib })
        }
        // Where nothing is known nothing is refused.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const MEMINFO_TEXT: &str = "MemTotal:        2556396 kB\nMemFree:           61000 kB\n\
                                MemAvailable:     284672 kB\nBuffers:            1024 kB\n";

    #[test]
    fn what_is_available_is_read_and_nonsense_is_nothing() {
        assert_eq!(available_mib(MEMINFO_TEXT), Some(278));
        for nonsense in ["", "MemTotal: 1 kB\n", "MemAvailable: much\n", "MemAvailable: -1 kB\n"] {
            assert_eq!(available_mib(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn what_is_kept_back_stays_free_and_the_refusal_has_the_figures() {
        let available = available_mib(MEMINFO_TEXT);
        for (kept_mib, needed_mib, admitted) in
            [(256, 22, true), (256, 23, false), (278, 0, true), (0, 279, false), (279, 0, false)]
        {
            let decided = decide(available, kept_mib, needed_mib);
            assert_eq!(decided.is_ok(), admitted, "{kept_mib} {needed_mib}");
        }
        assert!(decide(None, u64::MAX, u64::MAX).is_ok());
        let refused = decide(available, 256, 64).unwrap_err().to_string();
        for figure in ["278 MiB", "256 MiB", "64 MiB"] {
            assert!(refused.contains(figure), "{refused}");
        }
    }

    #[test]
    fn this_machine_is_asked_unless_nothing_is_kept_back() {
        let all = MemoryRoom::new(1 << 40).admit(MACHINE_MIB).unwrap_err();
        let CreateError::MemoryShort { available_mib, .. } = all else { panic!("{all}") };
        assert!(available_mib > 0);
        assert!(MemoryRoom::new(1).admit(0).is_ok());
        assert!(MemoryRoom::new(0).admit(u64::MAX).is_ok());
    }
}
