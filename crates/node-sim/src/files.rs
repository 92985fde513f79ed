//! Files, which are bytes in a map, and what is told of them.

use std::io::Read;

use api_node::{
    ByteRange, ByteStream, DirectoryList, ErrorCode, EventStream, Extent, Failure, FileContent,
    FileEntry, FileKind, FileWriteQuery, MakeDirectory, MoveFile, RemoveQuery, UploadStream,
    WatchBody, WatchEvent, WatchQuery,
};
use base_types::SandboxId;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use crate::{NOW_MS, SimNode, SimSandbox};

/// Bytes sent at once; odd, so that nothing fits by chance.
const PIECE_BYTES: usize = 65_521;
/// Directories every machine has.
const ALWAYS: [&str; 3] = ["/", "/home/agent", "/tmp"];

/// Somebody who is told of changes.
#[derive(Debug)]
pub(crate) struct Watch {
    query: WatchQuery,
    changes: mpsc::UnboundedSender<WatchBody>,
}

impl SimNode {
    pub(crate) fn read(
        &self,
        id: SandboxId,
        path: &str,
        range: Option<ByteRange>,
    ) -> Result<FileContent, Failure> {
        let bytes = self.with_guest(id, |sandbox| sandbox.file(path).cloned())?;
        let extent = ByteRange::of(range, bytes.len() as u64);
        let bytes = match extent {
            Extent::Whole => bytes,
            Extent::Part { first, last, .. } => bytes[first as usize..=last as usize].to_vec(),
            Extent::Beyond { .. } => Vec::new(),
        };
        let size = Some(bytes.len() as u64);
        Ok(FileContent { size, extent, bytes: pieces(&bytes) })
    }

    pub(crate) async fn write(
        &self,
        id: SandboxId,
        query: FileWriteQuery,
        bytes: UploadStream,
    ) -> Result<FileEntry, Failure> {
        let content = whole(bytes).await?;
        self.with_guest(id, |sandbox| {
            let entry = entry(&query.path, content.len(), query.mode.unwrap_or(0o644));
            sandbox.put(query.path, content);
            Ok(entry)
        })
    }

    pub(crate) fn remove(&self, id: SandboxId, query: RemoveQuery) -> Result<(), Failure> {
        self.with_guest(id, |sandbox| {
            let removed = sandbox.files.remove(&query.path);
            removed.ok_or_else(|| no_file(&query.path))?;
            let kind = None;
            sandbox.tell(&query.path, WatchBody::Removed { path: query.path.clone(), kind });
            Ok(())
        })
    }

    pub(crate) fn list(&self, id: SandboxId, path: &str) -> Result<DirectoryList, Failure> {
        self.with_guest(id, |sandbox| {
            let entries = sandbox.below(path).filter(|(name, _)| !name.contains('/'));
            let entries = entries.map(|(name, bytes)| entry(name, bytes.len(), 0o644)).collect();
            Ok(DirectoryList { entries, truncated: false })
        })
    }

    pub(crate) fn stat(&self, id: SandboxId, path: &str) -> Result<FileEntry, Failure> {
        self.with_guest(id, |sandbox| match sandbox.file(path) {
            Ok(bytes) => Ok(entry(path, bytes.len(), 0o644)),
            Err(_) if sandbox.is_directory(path) => Ok(directory(path, 0o755)),
            Err(failure) => Err(failure),
        })
    }

    pub(crate) fn make(&self, id: SandboxId, request: MakeDirectory) -> Result<FileEntry, Failure> {
        self.with_guest(id, |sandbox| {
            let path = request.path;
            let made = directory(&path, request.mode.unwrap_or(0o755));
            if !sandbox.is_directory(&path) {
                let kind = Some(FileKind::Directory);
                sandbox.tell(&path, WatchBody::Created { path: path.clone(), kind });
            }
            sandbox.directories.insert(path);
            Ok(made)
        })
    }

    pub(crate) fn relocate(&self, id: SandboxId, request: MoveFile) -> Result<FileEntry, Failure> {
        self.with_guest(id, |sandbox| {
            let MoveFile { from: path, to, user: _ } = request;
            let bytes = sandbox.files.remove(&path).ok_or_else(|| no_file(&path))?;
            let moved = entry(&to, bytes.len(), 0o644);
            sandbox.files.insert(to.clone(), bytes);
            let kind = Some(FileKind::File);
            sandbox.tell(&path, WatchBody::Moved { path: path.clone(), to, kind });
            Ok(moved)
        })
    }

    pub(crate) fn pack(&self, id: SandboxId, path: &str) -> Result<ByteStream, Failure> {
        let archive = self.with_guest(id, |sandbox| {
            sandbox.need_directory(path)?;
            let mut archive = tar::Builder::new(Vec::new());
            for (name, bytes) in sandbox.below(path) {
                let mut header = tar::Header::new_gnu();
                header.set_size(bytes.len() as u64);
                header.set_mode(0o644);
                let added = archive.append_data(&mut header, name, bytes.as_slice());
                added.map_err(|error| bad_archive(&error))?;
            }
            archive.into_inner().map_err(|error| bad_archive(&error))
        })?;
        Ok(pieces(&archive))
    }

    pub(crate) async fn unpack(
        &self,
        id: SandboxId,
        path: &str,
        bytes: UploadStream,
    ) -> Result<FileEntry, Failure> {
        let archive = whole(bytes).await?;
        self.with_guest(id, |sandbox| {
            if sandbox.files.contains_key(path) {
                return Err(no_directory(path));
            }
            let mut archive = tar::Archive::new(archive.as_slice());
            for found in archive.entries().map_err(|error| bad_archive(&error))? {
                let mut found = found.map_err(|error| bad_archive(&error))?;
                let name = String::from_utf8_lossy(&found.path_bytes()).into_owned();
                if name.starts_with('/') || name.split('/').any(|part| part == "..") {
                    let message = format!(
                        "the archive has an entry named {name:?}, which leads out of the directory"
                    );
                    return Err(Failure::new(ErrorCode::InvalidRequest, message));
                }
                let parts = name.split('/').filter(|part| !matches!(*part, "" | "."));
                let parts: Vec<_> = [path.trim_end_matches('/')].into_iter().chain(parts).collect();
                let place = parts.join("/");
                if found.header().entry_type().is_dir() {
                    sandbox.directories.insert(place);
                } else if found.header().entry_type().is_file() {
                    let mut content = Vec::new();
                    found.read_to_end(&mut content).map_err(|error| bad_archive(&error))?;
                    sandbox.put(place, content);
                }
            }
            sandbox.directories.insert(path.to_owned());
            Ok(directory(path, 0o755))
        })
    }

    pub(crate) fn watch(
        &self,
        id: SandboxId,
        query: WatchQuery,
    ) -> Result<EventStream<WatchEvent>, Failure> {
        let (changes, told) = mpsc::unbounded_channel();
        self.with_guest(id, |sandbox| {
            sandbox.need_directory(&query.path)?;
            sandbox.watches.push(Watch { query, changes });
            Ok(())
        })?;
        let told = stream::unfold(told, |mut told| async { Some((told.recv().await?, told)) });
        let bodies = stream::iter([WatchBody::Started]).chain(told).enumerate();
        let ts = NOW_MS * 1000;
        Ok(bodies.map(move |(seq, body)| WatchEvent { seq: seq as u64, ts, body }).boxed())
    }
}

impl SimSandbox {
    fn file(&self, path: &str) -> Result<&Vec<u8>, Failure> {
        self.files.get(path).ok_or_else(|| no_file(path))
    }

    fn put(&mut self, path: String, content: Vec<u8>) {
        let kind = Some(FileKind::File);
        let there = self.files.insert(path.clone(), content).is_some();
        let body = match there {
            true => WatchBody::Modified { path: path.clone(), kind },
            false => WatchBody::Created { path: path.clone(), kind },
        };
        self.tell(&path, body);
    }

    /// Files below a directory, by their names from there on.
    fn below<'a>(&'a self, path: &str) -> impl Iterator<Item = (&'a str, &'a Vec<u8>)> + use<'a> {
        let inside = format!("{}/", path.trim_end_matches('/'));
        self.files
            .iter()
            .filter_map(move |(path, bytes)| Some((path.strip_prefix(&inside)?, bytes)))
    }

    fn is_directory(&self, path: &str) -> bool {
        ALWAYS.contains(&path) || self.directories.contains(path) || self.below(path).count() > 0
    }

    fn need_directory(&self, path: &str) -> Result<(), Failure> {
        if self.is_directory(path) {
            return Ok(());
        }
        self.file(path)?;
        Err(no_directory(path))
    }

    fn tell(&mut self, path: &str, body: WatchBody) {
        self.watches.retain(|watch| {
            let inside = format!("{}/", watch.query.path.trim_end_matches('/'));
            let name = path.strip_prefix(&inside);
            let told = name.is_some_and(|name| watch.query.recursive || !name.contains('/'));
            // One that nobody listens to is over.
            if told { watch.changes.send(body.clone()).is_ok() } else { !watch.changes.is_closed() }
        });
    }
}

async fn whole(mut bytes: UploadStream) -> Result<Vec<u8>, Failure> {
    let mut content = Vec::new();
    while let Some(piece) = bytes.next().await {
        content.extend_from_slice(&piece?);
    }
    Ok(content)
}

fn pieces(bytes: &[u8]) -> ByteStream {
    let pieces: Vec<_> =
        bytes.chunks(PIECE_BYTES).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    stream::iter(pieces).boxed()
}

fn bad_archive(error: &std::io::Error) -> Failure {
    let message = format!("the archive is damaged, or is no tar archive: {error}");
    Failure::new(ErrorCode::InvalidRequest, message)
}

fn no_directory(path: &str) -> Failure {
    Failure::new(ErrorCode::InvalidRequest, format!("`{path}` is not a directory"))
}

fn no_file(path: &str) -> Failure {
    Failure::new(ErrorCode::PathNotFound, format!("there is no file `{path}` in the sandbox"))
}

fn directory(path: &str, mode: u32) -> FileEntry {
    FileEntry { kind: FileKind::Directory, ..entry(path, 0, mode) }
}

fn entry(path: &str, size: usize, mode: u32) -> FileEntry {
    FileEntry {
        name: path.rsplit('/').next().unwrap_or_default().to_owned(),
        kind: FileKind::File,
        size: size as u64,
        mode,
        uid: 1000,
        gid: 1000,
        modified_at_ms: 1_750_000_000_000,
        target: None,
    }
}
