//! Who may reach the ports of sandboxes.

use api_node::PortToken;

use super::Host;
use crate::sandbox::{PortsError, SandboxHandle};

impl Host {
    /// The token that opens the ports of `sandbox`, which is made now if nobody asked before.
    pub async fn ports_token(&self, sandbox: &SandboxHandle) -> Result<PortToken, PortsError> {
        let (ports, store) = (sandbox.ports_to_change(), self.around.store.clone());
        let id = sandbox.facts().id;
        if let Some(token) = sandbox.ports().token {
            return Ok(token);
        }
        // Carried through whoever leaves: what is remembered is what holds.
        let making = self.around.tasks.spawn(async move { ports.token(id, &store).await });
        making.await.map_err(|_| PortsError::Stopping)?
    }

    /// Makes a port of `sandbox` public, or private.
    pub async fn port_set(
        &self,
        sandbox: &SandboxHandle,
        port: u16,
        public: bool,
    ) -> Result<(), PortsError> {
        let (ports, store) = (sandbox.ports_to_change(), self.around.store.clone());
        let id = sandbox.facts().id;
        let setting =
            self.around.tasks.spawn(async move { ports.set(id, &store, port, public).await });
        setting.await.map_err(|_| PortsError::Stopping)?
    }
}
