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

use crate::bounds::IoBounds;
use crate::device;

/// Where cgroup v2 is mounted on every system this runs on.
const MOUNT: &str = "/sys/fs/cgroup";
/// What every group of ours lies under.
const OURS: &str = "sandflare";
/// Hex digits that keep the trees of different nodes apart.
const NAME_CHARS: usize = 16;
/// `CGROUP2_SUPER_MAGIC` of the kernel.
const CGROUP2_MAGIC: i64 = 0x6367_7270;
/// What limits the requests of a group to a device.
const IO_MAX: &str = "io.max";
/// LIMIT: the VMM's own memory, page tables of the guest and socket buffers, over guest memory.
const SLACK_MIB: u64 = 64;
/// LIMIT: pages a guest's first write to one of its pages may be charged: the copy, and, where nobody
/// touched the page of the template's memory before, that one too, which until then was a hole.
const PAGES_PER_WRITE: u64 = 2;
/// LIMIT: vCPU threads (at most 8), device and fault threads of one VMM; it never forks.
const TASKS_MAX: u32 = 64;
/// In these many microseconds of time a group may use so many of processors.
const CPU_PERIOD_US: u64 = 100_000;
/// LIMIT: processors of a machine beside one for each vCPU: its devices and faults are served by
/// threads of their own, and its guest waits for them.
const CPUS_BESIDE: u64 = 1;
/// LIMIT: a group is busy for as long as the kernel tears its last process down.
const REMOVE_ATTEMPTS_MAX: u32 = 200;
/// Between two attempts to remove a busy group.
const REMOVE_PAUSE: Duration = Duration::from_millis(10);

/// The tree the groups of all sandboxes live in, or the knowledge that there is none.
#[derive(Clone, Debug)]
pub(crate) struct CgroupTree {
    root: Option<PathBuf>,
    /// `major:minor` of the device the data is on, where its use can be limited.
    device: Option<String>,
    /// How.
    io: IoBounds,
}

impl CgroupTree {
    /// Takes a tree in `/sys/fs/cgroup/sandflare` into use, with the controllers the kernel grants.
    /// It is named after `data_dir`, so that nodes with data of their own do not take each other's
    /// sandboxes for leftovers. Where there is no writable cgroup v2, sandboxes run without, and that
    /// is logged once.
    pub(crate) fn open(data_dir: &Path, io: IoBounds) -> Self {
        let name = blake3::hash(data_dir.as_os_str().as_bytes()).to_hex();
        let name: String = name.chars().take(NAME_CHARS).collect();
        match Self::prepare(Path::new(MOUNT), &name) {
            Ok(root) => {
                let device = match has_io(&root) {
                    Ok(()) => device::under(data_dir),
                    Err(error) => Err(error),
                };
                if let Err(error) = &device {
                    tracing::info!("sandboxes run without limits of disk requests: {error}");
                }
                Self { root: Some(root), device: device.ok(), io }
            }
            Err(source) => {
                tracing::info!(
                    "no cgroup v2 at {MOUNT} ({source}): sandboxes run without resource groups"
                );
                Self { root: None, device: None, io }
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
        for controller in ["+cpu", "+memory", "+pids", "+io"] {
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
        let mut group = Cgroup { path, io: None };
        self.limit(&mut group, size)?;
        Ok(Some(group))
    }

    /// Gives a group the limits of `size`.
    pub(crate) fn limit(&self, group: &mut Cgroup, size: Size) -> io::Result<()> {
        let vcpus = u64::from(size.vcpus());
        let memory = (u64::from(size.memory_mib()) * PAGES_PER_WRITE + SLACK_MIB) << 20;
        let cpu = (vcpus + CPUS_BESIDE) * CPU_PERIOD_US;
        // Weights follow the number of vCPUs; 100 is the kernel's default.
        let weight = (100 * vcpus).to_string();
        let mut limits = vec![
            ("memory.max", memory.to_string()),
            // Nobody's memory is written to a disk that others may see, and a machine that is short
            // of it ends as a whole rather than by one of its threads.
            ("memory.swap.max", "0".to_owned()),
            ("memory.oom.group", "1".to_owned()),
            ("pids.max", TASKS_MAX.to_string()),
            ("cpu.weight", weight.clone()),
            ("cpu.max", format!("{cpu} {CPU_PERIOD_US}")),
            // There where the kernel shares a device out by weights.
            ("io.weight", weight.clone()),
            ("io.bfq.weight", weight),
        ];
        if let Some(device) = &self.device {
            let IoBounds { bytes_per_vcpu, requests_per_vcpu } = self.io;
            let (bytes, requests) = (bytes_per_vcpu * vcpus, requests_per_vcpu * vcpus);
            let most = format!("rbps={bytes} wbps={bytes} riops={requests} wiops={requests}");
            let most = group.io.insert(format!("{device} {most}"));
            limits.push((IO_MAX, most.clone()));
        }
        for (file, value) in limits {
            match fs::write(group.path.join(file), value) {
                // The controller was not granted.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// The group a daemon before this one made for the VMM process with user id `uid`.
    pub(crate) fn find(&self, uid: u32) -> Option<Cgroup> {
        let path = self.root.as_ref()?.join(group_name(uid));
        path.is_dir().then_some(Cgroup { path, io: None })
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
            let leftover = Cgroup { path: entry.path(), io: None };
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
#[derive(Clone, Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    /// How its disk requests are limited.
    io: Option<String>,
}

/// While this is held, the disk requests of a group are not limited.
#[derive(Debug)]
pub(crate) struct IoUnlimited {
    file: PathBuf,
    limits: String,
}

impl Drop for IoUnlimited {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.file, &self.limits) {
            // The group goes with the machine.
            tracing::debug!("cannot write {}: {error}", self.file.display());
        }
    }
}

impl Cgroup {
    /// `cgroup.procs`, for the VMM to join by.
    pub(crate) fn procs(&self) -> io::Result<OwnedFd> {
        Ok(File::options().write(true).open(self.path.join("cgroup.procs"))?.into())
    }

    /// Whether the kernel killed something in it because it wanted more memory than it may use.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        events.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count != "0"))
    }

    /// Processor time that everything in it has taken, in microseconds.
    pub(crate) fn cpu_time_us(&self) -> Option<u64> {
        let stat = fs::read_to_string(self.path.join("cpu.stat")).ok()?;
        stat.lines().find_map(|line| line.strip_prefix("usage_usec ")?.trim().parse().ok())
    }

    /// A figure of its memory, such as `memory.current`; none also where it is without limit.
    pub(crate) fn memory_bytes(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.path.join(file)).ok()?.trim().parse().ok()
    }

    /// Lifts the limit of its disk requests, for work that the node asked its VMM for. Not twice at a
    /// time. Nothing where there is no such limit, or another one than this node set.
    pub(crate) fn io_unlimited(&self) -> Option<IoUnlimited> {
        let limits = self.io.clone()?;
        let file = self.path.join(IO_MAX);
        let found = fs::read_to_string(&file).ok()?;
        let (device, _) = limits.split_once(' ').filter(|_| found.trim() == limits)?;
        let all = format!("{device} rbps=max wbps=max riops=max wiops=max");
        fs::write(&file, all).ok().map(|()| IoUnlimited { file, limits })
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

/// Whether groups below `root` can limit disk requests.
fn has_io(root: &Path) -> io::Result<()> {
    let granted = fs::read_to_string(root.join("cgroup.subtree_control"))?;
    match granted.split_whitespace().any(|controller| controller == "io") {
        true => Ok(()),
        false => Err(io::Error::other("the kernel does not grant the io controller")),
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

#[cfg(test)]
mod test {
    use super::*;

    /// A tree in a directory, which shows what would be written for the kernel.
    fn tree(root: &Path) -> CgroupTree {
        let (root, device) = (Some(root.to_owned()), Some("254:0".to_owned()));
        CgroupTree { root, device, io: IoBounds::default() }
    }

    #[test]
    fn limits_follow_the_size() {
        let dir = tempfile::tempdir().unwrap();
        let tree = tree(dir.path());
        let limits = |uid, size| {
            let group = tree.create(uid, size).unwrap().unwrap();
            let read = |file: &str| fs::read_to_string(group.path.join(file)).unwrap();
            let files = ["cpu.weight", "cpu.max", "memory.max", "memory.swap.max", "io.weight"];
            (files.map(read), read("io.max"))
        };
        let (nano, nano_io) = limits(1, Size::Nano);
        assert_eq!(nano, ["100", "200000 100000", "1140850688", "0", "100"]);
        assert_eq!(nano_io, "254:0 rbps=134217728 wbps=134217728 riops=4096 wiops=4096");
        let (large, large_io) = limits(2, Size::Large);
        assert_eq!(large, ["400", "500000 100000", "17246978048", "0", "400"]);
        assert_eq!(large_io, "254:0 rbps=536870912 wbps=536870912 riops=16384 wiops=16384");
    }

    #[test]
    fn disk_requests_are_limited_as_the_node_was_set() {
        let dir = tempfile::tempdir().unwrap();
        let io = IoBounds { bytes_per_vcpu: 1 << 20, requests_per_vcpu: 50 };
        let tree = CgroupTree { io, ..tree(dir.path()) };
        let group = tree.create(1, Size::Large).unwrap().unwrap();
        let limits = fs::read_to_string(group.path.join(IO_MAX)).unwrap();
        assert_eq!(limits, "254:0 rbps=4194304 wbps=4194304 riops=200 wiops=200");
    }

    #[test]
    fn disk_requests_are_unlimited_only_while_the_node_waits_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let group = tree(dir.path()).create(1, Size::Nano).unwrap().unwrap();
        let file = group.path.join(IO_MAX);
        let read = || fs::read_to_string(&file).unwrap();
        let before = read();
        let unlimited = group.io_unlimited().unwrap();
        assert_eq!(read(), "254:0 rbps=max wbps=max riops=max wiops=max");
        drop(unlimited);
        assert_eq!(read(), before);
        // What an administrator set is not ours to lift.
        fs::write(&file, "254:0 wbps=1048576").unwrap();
        assert!(group.io_unlimited().is_none());
        assert!(Cgroup { io: None, ..group }.io_unlimited().is_none());
    }

    #[test]
    fn what_a_group_takes_is_read_where_the_kernel_tells_it() {
        let dir = tempfile::tempdir().unwrap();
        let group = tree(dir.path()).create(1, Size::Nano).unwrap().unwrap();
        assert_eq!((group.cpu_time_us(), group.memory_bytes("memory.current")), (None, None));
        let write = |file: &str, text: &str| fs::write(group.path.join(file), text).unwrap();
        write("cpu.stat", "usage_usec 3141592\nuser_usec 3000000\nsystem_usec 141592\n");
        write("memory.current", "104857600\n");
        assert_eq!(group.cpu_time_us(), Some(3_141_592));
        assert_eq!(group.memory_bytes("memory.current"), Some(100 << 20));
        assert_eq!(group.memory_bytes("memory.max"), Some(1_140_850_688));
        write("memory.max", "max\n");
        assert_eq!(group.memory_bytes("memory.max"), None);
    }

    #[test]
    fn without_cgroups_there_is_no_group() {
        let tree = CgroupTree { root: None, device: None, io: IoBounds::default() };
        assert!(tree.create(1, Size::Nano).unwrap().is_none());
    }
}
