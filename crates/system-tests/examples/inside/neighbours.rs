//! Sandboxes that use all they can get, beside one that is quiet: what each of them may take.

use std::fs;

use base_types::SandboxId;

use api_node::SpawnRequest;

use crate::bad::SHORT_OF_MEMORY;
use crate::daemon::{BALLAST, Daemon};
use crate::full::{fill, free_bytes};
use crate::left::{groups, processes, until, until_nothing, vmms};

/// What a disk that is nearly full has left: a little more than what is kept back of 3 GiB.
const LEFT: u64 = 230 << 20;
/// What is kept back of it: a twentieth of some 2.9 GiB.
const KEPT_BACK_MIN: u64 = 128 << 20;

/// Threads of all programs of the host; those of its kernel come and go.
fn threads() -> usize {
    ["sandflared", "sandflare-vmm", "inside"].into_iter().flat_map(processes).map(tasks).sum()
}

fn tasks(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// Starts a script as root that never ends.
async fn unleash(daemon: &Daemon, id: SandboxId, script: &str) {
    let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
    let spawn = SpawnRequest { argv, user: Some("root".to_owned()), ..SpawnRequest::default() };
    daemon.client.process_spawn(id, &spawn).await.unwrap();
}

/// What a group says in one of its files.
fn group_file(group: &str, file: &str) -> String {
    let mut dirs = fs::read_dir("/sys/fs/cgroup/sandflare").unwrap().flatten();
    let found = dirs.find_map(|tree| fs::read_to_string(tree.path().join(group).join(file)).ok());
    found.unwrap_or_else(|| panic!("{group} has no {file}")).trim().to_owned()
}

pub(crate) async fn limits_of_a_machine() {
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    let id = daemon.sandbox().await;
    let found = groups();
    let [group] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(group_file(group, "cpu.weight"), "100");
    assert_eq!(group_file(group, "cpu.max"), "200000 100000");
    assert_eq!(group_file(group, "pids.max"), "64");
    assert_eq!(group_file(group, "memory.max"), ((1024 + 64) << 20).to_string());
    assert_eq!(group_file(group, "memory.oom.group"), "1");
    let disk = rustix::fs::stat("/data").unwrap().st_dev;
    let (major, minor) = (rustix::fs::major(disk), rustix::fs::minor(disk));
    let io = format!("{major}:{minor} rbps=134217728 wbps=134217728 riops=4096 wiops=4096");
    assert_eq!(group_file(group, "io.max"), io);
    // They are lifted while the node writes it down, and hold again when it goes on, and under the
    // next daemon.
    daemon.client.sandbox_fork(id, &api_node::Fork::of(1)).await.unwrap();
    assert_eq!(group_file(group, "io.max"), io);
    daemon.kill().await;
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    assert_eq!(group_file(group, "io.max"), io);
    for id in daemon.listed().await {
        daemon.works(id).await;
        daemon.kill_sandbox(id).await;
    }
    // The node itself is in a group that is served first.
    let own = fs::read_to_string(format!("/proc/{}/cgroup", daemon.pid())).unwrap();
    assert_eq!(own.trim(), "0::/node");
    assert_eq!(fs::read_to_string("/sys/fs/cgroup/node/cpu.weight").unwrap().trim(), "10000");
    daemon.stop().await;
}

pub(crate) async fn hogs_beside_a_quiet_sandbox() {
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    let quiet = daemon.sandbox().await;
    let (busy, memory, bomb) =
        (daemon.sandbox().await, daemon.sandbox().await, daemon.sandbox().await);
    let (threads_before, vmms_before) = (threads(), vmms());
    assert_eq!(daemon.shell(memory, SHORT_OF_MEMORY).await.code, 0);
    unleash(&daemon, memory, "while :; do tail /dev/zero; echo killed >> /root/killed; done").await;

    // The hog of memory is ended by its own kernel, in its own machine, and tries again.
    let killed = daemon.shell(memory, "until test -s /root/killed; do sleep 0.2; done").await;
    println!("memory hog: {killed:?}");
    unleash(&daemon, busy, "while :; do :; done").await;
    unleash(&daemon, bomb, "bomb() { bomb | bomb & }; bomb").await;
    for _ in 0..8 {
        daemon.works(quiet).await;
    }
    // Processes of a guest are none of the host's: a fork bomb is one thread that is busy.
    assert_eq!(vmms(), vmms_before);
    let threads = threads();
    println!("{threads_before} threads before, {threads} now");
    assert!(threads <= threads_before + 16, "{threads_before} threads became {threads}");
    for group in groups() {
        let most: u64 = group_file(&group, "memory.max").parse().unwrap();
        let peak: u64 = group_file(&group, "memory.peak").parse().unwrap();
        let tasks: u64 = group_file(&group, "pids.current").parse().unwrap();
        println!("{group}: {} MiB at most, {tasks} tasks", peak >> 20);
        assert!(peak <= most && tasks <= 64, "{group}: {peak} bytes, {tasks} tasks");
    }
    // Others can still come and go, and the hogs can be ended.
    let new = daemon.sandbox().await;
    for id in [busy, memory, bomb, new] {
        daemon.kill_sandbox(id).await;
    }
    daemon.works(quiet).await;
    daemon.kill_sandbox(quiet).await;
    until_nothing().await;
    daemon.stop().await;
}

pub(crate) async fn a_disk_filler_beside_a_quiet_sandbox() {
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    let (quiet, filler) = (daemon.sandbox().await, daemon.sandbox().await);
    fill(LEFT);
    // Its own disk has room for this; the host's has not.
    let script = "dd if=/dev/zero of=/root/big bs=1M count=600 conv=fsync";
    let written = daemon.shell(filler, script).await;
    let left = free_bytes();
    println!("filler: {written:?}; {} MiB are left", left >> 20);
    assert_ne!(written.code, 0, "{written:?}");
    assert!(left >= KEPT_BACK_MIN, "{left} bytes are left");
    until("the reason in the log", true, || {
        crate::daemon::log_text().contains("kept for the node and for smaller disks")
    })
    .await;
    // What it has it can still read; others write, come, go, and are written down.
    let written = daemon.shell(quiet, "head -c 8M /dev/urandom > /root/some && sync").await;
    assert_eq!(written.code, 0, "{written:?}");
    daemon.client.sandbox_pause(quiet).await.unwrap();
    let sum = daemon.shell(quiet, "sha256sum < /root/some").await;
    assert_eq!(sum.code, 0, "{sum:?}");
    let new = daemon.sandbox().await;
    daemon.kill_sandbox(new).await;
    until("machines", 2, || vmms().len()).await;
    // It gives back what it took when it is gone.
    let before = free_bytes();
    daemon.kill_sandbox(filler).await;
    let gives_back = || free_bytes() > before + (50 << 20);
    until("room", true, gives_back).await;
    fs::remove_file(BALLAST).unwrap();
    daemon.works(quiet).await;
    daemon.kill_sandbox(quiet).await;
    until_nothing().await;
    daemon.stop().await;
}
