//! Directories as archives, what changes in them, parts of files, and files as a user sees them.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::time::Duration;

use api_node::{
    ByteRange, ErrorCode, EventsQuery, FileKind, FileQuery, FileWriteQuery, MakeDirectory,
    MoveFile, RemoveQuery, SpawnRequest, UnpackQuery, WatchBody, WatchQuery,
};
use bytes::Bytes;
use client::{ClientError, Events};
use futures_util::{Stream, StreamExt as _, stream};
use tokio::time::timeout;

use crate::host::{PATIENCE, shared};
use crate::random_bytes;
use crate::sandbox::Sandbox;

/// LIMIT: a change is told at once; the portable host may take some seconds over it.
const TOLD_WITHIN: Duration = Duration::from_secs(60);

async fn whole(bytes: impl Stream<Item = Result<Bytes, ClientError>>) -> Vec<u8> {
    let reading = async {
        let mut bytes = std::pin::pin!(bytes);
        let mut content = Vec::new();
        while let Some(piece) = bytes.next().await {
            content.extend_from_slice(&piece.unwrap());
        }
        content
    };
    timeout(PATIENCE, reading).await.unwrap()
}

async fn unpack(
    sandbox: &Sandbox<'_>,
    archive: Vec<u8>,
    path: &str,
    user: Option<&str>,
) -> Result<api_node::FileEntry, ClientError> {
    let archive = Bytes::from(archive);
    let pieces: Vec<io::Result<Bytes>> = (0..archive.len())
        .step_by(100_000)
        .map(|from| Ok(archive.slice(from..archive.len().min(from + 100_000))))
        .collect();
    let query = UnpackQuery { path: path.to_owned(), user: user.map(str::to_owned) };
    let unpacking = sandbox.client.file_unpack(sandbox.id(), &query, stream::iter(pieces));
    timeout(PATIENCE, unpacking).await.unwrap()
}

/// Kind, mode, link and content of an entry.
type Listed = (tar::EntryType, u32, Vec<u8>, Vec<u8>);

/// What an archive holds, by name.
fn listed(archive: &[u8]) -> BTreeMap<Vec<u8>, Listed> {
    let mut archive = tar::Archive::new(archive);
    let mut listed = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let name = entry.path_bytes().strip_suffix(b"/").unwrap_or(&entry.path_bytes()).to_vec();
        let link = entry.link_name_bytes().unwrap_or_default().into_owned();
        let header = entry.header();
        listed.insert(name, (header.entry_type(), header.mode().unwrap(), link, content));
    }
    listed
}

/// A tree of a thousand files, with links, modes and long names.
fn tree() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |kind, name: &str, mode, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(data.len() as u64);
        archive.append_data(&mut header, name, data).unwrap();
    };
    for directory in 0..10 {
        add(tar::EntryType::Directory, &format!("d{directory}"), 0o750, b"");
        for file in 0..100 {
            let mode = if file % 2 == 0 { 0o755 } else { 0o640 };
            let data = random_bytes(file * 37);
            add(tar::EntryType::Regular, &format!("d{directory}/f{file}"), mode, &data);
        }
    }
    add(tar::EntryType::Regular, &"long".repeat(50), 0o600, b"long");
    for (name, target) in [("inner", "d1/f1"), ("absolute", "/usr/bin/env"), ("broken", "no/where")]
    {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        archive.append_link(&mut header, name, target).unwrap();
    }
    archive.into_inner().unwrap()
}

#[tokio::test]
async fn a_tree_of_a_thousand_files_goes_in_and_comes_out_equal() {
    let host = shared().await;
    let sandbox = host.sandbox("base").await;
    let (client, id) = (&sandbox.client, sandbox.id());
    let sent = tree();
    let made = unpack(&sandbox, sent.clone(), "/home/agent/tree", None).await.unwrap();
    assert_eq!((made.kind, made.name.as_str()), (FileKind::Directory, "tree"));
    let seen = sandbox.text(
        "find tree -type f | wc -l; readlink tree/absolute; cat tree/inner | wc -c; \
         stat -c '%a %U' tree/d3 tree/d3/f4 tree/d3/f5; find tree ! -user agent | wc -l",
    );
    assert_eq!(seen.await, "1001\n/usr/bin/env\n37\n750 agent\n755 agent\n640 agent\n0");
    let back = client.file_pack(id, &FileQuery::at("/home/agent/tree")).await.unwrap();
    let back = whole(back).await;
    assert!(listed(&back) == listed(&sent));
    unpack(&sandbox, back, "/home/agent/copy", Some("agent")).await.unwrap();
    assert_eq!(sandbox.text("diff -r --no-dereference tree copy && echo same").await, "same");
}

#[tokio::test]
async fn an_archive_that_leads_out_of_its_directory_is_refused() {
    let host = shared().await;
    let sandbox = host.sandbox("base").await;
    sandbox.text("mkdir t && ln -s /etc t/etc").await;
    for name in ["../../../etc/owned", "etc/owned"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(1);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        let mut archive = tar::Builder::new(Vec::new());
        archive.append(&header, &b"x"[..]).unwrap();
        let archive = archive.into_inner().unwrap();
        let error = unpack(&sandbox, archive, "/home/agent/t", None).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::InvalidRequest));
        let message = error.to_string();
        assert!(message.contains("leads out of the directory"), "{message}");
    }
    assert_ne!(sandbox.sh("ls /etc/owned").await.code(), 0);
    let error = unpack(&sandbox, tree()[..70_000].to_vec(), "/home/agent/t", None).await;
    assert_eq!(error.unwrap_err().code(), Some(ErrorCode::InvalidRequest));
}

#[tokio::test]
async fn a_range_of_a_big_file_is_that_part_of_it() {
    let host = shared().await;
    let sandbox = host.sandbox("base").await;
    let (client, id) = (&sandbox.client, sandbox.id());
    let content = Bytes::from(random_bytes(40 << 20));
    let query = FileWriteQuery { path: "/home/agent/big".into(), mode: None, user: None };
    let pieces = [Ok(content.clone())];
    client.file_write(id, &query, stream::iter(pieces)).await.unwrap();
    let query = FileQuery::at("/home/agent/big");
    let (first, last) = (20_000_001, 31_234_567);
    let end = content.len() as u64;
    for (range, part) in [
        (ByteRange::From { first, last: Some(last) }, first..last + 1),
        (ByteRange::From { first: end - 1, last: None }, end - 1..end),
        (ByteRange::Last(70_000), end - 70_000..end),
    ] {
        let (size, bytes) = client.file_read_range(id, &query, range).await.unwrap();
        assert_eq!(size, Some(part.end - part.start), "{range}");
        let part = part.start as usize..part.end as usize;
        assert!(whole(bytes).await == content[part], "{range}");
    }
    let range = ByteRange::From { first: end, last: None };
    let Err(error) = client.file_read_range(id, &query, range).await else { panic!() };
    assert_eq!(error.code(), Some(ErrorCode::RangeNotSatisfiable));
}

/// The next event that is no heartbeat and no change of content, of which one write may make several.
async fn next(events: &mut Events<api_node::WatchEvent>) -> WatchBody {
    let told = async {
        loop {
            let event = events.next().await.unwrap().expect("a watch does not end by itself");
            match event.body {
                WatchBody::Heartbeat | WatchBody::Modified { .. } => {}
                body => return body,
            }
        }
    };
    timeout(TOLD_WITHIN, told).await.expect("nothing is told")
}

#[tokio::test]
async fn a_watch_sees_what_a_shell_in_the_sandbox_does_also_over_a_snapshot() {
    let host = shared().await;
    let sandbox = host.sandbox("base").await;
    let (client, id) = (&sandbox.client, sandbox.id());
    sandbox.text("mkdir -p w/old").await;
    let query = WatchQuery { path: "/home/agent/w".into(), recursive: true, user: None };
    let mut events = client.file_watch(id, &query).await.unwrap();
    assert_eq!(next(&mut events).await, WatchBody::Started);
    sandbox.text("cd w; echo x > old/a; mkdir -p new/deep; echo y > new/deep/b").await;
    let path = |name: &str| format!("/home/agent/w/{name}");
    let created = |name: &str, kind| WatchBody::Created { path: path(name), kind: Some(kind) };
    let file = Some(FileKind::File);
    let moved = WatchBody::Moved { path: path("old/a"), to: path("new/c"), kind: None };
    for expected in [
        created("old/a", FileKind::File),
        created("new", FileKind::Directory),
        created("new/deep", FileKind::Directory),
        created("new/deep/b", FileKind::File),
    ] {
        assert_eq!(next(&mut events).await, expected);
    }
    sandbox.text("mv w/old/a w/new/c; rm w/new/c").await;
    match next(&mut events).await {
        // Whether it was still there to be looked at is a matter of time.
        WatchBody::Moved { path, to, kind } if kind.is_none() || kind == file => {
            assert_eq!(WatchBody::Moved { path, to, kind: None }, moved);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(next(&mut events).await, WatchBody::Removed { path: path("new/c"), kind: None });
    // It goes on over a snapshot.
    let request = api_node::CreateSnapshot::default();
    let snapshot = client.snapshot_create(id, &request);
    let snapshot = timeout(PATIENCE, snapshot).await.unwrap().unwrap();
    sandbox.text(": > w/after").await;
    assert_eq!(next(&mut events).await, created("after", FileKind::File));
    client.snapshot_delete(snapshot.id).await.unwrap();
    // A pause ends it.
    client.sandbox_pause(id).await.unwrap();
    match next(&mut events).await {
        WatchBody::Error { failure } => assert_eq!(failure.code, ErrorCode::Conflict, "{failure}"),
        other => panic!("{other:?}"),
    }
    let mut events = client.file_watch(id, &query).await.unwrap();
    assert_eq!(next(&mut events).await, WatchBody::Started);
    sandbox.text("rm -r w").await;
    loop {
        match next(&mut events).await {
            WatchBody::Removed { .. } => {}
            WatchBody::Error { failure } => {
                assert_eq!(failure.code, ErrorCode::PathNotFound, "{failure}");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn files_are_seen_with_the_rights_of_the_user_asked_for() {
    let host = shared().await;
    let sandbox = host.sandbox("base").await;
    let (client, id) = (&sandbox.client, sandbox.id());
    let query = FileWriteQuery {
        path: "/root/secret".into(),
        mode: Some(0o600),
        user: Some("root".into()),
    };
    let pieces = [Ok(Bytes::from_static(b"secret"))];
    client.file_write(id, &query, stream::iter(pieces)).await.unwrap();
    let by = |path: &str, user: &str| FileQuery { path: path.into(), user: Some(user.into()) };
    let denied = |error: Option<ClientError>| {
        let code = error.and_then(|error| error.code());
        assert_eq!(code, Some(ErrorCode::PermissionDenied));
    };
    denied(client.file_read(id, &by("/root/secret", "agent")).await.err());
    denied(client.file_stat(id, &by("/root/secret", "agent")).await.err());
    denied(client.file_list(id, &by("/root", "agent")).await.err());
    denied(client.file_pack(id, &by("/root", "agent")).await.err());
    let watch = WatchQuery { path: "/root".into(), recursive: false, user: Some("agent".into()) };
    denied(client.file_watch(id, &watch).await.err());
    for user in ["root", "0"] {
        let (_, bytes) = client.file_read(id, &by("/root/secret", user)).await.unwrap();
        assert_eq!(whole(bytes).await, b"secret");
    }
    assert!(client.file_list(id, &by("/home/agent", "agent")).await.is_ok());
    // An archive its user may not read to the end breaks off, and is not taken for a whole one.
    sandbox.text("mkdir p; head -c 3000000 /dev/urandom > p/mine").await;
    let root = api_node::ExecRequest {
        argv: ["sh", "-c", "echo y > /home/agent/p/theirs; chmod 600 /home/agent/p/theirs"]
            .map(str::to_owned)
            .to_vec(),
        user: Some("root".into()),
        ..api_node::ExecRequest::default()
    };
    let spawned = client.process_spawn(id, &SpawnRequest::from(root)).await.unwrap();
    let all = EventsQuery::default();
    let mut events = client.process_events(id, spawned.id, all).await.unwrap();
    while timeout(PATIENCE, events.next()).await.unwrap().unwrap().is_some() {}
    let found = client.process_get(id, spawned.id).await.unwrap();
    assert_eq!(found.exit.map(|exit| exit.exit_code), Some(0));
    match client.file_pack(id, &by("/home/agent/p", "agent")).await {
        // That file came first, or is not far from the beginning.
        Err(error) => denied(Some(error)),
        Ok(bytes) => {
            let pieces: Vec<_> = bytes.collect().await;
            assert!(pieces.last().is_some_and(Result::is_err), "it ended as if it were whole");
        }
    }
}

#[tokio::test]
async fn files_are_changed_with_the_rights_of_the_user_asked_for() {
    let host = shared().await;
    let sandbox = host.sandbox("base").await;
    let (client, id) = (&sandbox.client, sandbox.id());
    let agent = || Some("agent".to_owned());
    let write = async |path: &str, user| {
        let query = FileWriteQuery { path: path.into(), mode: None, user };
        client.file_write(id, &query, stream::iter([Ok(Bytes::from_static(b"x"))])).await
    };
    let denied = |error: Option<ClientError>| {
        let code = error.and_then(|error| error.code());
        assert_eq!(code, Some(ErrorCode::PermissionDenied));
    };
    let make = |path: &str| MakeDirectory { path: path.into(), mode: None, user: agent() };
    let moved = |from: &str, to: &str| MoveFile { from: from.into(), to: to.into(), user: agent() };
    let remove = |path: &str| RemoveQuery { path: path.into(), recursive: true, user: agent() };
    denied(write("/etc/passwd", agent()).await.err());
    denied(write("/opt/new", agent()).await.err());
    denied(client.file_make(id, &make("/opt/new")).await.err());
    denied(client.file_move(id, &moved("/etc/passwd", "/home/agent/passwd")).await.err());
    denied(client.file_remove(id, &remove("/etc/passwd")).await.err());
    let empty = tar::Builder::new(Vec::new()).into_inner().unwrap();
    denied(unpack(&sandbox, empty, "/opt/x", Some("agent")).await.err());
    let made = client.file_make(id, &make("/home/agent/mine")).await.unwrap();
    let written = write("/home/agent/mine/file", agent()).await.unwrap();
    assert_eq!((made.uid, written.uid), (1000, 1000));
    let to = "/home/agent/mine/moved";
    assert_eq!(client.file_move(id, &moved("/home/agent/mine/file", to)).await.unwrap().uid, 1000);
    client.file_remove(id, &remove("/home/agent/mine")).await.unwrap();
    // Without a user it is as it was: root's rights, and the agent's files.
    assert_eq!(write("/opt/new", None).await.unwrap().uid, 1000);
}
