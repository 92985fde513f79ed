//! The lives of sandboxes, and snapshots, as the API shows them; and what is made of sandboxes.

use std::sync::Arc;

use api_node::{
    Caller, CreateSandbox, CreateSnapshot, Errand, Failure, Fork, Forked, OnTimeout, Quota,
    Sandbox, Snapshot,
};
use node_access::Access;
use node_host::{CreateSpec, Host, Lease, SandboxHandle, SnapshotFacts};

use crate::view::sandbox;
use crate::{failure, quota};

/// The sandbox that the caller's errand made before this request of it.
pub(crate) fn made(host: &Host, caller: &Caller) -> Option<Sandbox> {
    host.made_by(caller.project, caller.errand?).first().map(sandbox)
}

/// Forks `parent`, unless the caller's errand did before. What a node that died left of a fork is not
/// all of it, and is forked again.
pub(crate) async fn fork(
    host: &Arc<Host>,
    access: &Access,
    caller: &Caller,
    parent: &SandboxHandle,
    request: Fork,
) -> Result<Forked, Failure> {
    let project = parent.facts().project;
    let count = usize::try_from(request.count).unwrap_or(usize::MAX);
    let errand = caller.errand;
    let children = errand.map(|errand| host.made_by(project, errand)).unwrap_or_default();
    if children.len() == count {
        return Ok(Forked { sandboxes: children.iter().map(sandbox).collect(), held_us: 0 });
    }
    for child in children {
        child.kill().await;
    }
    let quota = quota::admit(access, host, project, request.count.into()).await?;
    let spec = spec_of_child(parent, request.name, quota, errand);
    let forked = host.fork(parent, count, spec).await;
    let forked = forked.map_err(|error| failure::of_order(&error))?;
    let sandboxes = forked.children.iter().map(sandbox).collect();
    Ok(Forked { sandboxes, held_us: forked.held_us })
}

/// Keeps a snapshot of `parent`, unless the caller's errand did before.
pub(crate) async fn snapshot_create(
    host: &Arc<Host>,
    access: &Access,
    caller: &Caller,
    parent: &SandboxHandle,
    request: CreateSnapshot,
) -> Result<Snapshot, Failure> {
    let project = parent.facts().project;
    let made = caller.errand.and_then(|errand| host.snapshot_made_by(project, errand));
    if let Some(made) = made {
        return Ok(snapshot(made));
    }
    quota::admit_snapshot(access, host, project).await?;
    let kept = host.snapshot_create(parent, request.name, caller.errand).await;
    kept.map(snapshot).map_err(|error| failure::of_order(&error))
}

/// What is asked for about a sandbox's time.
pub(crate) fn lease(request: &CreateSandbox) -> Lease {
    Lease {
        timeout_s: request.timeout_s,
        idle_timeout_s: request.idle_timeout_s,
        on_timeout: match request.on_timeout {
            OnTimeout::Kill => node_host::OnTimeout::Kill,
            OnTimeout::Pause => node_host::OnTimeout::Pause,
        },
    }
}

/// What a child of `parent` is to be.
fn spec_of_child(
    parent: &SandboxHandle,
    name: Option<String>,
    quota: Quota,
    errand: Option<Errand>,
) -> CreateSpec {
    let facts = parent.facts();
    CreateSpec {
        project: facts.project,
        quota,
        template: facts.template.clone(),
        size: facts.size,
        name: name.or_else(|| facts.name.clone()),
        env: facts.env.clone(),
        metadata: facts.metadata.clone(),
        snapshot: facts.snapshot,
        lease: parent.view().lease,
        memory: None,
        prefetch: None,
        cold: false,
        ready_within: None,
        errand,
    }
}

/// A snapshot, as the API shows it.
pub(crate) fn snapshot(facts: SnapshotFacts) -> Snapshot {
    let SnapshotFacts { id, name, sandbox, template, size, created_at_ms, bytes, .. } = facts;
    Snapshot { id, name, sandbox, template, size, created_at_ms, bytes }
}
