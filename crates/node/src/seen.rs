//! What can be seen of the node from outside: its console logs, its figures, its audit log.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use api_node::{
    CreateTimes, DataUsage, ErrorCode, Failure, Kvm, KvmKind, LogsQuery, Node, Pool, SandboxState,
};
use base_types::SandboxId;
use node_audit::AuditLog;
use node_host::{Deed, Host, KvmKind as FoundKvm, Verdict};
use node_witness::{Gauges, Witness};

use crate::system;
use crate::view::state;

/// What sees the requests of this node, with the audit log in its data directory.
pub(crate) fn witness(data_dir: &Path) -> Result<Arc<Witness>> {
    let log = AuditLog::open(&data_dir.join("audit"), system::now_ms());
    Ok(Witness::new(log.context("open the audit log")?, system::now_ms))
}

/// What the node is and has. `started` is when it was.
pub(crate) async fn node(
    host: &Arc<Host>,
    verdict: &Verdict,
    started: Instant,
    creates: CreateTimes,
) -> Result<Node, Failure> {
    let looked_at = host.clone();
    let disk =
        tokio::task::spawn_blocking(move || looked_at.disk_use()).await.map_err(|error| {
            Failure::because(ErrorCode::Internal, "the disk could not be looked at", &error)
        })?;
    let pool = host.pool();
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Ok(Node {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel_release: system::kernel_release(),
        uptime_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        cpus: count(thread::available_parallelism().map_or(1, |n| n.get())),
        kvm: Kvm {
            usable: verdict.usable,
            kind: match verdict.kind {
                FoundKvm::NoDevice => KvmKind::NoDevice,
                FoundKvm::NoPermission => KvmKind::NoPermission,
                FoundKvm::CannotRunLinux => KvmKind::CannotRunLinux,
                FoundKvm::Good => KvmKind::Good,
            },
            reason: verdict.reason.clone(),
        },
        sandboxes: count(host.sandboxes().len()),
        pool: Pool { ready: count(pool.ready), target: count(pool.target) },
        creates,
        memory: system::memory(),
        data: DataUsage {
            templates_bytes: disk.templates_bytes,
            sandboxes_bytes: disk.sandboxes_bytes,
            free_bytes: disk.free_bytes,
        },
    })
}

/// Has what the node does by itself written down, beginning with the sandboxes it found.
pub(crate) fn keep_journal(host: &Host, witness: &Arc<Witness>) {
    let keeping = witness.clone();
    host.keep_journal(move |id, deed, why| {
        let result = if deed == Deed::NetworkDenied { "denied" } else { "ok" };
        keeping.node_did(deed.name(), id.to_string(), result, Some(why.to_owned()));
    });
    for sandbox in host.sandboxes() {
        let found = sandbox.view();
        let detail = format!("{}, of an earlier run of the node", state(found.phase).as_str());
        witness.node_did("sandbox_found", sandbox.facts().id.to_string(), "ok", Some(detail));
    }
}

/// The end of a sandbox's console, as text.
pub(crate) async fn console(
    host: Arc<Host>,
    id: SandboxId,
    query: LogsQuery,
) -> Result<String, Failure> {
    let reading = tokio::task::spawn_blocking(move || host.console_tail(id, query.bytes.into()));
    let read = reading.await.map_err(|error| {
        Failure::because(ErrorCode::Internal, "the console could not be read", &error)
    })?;
    let bytes = read.map_err(|error| {
        Failure::because(ErrorCode::Internal, "the console could not be read", &error)
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What is looked at when somebody asks for figures; `databases` are counted by status.
pub(crate) fn gauges(host: &Host, databases: Vec<(&'static str, u64)>) -> Gauges {
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    // Every state is there, so that one nobody is in reads as none and not as its last count.
    let mut states: BTreeMap<&str, u64> =
        SandboxState::ALL.iter().map(|state| (state.as_str(), 0)).collect();
    for sandbox in host.sandboxes() {
        *states.entry(state(sandbox.view().phase).as_str()).or_default() += 1;
    }
    let pool = host.pool();
    Gauges {
        sandboxes: states.into_iter().collect(),
        databases,
        pool_ready: count(pool.ready),
        pool_target: count(pool.target),
        resident_bytes: system::resident_bytes(),
        open_files: fs::read_dir("/proc/self/fd").map_or(0, |files| count(files.count())),
    }
}
