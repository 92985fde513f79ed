//! Ports of sandboxes: where they are, and who may reach them. Reaching them is any HTTP client's work.

use api_node::{Port, PortList, SetPort};
use base_types::SandboxId;
use reqwest::Method;

use crate::error::ClientError;
use crate::operations::Client;

/// Asks; every method fails with a [`ClientError`] when the node is not there, refuses, or answers
/// something this build does not know.
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
impl Client {
    /// Where and how a port is reached. Nothing need listen there.
    pub async fn port_get(&self, id: SandboxId, port: u16) -> Result<Port, ClientError> {
        self.answer(self.of(id, Method::GET, &format!("/ports/{port}"))).await
    }

    /// Makes a port public, or private again.
    pub async fn port_set(
        &self,
        id: SandboxId,
        port: u16,
        request: SetPort,
    ) -> Result<Port, ClientError> {
        self.answer(self.of(id, Method::PUT, &format!("/ports/{port}")).json(&request)).await
    }

    /// The ports of a sandbox that are public.
    pub async fn port_list(&self, id: SandboxId) -> Result<PortList, ClientError> {
        self.answer(self.of(id, Method::GET, "/ports")).await
    }
}
