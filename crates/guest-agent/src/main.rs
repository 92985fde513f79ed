//! `sandflare-agent`: PID 1 of every sandbox.
//!
//! The same file is `/init` of the guest's initrd. As PID 1 it brings the machine up ([`boot`]), then
//! serves its host over vsock ([`server`], protocol in `api-guest`) until the machine ends. With
//! `--listen-unix` it serves on an ordinary machine, where it owns neither clock nor host name; its
//! tests run it so.
//!
//! Threads and blocking calls, no async runtime: what waits costs a stack, and what runs is what a
//! snapshot holds. Must always hold: no process of a user runs between a restore and the answer to
//! `Identify` unless it ran before (the node guarantees the order); the host's silence or absence
//! never blocks another request; memory is bounded whatever the host or a command sends.

mod accounts;
mod agent;
mod archive;
mod boot;
mod children;
mod connection;
mod console;
mod exec;
mod failure;
mod files;
mod identity;
mod kernel;
mod launch;
mod port;
mod process;
mod rights;
mod running;
mod server;
mod settle;
mod standby;
mod tree;
mod watch;

use std::env;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};

use crate::agent::{Agent, Settings};
use crate::server::Server;

const USAGE: &str = "usage: sandflare-agent --listen-unix PATH [--user NAME] [--root DIR] \
                     [--random-device PATH]\nWithout arguments it must be PID 1 of a guest.";

fn main() -> ExitCode {
    base_types::abort_on_panic(|| false);
    kernel::small_heap();
    if std::process::id() == 1 {
        boot::run();
    }
    match serve_unix() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Serves on a Unix socket of an ordinary machine.
fn serve_unix() -> anyhow::Result<()> {
    let mut listen = None;
    let mut settings = Settings {
        user: api_guest::DEFAULT_USER.to_owned(),
        identity_root: None,
        random_device: None,
        owns_machine: false,
    };
    let mut arguments = env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut value =
            || arguments.next().with_context(|| format!("{name} needs a value\n{USAGE}"));
        match name.as_str() {
            "--listen-unix" => listen = Some(PathBuf::from(value()?)),
            "--user" => settings.user = value()?,
            "--root" => settings.identity_root = Some(value()?.into()),
            "--random-device" => settings.random_device = Some(value()?.into()),
            _ => bail!("unknown argument `{name}`\n{USAGE}"),
        }
    }
    let path = listen.context(USAGE)?;
    kernel::keep_descriptors_private().context("cannot keep descriptors from commands")?;
    // Orphans of commands come here, as they do to PID 1.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .context("cannot become the parent of orphans")?;
    let agent = Agent::new(settings)?;
    // A socket left by an agent that was killed is not in use by anybody.
    if path.exists() {
        fs::remove_file(&path).with_context(|| format!("cannot replace {}", path.display()))?;
    }
    let socket = UnixListener::bind(&path)
        .with_context(|| format!("cannot listen on {}", path.display()))?;
    Server::run(Arc::new(agent), socket.into())
}
