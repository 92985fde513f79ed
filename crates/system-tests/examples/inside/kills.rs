//! `SIGKILL` and `SIGSTOP` at every moment: nothing leaks, nothing stays half made, the next create works.

use std::time::Duration;

use api_node::{BuildBody, SandboxState};
use base_types::Size;
use rustix::process::{Pid, Signal};
use tokio::time::{sleep, timeout};

use crate::bad::over;
use crate::daemon::{Daemon, PATIENCE, base, follow, said};
use crate::left::{groups, half_made, sandboxes, until, until_nothing, vmm_of, vmms};

fn signal(pid: i32, signal: Signal) {
    // It may have ended by itself in this moment.
    let _ = rustix::process::kill_process(Pid::from_raw(pid).unwrap(), signal);
}

pub(crate) async fn a_killed_vmm() {
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    let (victim, other) = (daemon.sandbox().await, daemon.sandbox().await);
    assert_eq!((vmms().len(), groups().len(), sandboxes().len()), (2, 2, 2));
    let running = daemon.start_command(victim, "sleep 1000").await;
    signal(vmm_of(&victim.to_string()).unwrap(), Signal::KILL);
    let done = follow(running).await;
    assert_eq!(done.code, 125, "{done:?}");
    assert!(done.failure.unwrap().message.contains("the VMM process ended (signal 9)"));
    over(&daemon, victim, "the VMM process ended (signal 9)").await;
    // Its directory is kept with its reason; process and group are gone at once.
    until("VMM processes", 1, || vmms().len()).await;
    until("groups", 1, || groups().len()).await;
    daemon.works(other).await;
    let third = daemon.sandbox().await;
    daemon.kill_sandbox(victim).await;
    assert_eq!(sandboxes().len(), 2);
    for id in [other, third] {
        daemon.kill_sandbox(id).await;
    }
    until_nothing().await;
    daemon.stop().await;
}

pub(crate) async fn a_vmm_killed_during_a_create() {
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    daemon.kill_sandbox(daemon.sandbox().await).await;
    let open_files = || std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    until_nothing().await;
    let before = open_files();
    for delay in [0, 40, 80, 120, 180, 250, 400] {
        let shooting = async {
            while vmms().is_empty() {
                sleep(Duration::from_millis(1)).await;
            }
            sleep(Duration::from_millis(delay)).await;
            vmms().into_iter().for_each(|pid| signal(pid, Signal::KILL));
        };
        let (outcome, ()) = tokio::join!(daemon.create(), shooting);
        match outcome {
            // The shot came after the last step.
            Ok(sandbox) => {
                over(&daemon, sandbox.id, "the VMM process ended").await;
                daemon.kill_sandbox(sandbox.id).await;
            }
            Err(error) => {
                println!("after {delay} ms");
                said::<()>(Err(error));
            }
        }
        until_nothing().await;
        assert!(daemon.client.sandbox_list().await.unwrap().sandboxes.is_empty());
    }
    daemon.kill_sandbox(daemon.sandbox().await).await;
    until_nothing().await;
    // Connections of this client may come and go; what a machine takes would show eightfold.
    assert!(open_files() <= before + 4, "{} open files, {before} before", open_files());
    daemon.stop().await;
}

pub(crate) async fn a_stopped_vmm() {
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    let (victim, other) = (daemon.sandbox().await, daemon.sandbox().await);
    let running = daemon.start_command(victim, "sleep 1000").await;
    signal(vmm_of(&victim.to_string()).unwrap(), Signal::STOP);
    let asked = async { said(daemon.client.sandbox_stats(victim).await) };
    let (asked, done) = tokio::join!(asked, follow(running));
    assert!(asked.contains("did not answer within"), "{asked}");
    assert_eq!(done.code, 125, "{done:?}");
    over(&daemon, victim, "did not answer within").await;
    until("VMM processes", 1, || vmms().len()).await;
    daemon.works(other).await;
    daemon.kill_sandbox(victim).await;

    // A kill does not wait for what is stuck.
    signal(vmm_of(&other.to_string()).unwrap(), Signal::STOP);
    daemon.kill_sandbox(other).await;
    until_nothing().await;
    daemon.stop().await;
}

pub(crate) async fn a_daemon_killed_during_creates_and_kills() {
    // A sandbox is there with all it has or not at all, whatever its daemon was doing.
    for delay in [5, 60, 140, 300] {
        let daemon = Daemon::start(&["--pool", "nano=1"]).await;
        daemon.empty().await;
        let client = daemon.client.clone();
        let creating = tokio::spawn(async move {
            let (first, second) = (crate::daemon::request(), crate::daemon::request());
            let made = tokio::join!(client.sandbox_create(&first), client.sandbox_create(&second));
            if let Ok(sandbox) = made.0 {
                let _ = client.sandbox_kill(sandbox.id).await;
            }
        });
        until("a create under way", true, || creating.is_finished() || !sandboxes().is_empty())
            .await;
        sleep(Duration::from_millis(delay)).await;
        daemon.kill().await;
        creating.await.unwrap();
    }
    for delay in [0, 10, 40] {
        let daemon = Daemon::start(&["--pool", "nano=0"]).await;
        daemon.empty().await;
        let id = daemon.sandbox().await;
        let client = daemon.client.clone();
        let killing = tokio::spawn(async move { client.sandbox_kill(id).await });
        let stopping = async {
            while daemon
                .client
                .sandbox_get(id)
                .await
                .is_ok_and(|s| s.state == SandboxState::Running)
            {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, stopping).await.unwrap();
        sleep(Duration::from_millis(delay)).await;
        daemon.kill().await;
        // Either the answer came first or the connection broke.
        let _ = killing.await.unwrap();
    }
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    daemon.empty().await;
    until_nothing().await;
    assert!(daemon.client.sandbox_list().await.unwrap().sandboxes.is_empty());
    daemon.sandbox().await;
    daemon.stop().await;
}

pub(crate) async fn a_daemon_killed_during_a_template_build() {
    // While it boots, while memory is written, while the working set is recorded.
    for percent in [5, 65, 90] {
        let daemon = Daemon::start(&["--check-roots", "off", "--pool", "nano=1"]).await;
        until("half-made templates", vec![], half_made).await;
        let mut events = daemon.client.template_build(&base(), Size::Micro).await.unwrap();
        let reached = async {
            while let Some(event) = events.next().await.unwrap() {
                match event.body {
                    BuildBody::Step { percent: now, .. } if now >= percent => return,
                    BuildBody::Step { .. } | BuildBody::Heartbeat => {}
                    other => panic!("before {percent}: {other:?}"),
                }
            }
        };
        timeout(PATIENCE, reached).await.unwrap();
        daemon.kill().await;
        until("VMM processes", vec![], vmms).await;
        assert_eq!(half_made().len(), 1);
    }
    let daemon = Daemon::start(&["--check-roots", "off", "--pool", "nano=0"]).await;
    until_nothing().await;
    // What was whole is still used: no build takes place.
    let begun = std::fs::read_dir("/data/templates").unwrap().count();
    assert_eq!(begun, 1);
    daemon.sandbox().await;
    daemon.build(Size::Micro).await.unwrap();
    daemon.stop().await;
}
