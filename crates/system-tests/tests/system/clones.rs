//! Clones of one template: each is a machine of its own.

use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use api_node::{CreateOptions, CreateSandbox, MemoryPath};
use base_types::Size;
use futures_util::future::join_all;

use crate::host::shared;
use crate::sandbox::command;

const CLONES: usize = 10;

/// Prints what must differ, a name and a value on each line, and then the clocks.
const LOOK: &str = r#"
import os, secrets, socket, time, uuid, random
print("urandom", open("/dev/urandom", "rb").read(16).hex())
print("getrandom", os.getrandom(16).hex())
print("secrets", secrets.token_hex(16))
print("random", random.getrandbits(128))
print("uuid4", uuid.uuid4())
print("hostname", socket.gethostname())
print("etc-hostname", open("/etc/hostname").read().strip())
print("machine-id", open("/etc/machine-id").read().strip())
print("boot-id", open("/proc/sys/kernel/random/boot_id").read().strip())
print("uptime", time.clock_gettime(time.CLOCK_BOOTTIME), time.monotonic())
print("wall", time.time())
"#;

fn wall() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

#[tokio::test]
async fn ten_clones_differ_in_everything_that_must_be_theirs_and_agree_on_the_time() {
    let host = shared().await;
    host.snapshot("agent", Size::Nano).await;
    let mut sandboxes = Vec::new();
    for _ in 0..CLONES {
        let asked = Instant::now();
        sandboxes.push((asked, host.sandbox("agent").await));
    }
    let mut seen: Vec<(String, HashSet<String>)> = Vec::new();
    let mut continues = 0;
    for (asked, sandbox) in &sandboxes {
        let before = wall();
        let done = sandbox.exec(&command(&["python3", "-c", LOOK])).await;
        let (after, life) = (wall(), asked.elapsed().as_secs_f64());
        assert_eq!(done.code(), 0, "{}", done.stderr());
        for line in done.stdout().lines() {
            let (name, value) = line.split_once(' ').unwrap();
            match name {
                "wall" => {
                    let guest: f64 = value.parse().unwrap();
                    let near = before - 2.0 <= guest && guest <= after + 2.0;
                    assert!(near, "the guest says {guest}; it is {before} to {after}");
                }
                "uptime" => {
                    let (boot, monotonic) = value.split_once(' ').unwrap();
                    let (boot, monotonic): (f64, f64) =
                        (boot.parse().unwrap(), monotonic.parse().unwrap());
                    assert!((boot - monotonic).abs() < 2.0, "{value}");
                    // Older than the clone is: it goes on where the template stopped.
                    continues += usize::from(monotonic > life);
                }
                _ => {
                    assert!(value.len() >= 8, "{line}");
                    let index = seen.iter().position(|(known, _)| known == name);
                    let index = index.unwrap_or_else(|| {
                        seen.push((name.to_owned(), HashSet::new()));
                        seen.len() - 1
                    });
                    assert!(seen[index].1.insert(value.to_owned()), "twice: {line}");
                }
            }
        }
    }
    assert_eq!(seen.len(), 9, "{seen:?}");
    assert!(seen.iter().all(|(_, values)| values.len() == CLONES), "{seen:?}");
    assert!(continues > 0, "the monotonic clock of every clone began at its restore");
}

#[tokio::test]
async fn the_monotonic_clock_of_a_clone_never_goes_back() {
    let host = shared().await;
    let sandbox = host.sandbox("agent").await;
    let script = "import time\nlast = [0, 0]\nend = time.monotonic() + 3\nn = 0\n\
                  while time.monotonic() < end:\n  for i, c in enumerate((time.CLOCK_MONOTONIC, \
                  time.CLOCK_BOOTTIME)):\n    t = time.clock_gettime_ns(c)\n    \
                  assert t >= last[i], (t, last)\n    last[i] = t\n    n += 1\nprint(n > 1000)";
    let done = sandbox.exec(&command(&["python3", "-c", script])).await;
    assert_eq!((done.stdout().as_str(), done.stderr().as_str()), ("True\n", ""));
}

#[tokio::test]
async fn what_a_clone_writes_to_disk_and_memory_is_seen_by_no_other() {
    let host = shared().await;
    let sandboxes = join_all((0..5).map(|_| host.sandbox("base"))).await;
    let fill = async |sandbox: &crate::sandbox::Sandbox<'_>| {
        let id = sandbox.id();
        let script = format!(
            "set -e; test ! -e /dev/shm/own; test ! -e /etc/own; \
             for f in /dev/shm/own /etc/own; do yes {id} | head -n 60000 > $f; done; \
             echo {id} >> /etc/passwd; sync"
        );
        sandbox.root(&script).await;
    };
    join_all(sandboxes.iter().map(fill)).await;
    for sandbox in &sandboxes {
        let id = sandbox.id().to_string();
        let script = "cat /dev/shm/own /etc/own | sort -u; grep sbx_ /etc/passwd; \
                      echo 3 > /proc/sys/vm/drop_caches; sort -u /etc/own";
        let found = sandbox.root(script).await;
        assert!(found.lines().count() >= 3, "{found}");
        assert!(found.lines().all(|line| line == id), "{id}: {found}");
    }
    drop(sandboxes);
    let fresh = host.sandbox("base").await;
    assert_eq!(fresh.root("ls /dev/shm /etc | grep -c own; true").await, "0");
}

#[tokio::test]
async fn both_memory_paths_give_the_same_guest_with_and_without_prefetch() {
    let host = shared().await;
    host.snapshot("base", Size::Nano).await;
    // Text, data, page cache and anonymous memory, all through the restored pages.
    let work = "cat /usr/bin/[a-e]* 2>/dev/null | sha256sum; seq 1 50000 | sort -r | sha256sum; \
                nproc; grep MemTotal /proc/meminfo; cat /proc/version; ls /";
    let mut answers = HashSet::new();
    for memory_path in [MemoryPath::Private, MemoryPath::Userfault] {
        for prefetch in [true, false] {
            let options = CreateOptions {
                memory_path: Some(memory_path),
                prefetch: Some(prefetch),
                ..CreateOptions::default()
            };
            let sandbox = host
                .sandbox_of(&CreateSandbox {
                    template: "base".parse().unwrap(),
                    options,
                    ..CreateSandbox::default()
                })
                .await;
            answers.insert(sandbox.text(work).await);
            let stats = sandbox.client.sandbox_stats(sandbox.id()).await.unwrap();
            let shown = format!("{memory_path:?} prefetch={prefetch}: {stats:?}");
            assert_eq!(stats.faults > 0, memory_path == MemoryPath::Userfault, "{shown}");
            assert_eq!(stats.pages_prefetched > 0, prefetch, "{shown}");
        }
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[tokio::test]
async fn an_idle_clone_has_little_memory_of_its_own() {
    let host = shared().await;
    let sandbox = host.sandbox("agent").await;
    // What happens in a clone by itself happens in the first moments.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let stats = sandbox.client.sandbox_stats(sandbox.id()).await.unwrap();
    assert!(stats.pages_prefetched > 0, "{stats:?}");
    assert!(stats.private_pages > 0, "{stats:?}");
    assert!(stats.private_kib() <= 10 * 1024, "private memory: {stats:?}");
    assert!(stats.overhead_kib <= 5 * 1024, "memory beside the guest's: {stats:?}");
    let own =
        sandbox.text("head -c 20000000 /dev/zero | tr '\\0' 'x' > /dev/shm/x; echo done").await;
    assert_eq!(own, "done");
    let after = sandbox.client.sandbox_stats(sandbox.id()).await.unwrap();
    let grown = after.private_kib() - stats.private_kib();
    assert!((19_000..60_000).contains(&grown), "20 MB written grew it by {grown} KiB");
}

#[tokio::test]
async fn one_clone_after_the_other_works_from_its_first_moment() {
    let host = shared().await;
    for number in 0..5 {
        let sandbox = host.sandbox("base").await;
        let runs = (0..8).map(async |name| {
            let script = format!("seq {name}000 {name}999 | sha256sum; seq 1 300; exit {name}");
            (name, sandbox.sh(&script).await)
        });
        for (name, done) in join_all(runs).await {
            assert_eq!(done.code(), name, "clone {number}: {done:?}");
            assert_eq!(done.stdout().lines().count(), 301, "clone {number}");
        }
    }
}
