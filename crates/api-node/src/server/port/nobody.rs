use base_types::SandboxId;

use crate::server::nobody::Nobody;
use crate::server::port::api::{PortIo, PortsAccess, PortsApi};
use crate::{Failure, PortToken};

impl PortsApi for Nobody {
    fn ports_access(&self, _: SandboxId) -> Option<PortsAccess> {
        match *self {}
    }

    async fn ports_token(&self, _: SandboxId) -> Result<PortToken, Failure> {
        match *self {}
    }

    async fn port_set(&self, _: SandboxId, _: u16, _: bool) -> Result<(), Failure> {
        match *self {}
    }

    async fn port_connect(&self, _: SandboxId, _: u16) -> Result<Box<dyn PortIo>, Failure> {
        match *self {}
    }
}
