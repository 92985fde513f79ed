use api_node::{
    BuildBody, CreateSandbox, ErrorCode, ExecBody, ExecRequest, Failure, FileQuery, FileWriteQuery,
    FloorQuery, MoveFile, ProcessId, RemoveQuery, Sandbox,
};
use base_types::{SandboxId, Size};
use bytes::Bytes;
use client::{Client, ClientError, Events};
use futures_util::{StreamExt, stream};
use node_sim::{Served, SimNode};

pub(crate) async fn node() -> (SimNode, Served, Client) {
    let node = SimNode::new();
    let served = node.serve().await;
    let client = Client::new(&served.url).unwrap();
    (node, served, client)
}

pub(crate) async fn sandbox(client: &Client) -> Sandbox {
    client.sandbox_create(&CreateSandbox::default()).await.unwrap()
}

pub(crate) fn exec(argv: &[&str]) -> ExecRequest {
    let argv = argv.iter().map(|&text| text.to_owned()).collect();
    ExecRequest { argv, ..ExecRequest::default() }
}

pub(crate) async fn rest(
    mut events: Events<api_node::ExecEvent>,
) -> (Vec<u8>, Vec<u8>, Option<ExecBody>) {
    let (mut out, mut err, mut last, mut seq) = (Vec::new(), Vec::new(), None, None);
    while let Some(event) = events.next().await.unwrap() {
        assert!(seq.is_none_or(|seq| event.seq == seq + 1), "{event:?}");
        seq = Some(event.seq);
        match event.body {
            ExecBody::Stdout { data } => out.extend(data),
            ExecBody::Stderr { data } => err.extend(data),
            other => last = Some(other),
        }
    }
    (out, err, last)
}

#[tokio::test]
async fn a_sandbox_lives_and_is_gone() {
    let (node, _served, client) = node().await;
    let made = sandbox(&client).await;
    assert_eq!(client.sandbox_get(made.id).await.unwrap(), made);
    assert_eq!(client.sandbox_list().await.unwrap().sandboxes, std::slice::from_ref(&made));
    assert_eq!(client.sandbox_stats(made.id).await.unwrap().private_kib(), 4000);
    client.sandbox_kill(made.id).await.unwrap();
    assert_eq!(node.sandbox_count(), 0);
    let error = client.sandbox_get(made.id).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::NotFound));
    assert!(error.hint().unwrap().contains("sandflare ps"));
}

#[tokio::test]
async fn output_comes_exactly_and_apart() {
    let (_node, _served, client) = node().await;
    let id = sandbox(&client).await.id;
    let events = client.process_exec(id, &exec(&["print", "o\n\u{e9}", "e\r\n", "7"])).await;
    let (out, err, last) = rest(events.unwrap()).await;
    assert_eq!((out.as_slice(), err.as_slice()), ("o\n\u{e9}".as_bytes(), &b"e\r\n"[..]));
    assert_eq!(last, Some(ExecBody::Exit { exit_code: 7, signal: None, timed_out: false }));
    let events = client.process_exec(id, &exec(&["bytes", "1000003"])).await.unwrap();
    let (out, _, _) = rest(events).await;
    assert_eq!(out, (0..=u8::MAX).cycle().take(1_000_003).collect::<Vec<u8>>());
}

#[tokio::test]
async fn input_and_signals_reach_a_command() {
    let (_node, _served, client) = node().await;
    let id = sandbox(&client).await.id;
    let mut events = client.process_exec(id, &exec(&["cat"])).await.unwrap();
    let first = events.next().await.unwrap().unwrap().body;
    let ExecBody::Started { process_id, .. } = first else { panic!("{first:?}") };
    client.process_stdin(id, process_id, Bytes::from_static(b"\0in"), false).await.unwrap();
    client.process_stdin(id, process_id, Bytes::new(), true).await.unwrap();
    assert_eq!(rest(events).await.0, b"\0in");

    let mut events = client.process_exec(id, &exec(&["wait"])).await.unwrap();
    let first = events.next().await.unwrap().unwrap().body;
    let ExecBody::Started { process_id, .. } = first else { panic!("{first:?}") };
    client.process_signal(id, process_id, 15).await.unwrap();
    let killed = ExecBody::Exit { exit_code: 143, signal: Some(15), timed_out: false };
    assert_eq!(rest(events).await.2, Some(killed));
    let error = client.process_signal(id, ProcessId(99), 15).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::NotFound));
}

#[tokio::test]
async fn a_command_nobody_listens_to_is_given_up() {
    let (node, _served, client) = node().await;
    let id = sandbox(&client).await.id;
    let mut events = client.process_exec(id, &exec(&["wait"])).await.unwrap();
    events.next().await.unwrap();
    drop(events);
    node.abandoned_reaches(1).await;
}

#[tokio::test]
async fn files_of_every_length_come_back_equal() {
    let (_node, _served, client) = node().await;
    let id = sandbox(&client).await.id;
    for length in [0, 1, 65_521, 3_000_000] {
        let content: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
        let query =
            FileWriteQuery { path: "/home/agent/a b&c".into(), mode: Some(0o600), user: None };
        let pieces: Vec<_> = content.chunks(8191).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        let entry = client.file_write(id, &query, stream::iter(pieces)).await.unwrap();
        assert_eq!((entry.name.as_str(), entry.size, entry.mode), ("a b&c", length as u64, 0o600));
        let query = FileQuery::at(query.path);
        let (size, mut bytes) = client.file_read(id, &query).await.unwrap();
        assert_eq!(size, Some(length as u64));
        let mut got = Vec::new();
        while let Some(piece) = bytes.next().await {
            got.extend_from_slice(&piece.unwrap());
        }
        assert!(got == content, "{length}");
    }
    let to = "/home/agent/d".to_owned();
    let request = MoveFile { from: "/home/agent/a b&c".into(), to: to.clone(), user: None };
    client.file_move(id, &request).await.unwrap();
    let list = client.file_list(id, &FileQuery::at("/home/agent")).await.unwrap();
    assert_eq!(list.entries.iter().map(|e| e.name.as_str()).collect::<Vec<_>>(), ["d"]);
    client.file_stat(id, &FileQuery::at(&to)).await.unwrap();
    client
        .file_remove(id, &RemoveQuery { path: to.clone(), recursive: false, user: None })
        .await
        .unwrap();
    let error = client.file_stat(id, &FileQuery::at(to)).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::PathNotFound));
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_the_old_file() {
    let (_node, _served, client) = node().await;
    let id = sandbox(&client).await.id;
    let query = FileWriteQuery { path: "/f".into(), mode: None, user: None };
    let whole = stream::iter([Ok(Bytes::from_static(b"old"))]);
    client.file_write(id, &query, whole).await.unwrap();
    let broken = stream::iter([
        Ok(Bytes::from_static(b"new")),
        Err(std::io::Error::other("the local file broke")),
    ]);
    client.file_write(id, &query, broken).await.unwrap_err();
    let stat = client.file_stat(id, &FileQuery::at("/f")).await.unwrap();
    assert_eq!(stat.size, 3);
}

#[tokio::test]
async fn a_missing_snapshot_is_built_with_its_steps_told() {
    let (node, _served, client) = node().await;
    let agent = CreateSandbox::default().template;
    node.forget_snapshot(&agent, Size::Micro);
    let mut events = client.template_build(&agent, Size::Micro).await.unwrap();
    let mut steps = 0;
    let took_ms = loop {
        match events.next().await.unwrap().expect("`done` comes last").body {
            BuildBody::Step { .. } => steps += 1,
            BuildBody::Done { took_ms } => break took_ms,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((steps, took_ms), (2, 1234));
    assert_eq!(client.template_list().await.unwrap().templates.len(), Size::ALL.len());
}

#[tokio::test]
async fn a_failure_keeps_its_code_hint_and_request_id() {
    let (node, _served, client) = node().await;
    node.fail_next_create(
        Failure::new(ErrorCode::AgentSilent, "the guest's agent did not answer in 5 s")
            .with_hint("look at its console")
            .with_internal("socket /run/secret"),
    );
    let error = client.sandbox_create(&CreateSandbox::default()).await.unwrap_err();
    let ClientError::Refused(failure) = &error else { panic!("{error:?}") };
    assert_eq!(failure.code, ErrorCode::AgentSilent);
    assert_eq!(error.hint().as_deref(), Some("look at its console"));
    assert!(failure.request_id.starts_with("req_"), "{failure:?}");
    assert_eq!(failure.internal(), "");
}

#[tokio::test]
async fn nobody_there_is_told_apart_and_says_what_to_do() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let error = Client::new(&url).unwrap().health().await.unwrap_err();
    assert!(error.is_no_node());
    assert_eq!(error.to_string(), format!("no node is running at {url}"));
    assert_eq!(error.hint().as_deref(), Some("start one with `sandflare up`"));
}

#[tokio::test]
async fn the_floor_is_asked_for_within_its_bounds() {
    let (_node, _served, client) = node().await;
    let floor = client.node_floor(&FloorQuery { size: Size::Nano, runs: 5 }).await.unwrap();
    assert_eq!(floor.runs, 5);
    let error = client.node_floor(&FloorQuery { size: Size::Nano, runs: 0 }).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::InvalidRequest));
}

#[tokio::test]
async fn a_sandbox_that_never_was_is_not_found() {
    let (_node, _served, client) = node().await;
    let error = client.sandbox_kill(SandboxId::from_bits(77)).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::NotFound));
}
