//! Looking at the machine.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use api_node::KvmKind;
use client::{Client, ClientError};
use serde::Deserialize;
use tokio::process::Command;
use tokio::time::timeout;

use crate::complaint::advise;
use crate::place::Place;
use crate::programs::{self, AGENT, PORTABLE_INIT, SANDFLARED, VMM};

/// LIMIT: the probe has a time limit of its own of some seconds.
const PROBE_LIMIT: Duration = Duration::from_secs(30);
/// LIMIT: asking a program for its version.
const VERSION_LIMIT: Duration = Duration::from_secs(10);

/// Programs of Debian packages that building images or the portable host needs: name and package.
pub(crate) const TOOLS: [(&str, &str); 4] = [
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("unshare", "util-linux"),
    ("apt-get", "apt"),
];

/// What `sandflare-vmm probe --json` says.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct KvmVerdict {
    pub(crate) usable: bool,
    pub(crate) kind: KvmKind,
    pub(crate) reason: String,
    #[serde(default)]
    pub(crate) hint: String,
}

/// What is at the port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    Free,
    Node { version: String },
    Taken,
}

/// What was found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// The verdict, or why there is none.
    pub(crate) kvm: Result<KvmVerdict, String>,
    /// QEMU's version line; `None` when it is not installed.
    pub(crate) qemu: Option<String>,
    pub(crate) memory_available_mib: u64,
    /// Where data goes, and what is free there.
    pub(crate) home: PathBuf,
    pub(crate) disk_free_mib: u64,
    /// Packages of which a program is missing.
    pub(crate) packages_missing: Vec<&'static str>,
    pub(crate) cgroup_v2: bool,
    pub(crate) userfaultfd: bool,
    pub(crate) root: bool,
    pub(crate) url: String,
    pub(crate) port: Port,
    /// Programs of this release that are not beside this one.
    pub(crate) programs_missing: Vec<&'static str>,
}

pub(crate) async fn look(place: &Place) -> Result<Found> {
    let mut packages_missing: Vec<_> = TOOLS
        .iter()
        .filter(|(name, _)| on_path(name).is_none())
        .map(|(_, package)| *package)
        .collect();
    packages_missing.dedup();
    let programs = [SANDFLARED, VMM, AGENT, PORTABLE_INIT];
    Ok(Found {
        kvm: probe_kvm().await.map_err(|error| error.to_string()),
        qemu: qemu_version().await,
        memory_available_mib: memory_available_mib(),
        disk_free_mib: disk_free_mib(&place.home),
        home: place.home.clone(),
        packages_missing,
        cgroup_v2: Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
        // The setting is there exactly when the kernel has userfaultfd.
        userfaultfd: Path::new("/proc/sys/vm/unprivileged_userfaultfd").exists(),
        root: rustix::process::geteuid().is_root(),
        url: place.url.clone(),
        port: port(&place.url).await?,
        programs_missing: programs
            .into_iter()
            .filter(|name| programs::beside(name).is_err())
            .collect(),
    })
}

/// Asks the monitor, which is the only one to touch KVM.
pub(crate) async fn probe_kvm() -> Result<KvmVerdict> {
    let program = programs::beside(VMM)?;
    let said = output(Command::new(&program).args(["probe", "--json"]), PROBE_LIMIT).await;
    let said = said.with_context(|| format!("run {} probe", program.display()))?;
    serde_json::from_slice(&said).map_err(|_| {
        advise(
            format!("{} probe did not answer as it should", program.display()),
            "install all programs of one release into one directory",
        )
    })
}

async fn qemu_version() -> Option<String> {
    let program = on_path("qemu-system-x86_64")?;
    let said = output(Command::new(program).arg("--version"), VERSION_LIMIT).await.ok()?;
    let said = String::from_utf8_lossy(&said);
    let version = said.split("version ").nth(1)?.split_whitespace().next()?;
    Some(version.trim_end_matches(',').to_owned())
}

/// What a program writes to its standard output, however it ends.
async fn output(command: &mut Command, limit: Duration) -> Result<Vec<u8>> {
    command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = timeout(limit, command.output()).await;
    Ok(output.context("wait for its answer")?.context("start it")?.stdout)
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Root's programs, which a user's PATH often leaves out.
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|dir| dir.join(name)).find(|file| file.is_file())
}

fn memory_available_mib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

/// Of the file system that `path` would be on.
fn disk_free_mib(path: &Path) -> u64 {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let found = rustix::fs::statvfs(there);
    found.map_or(0, |found| found.f_bavail.saturating_mul(found.f_frsize) >> 20)
}

async fn port(url: &str) -> Result<Port> {
    Ok(match Client::new(url)?.health().await {
        Ok(health) => Port::Node { version: health.version },
        Err(ClientError::NoNode { .. }) => {
            let address = url.trim_start_matches("http://").trim_end_matches('/');
            // Bound but not listening is also taken.
            match TcpListener::bind(address) {
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Port::Taken,
                _ => Port::Free,
            }
        }
        Err(_) => Port::Taken,
    })
}
