//! Files into and out of sandboxes.

use std::io;

use api_node::{
    ErrorCode, FileKind, FileQuery, FileWriteQuery, MakeDirectory, MoveFile, RemoveQuery,
};
use bytes::Bytes;
use client::ClientError;
use futures_util::{StreamExt as _, stream};
use tokio::time::timeout;

use crate::host::{PATIENCE, shared};
use crate::random_bytes;
use crate::sandbox::Sandbox;

fn at(path: &str) -> FileQuery {
    FileQuery::at(path)
}

async fn write(
    sandbox: &Sandbox<'_>,
    query: FileWriteQuery,
    content: &Bytes,
) -> Result<api_node::FileEntry, ClientError> {
    let pieces: Vec<io::Result<Bytes>> = (0..content.len())
        .step_by(200_000)
        .map(|from| Ok(content.slice(from..content.len().min(from + 200_000))))
        .collect();
    let writing = sandbox.client.file_write(sandbox.id(), &query, stream::iter(pieces));
    timeout(PATIENCE, writing).await.unwrap()
}

fn plain(path: &str) -> FileWriteQuery {
    FileWriteQuery { path: path.to_owned(), mode: None, user: None }
}

async fn read(sandbox: &Sandbox<'_>, path: &str) -> Result<Vec<u8>, ClientError> {
    let reading = async {
        let query = FileQuery::at(path);
        let (length, pieces) = sandbox.client.file_read(sandbox.id(), &query).await?;
        let mut pieces = std::pin::pin!(pieces);
        let mut content = Vec::new();
        while let Some(piece) = pieces.next().await {
            content.extend_from_slice(&piece?);
        }
        // Files of the kernel's say that they are empty, so of an empty one no length is promised.
        let promised = Some(content.len() as u64).filter(|length| *length > 0);
        assert_eq!(length, promised, "the length promised");
        Ok(content)
    };
    timeout(PATIENCE, reading).await.unwrap()
}

/// The code and message of a refusal, which must be one line.
fn refused<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> (ErrorCode, String) {
    match answer {
        Err(ClientError::Refused(failure)) => {
            assert_eq!(failure.message.lines().count(), 1, "{failure}");
            (failure.code, failure.message)
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn files_of_no_byte_one_byte_and_64_mib_go_in_and_come_out_exactly() {
    let host = shared().await;
    let sandbox = host.sandbox("base").await;
    for length in [0, 1, 64 << 20] {
        let content = Bytes::from(random_bytes(length));
        let path = format!("/home/agent/file-{length}");
        let entry = write(&sandbox, plain(&path), &content).await.unwrap();
        assert_eq!((entry.kind, entry.size), (FileKind::File, length as u64));
        let back = read(&sandbox, &path).await.unwrap();
        assert!(content == back, "{} of {length} bytes came back", back.len());
        let size = sandbox.text(&format!("wc -c < {path}")).await;
        assert_eq!(size, length.to_string());
    }
}

#[tokio::test]
async fn a_file_has_the_mode_and_owner_asked_for() {
    let host = shared().await;
    let sandbox = host.sandbox("base").await;
    let content = Bytes::from_static(b"#!/bin/sh\necho ran as $(id -un)\n");
    let query = FileWriteQuery { mode: Some(0o750), ..plain("/home/agent/bin/tool") };
    let entry = write(&sandbox, query, &content).await.unwrap();
    assert_eq!(entry.mode, 0o750);
    assert_eq!(sandbox.text("/home/agent/bin/tool").await, "ran as agent");
    let query =
        FileWriteQuery { mode: Some(0o600), user: Some("root".into()), ..plain("/etc/secret") };
    let entry = write(&sandbox, query, &content).await.unwrap();
    assert_eq!((entry.mode, entry.uid, entry.gid), (0o600, 0, 0));
    assert_ne!(sandbox.sh("cat /etc/secret").await.code(), 0);
    assert_eq!(
        sandbox.text("stat -c '%a %U %G' bin/tool /etc/secret").await,
        "750 agent agent\n600 root root"
    );
}

#[tokio::test]
async fn directories_are_made_listed_moved_and_removed() {
    let host = shared().await;
    let sandbox = host.sandbox("base").await;
    let (client, id) = (&sandbox.client, sandbox.id());
    let make = MakeDirectory { path: "/home/agent/a/b".into(), mode: Some(0o700), user: None };
    let entry = client.file_make(id, &make).await.unwrap();
    assert_eq!((entry.kind, entry.mode), (FileKind::Directory, 0o700));
    for name in ["two", "one"] {
        write(&sandbox, plain(&format!("/home/agent/a/b/{name}")), &Bytes::from_static(b"x"))
            .await
            .unwrap();
    }
    sandbox.text("ln -s b/one a/link").await;
    let names = async |path| {
        let list = client.file_list(id, &at(path)).await.unwrap();
        assert!(!list.truncated);
        let mut names: Vec<_> = list.entries.into_iter().map(|entry| entry.name).collect();
        names.sort();
        names
    };
    assert_eq!(names("/home/agent/a/b").await, ["one", "two"]);
    let link = client.file_stat(id, &at("/home/agent/a/link")).await.unwrap();
    assert_eq!((link.kind, link.target.as_deref()), (FileKind::Symlink, Some("b/one")));
    let moved = MoveFile {
        from: "/home/agent/a/b/one".into(),
        to: "/home/agent/a/b/three".into(),
        user: None,
    };
    assert_eq!(client.file_move(id, &moved).await.unwrap().name, "three");
    assert_eq!(names("/home/agent/a/b").await, ["three", "two"]);
    let remove = |recursive| RemoveQuery { path: "/home/agent/a".into(), recursive, user: None };
    assert_eq!(refused(client.file_remove(id, &remove(false)).await).0, ErrorCode::Conflict);
    client.file_remove(id, &remove(true)).await.unwrap();
    assert_eq!(
        refused(client.file_stat(id, &at("/home/agent/a")).await).0,
        ErrorCode::PathNotFound
    );
}

#[tokio::test]
async fn a_path_that_cannot_be_used_is_refused_in_one_sentence_with_its_reason() {
    let host = shared().await;
    let sandbox = host.sandbox("base").await;
    let (client, id) = (&sandbox.client, sandbox.id());
    let word = Bytes::from_static(b"x");

    let (code, message) = refused(read(&sandbox, "/nowhere/at/all").await);
    assert_eq!(code, ErrorCode::PathNotFound);
    assert!(message.contains("/nowhere/at/all") && message.contains("no such file"), "{message}");

    let (code, message) = refused(read(&sandbox, "/etc").await);
    assert_eq!(code, ErrorCode::InvalidRequest, "{message}");
    assert!(message.contains("/etc") && message.contains("directory"), "{message}");

    let (code, message) = refused(read(&sandbox, "etc/passwd").await);
    assert_eq!(code, ErrorCode::InvalidRequest);
    assert!(message.contains("absolute path"), "{message}");

    let (code, message) = refused(write(&sandbox, plain("/etc"), &word).await);
    assert_eq!(code, ErrorCode::InvalidRequest, "{message}");
    assert!(message.contains("directory"), "{message}");

    let (code, message) = refused(write(&sandbox, plain("/etc/passwd/x"), &word).await);
    assert_eq!(code, ErrorCode::InvalidRequest, "{message}");
    assert!(message.contains("not a directory"), "{message}");

    let nobody = FileWriteQuery { user: Some("no-such-user".into()), ..plain("/tmp/x") };
    let (code, message) = refused(write(&sandbox, nobody, &word).await);
    assert_eq!(code, ErrorCode::InvalidRequest, "{message}");
    assert!(message.contains("no-such-user"), "{message}");

    let (code, message) = refused(client.file_list(id, &at("/etc/passwd")).await);
    assert_eq!(code, ErrorCode::InvalidRequest, "{message}");
    assert!(message.contains("/etc/passwd"), "{message}");

    let moved = MoveFile { from: "/nowhere".into(), to: "/tmp/y".into(), user: None };
    assert_eq!(refused(client.file_move(id, &moved).await).0, ErrorCode::PathNotFound);

    let full = refused(write(&sandbox, plain("/proc/x"), &word).await);
    assert!(full.1.contains("/proc/x"), "{full:?}");
    assert_eq!(sandbox.text("ls /tmp").await, "", "nothing half-written stays");
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_the_old_file() {
    let host = shared().await;
    let sandbox = host.sandbox("base").await;
    write(&sandbox, plain("/home/agent/kept"), &Bytes::from_static(b"old")).await.unwrap();
    let broken = stream::iter([
        Ok(Bytes::from(random_bytes(1 << 20))),
        Err(io::Error::other("the reader of the upload failed")),
    ]);
    let query = plain("/home/agent/kept");
    let writing = sandbox.client.file_write(sandbox.id(), &query, broken);
    timeout(PATIENCE, writing).await.unwrap().unwrap_err();
    assert_eq!(read(&sandbox, "/home/agent/kept").await.unwrap(), b"old");
    let alone = async { while sandbox.text("ls -A | grep -c kept").await != "1" {} };
    timeout(PATIENCE, alone).await.expect("the half-written file vanishes");
}
