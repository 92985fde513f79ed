//! The disks, told apart by the serial their launcher gave them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use portable_init::{DATA_DIR, DATA_DISK, IMAGES_DIR, IMAGES_DISK};
use rustix::mount::{MountFlags, UnmountFlags};

/// Mounts those that are there; a program that is run once may need none.
pub(crate) fn mount() -> Result<()> {
    let strict = MountFlags::NODEV | MountFlags::NOSUID;
    // noinit_itable: no background thread writing gigabytes of zeros; discard: what the node deletes, the host gets back.
    for (serial, at, flags, options) in [
        (DATA_DISK, DATA_DIR, strict | MountFlags::NOATIME, c"noinit_itable,discard"),
        (IMAGES_DISK, IMAGES_DIR, strict | MountFlags::RDONLY, c""),
    ] {
        if let Some(device) = find(Path::new("/sys/block"), serial)? {
            rustix::mount::mount(&device, at, "ext4", flags, options)
                .with_context(|| format!("cannot mount the {serial} disk {}", device.display()))?;
        }
    }
    Ok(())
}

/// Brings everything to the disks and lets go of them.
pub(crate) fn unmount() {
    rustix::fs::sync();
    for at in [DATA_DIR, IMAGES_DIR] {
        // Busy only if a process survived SIGKILL in the kernel; the journal covers that.
        let _ = rustix::mount::unmount(at, UnmountFlags::empty());
    }
    rustix::fs::sync();
}

fn find(block: &Path, serial: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(block).with_context(|| format!("cannot read {}", block.display()))? {
        let entry = entry?;
        // Other kinds of block devices have no such file.
        let found = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
        if found.trim() == serial {
            return Ok(Some(Path::new("/dev").join(entry.file_name())));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_found_by_its_serial() {
        let directory = tempfile::tempdir().unwrap();
        for (name, serial) in [("vda", "images"), ("vdb", "data\n")] {
            fs::create_dir(directory.path().join(name)).unwrap();
            fs::write(directory.path().join(name).join("serial"), serial).unwrap();
        }
        fs::create_dir(directory.path().join("loop0")).unwrap();
        let find = |serial| find(directory.path(), serial).unwrap();
        assert_eq!(find("data"), Some(PathBuf::from("/dev/vdb")));
        assert_eq!(find("other"), None);
    }
}
