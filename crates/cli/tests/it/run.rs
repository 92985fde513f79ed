use std::time::Duration;

use api_node::{ErrorCode, Failure};
use base_types::Size;
use expect_test::expect;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::sandflare::Sandflare;

#[tokio::test]
async fn the_streams_stay_apart_and_the_code_is_the_commands() {
    let sandflare = Sandflare::new().await;
    expect![[r"
        exit code: 7
        ----- stdout -----
        out
        ----- stderr -----
        err
    "]]
    .assert_eq(&sandflare.shown(&["run", "--", "print", "out\n", "err\n", "7"]).await);
    assert_eq!(sandflare.node.sandbox_count(), 0);
}

#[tokio::test]
async fn bytes_pass_through_unchanged() {
    let sandflare = Sandflare::new().await;
    let output = sandflare.output(&["run", "bytes", "300007"]).await;
    let expected: Vec<u8> = (0..=u8::MAX).cycle().take(300_007).collect();
    assert!(output.stdout == expected);
    assert_eq!(output.status.code(), Some(0));
}

#[tokio::test]
async fn standard_input_is_passed_on() {
    let sandflare = Sandflare::new().await;
    let input: Vec<u8> = (0..=u8::MAX).rev().cycle().take(500_001).collect();
    let mut command = sandflare.command(&["run", "cat"]);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let sent = input.clone();
    let writer = tokio::spawn(async move {
        stdin.write_all(&sent).await.unwrap();
    });
    let output = child.wait_with_output().await.unwrap();
    writer.await.unwrap();
    assert!(output.stdout == input, "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn environment_directory_and_user_reach_the_command() {
    let sandflare = Sandflare::new().await;
    let args = ["run", "-e", "A=1", "-e", "HERE", "-w", "/tmp", "-u", "root", "--", "where"];
    let output = sandflare.command(&args).env("HERE", "there").output().await.unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "{\"A\": \"1\", \"HERE\": \"there\"} Some(\"/tmp\") Some(\"root\")\n",
    );
}

#[tokio::test]
async fn every_way_a_command_can_end_has_its_code() {
    let sandflare = Sandflare::new().await;
    expect![[r#"
        exit code: 124
        ----- stdout -----
        partial
        ----- stderr -----
        sandflare: the command was killed because its time limit of 1.5 s was up
    "#]]
    .assert_eq(&sandflare.shown(&["run", "--timeout", "1.5s", "slow"]).await);
    expect![[r#"
        exit code: 127
        ----- stdout -----
        ----- stderr -----
        error: `nowhere` is not in the sandbox
        hint: check the name; it is one inside of the sandbox
    "#]]
    .assert_eq(&sandflare.shown(&["run", "nowhere"]).await);
    expect![[r#"
        exit code: 126
        ----- stdout -----
        ----- stderr -----
        error: `locked` is not executable
        hint: inside a sandbox, use a user who may do this; else, a key with the role admin
    "#]]
    .assert_eq(&sandflare.shown(&["run", "locked"]).await);
    expect![[r#"
        exit code: 125
        ----- stdout -----
        ----- stderr -----
        error: the guest's kernel panicked
        hint: make another sandbox
    "#]]
    .assert_eq(&sandflare.shown(&["run", "lost"]).await);
    expect![[r#"
        exit code: 125
        ----- stdout -----
        ----- stderr -----
        error: the node at http://NODE went away in the middle of its answer
        hint: see `sandflare logs` for what happened to the node
    "#]]
    .assert_eq(&sandflare.shown(&["run", "vanish"]).await);
    assert_eq!(sandflare.node.sandbox_count(), 0);
}

#[tokio::test]
async fn what_cannot_be_meant_is_one_sentence_and_125() {
    let sandflare = Sandflare::new().await;
    expect![[r#"
        exit code: 125
        ----- stdout -----
        ----- stderr -----
        error: there is no template `none`
        hint: list them with `sandflare template ls`
    "#]]
    .assert_eq(&sandflare.shown(&["run", "--template", "none", "true"]).await);
    expect![[r#"
        exit code: 125
        ----- stdout -----
        ----- stderr -----
        error: invalid value 'huge' for '--size <SIZE>': unknown size `huge`; the sizes are nano, micro, small, medium and large

        For more information, try '--help'.
    "#]].assert_eq(&sandflare.shown(&["run", "--size", "huge", "true"]).await);
    expect![[r#"
        exit code: 125
        ----- stdout -----
        ----- stderr -----
        error: `-e NOT_SET` names a variable that is not set here
        hint: set it, or give its value: -e NOT_SET=VALUE
    "#]]
    .assert_eq(&sandflare.shown(&["run", "-e", "NOT_SET", "true"]).await);
    expect![[r#"
        exit code: 125
        ----- stdout -----
        ----- stderr -----
        error: `cwd` must be an absolute path of the sandbox, such as /home/agent/x
        hint: mend what the message names
    "#]]
    .assert_eq(&sandflare.shown(&["run", "-w", "relative", "true"]).await);
    expect![[r#"
        exit code: 125
        ----- stdout -----
        ----- stderr -----
        error: there is no sandbox sbx_0000000000000063
        hint: `sandflare ps` shows those there are
    "#]]
    .assert_eq(&sandflare.shown(&["exec", "sbx_0000000000000063", "true"]).await);
    sandflare.node.fail_next_create(
        Failure::new(ErrorCode::AgentSilent, "the guest's agent did not answer within 5 s")
            .with_hint("see the node's log"),
    );
    let shown = sandflare.shown(&["run", "true"]).await;
    assert!(shown.contains("error: the guest's agent did not answer within 5 s\n"), "{shown}");
    assert!(shown.contains("hint: see the node's log\nrequest: req_"), "{shown}");
    assert_eq!(sandflare.node.sandbox_count(), 0);
}

#[tokio::test]
async fn a_missing_snapshot_is_made_with_its_progress_on_stderr() {
    let sandflare = Sandflare::new().await;
    sandflare.node.forget_snapshot(&"agent".parse().unwrap(), Size::Nano);
    let output = sandflare.output(&["run", "echo", "hi"]).await;
    assert_eq!(output.stdout, b"hi\n");
    let stderr = String::from_utf8(output.stderr).unwrap();
    for line in ["booting the guest ...", "writing the snapshot ...", ": built ("] {
        assert!(stderr.contains(line), "{stderr}");
    }
}

#[tokio::test]
async fn a_signal_reaches_the_command_and_ends_its_sandbox() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let sandflare = Sandflare::new().await;
        let child = sandflare.spawn(&["run", "--", "wait"]);
        sandflare.node.sandbox_exists().await;
        let pid = i32::try_from(child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
        let output = child.wait_with_output().await.unwrap();
        assert_eq!(output.status.code(), Some(code));
        assert_eq!(sandflare.node.sandbox_count(), 0);
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_the_command_and_its_sandbox() {
    let sandflare = Sandflare::new().await;
    let mut child = sandflare.spawn(&["run", "bytes", "100000000"]);
    let mut stdout = child.stdout.take().unwrap();
    let mut some = [0; 1000];
    stdout.read_exact(&mut some).await.unwrap();
    drop(stdout);
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(sandflare.node.sandbox_count(), 0);
}

#[tokio::test]
async fn a_node_killed_under_a_command_is_noticed() {
    let sandflare = Sandflare::new().await;
    let child = sandflare.spawn(&["run", "--", "wait"]);
    sandflare.node.sandbox_exists().await;
    drop(sandflare.served);
    let waited = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output());
    let output = waited.await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(125));
}
