//! `sandflare run`: one command in a sandbox of its own, through the real command line.

use std::process::Stdio;

use api_node::ExecRequest;
use base_types::{SandboxId, Size};
use client::ClientError;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::timeout;

use crate::host::{PATIENCE, Said, Session, images, shared};
use crate::random_bytes;
use crate::sandbox::{End, command};

/// `sandflare run --template base`, with `args` behind it.
async fn run(host: &Session, args: &[&str]) -> Said {
    host.snapshot("base", Size::Nano).await;
    host.sandflare(&[&["run", "--template", "base"], args].concat()).await
}

#[tokio::test]
async fn run_shows_the_guests_kernel_keeps_the_streams_apart_and_exits_with_its_code() {
    let host = shared().await;
    let said = run(&host, &["--", "sh", "-c", "uname -r; echo err >&2; exit 7"]).await;
    assert_eq!(said.code, Some(7), "{said:?}");
    let manifest = std::fs::read(images().join("kernel/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(said.stdout().trim_end(), manifest["release"]);
    assert_eq!(said.stderr(), "err\n");
}

#[tokio::test]
async fn run_exits_with_127_and_126_for_what_is_not_there_and_what_cannot_be_run() {
    let host = shared().await;
    for (program, code, why) in [
        ("no-such-program", 127, "command not found"),
        ("/no/such/program", 127, "no such file"),
        ("/etc/passwd", 126, "permission denied"),
    ] {
        let said = run(&host, &["--", program]).await;
        assert_eq!(said.code, Some(code), "{said:?}");
        assert!(said.stderr().contains(program) && said.stderr().contains(why), "{said:?}");
        assert_eq!(said.stderr().lines().count(), 1, "{said:?}");
        assert_eq!(said.stdout(), "");
    }
}

#[tokio::test]
async fn run_exits_with_128_and_the_number_of_the_signal_that_ended_the_command() {
    let host = shared().await;
    for (signal, code) in [("KILL", 137), ("TERM", 143), ("SEGV", 139)] {
        let script = format!("echo before; kill -{signal} $$");
        let said = run(&host, &["--", "sh", "-c", &script]).await;
        assert_eq!((said.code, said.stdout().as_str()), (Some(code), "before\n"), "{said:?}");
    }
}

#[tokio::test]
async fn a_command_whose_time_is_up_ends_with_124_and_keeps_its_output() {
    let host = shared().await;
    let script = "echo out; echo err >&2; sleep 1000 & sleep 1000";
    let said = run(&host, &["--timeout", "8s", "--", "sh", "-c", script]).await;
    assert_eq!(said.code, Some(124), "{said:?}");
    assert_eq!(said.stdout(), "out\n");
    assert!(said.stderr().starts_with("err\n"), "{said:?}");
    assert!(said.stderr().contains("time limit of 8.0 s was up"), "{said:?}");
}

#[tokio::test]
async fn standard_input_arrives_byte_for_byte_and_comes_back() {
    let host = shared().await;
    host.snapshot("base", Size::Nano).await;
    for length in [0, 1, 3 << 20] {
        let input = random_bytes(length);
        let args = ["run", "--template", "base", "--", "cat"];
        let said = host.sandflare_with(&args, input.clone()).await;
        assert_eq!(said.code, Some(0), "{}", said.stderr());
        assert!(said.stdout == input, "{length} bytes came back as {}", said.stdout.len());
    }
}

#[tokio::test]
async fn a_command_gets_its_environment_directory_and_user() {
    let host = shared().await;
    let show = "echo \"$WORD|$(pwd)|$(id -un)|$HOME\"";
    let said = run(&host, &["-e", "WORD=two words", "--", "sh", "-c", show]).await;
    assert_eq!(said.succeeded(), "two words|/home/agent|agent|/home/agent\n");
    let said = run(&host, &["-u", "root", "-w", "/usr", "--", "sh", "-c", show]).await;
    assert_eq!(said.succeeded(), "|/usr|root|/root\n");
}

#[tokio::test]
async fn a_signal_to_the_command_line_ends_the_command_and_leaves_no_sandbox() {
    let host = shared().await;
    host.snapshot("base", Size::Nano).await;
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let script = "hostname; exec sleep 1000";
        let mut child = host
            .command(&["run", "--template", "base", "--", "sh", "-c", script])
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let name = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        let id = sandbox_of_host_name(&host, &name).await;
        let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
        let status = timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(code));
        let error = host.client().sandbox_get(id).await.unwrap_err();
        assert!(matches!(error, ClientError::Refused(_)), "{error}");
    }
}

/// The sandbox whose host name is `name`, which is made of its id.
async fn sandbox_of_host_name(host: &Session, name: &str) -> SandboxId {
    let list = host.client().sandbox_list().await.unwrap();
    let mut ids = list.sandboxes.iter().map(|sandbox| sandbox.id);
    let named = |id: &SandboxId| name == format!("sandbox-{:08x}", id.bits() >> 32);
    ids.find(named).unwrap_or_else(|| panic!("no sandbox has the host name {name}"))
}

#[tokio::test]
async fn a_command_that_ends_at_once_many_times_always_tells_its_code() {
    let host = shared().await;
    let sandbox = host.sandbox("base").await;
    for round in 0..40_u8 {
        assert_eq!(sandbox.sh(&format!("exit {round}")).await.code(), round);
    }
    for code in [0, 1, 2, 7, 42, 124, 125, 126, 127, 128, 137, 200, 254, 255] {
        assert_eq!(sandbox.sh(&format!("exit {code}")).await.code(), code);
    }
}

#[tokio::test]
async fn the_end_of_a_command_tells_its_signal_and_whether_its_time_was_up() {
    let host = shared().await;
    let sandbox = host.sandbox("base").await;
    let done = sandbox.sh("kill -HUP $$").await;
    assert!(
        matches!(done.end, End::Exit { code: 129, signal: Some(1), timed_out: false }),
        "{done:?}"
    );
    let limited = ExecRequest { time_limit_ms: Some(500), ..command(&["sleep", "1000"]) };
    let done = sandbox.exec(&limited).await;
    assert!(
        matches!(done.end, End::Exit { code: 137, signal: Some(9), timed_out: true }),
        "{done:?}"
    );
}
