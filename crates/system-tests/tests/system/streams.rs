//! Streams of commands: nothing is lost, doubled or mixed, and they always end.

use std::fmt::Write as _;
use std::time::Duration;

use api_node::{ErrorCode, ExecRequest};
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::timeout;

use crate::host::{PATIENCE, shared};
use crate::random_bytes;
use crate::sandbox::{End, command, follow, shell};

#[tokio::test]
async fn many_megabytes_of_output_come_whole_and_in_order() {
    let host = shared().await;
    let sandbox = host.sandbox("base").await;
    let done = sandbox.exec(&command(&["seq", "1", "600000"])).await;
    assert_eq!(done.code(), 0);
    let mut expected = String::new();
    (1..=600_000).for_each(|number| writeln!(expected, "{number}").unwrap());
    assert!(done.stdout == expected.as_bytes(), "{} bytes came", done.stdout.len());
    assert!(done.stderr.is_empty());
}

#[tokio::test]
async fn eight_sandboxes_with_interleaved_streams_lose_nothing() {
    let host = shared().await;
    let sandboxes = join_all((0..8).map(|_| host.sandbox("base"))).await;
    let script = "i=0; while [ $i -lt 1000 ]; do echo \"$NAME out $i\"; echo \"$NAME err $i\" >&2; \
                  i=$((i+1)); done; exit $NAME";
    let runs = sandboxes.iter().zip(1_u8..).map(async |(sandbox, name)| {
        let env = [("NAME".to_owned(), name.to_string())].into();
        (name, sandbox.exec(&ExecRequest { env, ..shell(script) }).await)
    });
    for (name, done) in join_all(runs).await {
        assert_eq!(done.code(), name);
        for (stream, found) in [("out", done.stdout()), ("err", done.stderr())] {
            let expected: Vec<_> = (0..1000).map(|i| format!("{name} {stream} {i}")).collect();
            assert!(found.lines().eq(expected), "{name} {stream}: {} bytes", found.len());
        }
    }
}

#[tokio::test]
async fn eight_commands_at_once_in_one_sandbox_keep_their_streams_apart() {
    let host = shared().await;
    let sandbox = host.sandbox("base").await;
    for round in 0..4 {
        let runs = (0..8).map(async |name| {
            let script = format!("seq {name}000 {name}999; exit {name}");
            (name, sandbox.sh(&script).await)
        });
        for (name, done) in join_all(runs).await {
            assert_eq!(done.code(), name, "round {round}: {}", done.stderr());
            let first = u32::from(name) * 1000;
            let expected = (first..first + 1000).map(|number| number.to_string());
            assert!(done.stdout().lines().eq(expected), "{name}: {}", done.stdout());
        }
    }
}

#[tokio::test]
async fn standard_input_is_given_in_pieces_and_closed() {
    let host = shared().await;
    let sandbox = host.sandbox("base").await;
    let request = ExecRequest { stdin: true, ..command(&["sha256sum"]) };
    let (events, process) = sandbox.start(&request).await;
    let input = random_bytes(1 << 20);
    for piece in input.chunks(300_000) {
        let piece = Bytes::copy_from_slice(piece);
        sandbox.client.process_stdin(sandbox.id(), process, piece, false).await.unwrap();
    }
    sandbox.client.process_stdin(sandbox.id(), process, Bytes::new(), true).await.unwrap();
    let done = timeout(PATIENCE, follow(events)).await.unwrap();
    let request = ExecRequest { stdin: true, ..shell("cat > copy; sha256sum < copy") };
    let (events, process) = sandbox.start(&request).await;
    let whole = Bytes::from(input);
    sandbox.client.process_stdin(sandbox.id(), process, whole, true).await.unwrap();
    let again = timeout(PATIENCE, follow(events)).await.unwrap();
    assert_eq!((done.code(), again.code()), (0, 0));
    assert_eq!(done.stdout(), again.stdout());
    assert_eq!(sandbox.text("stat -c %s copy").await, (1 << 20).to_string());
}

#[tokio::test]
async fn input_whose_sender_leaves_is_given_whole_and_what_follows_is_understood() {
    let host = shared().await;
    let sandbox = host.sandbox("base").await;
    let script = "until [ -e go ]; do sleep 0.1; done; wc -c";
    let (events, process) = sandbox.start(&ExecRequest { stdin: true, ..shell(script) }).await;
    // More than lies between a sender and a program that reads nothing.
    let much = Bytes::from(random_bytes(1 << 20));
    let sending = sandbox.client.process_stdin(sandbox.id(), process, much, false);
    // It has come to the node by then, which needs milliseconds for that.
    timeout(Duration::from_secs(5), sending).await.expect_err("nobody reads it yet");
    sandbox.text("touch go").await;
    sandbox.client.process_stdin(sandbox.id(), process, Bytes::new(), true).await.unwrap();
    let done = timeout(PATIENCE, follow(events)).await.unwrap();
    assert_eq!((done.code(), done.stdout().trim()), (0, "1048576"));
}

#[tokio::test]
async fn a_signal_reaches_the_command() {
    let host = shared().await;
    let sandbox = host.sandbox("base").await;
    let script = "trap 'echo caught; exit 9' USR1; echo ready; while :; do sleep 0.1; done";
    let (mut events, process) = sandbox.start(&shell(script)).await;
    let ready = loop {
        match timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap().body {
            api_node::ExecBody::Heartbeat => {}
            first => break first,
        }
    };
    assert!(matches!(ready, api_node::ExecBody::Stdout { data } if data == b"ready\n"));
    sandbox.client.process_signal(sandbox.id(), process, 10).await.unwrap();
    let mut output = Vec::new();
    let code = loop {
        match timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap().body {
            api_node::ExecBody::Stdout { data } => output.extend(data),
            api_node::ExecBody::Exit { exit_code, .. } => break exit_code,
            // The whole group gets it: the shell tells how the `sleep` it waited for ended.
            api_node::ExecBody::Stderr { .. } => {}
            other => assert!(matches!(other, api_node::ExecBody::Heartbeat), "{other:?}"),
        }
    };
    assert_eq!((code, output.as_slice()), (9, b"caught\n".as_slice()));
}

#[tokio::test]
async fn a_command_nobody_listens_to_is_killed_with_all_it_started() {
    let host = shared().await;
    let sandbox = host.sandbox("base").await;
    let (events, _) = sandbox.start(&shell("sleep 4321 & sleep 4321")).await;
    // The brackets keep the words out of this search's own command line.
    let count =
        "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -o 'sleep 432[1]' | wc -l";
    let before: u32 = sandbox.text(count).await.parse().unwrap();
    assert!(before >= 2, "{before}");
    drop(events);
    let gone = async { while sandbox.text(count).await != "0" {} };
    timeout(PATIENCE, gone).await.expect("the command is killed");
}

#[tokio::test]
async fn killing_a_sandbox_ends_the_streams_of_its_commands_with_an_error() {
    let host = shared().await;
    let sandbox = host.sandbox("base").await;
    let (events, _) = sandbox.start(&shell("echo begun; sleep 1000")).await;
    sandbox.kill().await.unwrap();
    let mut events = events;
    let end = loop {
        match timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap().body {
            api_node::ExecBody::Error { failure, exit_code } => {
                break End::Error { failure, code: exit_code };
            }
            api_node::ExecBody::Exit { .. } => panic!("the command did not end by itself"),
            _ => {}
        }
    };
    assert!(timeout(PATIENCE, events.next()).await.unwrap().unwrap().is_none());
    let End::Error { failure, code } = end else { unreachable!("nothing else was taken") };
    assert_eq!((failure.code, code), (ErrorCode::SandboxOver, 125), "{failure}");
}
