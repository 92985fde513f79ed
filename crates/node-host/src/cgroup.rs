//! One cgroup v2 per machine: what it may use, and the sure way to end everything in it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{io, thread};

use base_types::Size;

/// Where cgroup v2 is mounted on every system this runs on.
const MOUNT: &str = "/sys/fs/cgroup";
/// What every group of ours lies under.
const OURS: &str = "sandflare";
/// Hex digits that keep the trees of different nodes apart.
const NAME_CHARS: usize = 16;
/// `CGROUP2_SUPER_MAGIC` of the kernel.
const CGROUP2_MAGIC: i64 = 0x6367_7270;
/// LIMIT: the VMM's own memory, page tables of the guest and socket buffers, over guest memory.
const SLACK_MIB: u64 = 64;
/// LIMIT: pages a guest's first write to one of its pages may be charged: the copy, and, where nobody
/// touched the page of the template's memory before, that one too, which until then was a hole.
const PAGES_PER_WRITE: u64 = 2;
/// LIMIT: vCPU threads (at most 8), device and fault threads of one VMM; it never forks.
const TASKS_MAX: u32 = 64;
/// LIMIT: a group is busy for as long as the kernel tears its last process down.
const REMOVE_ATTEMPTS_MAX: u32 = 200;
/// Between two attempts to remove a busy group.
const REMOVE_PAUSE: Duration = Duration::from_millis(10);

/// The tree the groups of all sandboxes live in, or the knowledge that there is none.
#[derive(Clone, Debug)]
pub(crate) struct CgroupTree {
    root: Option<PathBuf>,
}

impl CgroupTree {
    /// Takes a tree in `/sys/fs/cgroup/sandflare` into use, with the controllers the kernel grants.
    /// It is named after `data_dir`, so that nodes with data of their own do not take each other's
    /// sandboxes for leftovers. Where there is no writable cgroup v2, sandboxes run without, and that
    /// is logged once.
    pub(crate) fn open(data_dir: &Path) -> Self {
        let name = blake3::hash(data_dir.as_os_str().as_bytes()).to_hex();
        let name: String = name.chars().take(NAME_CHARS).collect();
        match Self::prepare(Path::new(MOUNT), &name) {
            Ok(root) => Self { root: Some(root) },
            Err(source) => {
                tracing::info!(
                    "no cgroup v2 at {MOUNT} ({source}): sandboxes run without resource groups"
                );
                Self { root: None }
            }
        }
    }

    fn prepare(mount: &Path, name: &str) -> io::Result<PathBuf> {
        if rustix::fs::statfs(mount)?.f_type != CGROUP2_MAGIC {
            return Err(io::Error::other("another file system is mounted there"));
        }
        let ours = mount.join(OURS);
        let root = ours.join(name);
        make_dir(&ours)?;
        make_dir(&root)?;
        for controller in ["+cpu", "+memory", "+pids"] {
            // A controller may be missing or still held by version 1; the others work without it.
            for group in [mount, &ours, &root] {
                if let Err(error) = fs::write(group.join("cgroup.subtree_control"), controller) {
                    tracing::debug!("{controller} in {}: {error}", group.display());
                }
            }
        }
        Ok(root)
    }

    /// Makes the group of the VMM process with user id `uid`, with the limits of `size`.
    pub(crate) fn create(&self, uid: u32, size: Size) -> io::Result<Option<Cgroup>> {
        let Some(root) = &self.root else { return Ok(None) };
        let path = root.join(group_name(uid));
        make_dir(&path)?;
        let group = Cgroup { path };
        let memory = (u64::from(size.memory_mib()) * PAGES_PER_WRITE + SLACK_MIB) << 20;
        // Weight follows the number of vCPUs; 100 is the kernel's default.
        let weight = 100 * u32::from(size.vcpus());
        for (file, value) in [
            ("memory.max", memory.to_string()),
            ("pids.max", TASKS_MAX.to_string()),
            ("cpu.weight", weight.to_string()),
        ] {
            match fs::write(group.path.join(file), value) {
                // The controller was not granted.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                other => other?,
            }
        }
        Ok(Some(group))
    }

    /// The group a daemon before this one made for the VMM process with user id `uid`.
    pub(crate) fn find(&self, uid: u32) -> Option<Cgroup> {
        let path = self.root.as_ref()?.join(group_name(uid));
        path.is_dir().then_some(Cgroup { path })
    }

    /// Ends every process a daemon before this one left behind, and removes its groups, but for those
    /// of the user ids in `keep`. Blocks until they are gone or the limit is reached.
    pub(crate) fn clear(&self, keep: &BTreeSet<u32>) {
        let Some(root) = &self.root else { return };
        let Ok(entries) = fs::read_dir(root) else { return };
        let keep: BTreeSet<_> = keep.iter().map(|uid| OsString::from(group_name(*uid))).collect();
        for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())) {
            if keep.contains(&entry.file_name()) {
                continue;
            }
            let leftover = Cgroup { path: entry.path() };
            tracing::info!("ending what is left of {}", leftover.path.display());
            leftover.kill();
            leftover.remove();
        }
    }

    /// Removes the tree when no group is left in it.
    pub(crate) fn close(&self) {
        let Some(root) = &self.root else { return };
        if let Err(error) = fs::remove_dir(root) {
            tracing::debug!("cannot remove {}: {error}", root.display());
        }
    }
}

/// The group of one sandbox.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// `cgroup.procs`, for the VMM to join by.
    pub(crate) fn procs(&self) -> io::Result<OwnedFd> {
        Ok(File::options().write(true).open(self.path.join("cgroup.procs"))?.into())
    }

    /// Kills everything in the group.
    pub(crate) fn kill(&self) {
        if let Err(error) = fs::write(self.path.join("cgroup.kill"), "1") {
            tracing::debug!("cgroup.kill in {}: {error}", self.path.display());
        }
    }

    /// Removes the group; its processes must be dying. Blocks while the kernel says it is busy.
    pub(crate) fn remove(self) {
        for _ in 0..REMOVE_ATTEMPTS_MAX {
            match fs::remove_dir(&self.path) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    thread::sleep(REMOVE_PAUSE);
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!("cannot remove cgroup {}: {error}", self.path.display());
                    return;
                }
                Ok(()) | Err(_) => return,
            }
        }
        tracing::warn!(
            "cgroup {} stays busy; it is removed at the next start",
            self.path.display()
        );
    }
}

fn group_name(uid: u32) -> String {
    format!("machine-{uid}")
}

fn make_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}
