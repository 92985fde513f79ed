//! A daemon that dies takes nothing with it that somebody was promised.

use std::time::{Duration, Instant};

use api_node::{CreateSandbox, SandboxState};
use base_types::SandboxId;
use rustix::process::{Pid, Signal};
use tokio::time::{sleep, timeout};

use crate::bad::over;
use crate::daemon::{Daemon, PATIENCE, request};
use crate::left::{until, until_nothing, vmm_of, vmms};

/// How long there is no daemon: long enough for a guest that stood still to be noticed.
const AWAY: Duration = Duration::from_secs(4);
/// Writes a number and the guest's time five times a second, for ever, whoever listens.
const TICKS: &str = "setsid sh -c 'n=0; while :; do n=$((n+1)); read up rest < /proc/uptime; \
                     echo $n $up; sleep 0.2; done > /root/ticks' </dev/null >/dev/null 2>&1 &";
/// LIMIT: two ticks are a fifth of a second apart; this is for an emulated processor under load.
const GAP_SECONDS_MAX: f64 = 3.0;

async fn uptime(daemon: &Daemon, id: SandboxId) -> f64 {
    let done = daemon.shell(id, "cut -d' ' -f1 /proc/uptime").await;
    done.stdout.trim().parse().unwrap_or_else(|_| panic!("{done:?}"))
}

/// Checks that the loop of [`TICKS`] missed nothing, and says how far it is.
async fn ticks(daemon: &Daemon, id: SandboxId) -> usize {
    let done = daemon.shell(id, "cat /root/ticks").await;
    let ticks: Vec<(usize, f64)> = done
        .stdout
        .lines()
        .map(|line| {
            let (number, uptime) = line.split_once(' ').unwrap();
            (number.parse().unwrap(), uptime.parse().unwrap())
        })
        .collect();
    assert!(!ticks.is_empty(), "{done:?}");
    for (index, pair) in ticks.windows(2).enumerate() {
        let [(first, before), (second, after)] = pair else { continue };
        assert_eq!((*first, *second), (index + 1, index + 2), "the loop lost a line");
        assert!(after - before < GAP_SECONDS_MAX, "{pair:?}: the loop stood still");
    }
    ticks.len()
}

async fn running(daemon: &Daemon, ids: &[SandboxId]) {
    for id in ids {
        let sandbox = daemon.client.sandbox_get(*id).await.unwrap();
        assert_eq!(sandbox.state, SandboxState::Running, "{:?}", sandbox.reason);
    }
}

pub(crate) async fn a_daemon_killed_while_its_sandboxes_run() {
    let daemon = Daemon::start(&["--pool", "nano=2"]).await;
    let named = CreateSandbox {
        name: Some("first".to_owned()),
        env: [("GREETING".to_owned(), "still here".to_owned())].into(),
        ..request()
    };
    let first = daemon.create_as(&named).await.unwrap().id;
    let (second, third) = (daemon.sandbox().await, daemon.sandbox().await);
    let all = [first, second, third];
    assert_eq!(daemon.shell(first, TICKS).await.code, 0);
    let before = daemon.client.sandbox_get(first).await.unwrap();
    let machines = all.map(|id| vmm_of(&id.to_string()).unwrap());
    let mut cut_off = daemon.start_command(second, "echo here; sleep 1000").await;
    assert!(timeout(PATIENCE, cut_off.next()).await.unwrap().unwrap().is_some());
    let (guest, host) = (uptime(&daemon, first).await, Instant::now());
    let written = ticks(&daemon, first).await;
    daemon.kill().await;
    // Shells that nobody had claimed end with their daemon, before anybody starts another.
    until("VMM processes", 3, || vmms().len()).await;
    sleep(AWAY).await;

    let begun = Instant::now();
    let mut daemon = Daemon::start(&["--pool", "nano=0"]).await;
    println!("serving {} ms after its start", begun.elapsed().as_millis());
    running(&daemon, &all).await;
    let begun = Instant::now();
    for id in all {
        daemon.works(id).await;
    }
    println!("all three answered within {} ms", begun.elapsed().as_millis());
    assert_eq!(daemon.client.sandbox_get(first).await.unwrap(), before);
    assert_eq!(all.map(|id| vmm_of(&id.to_string()).unwrap()), machines);
    let greeting = daemon.shell(first, "echo $GREETING; hostname").await;
    assert_eq!(greeting.stdout, "still here\nfirst\n", "{greeting:?}");
    let passed = (uptime(&daemon, first).await - guest, host.elapsed().as_secs_f64());
    println!("{:.1} s passed in the guest, {:.1} s outside", passed.0, passed.1);
    assert!(passed.0 > passed.1 - GAP_SECONDS_MAX, "the guest stood still: {passed:?}");
    let so_far = ticks(&daemon, first).await;
    assert!(so_far > written, "{written} lines, then {so_far}");

    // As often as it happens, and whatever comes in between.
    for _ in 0..2 {
        daemon.kill().await;
        daemon = Daemon::start(&["--pool", "nano=1"]).await;
        running(&daemon, &all).await;
        daemon.works(third).await;
    }
    let fourth = daemon.sandbox().await;
    let now = ticks(&daemon, first).await;
    assert!(now > so_far, "{so_far} lines, then {now}");
    for id in [second, fourth] {
        daemon.kill_sandbox(id).await;
    }
    until("machines of the two that are left", true, || {
        [second, fourth].iter().all(|id| vmm_of(&id.to_string()).is_none())
    })
    .await;
    for id in [first, third] {
        daemon.works(id).await;
    }
    // Those it took over end with it when its user stops it.
    daemon.stop().await;
}

pub(crate) async fn what_ends_while_no_daemon_runs() {
    let daemon = Daemon::start(&["--pool", "nano=0"]).await;
    let (shot, panicking, well) =
        (daemon.sandbox().await, daemon.sandbox().await, daemon.sandbox().await);
    let later = "setsid sh -c 'sleep 3; echo c > /proc/sysrq-trigger' </dev/null >/dev/null 2>&1 &";
    assert_eq!(daemon.shell(panicking, later).await.code, 0);
    daemon.kill().await;
    let victim = Pid::from_raw(vmm_of(&shot.to_string()).unwrap()).unwrap();
    rustix::process::kill_process(victim, Signal::KILL).unwrap();
    until("VMM processes", 1, || vmms().len()).await;

    let mut daemon = Daemon::start(&["--pool", "nano=0"]).await;
    for _ in 0..2 {
        over(&daemon, shot, "it ended while no node was running").await;
        over(&daemon, panicking, "the guest's kernel panicked").await;
        daemon.works(well).await;
        // What has failed stays so, with its reason.
        daemon.kill().await;
        daemon = Daemon::start(&["--pool", "nano=0"]).await;
    }
    for id in [shot, panicking, well] {
        daemon.kill_sandbox(id).await;
    }
    until_nothing().await;
    assert!(daemon.listed().await.is_empty());
    daemon.stop().await;
}
