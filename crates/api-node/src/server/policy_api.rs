use std::future::Future;

use base_types::SandboxId;

use crate::server::nobody::Nobody;
use crate::{Failure, FlowList, FlowQuery, Policy};

/// The operations of a node on what sandboxes may reach. What is said of [`crate::NodeApi`] holds here
/// too.
pub trait PolicyApi: Send + Sync + 'static {
    /// What a sandbox may reach.
    fn policy_get(&self, id: SandboxId) -> impl Future<Output = Result<Policy, Failure>> + Send;

    /// Gives a sandbox another policy; returns when it is remembered and holds. Outlives the node.
    fn policy_set(
        &self,
        id: SandboxId,
        policy: Policy,
    ) -> impl Future<Output = Result<Policy, Failure>> + Send;

    /// The latest flows of a sandbox.
    fn flow_list(
        &self,
        id: SandboxId,
        query: FlowQuery,
    ) -> impl Future<Output = Result<FlowList, Failure>> + Send;
}

impl PolicyApi for Nobody {
    async fn policy_get(&self, _: SandboxId) -> Result<Policy, Failure> {
        match *self {}
    }

    async fn policy_set(&self, _: SandboxId, _: Policy) -> Result<Policy, Failure> {
        match *self {}
    }

    async fn flow_list(&self, _: SandboxId, _: FlowQuery) -> Result<FlowList, Failure> {
        match *self {}
    }
}
