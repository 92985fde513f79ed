//! What sandboxes may reach.

use api_node::{ErrorCode, Failure, FlowList, FlowQuery, Policy, PolicyApi};
use base_types::SandboxId;
use node_host::PolicyError;
use node_store::StoreError;

use crate::api::Node;
use crate::failure;

impl PolicyApi for Node {
    async fn policy_get(&self, id: SandboxId) -> Result<Policy, Failure> {
        Ok(Policy::clone(&self.sandbox(id)?.policy()))
    }

    async fn policy_set(&self, id: SandboxId, policy: Policy) -> Result<Policy, Failure> {
        let sandbox = self.sandbox(id)?;
        let set = self.host().policy_set(&sandbox, policy.clone()).await;
        set.map(|()| policy).map_err(|error| of_policy(&error))
    }

    async fn flow_list(&self, id: SandboxId, query: FlowQuery) -> Result<FlowList, Failure> {
        Ok(self.host().flow_list(&self.sandbox(id)?, &query))
    }
}

/// Why a sandbox has no other policy.
fn of_policy(error: &PolicyError) -> Failure {
    match error {
        PolicyError::Unknown => failure::told(ErrorCode::Conflict, error),
        PolicyError::Stopping => failure::told(ErrorCode::Stopping, error),
        PolicyError::Store(StoreError::DiskFull) => failure::told(ErrorCode::DiskFull, error),
        PolicyError::Store(_) => {
            Failure::because(ErrorCode::Internal, "the policy did not change", error)
        }
    }
}
