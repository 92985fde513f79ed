//! Where the frames of guests go.
//!
//! The host side knows nothing of networks. It asks for a frame socket whenever a machine begins, and
//! keeps what came with it as long as the machine's process.

use std::fmt::Debug;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use api_node::Policy;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::sync::watch;

use crate::sandbox::SandboxFacts;

/// What stands behind a frame socket. Its end ends that.
pub type NetworkGuard = Box<dyn Send + Sync>;

/// What a sandbox may reach, and every change of that.
pub type PolicyWatch = watch::Receiver<Arc<Policy>>;

/// Whoever has the networks of sandboxes.
pub trait Networks: Debug + Send + Sync {
    /// A new [frame socket](api_vmm::Command::Network) for the machine of a sandbox, and what stands
    /// behind it as long as the machine runs. What goes through is up to `policy`, as it is and as it
    /// becomes. Asked for at every create, resume and fork, and by a daemon that takes over a running
    /// machine; a create waits for it, so it must be quick.
    ///
    /// # Errors
    ///
    /// When there is no network for it, and so no machine.
    fn open(
        &self,
        facts: &SandboxFacts,
        policy: PolicyWatch,
    ) -> io::Result<(OwnedFd, NetworkGuard)>;
}

/// Networks with nobody in them: whatever guests send is lost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unplugged;

impl Networks for Unplugged {
    fn open(&self, _: &SandboxFacts, _: PolicyWatch) -> io::Result<(OwnedFd, NetworkGuard)> {
        Ok((unplugged()?, Box::new(())))
    }
}

/// A frame socket whose other end is closed.
pub(crate) fn unplugged() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    Ok(pair.0)
}

/// Held by a process for as long as it is there.
pub(crate) struct Plugged(#[expect(dead_code, reason = "held for its end")] NetworkGuard);

impl Plugged {
    pub(crate) fn new(guard: NetworkGuard) -> Self {
        Self(guard)
    }
}

impl Debug for Plugged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Plugged")
    }
}
