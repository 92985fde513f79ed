//! Files and directories, into and out of a sandbox.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::str::FromStr;

use anyhow::{Context, Result};
use api_node::{FileKind, FileQuery, FileWriteQuery};
use base_types::{ParseIdError, SandboxId};
use client::Client;
use futures_util::StreamExt;
use serde::Serialize;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_util::io::ReaderStream;

use crate::args::Cp;
use crate::complaint::{End, advise};
use crate::folder;
use crate::table::print_json;

/// One end of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a sandbox.
    Sandbox(SandboxId, String),
    /// A file or directory of this machine.
    Here(PathBuf),
    /// A standard stream.
    Standard,
}

impl FromStr for Place {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        match text.split_once(':') {
            Some((id, path)) if id.starts_with("sbx_") => {
                Ok(Self::Sandbox(id.parse()?, path.to_owned()))
            }
            _ if text == "-" => Ok(Self::Standard),
            _ => Ok(Self::Here(text.into())),
        }
    }
}

/// What was copied, which `cp -o json` prints.
#[derive(Serialize)]
struct Copied {
    /// Where it is now, in the sandbox or here.
    to: String,
    directory: bool,
    /// Bytes of all its files; a directory that went in was not counted.
    bytes: Option<u64>,
    /// Links and special files that did not come along.
    left_out: u64,
}

/// `sandflare cp`
pub(crate) async fn cp(client: &Client, args: &Cp) -> Result<End> {
    if args.to == Place::Standard && args.format.is_json() {
        return Err(advise(
            "standard output cannot have both the copy and JSON",
            "copy to a file, or leave -o json out",
        ));
    }
    let copied = copy(client, args).await?;
    if args.format.is_json() {
        print_json(&copied)?;
    }
    Ok(End::Done)
}

async fn copy(client: &Client, args: &Cp) -> Result<Copied> {
    let file = |to: String, bytes| Copied { to, directory: false, bytes: Some(bytes), left_out: 0 };
    Ok(match (&args.from, &args.to) {
        (Place::Sandbox(id, path), Place::Here(to)) => {
            let query = FileQuery { path: path.clone(), user: args.user.clone() };
            let to = if to.is_dir() { to.join(last_name(path)) } else { to.clone() };
            if client.file_stat(*id, &query).await?.kind == FileKind::Directory {
                let made = folder::download(client, *id, &query, &to).await?;
                Copied {
                    to: to.to_string_lossy().into_owned(),
                    directory: true,
                    bytes: Some(made.bytes),
                    left_out: made.left_out_count,
                }
            } else {
                let bytes = download(client, *id, &query, &to).await?;
                file(to.to_string_lossy().into_owned(), bytes)
            }
        }
        (Place::Sandbox(id, path), Place::Standard) => {
            let query = FileQuery { path: path.clone(), user: args.user.clone() };
            file("-".to_owned(), copy_out(client, *id, &query, tokio::io::stdout()).await?)
        }
        (Place::Here(from), Place::Sandbox(id, path)) => {
            let path = match (path.strip_suffix('/'), from.file_name()) {
                (Some(above), Some(name)) => format!("{above}/{}", name.to_string_lossy()),
                _ => path.clone(),
            };
            if from.is_dir() {
                if args.mode.is_some() {
                    return Err(advise(
                        format!("{} is a directory, and --mode is for a file", from.display()),
                        "leave --mode out: what is in it keeps its permission bits",
                    ));
                }
                let to = format!("{id}:{path}");
                folder::upload(client, *id, from, path, args.user.clone()).await?;
                Copied { to, directory: true, bytes: None, left_out: 0 }
            } else {
                let opened = File::open(from).await;
                let opened = opened.with_context(|| format!("open {}", from.display()))?;
                file(format!("{id}:{path}"), upload(client, *id, path, args, opened).await?)
            }
        }
        (Place::Standard, Place::Sandbox(id, path)) => {
            let input = tokio::io::stdin();
            file(format!("{id}:{path}"), upload(client, *id, path.clone(), args, input).await?)
        }
        _ => {
            return Err(advise(
                "exactly one side of a copy must be in a sandbox",
                "write that side as ID:PATH, such as sbx_0123456789abcdef:/home/agent/data.csv",
            ));
        }
    })
}

async fn upload(
    client: &Client,
    id: SandboxId,
    path: String,
    args: &Cp,
    from: impl AsyncRead + Send + 'static,
) -> Result<u64> {
    let query = FileWriteQuery { path, mode: args.mode, user: args.user.clone() };
    Ok(client.file_write(id, &query, ReaderStream::new(from)).await?.size)
}

/// The last part of a path in a sandbox; nothing for the root.
fn last_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

/// Under a temporary name beside its place, so that what has the name is always whole.
async fn download(client: &Client, id: SandboxId, query: &FileQuery, to: &Path) -> Result<u64> {
    let mut partial = to.to_owned().into_os_string();
    partial.push(format!(".part-{}", std::process::id()));
    let partial = PathBuf::from(partial);
    let copied = async {
        let file = File::create(&partial).await;
        let file = file.with_context(|| format!("create {}", partial.display()))?;
        let bytes = copy_out(client, id, query, file).await?;
        let renamed = tokio::fs::rename(&partial, to).await;
        renamed.with_context(|| format!("write {}", to.display()))?;
        Ok(bytes)
    };
    let copied = copied.await;
    if copied.is_err() {
        // What the copy said matters more than whether there was anything to remove.
        let _ = tokio::fs::remove_file(&partial).await;
    }
    copied
}

async fn copy_out(
    client: &Client,
    id: SandboxId,
    query: &FileQuery,
    mut to: impl AsyncWrite + Unpin,
) -> Result<u64> {
    let (_, bytes) = client.file_read(id, query).await?;
    let (mut bytes, mut copied) = (pin!(bytes), 0);
    while let Some(piece) = bytes.next().await {
        let piece = piece?;
        to.write_all(&piece).await.context("write the copy")?;
        copied += piece.len() as u64;
    }
    to.flush().await.context("write the copy")?;
    Ok(copied)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn an_end_of_a_copy_is_here_or_in_a_sandbox() {
        let id = SandboxId::from_bits(1);
        assert_eq!(format!("{id}:/x:y").parse(), Ok(Place::Sandbox(id, "/x:y".into())));
        assert_eq!("a:b".parse(), Ok(Place::Here("a:b".into())));
        assert_eq!("-".parse(), Ok(Place::Standard));
        assert!("sbx_7:/x".parse::<Place>().is_err());
    }
}
