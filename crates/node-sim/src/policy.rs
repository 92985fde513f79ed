//! What sandboxes may reach here: it is kept, and nothing follows it. What they reached is what a test says.

use api_node::{Failure, Flow, FlowEntry, FlowList, FlowQuery, Policy, PolicyApi};
use base_types::SandboxId;

use crate::SimNode;

impl SimNode {
    /// A sandbox reached something, or was denied it. Nothing happens when there is no such sandbox.
    pub fn flowed(&self, id: SandboxId, flow: Flow) {
        if let Some(sandbox) = self.lock().sandboxes.get_mut(&id) {
            let index = u64::try_from(sandbox.flows.len()).unwrap_or(u64::MAX);
            sandbox.flows.push(FlowEntry { index, flow });
        }
    }
}

impl PolicyApi for SimNode {
    async fn policy_get(&self, id: SandboxId) -> Result<Policy, Failure> {
        self.with_sandbox(id, |sandbox| Ok(sandbox.network.clone()))
    }

    async fn policy_set(&self, id: SandboxId, policy: Policy) -> Result<Policy, Failure> {
        self.with_sandbox(id, |sandbox| {
            sandbox.network.clone_from(&policy);
            Ok(policy)
        })
    }

    async fn flow_list(&self, id: SandboxId, query: FlowQuery) -> Result<FlowList, Failure> {
        self.with_sandbox(id, |sandbox| Ok(FlowList::page(sandbox.flows.iter(), &query)))
    }
}
