//! The directory of one sandbox.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use base_overlay::OverlayError;
use base_types::SandboxId;

use super::CreateError;
use crate::disk;

/// LIMIT: a sandbox that cannot write at least this much is not worth starting, and the node's own
/// database needs room as well.
const FREE_BYTES_MIN: u64 = 64 << 20;

/// What a sandbox has on disk. Removed with all it holds when dropped.
#[derive(Debug)]
pub(crate) struct SandboxFiles {
    /// Everything the sandbox wrote to its disk.
    pub(crate) overlay: File,
    /// What its kernel printed.
    pub(crate) console: File,
    _removal: Removal,
}

/// Removes a directory with all it holds when dropped.
#[derive(Debug)]
struct Removal(PathBuf);

impl Drop for Removal {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!("cannot remove {}: {error}", self.0.display());
            }
            Ok(()) | Err(_) => {}
        }
    }
}

impl SandboxFiles {
    /// Makes the directory of `id` in `parent`, with an overlay for a disk of `disk_bytes`.
    pub(crate) fn create(
        parent: &Path,
        id: SandboxId,
        disk_bytes: u64,
    ) -> Result<Self, CreateError> {
        let free = disk::free_bytes(parent)
            .map_err(|source| CreateError::File { path: parent.into(), source })?;
        let full = |free: u64| CreateError::DiskFull { path: parent.into(), free_mib: free >> 20 };
        if free < FREE_BYTES_MIN {
            return Err(full(free));
        }
        let failed = |path: &Path, source: io::Error| match disk::is_full(&source) {
            true => full(disk::free_bytes(parent).unwrap_or_default()),
            false => CreateError::File { path: path.into(), source },
        };
        let dir = parent.join(id.to_string());
        fs::create_dir(&dir).map_err(|source| failed(&dir, source))?;
        let removal = Removal(dir);
        let dir = &removal.0;
        let create = |name: &str| {
            let path = dir.join(name);
            let options = File::options().read(true).write(true).create_new(true).open(&path);
            options.map_err(|source| failed(&path, source))
        };
        let (overlay, console) = (create("overlay.qcow2")?, create("console.log")?);
        base_overlay::create(&overlay, disk_bytes).map_err(|error| {
            let source = match error {
                OverlayError::Write(source) | OverlayError::Read(source) => source,
                other => io::Error::other(other),
            };
            failed(&dir.join("overlay.qcow2"), source)
        })?;
        Ok(Self { overlay, console, _removal: removal })
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn nothing_is_left_of_a_sandbox_and_nothing_of_one_that_could_not_be_made() {
        let parent = tempfile::tempdir().unwrap();
        let id = SandboxId::from_bits(5);
        let files = SandboxFiles::create(parent.path(), id, 1 << 30).unwrap();
        assert_eq!(base_overlay::virtual_size(&files.overlay).unwrap(), 1 << 30);
        // The same id cannot be made twice, and trying does not harm the first.
        assert!(SandboxFiles::create(parent.path(), id, 1 << 30).is_err());
        assert!(parent.path().join(id.to_string()).join("console.log").exists());
        drop(files);
        let error = SandboxFiles::create(parent.path(), id, 0).unwrap_err();
        assert!(matches!(error, CreateError::File { .. }), "{error}");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
