//! The gateway: the network behind every sandbox's network card.
//!
//! Frames of a guest come over a socket and end here. What the guest takes for routers and servers is
//! one task of the daemon: it answers ARP, resolves names, accepts the guest's TCP with a stack of its
//! own, and moves the bytes to and from ordinary sockets of the host, as far as the sandbox's policy
//! goes. Nothing is set up on the host, no packet is forwarded, and nothing is reached but by a decision
//! of `judge`.
//!
//! Who calls it: `node-host`, which hands the other end of the frame socket to the VMM. What always
//! holds: everything in a frame is hostile, and everything that a guest can make grow has a limit
//! ([`GatewaySettings`]); the sandboxes' tasks share nothing but the settings and whom they tell.
//!
//! It is not a firewall for the host, and knows neither KVM nor databases: those are [`Links`].

mod authority;
mod bucket;
mod connection;
mod contain;
mod dns;
mod exchange;
mod far;
mod frame;
mod host;
mod judge;
mod ledger;
mod link;
mod names;
mod reply;
mod resolvers;
mod sandbox;
mod secrets;
mod settings;
mod stack;
mod tap;
mod victim;
mod wake;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use api_node::{Flow, Policy};
use base_types::SandboxId;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::{AbortHandle, unconstrained, yield_now};
use tokio_rustls::rustls::ClientConfig;

use crate::contain::Contained;
use crate::dns::Resolver;
use crate::dns::upstream::Upstream;
use crate::host::Host;
use crate::ledger::Ledger;
use crate::link::Link;
use crate::sandbox::{Parts, Sandbox, Turned};

pub use authority::Authority;
pub use contain::contains_panics;
pub use dns::message::{Query, Rcode, addresses_of};
pub use far::Stream;
pub use frame::{Dropped, Packet, Segment, Tuple, read};
pub use judge::{Destination, Reason, Verdict, judge, judge_name, never};
pub use secrets::{Granted, NoSecrets, Secrets};
pub use settings::GatewaySettings;
#[doc(hidden)]
pub use victim::Victim;

/// The networks of a node. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    settings: Arc<GatewaySettings>,
    host: Arc<Host>,
    upstream: Arc<Upstream>,
    /// How hosts of secrets are known to be themselves.
    client: Arc<ClientConfig>,
    flows: Arc<dyn Flows>,
}

/// Who is told of each flow: its end, or that it was denied.
pub trait Flows: Send + Sync {
    /// Must not block: it is called by the task that moves the sandbox's bytes.
    fn flow(&self, sandbox: SandboxId, flow: Flow);
}

/// Databases wired to one sandbox: names and addresses only it sees, whatever its policy says.
pub trait Links: Send + Sync {
    /// The address of a name, which is in small letters and without a dot at its end.
    fn resolve(&self, name: &str) -> Option<Ipv4Addr>;

    /// What to connect to when the guest connects to an address of `DATABASES`. `None` resets the
    /// guest's connection, as does an error later. Must not block; the stream's end is the
    /// connection's, so whoever unwires ends the stream.
    fn connect(
        &self,
        address: Ipv4Addr,
        port: u16,
    ) -> Option<BoxFuture<'static, io::Result<Box<dyn Stream>>>>;
}

/// The network of one sandbox. It ends when this is dropped, or the other end of the frame socket is
/// closed; all its connections end with it.
#[derive(Debug)]
pub struct Network {
    task: AbortHandle,
}

impl Gateway {
    /// # Errors
    ///
    /// When the host cannot tell its own addresses from others, or one of the roots is none.
    pub fn new(settings: GatewaySettings, flows: Arc<dyn Flows>) -> io::Result<Self> {
        let host = Host::new(settings.allowance.clone())?;
        let upstream = Upstream::new(settings.resolvers.clone());
        let client = tap::client_config(&settings.roots)?;
        Ok(Self {
            settings: Arc::new(settings),
            host: Arc::new(host),
            upstream: Arc::new(upstream),
            client: Arc::new(client),
            flows,
        })
    }

    /// The frame socket for the VMM, and the network behind it. What the policy becomes holds at once,
    /// also for what is under way. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// When there are no descriptors left.
    pub fn open(
        &self,
        sandbox: SandboxId,
        policy: watch::Receiver<Arc<Policy>>,
        links: Arc<dyn Links>,
        secrets: Arc<dyn Secrets>,
    ) -> io::Result<(OwnedFd, Network)> {
        let (theirs, ours) = link::pair()?;
        let link = Link::new(ours)?;
        let ledger = Arc::new(Ledger::new(sandbox, self.flows.clone()));
        let resolver = Arc::new(Resolver::new(
            self.settings.clone(),
            self.host.clone(),
            self.upstream.clone(),
            policy.clone(),
            links.clone(),
            ledger.clone(),
        ));
        let parts = Parts {
            settings: self.settings.clone(),
            host: self.host.clone(),
            resolver,
            links,
            secrets,
            client: self.client.clone(),
            ledger,
            policy: policy.clone(),
        };
        // A turn has limits of its own, in what it does rather than in how often it asks.
        let network = Contained::new(run(Sandbox::new(parts, link), policy));
        let task = tokio::spawn(unconstrained(network));
        Ok((theirs, Network { task: task.abort_handle() }))
    }
}

async fn run(mut sandbox: Sandbox, mut policy: watch::Receiver<Arc<Policy>>) {
    let mut may_change = true;
    loop {
        tokio::select! {
            biased;
            changed = policy.changed(), if may_change => {
                // Nobody is left who could change it: it stays what it is.
                may_change = changed.is_ok();
                sandbox.follow();
            }
            turned = poll_fn(|cx| sandbox.poll(cx)) => match turned {
                Turned::More => yield_now().await,
                Turned::Gone => return,
            },
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("settings", &self.settings).finish_non_exhaustive()
    }
}
