//! Ports of what sandboxes are here: programs of the test, each on an address of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use api_node::{ErrorCode, Failure, PortIo, PortToken, PortsAccess, PortsApi};
use base_types::SandboxId;
use tokio::net::TcpStream;

use crate::SimNode;

/// What is known about ports.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    /// Where the program that "listens" on a port really does.
    programs: BTreeMap<(SandboxId, u16), SocketAddr>,
    public: BTreeSet<(SandboxId, u16)>,
    /// Sandboxes whose token somebody asked for.
    tokens: BTreeSet<SandboxId>,
}

impl SimNode {
    /// From now on, `port` of a sandbox leads to `program`.
    pub fn listen(&self, id: SandboxId, port: u16, program: SocketAddr) {
        self.lock().ports.programs.insert((id, port), program);
    }
}

impl PortsApi for SimNode {
    fn ports_access(&self, id: SandboxId) -> Option<PortsAccess> {
        let state = self.lock();
        let project = state.sandboxes.get(&id)?.project;
        let token = state.ports.tokens.contains(&id).then(|| token(id));
        let public = state.ports.public.iter().filter(|(of, _)| *of == id);
        Some(PortsAccess { project, token, public: public.map(|(_, port)| *port).collect() })
    }

    async fn ports_token(&self, id: SandboxId) -> Result<PortToken, Failure> {
        self.with_sandbox(id, |_| Ok(()))?;
        self.lock().ports.tokens.insert(id);
        Ok(token(id))
    }

    async fn port_set(&self, id: SandboxId, port: u16, public: bool) -> Result<(), Failure> {
        self.with_sandbox(id, |_| Ok(()))?;
        let all = &mut self.lock().ports.public;
        if public {
            all.insert((id, port))
        } else {
            all.remove(&(id, port))
        };
        Ok(())
    }

    async fn port_connect(&self, id: SandboxId, port: u16) -> Result<Box<dyn PortIo>, Failure> {
        self.with_guest(id, |_| Ok(()))?;
        let program = self.lock().ports.programs.get(&(id, port)).copied();
        let nothing =
            || Failure::new(ErrorCode::PortUnreachable, format!("nothing listens on port {port}"));
        let stream = TcpStream::connect(program.ok_or_else(nothing)?).await;
        Ok(Box::new(stream.map_err(|_| nothing())?))
    }
}

/// The same for a sandbox every time, so that what is printed of it can be compared.
fn token(id: SandboxId) -> PortToken {
    PortToken::from_bytes((u128::from(id.bits()) << 64 | 0x70_6f_72_74).to_be_bytes())
}
