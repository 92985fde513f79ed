//! The tree of file systems the node sees.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, mount, mount_move};

use crate::kernel_log;

const NEW_ROOT: &str = "/mnt";

/// LIMIT: directories in the initrd nest two or three deep; deeper means a loop.
const DEPTH_MAX: usize = 16;

/// Mounts what the kernel offers, so that there are devices and a log.
pub(crate) fn mount_kernel_filesystems() -> Result<()> {
    for (kind, at, flags) in [
        ("devtmpfs", "/dev", MountFlags::NOSUID),
        ("proc", "/proc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC),
        ("sysfs", "/sys", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC),
    ] {
        make(kind, at, flags, "")?;
    }
    Ok(())
}

/// Moves to a root of our own. The kernel's first root can be neither left by `pivot_root` nor unmounted, and the
/// jails of the microVM monitor need both.
pub(crate) fn leave_initramfs() -> Result<()> {
    make("tmpfs", NEW_ROOT, MountFlags::NODEV, "mode=0755")?;
    for directory in ["dev", "proc", "sys", "run", "tmp", "data", "images", "root", "mnt"] {
        let path = format!("{NEW_ROOT}/{directory}");
        fs::create_dir_all(&path).with_context(|| format!("cannot create {path}"))?;
    }
    for directory in ["bin", "etc"] {
        let from = format!("/{directory}");
        move_tree(Path::new(&from), &Path::new(NEW_ROOT).join(directory), 0)?;
    }
    // Loaded modules are copies in kernel memory; the files would only hold theirs twice.
    let _ = fs::remove_dir_all("/modules");
    let _ = fs::remove_file("/init");
    for at in ["dev", "proc", "sys"] {
        mount_move(format!("/{at}"), format!("{NEW_ROOT}/{at}"))
            .with_context(|| format!("cannot move /{at}"))?;
    }
    std::env::set_current_dir(NEW_ROOT).context("cannot enter the new root")?;
    mount_move(".", "/").context("cannot move the new root into place")?;
    rustix::process::chroot(".").context("cannot change to the new root")?;
    std::env::set_current_dir("/").context("cannot enter the new root")
}

/// Mounts everything else but the disks.
pub(crate) fn mount_the_rest() -> Result<()> {
    let strict = MountFlags::NOSUID | MountFlags::NODEV;
    make("devpts", "/dev/pts", MountFlags::NOSUID | MountFlags::NOEXEC, "mode=0620,ptmxmode=0666")?;
    make("tmpfs", "/dev/shm", strict, "mode=1777")?;
    make("tmpfs", "/run", strict, "mode=0755")?;
    make("tmpfs", "/tmp", strict, "mode=1777")?;
    make("cgroup2", "/sys/fs/cgroup", strict | MountFlags::NOEXEC, "")?;
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")
        .context("cannot read the cgroup controllers")?;
    for controller in controllers.split_whitespace() {
        // One at a time: the kernel takes all of a list or nothing, and some are not for everyone.
        if let Err(error) =
            fs::write("/sys/fs/cgroup/cgroup.subtree_control", format!("+{controller}"))
        {
            kernel_log::note(&format!("cgroup controller {controller} stays off: {error}"));
        }
    }
    Ok(())
}

fn make(kind: &str, at: &str, flags: MountFlags, options: &str) -> Result<()> {
    fs::create_dir_all(at).with_context(|| format!("cannot create {at}"))?;
    let options = std::ffi::CString::new(options)?;
    mount(kind, at, kind, flags, options.as_c_str()).with_context(|| format!("cannot mount {at}"))
}

/// Moves files one by one, so that at no time more than one lies in memory twice.
fn move_tree(from: &Path, to: &Path, depth: usize) -> Result<()> {
    anyhow::ensure!(depth < DEPTH_MAX, "the initrd nests directories too deeply");
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            move_tree(&source, &target, depth + 1)?;
        } else {
            fs::copy(&source, &target)
                .with_context(|| format!("cannot move {}", source.display()))?;
            let mode = entry.metadata()?.permissions().mode();
            fs::set_permissions(&target, fs::Permissions::from_mode(mode & 0o777))?;
            fs::remove_file(&source)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_tree_keeps_content_and_modes_and_leaves_no_files() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        fs::create_dir_all(from.join("deep/er")).unwrap();
        fs::write(from.join("deep/er/file"), "content").unwrap();
        fs::set_permissions(from.join("deep/er/file"), fs::Permissions::from_mode(0o751)).unwrap();
        move_tree(&from, &to, 0).unwrap();
        let moved = to.join("deep/er/file");
        assert_eq!(fs::read_to_string(&moved).unwrap(), "content");
        assert_eq!(fs::metadata(&moved).unwrap().permissions().mode() & 0o777, 0o751);
        assert!(!from.join("deep/er/file").exists());
    }
}
