//! What a node may leave behind, and waiting until it is gone.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::time::sleep;

/// LIMIT: how long something may take to become true; far above what an emulated machine needs.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(20);

/// Waits until `what` is `wanted`.
pub(crate) async fn until<T: PartialEq + std::fmt::Debug>(
    name: &str,
    wanted: T,
    mut what: impl FnMut() -> T,
) {
    let begun = Instant::now();
    loop {
        let found = what();
        if found == wanted {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{name}: {found:?}, and not {wanted:?}");
        sleep(LOOK).await;
    }
}

fn names(dir: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Every process with this name: its number.
pub(crate) fn processes(name: &str) -> Vec<i32> {
    let numbers = names("/proc").into_iter().filter_map(|entry| entry.parse::<i32>().ok());
    let named = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
    };
    numbers.filter(named).collect()
}

/// Every VMM process there is.
pub(crate) fn vmms() -> Vec<i32> {
    processes("sandflare-vmm")
}

/// The VMM process of a sandbox, known by the disk it has open.
pub(crate) fn vmm_of(sandbox: &str) -> Option<i32> {
    vmms().into_iter().find(|pid| {
        names(format!("/proc/{pid}/fd")).iter().any(|number| {
            fs::read_link(format!("/proc/{pid}/fd/{number}"))
                .is_ok_and(|path| path.to_string_lossy().contains(sandbox))
        })
    })
}

/// The resource groups of machines.
pub(crate) fn groups() -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec!["/sys/fs/cgroup/sandflare".to_owned()];
    while let Some(dir) = dirs.pop() {
        for name in names(&dir) {
            let path = format!("{dir}/{name}");
            if name.starts_with("machine-") {
                found.push(name);
            } else if Path::new(&path).is_dir() {
                dirs.push(path);
            }
        }
    }
    found
}

/// The directories of sandboxes.
pub(crate) fn sandboxes() -> Vec<String> {
    names("/data/sandboxes")
}

/// The directories of snapshots, and of the moments that forks are made from.
pub(crate) fn moments() -> Vec<String> {
    names("/data/snapshots")
}

/// Templates that are not whole.
pub(crate) fn half_made() -> Vec<String> {
    names("/data/templates").into_iter().filter(|name| name.starts_with('.')).collect()
}

/// Waits until no machine is left: no process, no group, no directory, nothing half made.
pub(crate) async fn until_nothing() {
    until("VMM processes", vec![], vmms).await;
    until("groups", vec![], groups).await;
    until("sandboxes", vec![], sandboxes).await;
    until("moments", vec![], moments).await;
    until("half-made templates", vec![], half_made).await;
}

/// What is there of the machine beside the node's data.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct World {
    mounts: BTreeSet<String>,
    files: BTreeSet<String>,
}

impl World {
    pub(crate) fn now() -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let places = ["/", "/tmp", "/run", "/dev/shm", "/bin", "/etc", "/root", "/mnt"];
        let files = places
            .into_iter()
            .flat_map(|place| names(place).into_iter().map(move |name| format!("{place} {name}")));
        Self { mounts: mounts.lines().map(str::to_owned).collect(), files: files.collect() }
    }

    /// Fails when anything came or went.
    pub(crate) async fn is_unchanged(&self) {
        until("VMM processes", vec![], vmms).await;
        until("daemons", vec![], || processes("sandflared")).await;
        assert_eq!(processes("sandflare-hold").len(), 1, "KVM is kept awake by one process");
        assert_eq!(Self::now(), *self, "mounts and files of the machine");
    }
}
