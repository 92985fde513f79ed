//! What sandboxes may reach, and what they did reach.

use api_node::{FlowList, FlowQuery, Policy};

use super::Host;
use crate::flows::FlowLog;
use crate::sandbox::{PolicyError, SandboxHandle};

impl Host {
    /// Gives `sandbox` another policy; returns when it is remembered and holds.
    pub async fn policy_set(
        &self,
        sandbox: &SandboxHandle,
        policy: Policy,
    ) -> Result<(), PolicyError> {
        let (network, store) = (sandbox.network_to_change(), self.around.store.clone());
        let id = sandbox.facts().id;
        // Carried through whoever leaves: what is remembered is what holds.
        let setting = self.around.tasks.spawn(async move { network.set(id, &store, policy).await });
        setting.await.map_err(|_| PolicyError::Stopping)?
    }

    /// The latest flows of `sandbox`.
    pub fn flow_list(&self, sandbox: &SandboxHandle, query: &FlowQuery) -> FlowList {
        self.around.flows.page(sandbox.facts().id, query)
    }

    /// Takes what whoever carries packets has to tell.
    pub fn flow_log(&self) -> FlowLog {
        self.around.flows.clone()
    }
}
