//! The lives of sandboxes, and snapshots, as the API shows them; and what is made of sandboxes.

use std::sync::Arc;

use api_node::{
    Caller, CreateSandbox, CreateSnapshot, Errand, ErrorCode, Failure, Fork, ForkDatabases, Forked,
    OnTimeout, Policy, Quota, Sandbox, Snapshot,
};
use base_types::SandboxId;
use node_access::Access;
use node_host::{CreateSpec, Host, Lease, SandboxHandle, SnapshotFacts, WantedSnapshot};

use crate::databases::Databases;
use crate::view::sandbox;
use crate::{failure, quota};

/// The sandbox that the caller's errand made before this request of it.
pub(crate) fn made(host: &Host, caller: &Caller) -> Option<Sandbox> {
    host.made_by(caller.project, caller.errand?).first().map(sandbox)
}

/// Forks `parent`, unless the caller's errand did before. When only some of its children are there,
/// a node died over the fork or their owner killed the others: they may be in use, and are left alone.
pub(crate) async fn fork(
    host: &Arc<Host>,
    access: &Access,
    databases: &Databases,
    caller: &Caller,
    parent: &SandboxHandle,
    request: Fork,
) -> Result<Forked, Failure> {
    let project = parent.facts().project;
    let count = usize::try_from(request.count).unwrap_or(usize::MAX);
    let errand = caller.errand;
    let children = errand.map(|errand| host.made_by(project, errand)).unwrap_or_default();
    let wired = match request.databases {
        ForkDatabases::None => 0,
        ForkDatabases::Share | ForkDatabases::Fork => databases.count_of(parent.facts().id),
    };
    let whole = |child: &SandboxHandle| databases.count_of(child.facts().id) >= wired;
    if children.len() == count && children.iter().all(whole) {
        return Ok(Forked { sandboxes: children.iter().map(sandbox).collect(), held_us: 0 });
    }
    if !children.is_empty() {
        return Err(partly_there(children.iter().map(|child| child.facts().id), count));
    }
    let machines = match request.databases {
        ForkDatabases::Fork => count * (1 + wired),
        ForkDatabases::None | ForkDatabases::Share => count,
    };
    let machines = u64::try_from(machines).unwrap_or(u64::MAX);
    let quota = quota::admit(access, host, project, machines).await?;
    let spec = spec_of_child(parent, request.name, quota, errand);
    let (children, held_us) = databases.fork_with(parent, count, request.databases, spec).await?;
    Ok(Forked { sandboxes: children.iter().map(sandbox).collect(), held_us })
}

/// Why a fork is not made again: these of its `count` children are there.
fn partly_there(there: impl Iterator<Item = SandboxId>, count: usize) -> Failure {
    let there: Vec<_> = there.map(|id| id.to_string()).collect();
    let (left, ids) = (there.len(), there.join(", "));
    let message =
        format!("this fork was made before, and {left} of its {count} sandboxes are left: {ids}");
    Failure::new(ErrorCode::Conflict, message).with_hint("use those, or kill them and ask again")
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
    let quota = quota::admit_snapshot(access, host, project).await?;
    let wanted = WantedSnapshot { name: request.name, errand: caller.errand, database: None };
    let kept = host.snapshot_create(parent, wanted, &quota).await;
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
        id: None,
        project: facts.project,
        quota,
        template: facts.template.clone(),
        size: facts.size,
        name: name.or_else(|| facts.name.clone()),
        env: facts.env.clone(),
        metadata: facts.metadata.clone(),
        snapshot: facts.snapshot,
        lease: parent.view().lease,
        network: Some(Policy::clone(&parent.policy())),
        secrets: facts.secrets.clone(),
        memory: None,
        prefetch: None,
        cold: false,
        ready_within: None,
        durable: false,
        errand,
    }
}

/// Whether a snapshot is one that sandboxes are made from; others are those of databases.
pub(crate) fn is_of_sandbox(facts: &SnapshotFacts) -> bool {
    facts.database.is_none()
}

/// A snapshot, as the API shows it.
pub(crate) fn snapshot(facts: SnapshotFacts) -> Snapshot {
    let SnapshotFacts { id, name, sandbox, template, size, created_at_ms, bytes, .. } = facts;
    Snapshot { id, name, sandbox, template, size, created_at_ms, bytes }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_fork_that_is_partly_there_is_a_conflict_that_names_what_is() {
        let there = [SandboxId::from_bits(1), SandboxId::from_bits(2)];
        let failure = partly_there(there.into_iter(), 3);
        assert_eq!(failure.code, ErrorCode::Conflict);
        assert!(failure.message.contains("2 of its 3"), "{}", failure.message);
        for id in there {
            assert!(failure.message.contains(&id.to_string()), "{}", failure.message);
        }
    }
}
