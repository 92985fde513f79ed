//! Requests and guests that go wrong on their own: one sentence each, and nothing left.

use std::process::Stdio;
use std::time::Duration;

use api_node::{CreateOptions, CreateSandbox, ErrorCode, SandboxState};
use base_types::SandboxId;
use client::ClientError;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::daemon::{Daemon, PATIENCE, base, follow, request, said};
use crate::left::until_nothing;

pub(crate) async fn wrong_requests() {
    let daemon = Daemon::start(&["--pool", "nano=1"]).await;
    daemon.snapshot().await;
    let unknown = daemon.sandflare(&["run", "--template", "nosuch", "--", "true"]).await;
    assert_eq!(unknown.code, 125);
    assert!(unknown.stderr.contains("there is no template `nosuch`"), "{unknown:?}");
    assert!(unknown.stderr.contains("`base`"), "{unknown:?}");
    let size = daemon.sandflare(&["run", "--size", "huge", "--", "true"]).await;
    assert_ne!(size.code, 0);
    assert!(size.stderr.contains("huge") && size.stderr.contains("nano"), "{size:?}");
    let sandbox = daemon.sandflare(&["exec", "sbx_0000000000000001", "--", "true"]).await;
    assert_eq!(sandbox.code, 125);
    assert!(sandbox.stderr.contains("there is no sandbox"), "{sandbox:?}");
    daemon.stop().await;
}

pub(crate) async fn a_program_that_cannot_be_started() {
    let daemon = Daemon::start(&[]).await;
    let missing = daemon.sandflare(&["run", "--template", "base", "--", "nosuch"]).await;
    assert_eq!((missing.code, missing.stdout.as_str()), (127, ""));
    assert_eq!(missing.stderr.lines().count(), 1, "{missing:?}");
    assert!(missing.stderr.contains("nosuch"), "{missing:?}");
    let passwd = daemon.sandflare(&["run", "--template", "base", "--", "/etc/passwd"]).await;
    assert_eq!((passwd.code, passwd.stdout.as_str()), (126, ""));
    assert_eq!(passwd.stderr.lines().count(), 1, "{passwd:?}");
    assert!(passwd.stderr.contains("/etc/passwd"), "{passwd:?}");
    daemon.stop().await;
}

/// Takes most of a nano guest's memory away, without touching it: each page that is touched costs an
/// emulated machine a tenth of a millisecond, and there are a hundred thousand.
pub(crate) const SHORT_OF_MEMORY: &str = "echo 160 > /proc/sys/vm/nr_hugepages; \
     test $(cat /proc/sys/vm/nr_hugepages) -ge 120";

pub(crate) async fn a_guest_out_of_memory() {
    let daemon = Daemon::start(&[]).await;
    let (victim, other) = (daemon.sandbox().await, daemon.sandbox().await);
    assert_eq!(daemon.shell(victim, SHORT_OF_MEMORY).await.code, 0);
    // Keeps all of an endless line in memory.
    let eaten = daemon.shell(victim, "tail /dev/zero").await;
    assert_eq!(eaten.code, 137, "{eaten:?}");
    daemon.works(victim).await;
    daemon.works(other).await;
    daemon.stop().await;
}

pub(crate) async fn a_guest_that_panics_or_shuts_down() {
    let daemon = Daemon::start(&[]).await;
    let (other, panicking) = (daemon.sandbox().await, daemon.sandbox().await);
    // A command that runs meanwhile ends with the same reason.
    let meanwhile = daemon.start_command(panicking, "sleep 1000").await;
    let done = daemon.shell(panicking, "echo c > /proc/sysrq-trigger; sleep 1000").await;
    for done in [done, follow(meanwhile).await] {
        assert_eq!(done.code, 125, "{done:?}");
        let failure = done.failure.unwrap();
        assert_eq!(failure.code, ErrorCode::SandboxOver, "{failure}");
        assert!(failure.message.contains("the guest's kernel panicked"), "{failure}");
        assert!(failure.message.contains("sysrq triggered crash"), "{failure}");
    }
    over(&daemon, panicking, "the guest's kernel panicked").await;

    // Both a reset and a power-off end the machine.
    let (leaving, off) = (daemon.sandbox().await, daemon.sandbox().await);
    // Whether the kernel's last word gets out before an emergency restart is luck: what is common
    // to both reasons is in both.
    for (id, how, why) in [(leaving, "b", "the guest "), (off, "o", "the guest shut itself down")] {
        let script = format!("echo {how} > /proc/sysrq-trigger; sleep 1000");
        let done = daemon.shell(id, &script).await;
        assert_eq!(done.code, 125, "{done:?}");
        over(&daemon, id, why).await;
    }

    let listed = daemon.sandflare(&["ps"]).await;
    assert!(listed.stdout.contains("failed: the guest's kernel panicked"), "{listed:?}");
    assert!(listed.stdout.contains("failed: the guest shut itself down"), "{listed:?}");
    daemon.works(other).await;
    for id in [panicking, leaving, off, other] {
        daemon.kill_sandbox(id).await;
    }
    assert!(daemon.client.sandbox_list().await.unwrap().sandboxes.is_empty());
    daemon.stop().await;
}

/// Checks that a sandbox failed with a reason, is kept for it, and refuses everything else.
pub(crate) async fn over(daemon: &Daemon, id: SandboxId, reason: &str) {
    let failed = async {
        loop {
            let sandbox = daemon.client.sandbox_get(id).await.unwrap();
            if sandbox.state == SandboxState::Failed {
                return sandbox;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let sandbox = timeout(PATIENCE, failed).await.unwrap();
    let shown = sandbox.reason.unwrap();
    println!("over: {shown}");
    assert!(shown.contains(reason), "{shown}");
    let asked = said(daemon.client.sandbox_stats(id).await);
    assert!(asked.contains(reason), "{asked}");
}

pub(crate) async fn a_busy_port_and_a_second_node() {
    let daemon = Daemon::start(&["--pool", "nano=1"]).await;
    let id = daemon.sandbox().await;
    for (address, data, reason) in [
        ("127.0.0.1:7878", "/data/second", "127.0.0.1:7878 is in use by another program"),
        ("127.0.0.1:7979", "/data", "another node uses `/data`"),
    ] {
        let second = Command::new("/bin/sandflared")
            .args(["--images", "/images", "--data", data, "--listen", address, "--log", "error"])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let second = timeout(PATIENCE, second).await.unwrap().unwrap();
        let stderr = String::from_utf8(second.stderr).unwrap();
        println!("second: {stderr}");
        assert!(!second.status.success());
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(reason), "{stderr}");
        assert!(!std::path::Path::new("/data/second").exists());
    }
    // With data of its own another node does not disturb the first.
    let third = Command::new("/bin/sandflared")
        .args(["--images", "/images", "--data", "/data/third", "--listen", "127.0.0.1:7979"])
        .args(["--pool", "nano=0", "--no-auth"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let mut third = third.unwrap();
    let client = client::Client::new("http://127.0.0.1:7979").unwrap();
    let serving = async {
        while client.health().await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, serving).await.unwrap();
    daemon.works(id).await;
    client.node_stop().await.unwrap();
    assert!(timeout(PATIENCE, third.wait()).await.unwrap().unwrap().success());
    std::fs::remove_dir_all("/data/third").unwrap();
    daemon.works(id).await;
    daemon.stop().await;
}

pub(crate) async fn a_late_agent() {
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    daemon.sandbox().await;
    // No agent is as fast as that, so this is what one that never answers looks like.
    let options = CreateOptions { ready_timeout_ms: Some(1), ..CreateOptions::default() };
    let error = daemon.create_as(&CreateSandbox { options, ..request() }).await.unwrap_err();
    let ClientError::Refused(failure) = &error else { panic!("{error}") };
    println!("late: {failure}");
    assert_eq!(failure.code, ErrorCode::AgentSilent, "{failure}");
    assert!(failure.message.contains("did not answer within 1 ms"), "{failure}");
    let list = daemon.client.sandbox_list().await.unwrap().sandboxes;
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].template, base());
    daemon.kill_sandbox(list[0].id).await;
    until_nothing().await;
    daemon.stop().await;
}
