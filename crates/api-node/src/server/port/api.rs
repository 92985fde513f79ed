use std::collections::BTreeSet;
use std::future::Future;

use base_types::{ProjectId, SandboxId};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{Failure, PortToken};

/// A connection to a program in a sandbox.
pub trait PortIo: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> PortIo for T {}

/// Who may reach the ports of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortsAccess {
    /// The project the sandbox belongs to: its keys open every port.
    pub project: ProjectId,
    /// So does this, once somebody has asked for it.
    pub token: Option<PortToken>,
    /// Those that anybody may reach.
    pub public: BTreeSet<u16>,
}

/// The operations of a node on ports of sandboxes. What is said of [`crate::NodeApi`] holds here too.
pub trait PortsApi: Send + Sync + 'static {
    /// Who may reach the ports of a sandbox; `None` when there is no such sandbox. Asked before every
    /// request for one.
    fn ports_access(&self, id: SandboxId) -> Option<PortsAccess>;

    /// The token of a sandbox, which is made now if nobody has asked for it before. Outlives the node;
    /// no sandbox made from this one has the same.
    fn ports_token(&self, id: SandboxId)
    -> impl Future<Output = Result<PortToken, Failure>> + Send;

    /// Makes a port public, or private again. Outlives the node.
    fn port_set(
        &self,
        id: SandboxId,
        port: u16,
        public: bool,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Connects to a program in a sandbox, which is in use until the connection is dropped.
    fn port_connect(
        &self,
        id: SandboxId,
        port: u16,
    ) -> impl Future<Output = Result<Box<dyn PortIo>, Failure>> + Send;
}
