//! Files of a sandbox: what the API says about them, and their bytes on the way through.

use api_guest::{FileKind as GuestKind, FileStat};
use api_node::{ByteStream, ErrorCode, Failure, FileEntry, FileKind, UploadError, UploadStream};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use node_host::{FileReader, FileWriter};

use crate::failure;

/// What the API says about a file the guest described. `name` may be a path: its last part counts.
pub(crate) fn entry(name: &str, stat: FileStat) -> FileEntry {
    let last = name.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    FileEntry {
        name: if last.is_empty() { "/".to_owned() } else { last.to_owned() },
        kind: match stat.kind {
            GuestKind::File => FileKind::File,
            GuestKind::Directory => FileKind::Directory,
            GuestKind::Symlink => FileKind::Symlink,
            GuestKind::Other => FileKind::Other,
        },
        size: stat.size,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        modified_at_ms: stat.modified_ns / 1_000_000,
        target: stat.link_target,
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

/// Passes an upload on. Only when it ended well does the file take its place.
pub(crate) async fn copy(mut upload: UploadStream, mut writer: FileWriter) -> Result<(), Failure> {
    while let Some(piece) = upload.next().await {
        let piece = piece.map_err(|error| match error {
            UploadError::BrokenOff => Failure::new(ErrorCode::InvalidRequest, error.to_string()),
            UploadError::TooLarge => Failure::new(ErrorCode::BodyTooLarge, error.to_string()),
        })?;
        writer.write(&piece).await.map_err(|error| failure::of_guest(&error))?;
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
