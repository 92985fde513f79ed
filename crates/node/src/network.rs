//! The gateway as the networks of the node's sandboxes.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use api_node::Flow;
use base_types::SandboxId;
use futures_util::future::BoxFuture;
use node_gateway::{Flows, Gateway, GatewaySettings, Links, NoSecrets, Secrets, Stream};
use node_host::{FlowLog, NetworkGuard, Networks, PolicyWatch, SandboxFacts};

use crate::databases::Databases;
use crate::vault::{FoundVault, SecretsOf};

/// The databases of the node, as soon as they are found: sandboxes have their networks before.
pub(crate) type Found = Arc<OnceLock<Databases>>;

/// A gateway of these settings, which tells `flows` of everything, leads to `databases`, and puts in
/// what is in the `vault`.
pub(crate) fn networks(
    settings: GatewaySettings,
    flows: FlowLog,
    databases: Found,
    vault: FoundVault,
) -> io::Result<Arc<dyn Networks>> {
    let gateway = Gateway::new(settings, Arc::new(Told(flows)))?;
    Ok(Arc::new(Gated { gateway, databases, vault }))
}

struct Gated {
    gateway: Gateway,
    databases: Found,
    vault: FoundVault,
}

impl fmt::Debug for Gated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gated")
    }
}

impl Networks for Gated {
    fn open(
        &self,
        facts: &SandboxFacts,
        policy: PolicyWatch,
    ) -> io::Result<(OwnedFd, NetworkGuard)> {
        let links = LinksOf { sandbox: facts.id, databases: self.databases.clone() };
        let secrets: Arc<dyn Secrets> = match facts.secrets.is_empty() {
            true => Arc::new(NoSecrets),
            false => Arc::new(SecretsOf {
                project: facts.project,
                grants: facts.secrets.clone(),
                vault: self.vault.clone(),
            }),
        };
        let (frames, network) = self.gateway.open(facts.id, policy, Arc::new(links), secrets)?;
        Ok((frames, Box::new(network)))
    }
}

/// Takes down what the gateway tells.
struct Told(FlowLog);

impl Flows for Told {
    fn flow(&self, sandbox: SandboxId, flow: Flow) {
        self.0.push(sandbox, flow);
    }
}

/// What one sandbox is wired to.
struct LinksOf {
    sandbox: SandboxId,
    databases: Found,
}

impl Links for LinksOf {
    fn resolve(&self, name: &str) -> Option<Ipv4Addr> {
        self.databases.get()?.links(self.sandbox).resolve(name)
    }

    fn connect(
        &self,
        address: Ipv4Addr,
        port: u16,
    ) -> Option<BoxFuture<'static, io::Result<Box<dyn Stream>>>> {
        self.databases.get()?.links(self.sandbox).connect(address, port)
    }
}
