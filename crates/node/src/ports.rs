//! Ports of sandboxes.

use api_node::{ErrorCode, Failure, PortIo, PortToken, PortsAccess, PortsApi};
use base_types::SandboxId;
use node_host::PortsError;
use node_store::StoreError;

use crate::api::Node;
use crate::failure;

impl PortsApi for Node {
    fn ports_access(&self, id: SandboxId) -> Option<PortsAccess> {
        let sandbox = self.sandbox(id).ok()?;
        let rule = sandbox.ports();
        let project = sandbox.facts().project;
        Some(PortsAccess { project, token: rule.token, public: rule.public })
    }

    async fn ports_token(&self, id: SandboxId) -> Result<PortToken, Failure> {
        let sandbox = self.sandbox(id)?;
        self.host().ports_token(&sandbox).await.map_err(|error| of_ports(&error))
    }

    async fn port_set(&self, id: SandboxId, port: u16, public: bool) -> Result<(), Failure> {
        let sandbox = self.sandbox(id)?;
        let set = self.host().port_set(&sandbox, port, public).await;
        set.map_err(|error| of_ports(&error))
    }

    async fn port_connect(&self, id: SandboxId, port: u16) -> Result<Box<dyn PortIo>, Failure> {
        let connected = self.ask(id, |agent| agent.connect_port(port)).await;
        connected.map(|stream| Box::new(stream) as Box<dyn PortIo>)
    }
}

/// Why nothing changed about who may reach ports.
fn of_ports(error: &PortsError) -> Failure {
    match error {
        PortsError::Full(_) | PortsError::Unknown => failure::told(ErrorCode::Conflict, error),
        PortsError::Stopping => failure::told(ErrorCode::Stopping, error),
        PortsError::Store(StoreError::DiskFull) => failure::told(ErrorCode::DiskFull, error),
        PortsError::Store(_) | PortsError::Token(_) => {
            Failure::because(ErrorCode::Internal, "who may reach the port did not change", error)
        }
    }
}
