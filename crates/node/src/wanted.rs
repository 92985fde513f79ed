//! A create, in terms of the host side.

use std::time::Duration;

use api_node::{CreateSandbox, MemoryPath, Quota};
use base_types::ProjectId;
use node_host::CreateSpec;

use crate::lifecycle;

/// What the host side is asked for.
pub(crate) fn spec(request: CreateSandbox, project: ProjectId, quota: Quota) -> CreateSpec {
    let lease = lifecycle::lease(&request);
    let CreateSandbox { template, size, name, env, metadata, snapshot, network, options, .. } =
        request;
    let memory = options.memory_path.map(|path| match path {
        MemoryPath::Private => api_vmm::MemoryPath::Private,
        MemoryPath::Userfault => api_vmm::MemoryPath::Userfault,
    });
    let ready_within = options.ready_timeout_ms.map(|ms| Duration::from_millis(ms.into()));
    let (prefetch, cold) = (options.prefetch, options.cold);
    CreateSpec {
        id: None,
        project,
        quota,
        template,
        size,
        name,
        env,
        metadata,
        snapshot,
        lease,
        network,
        secrets: Vec::new(),
        memory,
        prefetch,
        cold,
        ready_within,
        durable: false,
        errand: None,
    }
}
