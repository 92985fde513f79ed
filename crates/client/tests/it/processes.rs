use api_node::{ErrorCode, EventsQuery, ExecBody, ProcessId, PtySize, SocketRequest, SpawnRequest};
use base_types::SandboxId;
use bytes::Bytes;
use client::{Client, ClientError, SocketEvent, SocketReader};

use crate::operations::{exec, node, rest, sandbox};

fn spawn(argv: &[&str]) -> SpawnRequest {
    exec(argv).into()
}

fn terminal() -> SpawnRequest {
    SpawnRequest { pty: Some(PtySize { rows: 24, cols: 80 }), ..spawn(&["terminal"]) }
}

fn after(seq: u64) -> EventsQuery {
    EventsQuery { after: Some(seq) }
}

async fn ended(client: &Client, id: SandboxId, process: ProcessId) -> ExecBody {
    let events = client.process_events(id, process, EventsQuery::default()).await.unwrap();
    rest(events).await.2.unwrap()
}

#[tokio::test]
async fn a_process_is_left_and_followed_again_without_a_gap() {
    let (_node, _served, client) = node().await;
    let id = sandbox(&client).await.id;
    let made = client.process_spawn(id, &spawn(&["cat"])).await.unwrap();
    assert_eq!((made.running, made.argv.as_slice()), (true, &["cat".to_owned()][..]));
    let mut first = client.process_events(id, made.id, EventsQuery::default()).await.unwrap();
    let started = first.next().await.unwrap().unwrap();
    assert!(matches!(started.body, ExecBody::Started { process_id, .. } if process_id == made.id));
    client.process_stdin(id, made.id, Bytes::from_static(b"one"), false).await.unwrap();
    let one = first.next().await.unwrap().unwrap();
    drop(first);
    client.process_stdin(id, made.id, Bytes::from_static(b"two"), false).await.unwrap();
    client.process_stdin(id, made.id, Bytes::from_static(b"three"), true).await.unwrap();
    let again = client.process_events(id, made.id, after(one.seq)).await.unwrap();
    let (out, _, last) = rest(again).await;
    assert_eq!(out, b"twothree");
    let exit = ExecBody::Exit { exit_code: 0, signal: None, timed_out: false };
    assert_eq!(last, Some(exit.clone()));
    // Late, all of it; far ahead, the end alone.
    let late = client.process_events(id, made.id, EventsQuery::default()).await.unwrap();
    assert_eq!(rest(late).await.0, b"onetwothree");
    let ahead = client.process_events(id, made.id, after(u64::MAX)).await.unwrap();
    assert_eq!(rest(ahead).await, (Vec::new(), Vec::new(), Some(exit)));
    let list = client.process_list(id).await.unwrap().processes;
    assert_eq!(list.len(), 1);
    assert_eq!((list[0].running, list[0].exit.unwrap().exit_code), (false, 0));
}

#[tokio::test]
async fn what_is_not_there_or_cannot_be_is_refused() {
    let (_node, _served, client) = node().await;
    let id = sandbox(&client).await.id;
    let nobody = ProcessId(77);
    let failed = client.process_events(id, nobody, EventsQuery::default()).await;
    assert_eq!(failed.unwrap_err().code(), Some(ErrorCode::NotFound));
    let failed = client.process_socket(id, nobody, EventsQuery::default()).await;
    assert_eq!(failed.unwrap_err().code(), Some(ErrorCode::NotFound));
    let flat = PtySize { rows: 0, cols: 80 };
    let failed = client.process_resize(id, nobody, flat).await;
    assert_eq!(failed.unwrap_err().code(), Some(ErrorCode::InvalidRequest));
    let failed = client.process_spawn(id, &SpawnRequest { pty: Some(flat), ..terminal() }).await;
    assert_eq!(failed.unwrap_err().code(), Some(ErrorCode::InvalidRequest));
    let failed = client.process_spawn(id, &spawn(&[])).await;
    assert_eq!(failed.unwrap_err().code(), Some(ErrorCode::InvalidRequest));
}

#[tokio::test]
async fn a_signal_ends_a_process() {
    let (_node, _served, client) = node().await;
    let id = sandbox(&client).await.id;
    let process = client.process_spawn(id, &spawn(&["wait"])).await.unwrap().id;
    client.process_signal(id, process, 15).await.unwrap();
    let killed = ExecBody::Exit { exit_code: 143, signal: Some(15), timed_out: false };
    assert_eq!(ended(&client, id, process).await, killed);
}

async fn until(reader: &mut SocketReader, text: &str) {
    let mut got = Vec::new();
    while !String::from_utf8_lossy(&got).contains(text) {
        match reader.next().await.unwrap().unwrap() {
            SocketEvent::Output(data) => got.extend_from_slice(&data),
            SocketEvent::Event(event) => {
                assert!(matches!(event.body, ExecBody::Started { .. }), "{event:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_socket_carries_keys_screen_and_size() {
    let (_node, _served, client) = node().await;
    let id = sandbox(&client).await.id;
    let process = client.process_spawn(id, &terminal()).await.unwrap().id;
    let socket = client.process_socket(id, process, EventsQuery::default()).await.unwrap();
    let (mut writer, mut reader) = socket;
    until(&mut reader, "24 80\r\n").await;
    // Bytes that are no text, exactly.
    writer.input(Bytes::from_static(b"\xff\0\x1b[A")).await.unwrap();
    let echo = reader.next().await.unwrap().unwrap();
    assert_eq!(echo, SocketEvent::Output(Bytes::from_static(b"\xff\0\x1b[A")));
    let resize = Some(PtySize { rows: 50, cols: 132 });
    writer.request(&SocketRequest { resize, ..SocketRequest::default() }).await.unwrap();
    until(&mut reader, "50 132\r\n").await;
    client.process_resize(id, process, PtySize { rows: 10, cols: 20 }).await.unwrap();
    until(&mut reader, "10 20\r\n").await;
    let close = SocketRequest { close_stdin: true, ..SocketRequest::default() };
    writer.request(&close).await.unwrap();
    let Some(SocketEvent::Event(last)) = reader.next().await.unwrap() else { panic!() };
    assert!(matches!(last.body, ExecBody::Exit { exit_code: 5, .. }), "{last:?}");
    assert_eq!(reader.next().await.unwrap(), None);
}

#[tokio::test]
async fn leaving_a_socket_leaves_the_process() {
    let (_node, _served, client) = node().await;
    let id = sandbox(&client).await.id;
    let process = client.process_spawn(id, &terminal()).await.unwrap().id;
    let socket = client.process_socket(id, process, EventsQuery::default()).await.unwrap();
    drop(socket);
    let (mut writer, mut reader) =
        client.process_socket(id, process, EventsQuery::default()).await.unwrap();
    until(&mut reader, "24 80\r\n").await;
    let signal = Some(9);
    writer.request(&SocketRequest { signal, ..SocketRequest::default() }).await.unwrap();
    let killed = ExecBody::Exit { exit_code: 137, signal: Some(9), timed_out: false };
    assert_eq!(ended(&client, id, process).await, killed);
}

#[tokio::test]
async fn a_socket_is_closed_on_what_it_does_not_know() {
    let (_node, _served, client) = node().await;
    let id = sandbox(&client).await.id;
    let process = client.process_spawn(id, &terminal()).await.unwrap().id;
    let (mut writer, mut reader) =
        client.process_socket(id, process, after(u64::MAX)).await.unwrap();
    writer.request(&SocketRequest { signal: Some(99), ..SocketRequest::default() }).await.unwrap();
    while let Some(event) = reader.next().await.unwrap() {
        assert!(matches!(event, SocketEvent::Output(_)), "{event:?}");
    }
    assert!(matches!(reader.cut_short(), ClientError::CutShort { .. }));
    // The process is none the worse.
    assert!(client.process_list(id).await.unwrap().processes[0].running);
}
