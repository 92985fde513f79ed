//! What a sandbox takes of its host now.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::sandbox::SandboxHandle;

/// Bytes of a block, as `stat` counts them.
const BLOCK_BYTES: u64 = 512;

/// What a sandbox takes of its host; what is not known is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SandboxUsage {
    /// Processor time of its machine, in microseconds.
    pub cpu_time_us: Option<u64>,
    /// Memory that is charged to its machine.
    pub memory_bytes: Option<u64>,
    /// As much as may be.
    pub memory_max_bytes: Option<u64>,
    /// What the overlays of its disk take, also those it shares with snapshots and forks.
    pub disk_bytes: Option<u64>,
    /// How long its guest runs since it was made or resumed.
    pub uptime: Option<Duration>,
}

impl SandboxHandle {
    /// What it takes, with its files in `dir`. Reads some small files.
    pub(crate) fn usage(&self, dir: &Path) -> SandboxUsage {
        let view = self.view();
        let group = view.control.as_ref().and_then(|control| control.group());
        SandboxUsage {
            cpu_time_us: group.and_then(|group| group.cpu_time_us()),
            memory_bytes: group.and_then(|group| group.memory_bytes("memory.current")),
            memory_max_bytes: group.and_then(|group| group.memory_bytes("memory.max")),
            disk_bytes: disk_bytes(dir),
            uptime: view.running_since.map(|since| since.elapsed()),
        }
    }
}

/// What the overlays in a sandbox's directory take; holes take nothing.
fn disk_bytes(dir: &Path) -> Option<u64> {
    let mut bytes: u64 = 0;
    for entry in fs::read_dir(dir).ok()?.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(b"disk-")
            && let Ok(found) = entry.metadata()
        {
            bytes = bytes.saturating_add(found.blocks().saturating_mul(BLOCK_BYTES));
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_disk_is_what_its_overlays_take_and_not_how_long_they_are() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(disk_bytes(dir.path()), Some(0));
        fs::write(dir.path().join("disk-0"), vec![1; 40_000]).unwrap();
        fs::write(dir.path().join("memory-0"), vec![1; 40_000]).unwrap();
        fs::File::create(dir.path().join("disk-1")).unwrap().set_len(1 << 30).unwrap();
        let bytes = disk_bytes(dir.path()).unwrap();
        assert!((40_000..1 << 20).contains(&bytes), "{bytes}");
        assert_eq!(disk_bytes(&dir.path().join("gone")), None);
    }
}
