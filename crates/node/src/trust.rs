//! Makes a guest trust the node's authority, which vouches for hosts of its secrets.

use std::sync::Arc;

use api_guest::{ReadFile, WriteFile};
use api_node::{ErrorCode, Failure};
use node_gateway::Authority;
use node_host::SandboxHandle;

use crate::agent;
use crate::vault::{BUNDLE, CERTIFICATE};

/// LIMIT: bytes of what a guest trusts already; Debian's are a quarter of a MiB.
const BUNDLE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes sent at once, as other files are.
const PIECE_BYTES: usize = 64 * 1024;

/// Puts the authority's certificate among those that a guest's programs trust. Done again, it changes
/// nothing.
pub(crate) async fn install(
    sandbox: &SandboxHandle,
    authority: &Arc<Authority>,
) -> Result<(), Failure> {
    let ours = authority.pem().as_bytes();
    write(sandbox, CERTIFICATE, ours).await?;
    let mut bundle = match read(sandbox, BUNDLE).await {
        Err(failure) if failure.code == ErrorCode::PathNotFound => Vec::new(),
        read => read?,
    };
    if contains(&bundle, ours) {
        return Ok(());
    }
    if !bundle.is_empty() && !bundle.ends_with(b"\n") {
        bundle.push(b'\n');
    }
    bundle.extend_from_slice(ours);
    write(sandbox, BUNDLE, &bundle).await
}

fn contains(bundle: &[u8], ours: &[u8]) -> bool {
    bundle.windows(ours.len()).any(|window| window == ours)
}

async fn read(sandbox: &SandboxHandle, path: &str) -> Result<Vec<u8>, Failure> {
    // One more, so that one that is too long is seen to be.
    let length = Some(BUNDLE_BYTES_MAX as u64 + 1);
    let read = ReadFile { path: path.to_owned(), offset: 0, length };
    let whole = agent::ask(sandbox, async |agent| {
        let (_, mut reader) = agent.read(read).await?;
        let mut whole = Vec::new();
        while let Some(piece) = reader.next().await? {
            whole.extend_from_slice(&piece);
            if whole.len() > BUNDLE_BYTES_MAX {
                break;
            }
        }
        Ok(whole)
    });
    let whole = whole.await?;
    if whole.len() > BUNDLE_BYTES_MAX {
        let message = format!("`{path}` of the sandbox is too long to add a certificate to");
        return Err(Failure::new(ErrorCode::Conflict, message));
    }
    Ok(whole)
}

async fn write(sandbox: &SandboxHandle, path: &str, text: &[u8]) -> Result<(), Failure> {
    let user = Some("root".to_owned());
    let write = WriteFile { path: path.to_owned(), mode: Some(0o644), user, parents: true };
    agent::ask(sandbox, async |agent| {
        let mut writer = agent.write(write).await?;
        for piece in text.chunks(PIECE_BYTES) {
            writer.write(piece).await?;
        }
        writer.finish().await
    })
    .await
}
