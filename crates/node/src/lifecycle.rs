//! The lives of sandboxes, and snapshots, as the API shows them.

use api_node::{CreateSandbox, OnTimeout, Quota, Snapshot};
use node_host::{CreateSpec, Lease, SandboxHandle, SnapshotFacts};

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
pub(crate) fn spec_of_child(
    parent: &SandboxHandle,
    name: Option<String>,
    quota: Quota,
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
    }
}

/// A snapshot, as the API shows it.
pub(crate) fn snapshot(facts: SnapshotFacts) -> Snapshot {
    let SnapshotFacts { id, name, sandbox, template, size, created_at_ms, bytes, project: _ } =
        facts;
    Snapshot { id, name, sandbox, template, size, created_at_ms, bytes }
}
