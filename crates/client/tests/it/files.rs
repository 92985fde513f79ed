use api_node::{
    ByteRange, ErrorCode, ExecRequest, FileKind, FileQuery, FileWriteQuery, MakeDirectory,
    ProcessId, RemoveQuery, UnpackQuery, WatchBody, WatchQuery,
};
use base_types::SandboxId;
use bytes::Bytes;
use client::{Client, ClientError};
use futures_util::{Stream, StreamExt, stream};
use reqwest::StatusCode;

use crate::operations::{node, sandbox};

async fn put(client: &Client, id: SandboxId, path: &str, content: &[u8]) {
    let query = FileWriteQuery { path: path.into(), mode: None, user: None };
    let bytes = stream::iter([Ok(Bytes::copy_from_slice(content))]);
    client.file_write(id, &query, bytes).await.unwrap();
}

async fn whole(bytes: impl Stream<Item = Result<Bytes, ClientError>>) -> Vec<u8> {
    let pieces: Vec<_> = bytes.collect().await;
    pieces.into_iter().flat_map(|piece| piece.unwrap().to_vec()).collect()
}

#[tokio::test]
async fn a_range_of_a_file_is_what_was_asked_for() {
    let (_node, _served, client) = node().await;
    let id = sandbox(&client).await.id;
    put(&client, id, "/f", b"0123456789").await;
    let query = FileQuery::at("/f");
    for (range, part) in [
        (ByteRange::From { first: 2, last: Some(4) }, "234"),
        (ByteRange::From { first: 8, last: None }, "89"),
        (ByteRange::From { first: 8, last: Some(100) }, "89"),
        (ByteRange::Last(3), "789"),
    ] {
        let (size, bytes) = client.file_read_range(id, &query, range).await.unwrap();
        assert_eq!(size, Some(part.len() as u64), "{range}");
        assert_eq!(whole(bytes).await, part.as_bytes(), "{range}");
    }
    let range = ByteRange::From { first: 10, last: None };
    let Err(error) = client.file_read_range(id, &query, range).await else { panic!() };
    assert_eq!(error.code(), Some(ErrorCode::RangeNotSatisfiable));
}

#[tokio::test]
async fn ranges_are_answered_as_http_wants_it() {
    let (_node, served, client) = node().await;
    let id = sandbox(&client).await.id;
    put(&client, id, "/f", b"0123456789").await;
    let url = format!("{}/v1/sandboxes/{id}/files?path=/f", served.url);
    let http = reqwest::Client::new();
    let (partial, ok) = (StatusCode::PARTIAL_CONTENT, StatusCode::OK);
    let beyond = StatusCode::RANGE_NOT_SATISFIABLE;
    for (range, status, says, body) in [
        ("bytes=1-3", partial, Some("bytes 1-3/10"), "123"),
        ("bytes=-1", partial, Some("bytes 9-9/10"), "9"),
        ("bytes=0-0", partial, Some("bytes 0-0/10"), "0"),
        ("bytes=10-", beyond, Some("bytes */10"), ""),
        ("bytes=-0", beyond, Some("bytes */10"), ""),
        ("bytes=1-2,4-5", ok, None, "0123456789"),
        ("bytes=3-1", ok, None, "0123456789"),
        ("rows=1-2", ok, None, "0123456789"),
    ] {
        let answer = http.get(&url).header("range", range).send().await.unwrap();
        let header = |name| Some(answer.headers().get(name)?.to_str().unwrap().to_owned());
        assert_eq!(answer.status(), status, "{range}");
        assert_eq!(header("content-range").as_deref(), says, "{range}");
        assert_eq!(header("accept-ranges").as_deref(), Some("bytes"), "{range}");
        let text = answer.text().await.unwrap();
        if status == beyond {
            assert!(text.contains("range_not_satisfiable"), "{text}");
        } else {
            assert_eq!(text, body, "{range}");
        }
    }
    let answer = http.get(&url).header("range", "bytes=1-3").header("if-range", "\"x\"");
    assert_eq!(answer.send().await.unwrap().status(), ok);
    let answer = http.head(&url).header("range", "bytes=1-3").send().await.unwrap();
    assert_eq!((answer.status(), answer.headers()["content-length"].to_str().unwrap()), (ok, "10"));
}

#[tokio::test]
async fn a_directory_goes_out_and_in_as_an_archive() {
    let (_node, _served, client) = node().await;
    let id = sandbox(&client).await.id;
    let big: Vec<u8> = (0..=u8::MAX).cycle().take(300_000).collect();
    put(&client, id, "/from/a", b"one").await;
    put(&client, id, "/from/deep/er/b", &big).await;
    let archive = whole(client.file_pack(id, &FileQuery::at("/from")).await.unwrap()).await;
    let pieces: Vec<_> = archive.chunks(9_999).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    let query = UnpackQuery { path: "/to".into(), user: None };
    let made = client.file_unpack(id, &query, stream::iter(pieces)).await.unwrap();
    assert_eq!(made.kind, FileKind::Directory);
    for (path, content) in [("/to/a", &b"one"[..]), ("/to/deep/er/b", &big)] {
        let (_, bytes) = client.file_read(id, &FileQuery::at(path)).await.unwrap();
        assert!(whole(bytes).await == content, "{path}");
    }
    let Err(error) = client.file_pack(id, &FileQuery::at("/nothing")).await else { panic!() };
    assert_eq!(error.code(), Some(ErrorCode::PathNotFound));
    let wrong = stream::iter([Ok(Bytes::from_static(&[7; 1024]))]);
    let error = client.file_unpack(id, &query, wrong).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::InvalidRequest));
}

#[tokio::test]
async fn changes_are_told_as_they_happen_until_nobody_listens() {
    let (_node, _served, client) = node().await;
    let id = sandbox(&client).await.id;
    let query = WatchQuery { path: "/home/agent".into(), recursive: false, user: None };
    let mut events = client.file_watch(id, &query).await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap().body, WatchBody::Started);
    put(&client, id, "/home/agent/a", b"1").await;
    put(&client, id, "/home/agent/below/b", b"1").await;
    put(&client, id, "/home/agent/a", b"2").await;
    let remove = RemoveQuery { path: "/home/agent/a".into(), recursive: false, user: None };
    client.file_remove(id, &remove).await.unwrap();
    let (path, kind) = ("/home/agent/a".to_owned(), Some(FileKind::File));
    for (seq, body) in [
        (1, WatchBody::Created { path: path.clone(), kind }),
        (2, WatchBody::Modified { path: path.clone(), kind }),
        (3, WatchBody::Removed { path, kind: None }),
    ] {
        let event = events.next().await.unwrap().unwrap();
        assert_eq!((event.seq, event.body), (seq, body));
    }
    drop(events);
    let query = WatchQuery { path: "/nothing".into(), recursive: true, user: None };
    let Err(error) = client.file_watch(id, &query).await else { panic!() };
    assert_eq!(error.code(), Some(ErrorCode::PathNotFound));
    let make = MakeDirectory { path: "/nothing".into(), mode: None, user: None };
    client.file_make(id, &make).await.unwrap();
    client.file_watch(id, &query).await.unwrap();
}

#[tokio::test]
async fn a_process_is_found_by_its_number() {
    let (_node, _served, client) = node().await;
    let id = sandbox(&client).await.id;
    let argv = ["echo", "x"].map(str::to_owned).to_vec();
    let request = ExecRequest { argv, ..ExecRequest::default() };
    let spawned = client.process_spawn(id, &request.into()).await.unwrap();
    let found = client.process_get(id, spawned.id).await.unwrap();
    assert_eq!((found.id, found.argv), (spawned.id, spawned.argv));
    let error = client.process_get(id, ProcessId(77)).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::NotFound));
}
