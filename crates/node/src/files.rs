//! Files of a sandbox: what the API asks its agent, and their bytes on the way through.

use std::time::Duration;

use api_guest::{
    FileKind as GuestKind, FileStat, GENERATION_OF_ACTS, List, MakeDir, Move, Pack, ReadFile,
    Request, Stat, Unpack, WriteFile,
};
use api_node::{
    ByteRange, ByteStream, DirectoryList, ErrorCode, Extent, Failure, FileContent, FileEntry,
    FileKind, FileQuery, FileWriteQuery, MakeDirectory, MoveFile, UnpackQuery, UploadStream,
};
use base_types::SandboxId;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use node_host::{FileReader, FileWriter};

use crate::api::Node;
use crate::failure;

impl Node {
    pub(crate) async fn read(
        &self,
        id: SandboxId,
        query: FileQuery,
        range: Option<ByteRange>,
    ) -> Result<FileContent, Failure> {
        let FileQuery { path, user } = query;
        let user = not_root(user);
        let mut extent = Extent::Whole;
        if range.is_some() {
            let stat = Stat { path: path.clone(), follow: true };
            let user = user.clone();
            let stat =
                self.ask(id, async |agent| agent.with_rights_of(user).await?.stat(stat).await);
            extent = ByteRange::of(range, stat.await?.size);
        }
        let (offset, length) = match extent {
            Extent::Part { first, last, .. } => (first, Some(last - first + 1)),
            // Whether it may be read is found out all the same.
            Extent::Beyond { .. } => (0, Some(0)),
            Extent::Whole => (0, None),
        };
        let read = ReadFile { path, offset, length };
        let (stat, reader) =
            self.ask(id, async |agent| agent.with_rights_of(user).await?.read(read).await).await?;
        // What the kernel makes up as it is read has no size.
        let size = length.or((stat.size > 0).then_some(stat.size));
        Ok(FileContent { size, extent, bytes: bytes_of(reader, size) })
    }

    pub(crate) async fn write(
        &self,
        id: SandboxId,
        query: FileWriteQuery,
        bytes: UploadStream,
    ) -> Result<FileEntry, Failure> {
        let FileWriteQuery { path, mode, user } = query;
        let rights = not_root(user.clone());
        let write = WriteFile { path: path.clone(), mode, user, parents: true };
        let begun = self
            .ask(id, async |agent| agent.with_rights_of(rights.clone()).await?.write(write).await);
        let written = async { copy(bytes, begun.await?).await }.await;
        self.acted(id, rights.is_some(), written).await?;
        self.entry(id, FileQuery { path, user: rights }).await
    }

    pub(crate) async fn list(
        &self,
        id: SandboxId,
        query: FileQuery,
    ) -> Result<DirectoryList, Failure> {
        let FileQuery { path, user } = query;
        let listed = self.ask(id, async |agent| {
            agent.with_rights_of(not_root(user)).await?.list(List { path }).await
        });
        let (entries, truncated) = listed.await?;
        let entries = entries.into_iter().map(|found| entry(&found.name, found.stat));
        Ok(DirectoryList { entries: entries.collect(), truncated })
    }

    pub(crate) async fn entry(
        &self,
        id: SandboxId,
        query: FileQuery,
    ) -> Result<FileEntry, Failure> {
        let FileQuery { path, user } = query;
        let stat = Stat { path: path.clone(), follow: false };
        let stat = self
            .ask(id, async |agent| agent.with_rights_of(not_root(user)).await?.stat(stat).await);
        Ok(entry(&path, stat.await?))
    }

    pub(crate) async fn make(
        &self,
        id: SandboxId,
        request: MakeDirectory,
    ) -> Result<FileEntry, Failure> {
        let MakeDirectory { path, mode, user } = request;
        let rights = not_root(user.clone());
        let make = MakeDir { path: path.clone(), mode, user, parents: true };
        self.act(id, rights.clone(), Request::MakeDir(make)).await?;
        self.entry(id, FileQuery { path, user: rights }).await
    }

    pub(crate) async fn relocate(
        &self,
        id: SandboxId,
        request: MoveFile,
    ) -> Result<FileEntry, Failure> {
        let MoveFile { from, to, user } = request;
        let rights = not_root(user);
        self.act(id, rights.clone(), Request::Move(Move { from, to: to.clone() })).await?;
        self.entry(id, FileQuery { path: to, user: rights }).await
    }

    pub(crate) async fn pack(
        &self,
        id: SandboxId,
        query: FileQuery,
    ) -> Result<ByteStream, Failure> {
        let FileQuery { path, user } = query;
        // Its beginning is waited for, so that what cannot be read there is told as a failure.
        let packed = self.ask(id, async |agent| {
            let agent = agent.with_rights_of(not_root(user)).await?;
            let (_, mut reader) = agent.pack(Pack { path }).await?;
            Ok((reader.next().await?, reader))
        });
        let (first, reader) = packed.await?;
        let first = first.map(|data| Ok(Bytes::from(data)));
        Ok(stream::iter(first).chain(bytes_of(reader, None)).boxed())
    }

    pub(crate) async fn unpack(
        &self,
        id: SandboxId,
        query: UnpackQuery,
        bytes: UploadStream,
    ) -> Result<FileEntry, Failure> {
        let UnpackQuery { path, user } = query;
        let rights = not_root(user.clone());
        let unpack = Unpack { path: path.clone(), user };
        let begun = self.ask(id, async |agent| {
            agent.with_rights_of(rights.clone()).await?.unpack(unpack).await
        });
        let unpacked = async { copy(bytes, begun.await?).await }.await;
        self.acted(id, rights.is_some(), unpacked).await?;
        self.entry(id, FileQuery { path, user: rights }).await
    }

    /// Changes something in one step, with the rights of a user or else of root.
    pub(crate) async fn act(
        &self,
        id: SandboxId,
        rights: Option<String>,
        request: Request,
    ) -> Result<(), Failure> {
        let by_user = rights.is_some();
        let acting =
            self.ask(id, async |agent| agent.with_rights_of(rights).await?.simple(request).await);
        let acted = acting.await;
        self.acted(id, by_user, acted).await
    }

    /// What became of a change. An agent of an older snapshot makes none with a user's rights: it says so,
    /// or breaks off while there is more to come.
    async fn acted(
        &self,
        id: SandboxId,
        by_user: bool,
        acted: Result<(), Failure>,
    ) -> Result<(), Failure> {
        let Err(failure) = acted else { return Ok(()) };
        let doubtful = matches!(failure.code, ErrorCode::Unsupported | ErrorCode::GuestFailed);
        if !by_user || !doubtful {
            return Err(failure);
        }
        match self.ask(id, |agent| agent.health(HEALTHY_WITHIN)).await {
            Ok(healthy) if healthy.generation < GENERATION_OF_ACTS => Err(no_rights_to_act()),
            _ => Err(failure),
        }
    }
}

/// LIMIT: an agent answers this from memory; this is for one on a machine with twenty creates at once.
const HEALTHY_WITHIN: Duration = Duration::from_secs(20);

fn no_rights_to_act() -> Failure {
    let message = "the sandbox is from a snapshot of an earlier version, whose agent changes files with \
                   the rights of root alone";
    let hint =
        "leave `user` out and give the files to their owner afterwards, or make the sandbox anew";
    Failure::new(ErrorCode::Unsupported, message).with_hint(hint)
}

/// The user whose rights are to be taken on; root's are there already.
pub(crate) fn not_root(user: Option<String>) -> Option<String> {
    user.filter(|user| user != "root" && user != "0")
}

/// What the API says about a file the guest described. `name` may be a path: its last part counts.
pub(crate) fn entry(name: &str, stat: FileStat) -> FileEntry {
    let last = name.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    FileEntry {
        name: if last.is_empty() { "/".to_owned() } else { last.to_owned() },
        kind: kind(stat.kind),
        size: stat.size,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        modified_at_ms: stat.modified_ns / 1_000_000,
        target: stat.link_target,
    }
}

/// What a file is, in the API's words.
pub(crate) fn kind(kind: GuestKind) -> FileKind {
    match kind {
        GuestKind::File => FileKind::File,
        GuestKind::Directory => FileKind::Directory,
        GuestKind::Symlink => FileKind::Symlink,
        GuestKind::Other => FileKind::Other,
    }
}

/// The bytes of a file as the caller takes them, at most `limit` of them: a file that grows while
/// it is read must not break the length promised.
pub(crate) fn bytes_of(reader: FileReader, limit: Option<u64>) -> ByteStream {
    let left = limit.unwrap_or(u64::MAX);
    let pieces = stream::try_unfold((reader, left), |(mut reader, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        match reader.next().await {
            Ok(Some(mut data)) => {
                data.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - data.len() as u64;
                Ok(Some((Bytes::from(data), (reader, left))))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(std::io::Error::other(error)),
        }
    });
    pieces.boxed()
}

/// Passes an upload on. Only when it ended well is the writer told that it did.
pub(crate) async fn copy(mut upload: UploadStream, mut writer: FileWriter) -> Result<(), Failure> {
    while let Some(piece) = upload.next().await {
        writer.write(&piece?).await.map_err(|error| failure::of_guest(&error))?;
    }
    writer.finish().await.map_err(|error| failure::of_guest(&error))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_file_is_named_by_the_last_part_of_its_path() {
        let stat = FileStat {
            kind: GuestKind::Directory,
            size: 0,
            mode: 0o755,
            uid: 0,
            gid: 0,
            user: None,
            group: None,
            modified_ns: 1_500_000,
            link_target: None,
        };
        for (path, name) in [("/a/b", "b"), ("/a/b/", "b"), ("/", "/"), ("b", "b")] {
            assert_eq!(entry(path, stat.clone()).name, name);
        }
        assert_eq!(entry("/", stat).modified_at_ms, 1);
    }
}
