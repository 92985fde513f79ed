//! The host side against the real programs it works with: `sandflare-agent` on a Unix socket, and
//! `sandflare-vmm` on whatever `/dev/kvm` there is. Both are built by `cargo build -p guest-agent
//! -p vmm` into the directory these tests run from.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod directory;
mod guest;
mod processes;
mod shells;

use std::env;
use std::path::PathBuf;

/// A program of ours, built with the same profile as these tests.
fn program(name: &str) -> PathBuf {
    let tests = env::current_exe().expect("a test knows its own path");
    let built = tests.parent().and_then(|deps| deps.parent()).expect("tests lie in deps/");
    let path = built.join(name);
    assert!(path.exists(), "{} is missing; run `cargo build --bins` first", path.display());
    path
}
