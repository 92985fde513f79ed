//! What sandboxes may reach, and what they reached.

use api_node::{FlowList, FlowQuery, Policy};
use base_types::SandboxId;
use reqwest::Method;

use crate::error::ClientError;
use crate::operations::Client;

/// Asks; every method fails with a [`ClientError`] when the node is not there, refuses, or answers
/// something this build does not know.
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
impl Client {
    /// What a sandbox may reach.
    pub async fn policy_get(&self, id: SandboxId) -> Result<Policy, ClientError> {
        self.answer(self.of(id, Method::GET, "/policy")).await
    }

    /// Gives a sandbox another policy, which holds when this returns.
    pub async fn policy_set(&self, id: SandboxId, policy: &Policy) -> Result<Policy, ClientError> {
        self.answer(self.of(id, Method::PUT, "/policy").json(policy)).await
    }

    /// The latest flows of a sandbox.
    pub async fn flow_list(
        &self,
        id: SandboxId,
        query: &FlowQuery,
    ) -> Result<FlowList, ClientError> {
        self.answer(self.of(id, Method::GET, "/flows").query(query)).await
    }
}
