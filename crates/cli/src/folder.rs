//! A directory with all that is in it, into or out of a sandbox.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use api_node::{FileQuery, UnpackQuery};
use base_archive::{PackError, Rules, Unpacked};
use base_types::SandboxId;
use client::Client;
use futures_util::TryStreamExt;
use tokio::task::spawn_blocking;
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};

/// LIMIT: bytes of an archive between the thread that packs it and the connection.
const WAITING_BYTES: usize = 256 * 1024;
/// LIMIT: names shown of what was left out; how many there are is told beside them.
const NAMES_SHOWN: usize = 5;

/// Copies what is in `from` into the directory `path` of a sandbox.
pub(crate) async fn upload(
    client: &Client,
    id: SandboxId,
    from: &Path,
    path: String,
    user: Option<String>,
) -> Result<()> {
    let folder = File::open(from).with_context(|| format!("open {}", from.display()))?;
    let (out, archive) = tokio::io::duplex(WAITING_BYTES);
    let out = SyncIoBridge::new(out);
    // Owners are people of this machine.
    let packing = spawn_blocking(move || base_archive::pack(folder, false, out));
    let query = UnpackQuery { path, user };
    let sent = client.file_unpack(id, &query, ReaderStream::new(archive)).await;
    match packing.await.context("pack the directory")? {
        // The archive did not end then, and the node has refused it.
        Err(error @ (PackError::Read { .. } | PackError::Deep { .. })) => {
            Err(error).with_context(|| format!("copy {}", from.display()))
        }
        Ok(()) | Err(PackError::Write(_)) => sent.map(drop).map_err(Into::into),
    }
}

/// Copies what is in a directory of a sandbox into `to`, which is made if it is not there.
pub(crate) async fn download(
    client: &Client,
    id: SandboxId,
    query: &FileQuery,
    to: &Path,
) -> Result<Unpacked> {
    let archive = client.file_pack(id, query).await?.map_err(io::Error::other);
    let archive = SyncIoBridge::new(StreamReader::new(Box::pin(archive)));
    fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    let folder = File::open(to).with_context(|| format!("open {}", to.display()))?;
    let unpacking = spawn_blocking(move || base_archive::unpack(archive, folder, Rules::Plain));
    let made = unpacking.await.context("unpack the directory")?;
    let made = made.with_context(|| format!("write {}", to.display()))?;
    if let Some(note) = note(&made) {
        eprintln!("{note}");
    }
    Ok(made)
}

/// What is told of things that did not come along.
fn note(made: &Unpacked) -> Option<String> {
    let names: Vec<_> =
        made.left_out.iter().take(NAMES_SHOWN).map(|path| path.display().to_string()).collect();
    let more = made.left_out_count.saturating_sub(names.len() as u64);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (made.left_out_count > 0)
        .then(|| format!("note: links and special files were left out: {}{more}", names.join(", ")))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn what_was_left_out_is_told_with_its_first_names() {
        assert_eq!(note(&Unpacked::default()), None);
        let left_out = (0..9).map(|number| format!("l{number}").into()).collect();
        let made = Unpacked { left_out, left_out_count: 200, ..Unpacked::default() };
        assert_eq!(
            note(&made).unwrap(),
            "note: links and special files were left out: l0, l1, l2, l3, l4 and 195 more"
        );
    }
}
