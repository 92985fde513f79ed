//! The gateway as the networks of the node's sandboxes.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use api_node::Flow;
use base_types::SandboxId;
use futures_util::future::BoxFuture;
use node_gateway::{Flows, Gateway, GatewaySettings, Links, Stream};
use node_host::{FlowLog, NetworkGuard, Networks, PolicyWatch};

/// A gateway of these settings, which tells `flows` of everything.
pub(crate) fn networks(settings: GatewaySettings, flows: FlowLog) -> io::Result<Arc<dyn Networks>> {
    let gateway = Gateway::new(settings, Arc::new(Told(flows)))?;
    Ok(Arc::new(Gated(gateway)))
}

struct Gated(Gateway);

impl fmt::Debug for Gated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gated")
    }
}

impl Networks for Gated {
    fn open(&self, id: SandboxId, policy: PolicyWatch) -> io::Result<(OwnedFd, NetworkGuard)> {
        let (frames, network) = self.0.open(id, policy, Arc::new(Unwired))?;
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

/// No database is wired to any sandbox.
struct Unwired;

impl Links for Unwired {
    fn resolve(&self, _: &str) -> Option<Ipv4Addr> {
        None
    }

    fn connect(
        &self,
        _: Ipv4Addr,
        _: u16,
    ) -> Option<BoxFuture<'static, io::Result<Box<dyn Stream>>>> {
        None
    }
}
