//! Processes that live on their own: left, followed again, and on a terminal.

use api_node::{EventsQuery, ExecBody, ExecEvent, PtySize, SocketRequest, SpawnRequest};
use bytes::Bytes;
use client::{Events, SocketEvent, SocketReader};
use tokio::time::timeout;

use crate::host::{PATIENCE, shared};
use crate::sandbox::{command, shell};

async fn next(events: &mut Events<ExecEvent>) -> ExecEvent {
    loop {
        let event = timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap();
        if event.body != ExecBody::Heartbeat {
            return event;
        }
    }
}

/// Output from here to the end, with no number left out, and the exit code.
async fn rest(mut events: Events<ExecEvent>, mut last: Option<u64>) -> (Vec<u8>, u8) {
    let mut output = Vec::new();
    loop {
        let event = next(&mut events).await;
        assert!(last.is_none_or(|last| event.seq == last + 1), "{event:?} after {last:?}");
        last = Some(event.seq);
        match event.body {
            ExecBody::Stdout { data } => output.extend(data),
            ExecBody::Exit { exit_code, .. } => return (output, exit_code),
            other => assert!(matches!(other, ExecBody::Started { .. }), "{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_process_that_was_left_is_followed_again_and_nothing_is_missed() {
    let host = shared().await;
    let sandbox = host.sandbox("base").await;
    let (client, id) = (&sandbox.client, sandbox.id());
    // Every byte there is, in pieces, and more of them when it is told so.
    let script = "for i in $(seq 1 200); do echo \"first $i\"; done; read go; \
                  for i in $(seq 1 200); do printf '\\377\\000%s\\n' $i; done; exit 6";
    let request = SpawnRequest { stdin: true, ..shell(script).into() };
    let process = client.process_spawn(id, &request).await.unwrap();
    assert!(process.running && process.pid.is_some());
    let mut first = client.process_events(id, process.id, EventsQuery::default()).await.unwrap();
    let (mut seen, mut output) = (None, Vec::new());
    while !output.ends_with(b"first 100\n") && output.len() < 1000 {
        let event = next(&mut first).await;
        seen = Some(event.seq);
        if let ExecBody::Stdout { data } = event.body {
            output.extend(data);
        }
    }
    drop(first);
    client.process_stdin(id, process.id, Bytes::from_static(b"go\n"), true).await.unwrap();
    let over = async { while client.process_list(id).await.unwrap().processes[0].running {} };
    timeout(PATIENCE, over).await.unwrap();
    let again = client.process_events(id, process.id, EventsQuery { after: seen }).await.unwrap();
    let (more, code) = rest(again, seen).await;
    output.extend(more);
    let mut expected: Vec<u8> =
        (1..=200).flat_map(|i| format!("first {i}\n").into_bytes()).collect();
    (1..=200).for_each(|i| {
        expected.extend(b"\xff\0");
        expected.extend(format!("{i}\n").into_bytes());
    });
    assert_eq!((output == expected, code), (true, 6), "{} bytes", output.len());
    // Late, from the beginning.
    let late = client.process_events(id, process.id, EventsQuery::default()).await.unwrap();
    assert_eq!(rest(late, None).await, (expected, 6));
    let listed = &client.process_list(id).await.unwrap().processes[0];
    assert_eq!(listed.exit.unwrap().exit_code, 6);
    // The guest learns of each moment by its own clock, which is the node's.
    assert!(listed.exit.unwrap().ended_at_ms >= listed.started_at_ms);
}

async fn until(reader: &mut SocketReader, text: &str) {
    let mut screen = Vec::new();
    loop {
        let shown = String::from_utf8_lossy(&screen);
        if shown.contains(text) {
            return;
        }
        match timeout(PATIENCE, reader.next()).await.expect(&shown).unwrap().unwrap() {
            SocketEvent::Output(data) => screen.extend_from_slice(&data),
            SocketEvent::Event(event) => {
                assert!(matches!(event.body, ExecBody::Started { .. }), "{event:?} after {shown}");
            }
        }
    }
}

#[tokio::test]
async fn a_terminal_has_a_size_keys_and_jobs() {
    let host = shared().await;
    let sandbox = host.sandbox("base").await;
    let (client, id) = (&sandbox.client, sandbox.id());
    let request = SpawnRequest {
        pty: Some(PtySize { rows: 24, cols: 80 }),
        env: [("PS1".to_owned(), "$ ".to_owned())].into(),
        ..command(&["sh", "-i"]).into()
    };
    let process = client.process_spawn(id, &request).await.unwrap();
    assert!(process.pty);
    let (mut writer, mut reader) =
        client.process_socket(id, process.id, EventsQuery::default()).await.unwrap();
    until(&mut reader, "$ ").await;
    writer.input(Bytes::from_static(b"tty; stty size; echo $TERM\n")).await.unwrap();
    until(&mut reader, "/dev/pts/0\r\n24 80\r\nxterm-256color\r\n$ ").await;
    let resize = Some(PtySize { rows: 50, cols: 132 });
    writer.request(&SocketRequest { resize, ..SocketRequest::default() }).await.unwrap();
    writer.input(Bytes::from_static(b"stty size\n")).await.unwrap();
    until(&mut reader, "50 132\r\n$ ").await;
    client.process_resize(id, process.id, PtySize { rows: 10, cols: 20 }).await.unwrap();
    // What says `go` has the terminal already; the shell before it would take a Ctrl-C for itself.
    let script = b"stty size; sh -c 'echo go; exec sleep 1000'\n";
    writer.input(Bytes::from_static(script)).await.unwrap();
    until(&mut reader, "10 20\r\ngo\r\n").await;
    // Ctrl-C ends what runs on the terminal, not the shell; then it ends as it wants.
    writer.input(Bytes::from_static(b"\x03")).await.unwrap();
    until(&mut reader, "$ ").await;
    writer.input(Bytes::from_static(b"exit 3\n")).await.unwrap();
    loop {
        match timeout(PATIENCE, reader.next()).await.unwrap().unwrap() {
            Some(SocketEvent::Output(_)) => {}
            Some(SocketEvent::Event(event)) => {
                let exit = ExecBody::Exit { exit_code: 3, signal: None, timed_out: false };
                break assert_eq!(event.body, exit);
            }
            None => panic!("closed without an end"),
        }
    }
}
