//! What a node in the portable host keeps when the power goes, and when its daemon crashes.
//!
//! A QEMU that is killed takes all of its guest's memory with it, and so what the node had written and
//! not flushed: to the node inside that is the power going.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api_node::{
    BuildBody, CreateKey, CreateSandbox, CreateSnapshot, CreatedKey, ErrorCode, Role, SandboxState,
    Secret,
};
use base_types::{SandboxId, Size, SnapshotId};
use client::{Client, ClientError, Credentials};
use portable_host::{Config, PortableHost};
use rustix::process::{Pid, Signal};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::host::{Host, PATIENCE, images, private};
use crate::inside::beside;
use crate::sandbox::{Sandbox, follow_while_there, shell};

/// How many of each thing must have been answered for when the power goes.
const EACH_MIN: usize = 3;

/// What the node answered for.
#[derive(Debug, Default)]
struct Answered {
    /// Paused for good, and what each holds.
    paused: Vec<(SandboxId, usize)>,
    /// And what each holds.
    snapshots: Vec<(SnapshotId, usize)>,
    keys: Vec<CreatedKey>,
    revoked: Vec<CreatedKey>,
}

type Noted = Arc<Mutex<Answered>>;

fn base() -> CreateSandbox {
    CreateSandbox { template: "base".parse().unwrap(), ..CreateSandbox::default() }
}

async fn write(client: &Client, id: SandboxId, number: usize) -> Result<(), ClientError> {
    let script = format!("echo {number} > ~/file; echo {number} > /dev/shm/memory");
    let done = follow_while_there(client.process_exec(id, &shell(&script)).await?).await?;
    assert_eq!(done.code(), 0, "{done:?}");
    Ok(())
}

/// Makes sandboxes and pauses each, until the node is gone.
async fn pause(client: Client, noted: Noted) -> Result<(), ClientError> {
    for number in 0.. {
        let id = client.sandbox_create(&base()).await?.id;
        write(&client, id, number).await?;
        client.sandbox_pause(id).await?;
        noted.lock().unwrap().paused.push((id, number));
    }
    Ok(())
}

/// Keeps one moment of a sandbox after the other, until the node is gone.
async fn keep(client: Client, noted: Noted) -> Result<(), ClientError> {
    let id = client.sandbox_create(&base()).await?.id;
    for number in 0.. {
        write(&client, id, number).await?;
        let snapshot = client.snapshot_create(id, &CreateSnapshot::default()).await?;
        noted.lock().unwrap().snapshots.push((snapshot.id, number));
    }
    Ok(())
}

/// Makes keys and revokes every second one, until the node is gone.
async fn hand_out(client: Client, noted: Noted) -> Result<(), ClientError> {
    for number in 0.. {
        let name = format!("key-{number}");
        let key = CreateKey { project: None, name, role: Role::User, expires_at_ms: None };
        let key = client.key_create(&key).await?;
        if number % 2 == 0 {
            noted.lock().unwrap().keys.push(key);
        } else {
            client.key_delete(key.facts.id).await?;
            noted.lock().unwrap().revoked.push(key);
        }
    }
    Ok(())
}

/// Cuts the power of a node that is up while it writes down everything at once, and checks that what it
/// had answered for is there when it comes up again. Leaves it down.
pub(crate) async fn cut_in_the_middle_of_everything(host: &Host) {
    let (client, noted) = (host.client(), Noted::default());
    let mut work = JoinSet::new();
    work.spawn(pause(client.clone(), noted.clone()));
    work.spawn(keep(client.clone(), noted.clone()));
    work.spawn(hand_out(client.clone(), noted.clone()));
    let begun = Instant::now();
    let enough = || {
        let noted = noted.lock().unwrap();
        let Answered { paused, snapshots, keys, revoked } = &*noted;
        [paused.len(), snapshots.len(), keys.len(), revoked.len()].iter().all(|n| *n >= EACH_MIN)
    };
    while !enough() {
        assert!(begun.elapsed() < PATIENCE, "{noted:?}");
        if let Some(ended) = work.try_join_next() {
            panic!("{ended:?}");
        }
        sleep(Duration::from_millis(5)).await;
    }
    kill_qemu(host).await;
    while let Some(ended) = work.join_next().await {
        ended.unwrap().unwrap_err();
    }
    host.up().await;

    let noted = std::mem::take(&mut *noted.lock().unwrap());
    let Answered { paused, snapshots, keys, revoked } = &noted;
    println!(
        "answered for: {} pauses, {} snapshots, {} keys, {} revoked",
        paused.len(),
        snapshots.len(),
        keys.len(),
        revoked.len()
    );
    let client = host.client();
    for sandbox in client.sandbox_list().await.unwrap().sandboxes {
        // What ran is over and says why; what was being paused is either.
        let whole = sandbox.state == SandboxState::Paused;
        assert!(whole || sandbox.reason.is_some(), "{sandbox:?}");
    }
    for (id, number) in paused {
        let made = client.sandbox_get(*id).await.unwrap();
        assert_eq!(made.state, SandboxState::Paused, "{made:?}");
        holds(&Sandbox::new(host, made), *number).await;
    }
    let listed = client.snapshot_list().await.unwrap().snapshots;
    for (id, number) in snapshots {
        assert!(listed.iter().any(|snapshot| snapshot.id == *id), "{id} is not in {listed:?}");
        let from = CreateSandbox { snapshot: Some(*id), ..CreateSandbox::default() };
        let made = client.sandbox_create(&from).await.unwrap();
        holds(&Sandbox::new(host, made), *number).await;
    }
    let with = |key: &CreatedKey| {
        let key = Some(key.secret.parse().unwrap());
        Client::with(&host.url(), &Credentials { key, ..Credentials::default() }).unwrap()
    };
    for key in keys {
        with(key).usage().await.unwrap();
    }
    for key in revoked {
        let refused = with(key).usage().await.unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::Unauthenticated), "{refused}");
    }
    for sandbox in client.sandbox_list().await.unwrap().sandboxes {
        client.sandbox_kill(sandbox.id).await.unwrap();
    }
    for snapshot in listed {
        client.snapshot_delete(snapshot.id).await.unwrap();
    }
    host.sandflare(&["down"]).await.succeeded();
    audit_is_whole(host, keys.iter().chain(revoked)).await;
}

async fn holds(sandbox: &Sandbox<'_>, number: usize) {
    assert_eq!(sandbox.text("cat ~/file /dev/shm/memory").await, format!("{number}\n{number}"));
}

/// Checks the audit log on the data disk of a host that is down: nothing is amiss, and every key that
/// was handed out is in it.
async fn audit_is_whole(host: &Host, keys: impl Iterator<Item = &CreatedKey>) {
    let copy = tempfile::tempdir().unwrap();
    let output = Command::new("debugfs")
        .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap()))
        .arg("-R")
        .arg(format!("rdump /audit {}", copy.path().display()))
        .arg(host.state().join("data.ext4"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let audit = copy.path().join("audit");
    let said = host.sandflare(&["audit", "verify", audit.to_str().unwrap()]).await;
    println!("{}", said.succeeded());
    let mut text = String::new();
    for entry in std::fs::read_dir(&audit).unwrap() {
        text.push_str(&std::fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    for key in keys {
        assert!(text.contains(&key.facts.id.to_string()), "{}", key.facts.id);
    }
}

/// Starts the node of a host that is down with a daemon that crashes once, and checks that it is started
/// again and serves the sandbox it had, which noticed nothing. Leaves it down.
pub(crate) async fn crash_of_the_daemon(host: &Host) {
    let secret: Secret =
        std::fs::read_to_string(host.home().join("api-key")).unwrap().trim().parse().unwrap();
    let hash: String = secret.hash().as_bytes().iter().map(|b| format!("{b:02x}")).collect();
    let args = [
        ["crash-once", "--images", "/images", "--data", "/data"].as_slice(),
        &["--listen", "10.0.2.15:7878", "--trust-network", "--pool", "nano=0"],
        &["--admin-key-hash", &hash],
    ];
    let args = args.concat().into_iter().map(str::to_owned).collect();
    let mut config = Config::new(host.state(), images().to_owned(), host.port(), args);
    config.program = "/bin/inside".to_owned();
    config.files = vec![(config.program.clone(), beside("examples/inside"))];
    let starting = tokio::task::spawn_blocking(move || PortableHost::start(&config, &|_| {}));
    starting.await.unwrap().unwrap();
    until_healthy(host).await;
    let client = host.client();
    let made = client.sandbox_create(&base()).await.unwrap();
    let sandbox = Sandbox::new(host, made);
    write(&client, sandbox.id(), 7).await.unwrap();
    let boot = sandbox.text("cat /proc/sys/kernel/random/boot_id").await;
    // Its answer may be lost with the daemon.
    let _ = client.snapshot_create(sandbox.id(), &CreateSnapshot::default()).await;
    let restarted = async {
        let log = host.state().join("kernel.log");
        while !String::from_utf8_lossy(&read(&log)).contains("(signal 9) and is started again") {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, restarted).await.unwrap();
    until_healthy(host).await;
    let seen = client.sandbox_get(sandbox.id()).await.unwrap();
    assert_eq!(seen.state, SandboxState::Running, "{:?}", seen.reason);
    holds(&sandbox, 7).await;
    assert_eq!(sandbox.text("cat /proc/sys/kernel/random/boot_id").await, boot);
    assert_eq!(client.snapshot_list().await.unwrap().snapshots.len(), 1);
    sandbox.kill().await.unwrap();
    let state = host.state();
    let stopping = tokio::task::spawn_blocking(move || PortableHost::at(&state).stop());
    println!("{:?}", stopping.await.unwrap().unwrap());
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_default()
}

async fn until_healthy(host: &Host) {
    let client = host.client();
    let healthy = async {
        while !client.health().await.is_ok_and(|health| health.ready) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, healthy).await.unwrap();
}

/// Kills QEMU as the kernel does when memory runs out, and waits until it is gone.
pub(crate) async fn kill_qemu(host: &Host) {
    let qemu = Pid::from_raw(host.qemu().unwrap()).unwrap();
    rustix::process::kill_process(qemu, Signal::KILL).unwrap();
    let begun = Instant::now();
    while host.qemu().is_some() {
        assert!(begun.elapsed() < PATIENCE, "QEMU survives SIGKILL");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn runs(host: &Host) {
    let said = host.sandflare(&["run", "--template", "base", "--", "echo", "fine"]).await;
    assert_eq!(said.succeeded(), "fine\n");
}

#[tokio::test]
async fn a_killed_portable_host_comes_up_again_with_its_data_whole() {
    let host = private().await;
    host.up().await;
    // In the middle of a template: it is made again from the start.
    let name = "base".parse().unwrap();
    let client = host.client();
    let mut events = client.template_build(&name, Size::Nano).await.unwrap();
    while let Some(event) = events.next().await.unwrap() {
        if matches!(event.body, BuildBody::Step { percent: 65.., .. }) {
            break;
        }
    }
    kill_qemu(&host).await;
    assert!(host.client().health().await.is_err());
    let without = host.sandflare(&["run", "--template", "base", "--", "true"]).await;
    assert_eq!(without.code, Some(125), "{}", without.stderr());
    assert!(without.stderr().contains("sandflare up"), "{}", without.stderr());
    host.up().await;
    runs(&host).await;
    let built = host.client().template_get(&name, Size::Nano).await.unwrap().built_at_ms;

    // In the middle of creates: the finished template is still there and used.
    let creating = {
        let client = host.client();
        let request = api_node::CreateSandbox { template: name.clone(), ..Default::default() };
        tokio::spawn(async move {
            let both =
                tokio::join!(client.sandbox_create(&request), client.sandbox_create(&request));
            both.0.is_ok() && both.1.is_ok()
        })
    };
    let begun = Instant::now();
    while host.client().sandbox_list().await.unwrap().sandboxes.is_empty() {
        assert!(begun.elapsed() < PATIENCE, "no create under way");
    }
    kill_qemu(&host).await;
    creating.await.unwrap();
    host.up().await;
    // Those that were there are remembered with what became of them; half-made ones are not.
    for sandbox in host.client().sandbox_list().await.unwrap().sandboxes {
        assert_eq!(sandbox.state, SandboxState::Failed);
        assert!(sandbox.reason.is_some(), "{sandbox:?}");
    }
    runs(&host).await;
    assert_eq!(host.client().template_get(&name, Size::Nano).await.unwrap().built_at_ms, built);

    cut_in_the_middle_of_everything(&host).await;
    crash_of_the_daemon(&host).await;
}
