//! The other programs of this release, which stand beside this one.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::complaint::advise;

/// The node daemon.
pub(crate) const SANDFLARED: &str = "sandflared";
/// The microVM monitor.
pub(crate) const VMM: &str = "sandflare-vmm";
/// The guest's PID 1.
pub(crate) const AGENT: &str = "sandflare-agent";
/// The portable host's PID 1.
pub(crate) const PORTABLE_INIT: &str = "sandflare-portable-init";

/// Where `name` is.
pub(crate) fn beside(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program's own file")?;
    let path = own.with_file_name(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(advise(
            format!("`{name}` is not beside `sandflare` (looked for {})", path.display()),
            "build the whole workspace with `cargo build --release`, or install all programs of \
             one release into one directory",
        ))
    }
}
