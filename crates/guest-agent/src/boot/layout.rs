//! Mounts: first those that booting needs, then those that a Debian has.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::fs::{Mode, chmod};
use rustix::mount::{MountFlags, mount, mount_bind, mount_move};

/// Where the root disk is mounted before it becomes the root.
const NEW_ROOT: &str = "/sysroot";
/// LIMIT: how often the disk is looked for. Modules find devices in the background, and this is
/// before anything could wait for their events.
const DISK_POLL: Duration = Duration::from_millis(2);

const SAFE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

fn mount_at(
    kind: &str,
    target: &str,
    flags: MountFlags,
    options: Option<&std::ffi::CStr>,
) -> anyhow::Result<()> {
    fs::create_dir_all(target).with_context(|| format!("cannot make {target}"))?;
    mount(kind, target, kind, flags, options)
        .with_context(|| format!("cannot mount {kind} on {target}"))
}

/// Mounts `/proc`, `/sys` and `/dev` in the initrd.
pub(super) fn mount_initial() -> anyhow::Result<()> {
    mount_at("proc", "/proc", SAFE, None)?;
    mount_at("sysfs", "/sys", SAFE, None)?;
    mount_at("devtmpfs", "/dev", MountFlags::NOSUID, Some(c"mode=0755"))
}

/// Waits for the disk, mounts it, and makes it the root.
pub(super) fn enter_root(disk: &Path, wait: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + wait;
    while !disk.exists() {
        if Instant::now() >= deadline {
            bail!("the root disk {} did not appear within {wait:?}", disk.display());
        }
        std::thread::sleep(DISK_POLL);
    }
    fs::create_dir_all(NEW_ROOT).context("cannot make the mount point of the root disk")?;
    mount(disk, NEW_ROOT, "ext4", MountFlags::NOATIME, None)
        .with_context(|| format!("cannot mount the root disk {} as ext4", disk.display()))?;
    for name in ["proc", "sys", "dev"] {
        let target = format!("{NEW_ROOT}/{name}");
        fs::create_dir_all(&target).with_context(|| format!("cannot make {target}"))?;
        mount_move(format!("/{name}"), &target)
            .with_context(|| format!("cannot move /{name} to the root disk"))?;
    }
    // What runs stays in memory; its name is of no use any more.
    let _ = fs::remove_file("/init");
    std::env::set_current_dir(NEW_ROOT).context("cannot enter the root disk")?;
    mount_move(".", "/").context("cannot make the root disk the root")?;
    rustix::process::chroot(".").context("cannot change the root to the root disk")?;
    std::env::set_current_dir("/").context("cannot enter the new root")
}

/// Mounts what an ordinary Debian has. `/tmp` stays on the disk: a sandbox's memory is small.
pub(super) fn mount_rest() -> anyhow::Result<()> {
    let options = MountFlags::NOSUID.union(MountFlags::NOEXEC);
    mount_at("devpts", "/dev/pts", options, Some(c"gid=5,mode=620,ptmxmode=666"))?;
    let shared = MountFlags::NOSUID.union(MountFlags::NODEV);
    mount_at("tmpfs", "/dev/shm", shared, Some(c"mode=1777"))?;
    mount_at("tmpfs", "/run", shared, Some(c"mode=0755"))?;
    mount_at("cgroup2", "/sys/fs/cgroup", SAFE, Some(c"nsdelegate"))?;
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        if fs::symlink_metadata(link).is_err() {
            symlink(target, link).with_context(|| format!("cannot make the link {link}"))?;
        }
    }
    for open_to_all in ["/tmp", "/var/tmp", "/run/lock"] {
        fs::create_dir_all(open_to_all).with_context(|| format!("cannot make {open_to_all}"))?;
        let wanted = 0o1777;
        let is = fs::metadata(open_to_all).map(|data| data.permissions().mode() & 0o7777);
        if is.ok() != Some(wanted) {
            chmod(open_to_all, Mode::from_raw_mode(wanted))
                .with_context(|| format!("cannot open {open_to_all} to all users"))?;
        }
    }
    Ok(())
}

/// Lets the file that the agent renews stand for the kernel's own boot id, which never changes.
pub(super) fn mount_boot_id() -> anyhow::Result<()> {
    mount_bind("/run/sandflare/boot-id", "/proc/sys/kernel/random/boot_id")
        .context("cannot mount the boot id")
}
