//! What goes wrong while a sandbox is paused, resumed, forked or kept as a snapshot: the disk is full or
//! slow, memory is short, its VMM dies, its agent hangs. What was asked for is refused with one sentence,
//! or the sandbox is over with its reason; others notice nothing, and nothing half made stays.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use api_node::{CreateSandbox, CreateSnapshot, ErrorCode, Fork, SandboxState};
use base_types::SandboxId;
use client::ClientError;
use rustix::process::{Pid, Signal};
use tokio::time::{sleep, timeout};

use crate::bad::over;
use crate::daemon::{BALLAST, Daemon, PATIENCE, request, said};
use crate::full::{fill, free_bytes};
use crate::left::{groups, moments, sandboxes, until, until_nothing, vmm_of, vmms};

/// What a sandbox is asked for when something goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Pause,
    Resume,
    Fork,
    Snapshot,
}

const ALL: [Asked; 4] = [Asked::Pause, Asked::Resume, Asked::Fork, Asked::Snapshot];

async fn ask(daemon: &Daemon, id: SandboxId, asked: Asked) -> Result<(), ClientError> {
    let client = &daemon.client;
    let asking = async {
        match asked {
            Asked::Pause => client.sandbox_pause(id).await.map(drop),
            Asked::Resume => client.sandbox_resume(id).await.map(drop),
            Asked::Fork => client.sandbox_fork(id, &Fork::of(2)).await.map(drop),
            Asked::Snapshot => {
                client.snapshot_create(id, &CreateSnapshot::default()).await.map(drop)
            }
        }
    };
    timeout(PATIENCE, asking).await.unwrap()
}

/// Puts something on disk, and `mib` MiB that are not zero into memory.
async fn write(daemon: &Daemon, id: SandboxId, mib: u32) {
    let script =
        format!("echo before > /root/disk; sync; yes sandflare | head -c {mib}M > /dev/shm/memory");
    let done = daemon.shell(id, &script).await;
    assert_eq!(done.code, 0, "{done:?}");
}

/// Checks that it has all of [`write`], after whatever happened.
async fn whole(daemon: &Daemon, id: SandboxId, mib: u32) {
    let script = "cat /root/disk; wc -c < /dev/shm/memory; tail -c 10 /dev/shm/memory";
    let done = daemon.shell(id, script).await;
    let lines: Vec<_> = done.stdout.lines().collect();
    let bytes = u64::from(mib) << 20;
    assert_eq!(lines[..2], ["before", bytes.to_string().as_str()], "{done:?}");
    assert!("sandflare\nsandflare\n".contains(lines[2]), "{done:?}");
}

/// Names of what a sandbox has on disk.
fn files(id: SandboxId) -> Vec<String> {
    let entries = fs::read_dir(format!("/data/sandboxes/{id}")).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn mib_free() -> u64 {
    free_bytes() >> 20
}

pub(crate) async fn a_full_disk_while_one_is_written_down() {
    /// More than there is room for.
    const MEMORY_MIB: u32 = 96;
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    let (victim, other) = (daemon.sandbox().await, daemon.sandbox().await);
    let third = daemon.sandbox().await;
    write(&daemon, victim, MEMORY_MIB).await;
    let before = files(victim);
    let free = mib_free();
    // Enough to begin with, not enough to end.
    fill(72 << 20);
    for asked in [Asked::Pause, Asked::Fork, Asked::Snapshot] {
        let error = ask(&daemon, victim, asked).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::DiskFull), "{asked:?}: {error}");
        let said = said::<()>(Err(error));
        assert!(said.contains("the disk is full") && said.contains("free some space"), "{said}");
        daemon.works(other).await;
        until("room", true, || mib_free() >= 70).await;
        assert_eq!((moments(), sandboxes().len(), vmms().len()), (vec![], 3, 3), "{asked:?}");
        let names: Vec<_> = files(victim).iter().map(|name| kind(name)).collect();
        assert_eq!(names, before.iter().map(|name| kind(name)).collect::<Vec<_>>(), "{asked:?}");
        whole(&daemon, victim, MEMORY_MIB).await;
    }
    // Too little to begin: refused before the sandbox is held.
    fill(40 << 20);
    for asked in [Asked::Fork, Asked::Snapshot] {
        let error = ask(&daemon, victim, asked).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::DiskFull), "{asked:?}: {error}");
    }
    fs::remove_file(BALLAST).unwrap();

    // Room again: it can be paused, and has everything, also what it wrote meanwhile.
    assert_eq!(daemon.shell(victim, "echo later > /root/later; sync").await.code, 0);
    ask(&daemon, victim, Asked::Pause).await.unwrap();
    // Not a byte: nothing that would need to be written down is done, and nothing is lost by it.
    fill(0);
    let error = ask(&daemon, victim, Asked::Resume).await.unwrap_err();
    println!("resume: {error}");
    let codes = [Some(ErrorCode::DiskFull), Some(ErrorCode::NoCapacity)];
    assert!(codes.contains(&error.code()), "{error}");
    // A kill makes room, and the node remembers it.
    daemon.kill_sandbox(third).await;
    daemon.kill().await;
    fs::remove_file(BALLAST).unwrap();
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    assert!(!daemon.listed().await.contains(&third));
    let state = daemon.client.sandbox_get(victim).await.unwrap().state;
    assert_eq!(state, SandboxState::Paused);
    whole(&daemon, victim, MEMORY_MIB).await;
    assert_eq!(daemon.shell(victim, "cat /root/later").await.stdout, "later\n");
    daemon.works(other).await;
    for id in [victim, other] {
        daemon.kill_sandbox(id).await;
    }
    until_nothing().await;
    until("the disk as it was", true, || mib_free() + 8 >= free).await;
    daemon.stop().await;
}

/// A file without its number: a new overlay may take the place of one of the same kind.
fn kind(name: &str) -> String {
    name.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned()
}

/// Whether the state of a machine is being written, or a machine is being made.
fn under_way(asked: Asked, id: SandboxId, before: &[i32]) -> bool {
    let written = |dir: PathBuf| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("state-"))
    };
    match asked {
        Asked::Pause => written(Path::new("/data/sandboxes").join(id.to_string())),
        Asked::Resume => vmms().iter().any(|pid| !before.contains(pid)),
        Asked::Fork | Asked::Snapshot => {
            moments().iter().any(|name| written(Path::new("/data/snapshots").join(name)))
        }
    }
}

pub(crate) async fn a_vmm_killed_while_its_sandbox_is_written_down_or_made_again() {
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    let other = daemon.sandbox().await;
    for asked in ALL {
        for delay in [0, 80] {
            let victim = daemon.sandbox().await;
            write(&daemon, victim, 8).await;
            if asked == Asked::Resume {
                ask(&daemon, victim, Asked::Pause).await.unwrap();
            }
            let (own, before) = (vmm_of(&victim.to_string()), vmms());
            let shooting = async {
                let begun = Instant::now();
                while !under_way(asked, victim, &before) && begun.elapsed() < PATIENCE {
                    sleep(Duration::from_millis(1)).await;
                }
                sleep(Duration::from_millis(delay)).await;
                let made = || vmms().into_iter().filter(|pid| !before.contains(pid)).collect();
                let targets: Vec<_> = own.map_or_else(made, |own| vec![own]);
                for pid in &targets {
                    // It may have ended by itself in this moment.
                    let pid = Pid::from_raw(*pid).unwrap();
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                }
                targets
            };
            let (outcome, shot) = tokio::join!(ask(&daemon, victim, asked), shooting);
            let refused = outcome.is_err();
            if refused {
                said(outcome);
            }
            daemon.works(other).await;
            until("those that were shot", false, || vmms().iter().any(|pid| shot.contains(pid)))
                .await;
            let state = settled(&daemon, victim).await;
            println!("{asked:?} {delay} ms: refused {refused}, {state:?}");
            match (asked, state) {
                (_, SandboxState::Failed) => over(&daemon, victim, "the VMM process").await,
                // Written down before, or not begun: nothing is lost.
                (Asked::Pause | Asked::Resume, _) => whole(&daemon, victim, 8).await,
                (Asked::Fork | Asked::Snapshot, _) => panic!("{state:?} without a machine"),
            }
            for id in daemon.listed().await.into_iter().filter(|id| *id != other) {
                daemon.kill_sandbox(id).await;
            }
            for snapshot in daemon.client.snapshot_list().await.unwrap().snapshots {
                daemon.client.snapshot_delete(snapshot.id).await.unwrap();
            }
            let there = || (vmms().len(), groups().len(), sandboxes().len(), moments().len());
            until("what is left", (1, 1, 1, 0), there).await;
        }
    }
    daemon.stop().await;
}

/// Where a sandbox is once its owner knows whether its machine is there.
async fn settled(daemon: &Daemon, id: SandboxId) -> SandboxState {
    let begun = Instant::now();
    loop {
        let state = daemon.client.sandbox_get(id).await.unwrap().state;
        match state {
            SandboxState::Failed | SandboxState::Paused => return state,
            SandboxState::Running if vmm_of(&id.to_string()).is_some() => return state,
            _ => assert!(begun.elapsed() < PATIENCE, "{state:?} for ever"),
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// Stops all of a guest's agent, from inside, a moment after this returns.
async fn hang(daemon: &Daemon, id: SandboxId) {
    let script = "mkdir /tmp/groups && mount -t cgroup2 none /tmp/groups && mkdir /tmp/groups/ice && \
                  echo 1 > /tmp/groups/ice/cgroup.procs && \
                  setsid sh -c 'sleep 0.5; echo 1 > /tmp/groups/ice/cgroup.freeze; \
                  until grep -q \"frozen 1\" /tmp/groups/ice/cgroup.events; do sleep 0.1; done; \
                  touch /dev/shm/frozen' </dev/null >/dev/null 2>&1 &";
    let done = daemon.shell(id, script).await;
    assert_eq!(done.code, 0, "{done:?}");
}

/// Waits until a guest's agent hangs: twice in a row it says nothing for as long as a busy machine takes to
/// run a program.
async fn hung(daemon: &Daemon, id: SandboxId) {
    let (begun, mut silent) = (Instant::now(), 0);
    while silent < 2 {
        assert!(begun.elapsed() < PATIENCE, "the agent of {id} goes on");
        match timeout(Duration::from_secs(4), daemon.shell(id, "true")).await {
            Ok(_) => silent = 0,
            Err(_) => silent += 1,
        }
    }
}

pub(crate) async fn an_agent_that_hangs_in_one_that_is_paused_or_forked() {
    let daemon = Daemon::start(&["--pool", "nano=0", "--ready-timeout-ms", "8000"]).await;
    let (victim, parent, other) =
        (daemon.sandbox().await, daemon.sandbox().await, daemon.sandbox().await);
    for id in [victim, parent] {
        hang(&daemon, id).await;
    }
    for id in [victim, parent] {
        hung(&daemon, id).await;
    }
    // A snapshot asks nothing of the agent, what is made of it does.
    let kept = daemon.client.snapshot_create(parent, &CreateSnapshot::default()).await.unwrap();
    let from = CreateSandbox { snapshot: Some(kept.id), ..request() };
    let silent = |error: ClientError| {
        assert_eq!(error.code(), Some(ErrorCode::AgentSilent), "{error}");
        let said = said::<()>(Err(error));
        assert!(said.contains("did not answer within 8000 ms"), "{said}");
    };
    let (made, forked) = tokio::join!(daemon.create_as(&from), ask(&daemon, parent, Asked::Fork));
    silent(made.unwrap_err());
    silent(forked.unwrap_err());
    daemon.works(other).await;
    daemon.client.snapshot_delete(kept.id).await.unwrap();
    let there = || (vmms().len(), groups().len(), sandboxes().len(), moments().len());
    until("what is left", (3, 3, 3, 0), there).await;

    // Neither does a pause; a resume does, and its sandbox is over with the reason.
    ask(&daemon, victim, Asked::Pause).await.unwrap();
    silent(ask(&daemon, victim, Asked::Resume).await.unwrap_err());
    over(&daemon, victim, "it did not resume").await;
    until("machines", (2, 2), || (vmms().len(), groups().len())).await;
    daemon.works(other).await;
    for id in [victim, parent, other] {
        daemon.kill_sandbox(id).await;
    }
    until_nothing().await;
    daemon.stop().await;
}

/// The resource group of a sandbox's machine.
fn group(id: SandboxId) -> PathBuf {
    let pid = vmm_of(&id.to_string()).unwrap();
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    Path::new("/sys/fs/cgroup").join(path)
}

/// Lets all machines together write `bytes` a second to the data disk, given the group of one.
fn slow_down(group: &Path, bytes: u64) {
    let all = group.parent().unwrap();
    for above in [all.parent().and_then(Path::parent).unwrap(), all.parent().unwrap()] {
        fs::write(above.join("cgroup.subtree_control"), "+io").unwrap();
    }
    let disk = rustix::fs::stat("/data").unwrap().st_dev;
    let (major, minor) = (rustix::fs::major(disk), rustix::fs::minor(disk));
    fs::write(all.join("io.max"), format!("{major}:{minor} wbps={bytes}")).unwrap();
}

/// Leaves a machine `bytes` more of memory than it has.
fn tighten(group: &Path, bytes: u64) {
    let current = fs::read_to_string(group.join("memory.current")).unwrap();
    let most = current.trim().parse::<u64>().unwrap() + bytes;
    fs::write(group.join("memory.max"), most.to_string()).unwrap();
}

pub(crate) async fn a_slow_disk_and_little_memory_while_one_is_written_down() {
    const MEMORY_MIB: u32 = 24;
    const BYTES_PER_SECOND: u64 = 4 << 20;
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    let (slow, tight, other) =
        (daemon.sandbox().await, daemon.sandbox().await, daemon.sandbox().await);
    write(&daemon, slow, MEMORY_MIB).await;
    write(&daemon, tight, MEMORY_MIB).await;
    slow_down(&group(slow), BYTES_PER_SECOND);
    let begun = Instant::now();
    let (mut others, mut slowest) = (0, Duration::ZERO);
    let mut pausing = Box::pin(ask(&daemon, slow, Asked::Pause));
    let paused = loop {
        let asked = Instant::now();
        tokio::select! {
            biased;
            paused = &mut pausing => break paused,
            () = daemon.works(other) => {
                others += 1;
                slowest = slowest.max(asked.elapsed());
            }
        }
    };
    drop(pausing);
    paused.unwrap();
    let took = begun.elapsed();
    println!("paused within {took:?}; {others} commands in another meanwhile, slowest {slowest:?}");
    // It was slow indeed, and only for itself.
    assert!(took > Duration::from_secs(u64::from(MEMORY_MIB << 20) / BYTES_PER_SECOND / 2));
    assert!(others >= 5 && slowest < took / 2, "{others} commands, slowest {slowest:?}");
    whole(&daemon, slow, MEMORY_MIB).await;

    // What waits for the slow disk does not fit: it is written all the same, or over with the reason.
    tighten(&group(tight), 6 << 20);
    match ask(&daemon, tight, Asked::Pause).await {
        Ok(()) => whole(&daemon, tight, MEMORY_MIB).await,
        refused => {
            assert!(said(refused).contains(SHORT));
            over(&daemon, tight, SHORT).await;
        }
    }
    daemon.works(slow).await;
    // Too little for what its guest uses.
    tighten(&group(other), 8 << 20);
    let done = daemon.shell(other, "yes | head -c 64M > /dev/shm/memory").await;
    assert_eq!(done.code, 125, "{done:?}");
    over(&daemon, other, SHORT).await;
    daemon.works(slow).await;
    for id in [slow, tight, other] {
        daemon.kill_sandbox(id).await;
    }
    until_nothing().await;
    daemon.stop().await;
}

/// What a sandbox is over by that wanted more memory than it may use.
const SHORT: &str = "out of the memory it may use";
