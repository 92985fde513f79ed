//! What a sandbox may connect to: names and addresses that mean something to it alone.

use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::task::{Context, Poll};

use base_types::SandboxId;
use futures_util::future::BoxFuture;
use node_database::{DIRECT_PORT, POOLED_PORT};
use node_gateway::{Links, Stream};
use node_host::PortStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::Databases;
use crate::agent;

/// The network of addresses for databases: the last number is a wiring's.
const NETWORK: [u8; 3] = [10, 107, 1];

/// The databases one sandbox is wired to, for its network.
#[derive(Clone, Debug)]
pub(crate) struct SandboxLinks {
    databases: Databases,
    sandbox: SandboxId,
}

impl Databases {
    /// What `sandbox` may connect to, now and whenever it is asked.
    pub(crate) fn links(&self, sandbox: SandboxId) -> SandboxLinks {
        SandboxLinks { databases: self.clone(), sandbox }
    }
}

impl Links for SandboxLinks {
    fn resolve(&self, name: &str) -> Option<Ipv4Addr> {
        let state = self.databases.lock();
        let mut wirings = state.wirings.values().filter(|one| one.row.sandbox == self.sandbox);
        let found = wirings.find(|wiring| wiring.row.host.eq_ignore_ascii_case(name));
        found.map(|wiring| address(wiring.row.number))
    }

    /// A paused database is resumed. The stream ends when the sandbox is unwired.
    fn connect(
        &self,
        at: Ipv4Addr,
        port: u16,
    ) -> Option<BoxFuture<'static, io::Result<Box<dyn Stream>>>> {
        let state = self.databases.lock();
        let mut wirings = state.wirings.values().filter(|one| one.row.sandbox == self.sandbox);
        let wiring = wirings.find(|wiring| address(wiring.row.number) == at)?;
        if !matches!(port, DIRECT_PORT | POOLED_PORT) {
            return None;
        }
        let (id, open) = (wiring.row.database, wiring.open.clone());
        drop(state);
        let databases = self.databases.clone();
        Some(Box::pin(async move {
            let connecting = async {
                let (_, machine) = databases.awake(id).await?;
                agent::ask(&machine, |agent| agent.connect_port(port)).await
            };
            let connected = tokio::select! {
                () = open.cancelled() => return Err(io::ErrorKind::ConnectionRefused.into()),
                connected = connecting => connected,
            };
            match connected {
                Ok(stream) => Ok(Box::new(Cut::new(stream, open)) as Box<dyn Stream>),
                Err(failure) => Err(io::Error::new(io::ErrorKind::ConnectionRefused, failure)),
            }
        }))
    }
}

fn address(number: u8) -> Ipv4Addr {
    let [a, b, c] = NETWORK;
    Ipv4Addr::new(a, b, c, number)
}

/// A stream that ends when it is cut.
struct Cut {
    stream: PortStream,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Cut {
    fn new(stream: PortStream, open: CancellationToken) -> Self {
        Self { stream, cut: Box::pin(open.cancelled_owned()) }
    }

    fn is_cut(&mut self, cx: &mut Context<'_>) -> bool {
        self.cut.as_mut().poll(cx).is_ready()
    }
}

impl AsyncRead for Cut {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_cut(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Cut {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_cut(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
