//! What looks into a connection of a guest, to put the values of its secrets in.
//!
//! ```text
//!   first byte ─▶ HTTP ──────────────────────────────▶ requests, one by one
//!             └─▶ TLS ─▶ a host of its secrets by SNI ─▶ ended here, begun anew to the host ─▶ requests
//!                     └─▶ any other ─▶ untouched
//! ```
//! Only connections to hosts of the sandbox's secrets come here at all. A value goes out only in a
//! request whose host is the secret's, on a connection to an address that this host's name gave; with
//! TLS, to a server that proved to be that host.

mod ahead;
mod relay;
mod replace;
mod tls;

use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::{fmt, io};

use api_node::{DomainName, FlowProtocol, Verdict};
use futures_util::future::{AbortHandle, BoxFuture, abortable};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use self::ahead::Ahead;
use self::relay::{HEAD_WITHIN, relay};
use self::replace::{Place, Refusal, Used};
use self::tls::Opened;
use crate::authority::Authority;
use crate::ledger::{Ledger, Note};
use crate::secrets::Secrets;

pub(crate) use self::tls::client_config;

/// LIMIT: bytes between a guest's connection and what looks into it, each way; about a window.
const PIPE_BYTES: usize = 64 * 1024;
const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;
/// What a connection of TLS begins with: a record of a handshake.
const TLS_FIRST_BYTE: u8 = 0x16;

/// One connection that is looked into.
pub(crate) struct Tap {
    pub(crate) secrets: Arc<dyn Secrets>,
    /// Who vouches for hosts to the guest; `None` leaves TLS untouched.
    pub(crate) authority: Option<Arc<Authority>>,
    /// How the host is known to be itself.
    pub(crate) client: Arc<tokio_rustls::rustls::ClientConfig>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) address: Ipv4Addr,
    pub(crate) port: u16,
    /// The names that gave the address.
    pub(crate) names: Vec<DomainName>,
}

/// The guest's end of a connection that is looked into, which ends with it.
pub(crate) struct Tapped {
    pipe: DuplexStream,
    work: AbortHandle,
}

impl Tap {
    /// Whether a connection to here is to be looked into.
    pub(crate) fn wants(secrets: &dyn Secrets, names: &[DomainName], port: u16) -> bool {
        let granted = secrets.granted();
        granted.iter().any(|granted| names.iter().any(|name| granted.goes_to(name, port)))
    }

    /// The guest's end, who takes the connection to the host when there is one, and the work between
    /// the two, which somebody has to do.
    pub(crate) fn open(self) -> (Tapped, oneshot::Sender<TcpStream>, BoxFuture<'static, ()>) {
        let (pipe, near) = tokio::io::duplex(PIPE_BYTES);
        let (connected, far) = oneshot::channel();
        let (work, handle) = abortable(self.serve(near, far));
        let work = async move {
            // Aborted or over, that is all.
            let _ = work.await;
        };
        (Tapped { pipe, work: handle }, connected, Box::pin(work))
    }

    async fn serve(self, near: DuplexStream, far: oneshot::Receiver<TcpStream>) {
        let Ok(mut far) = far.await else { return };
        let mut near = Ahead::new(near);
        let Ok(Ok(first)) = timeout(HEAD_WITHIN, near.look()).await else { return };
        let is_tls = first.first() == Some(&TLS_FIRST_BYTE);
        match (is_tls, self.port) {
            // Nothing was said, or what the port is not for.
            _ if first.is_empty() => {}
            (true, HTTP_PORT) | (false, HTTPS_PORT) => {}
            (false, _) => {
                let names = self.names.clone();
                let place = Place { names, port: self.port, usual_port: HTTP_PORT };
                // An error is one of the two ends', which the guest sees as the end.
                let _ = Box::pin(relay(&self, &place, near, far)).await;
                return;
            }
            (true, _) => match Box::pin(tls::open(&self, &mut near)).await {
                Ok(Opened::Here(name, config)) => {
                    Box::pin(tls::serve(&self, name, config, near, far)).await;
                    return;
                }
                Ok(Opened::Elsewhere) => {}
                Err(_) => return,
            },
        }
        let _ = copy_bidirectional(&mut near, &mut far).await;
    }

    /// Tells that a request went out with values in it.
    fn used(&self, used: &Used) {
        for secret in &used.secrets {
            self.note(&used.host, Verdict::Allowed, format!("secret {secret}"));
        }
    }

    /// Tells that a request did not go out.
    fn refused(&self, refusal: &Refusal) {
        match refusal {
            Refusal::Deleted { secret, host, .. } => {
                self.note(host, Verdict::Denied, format!("secret {secret}: it was deleted"));
            }
            Refusal::OtherHost { names, .. } => {
                if let Some(name) = names.first() {
                    self.note(name, Verdict::Denied, "secrets: a request for another host".into());
                }
            }
            Refusal::NoHost | Refusal::TooMany | Refusal::Unwritable => {}
        }
    }

    fn note(&self, host: &DomainName, verdict: Verdict, reason: String) {
        self.ledger.note(Note {
            name: Some(host.as_str().to_owned()),
            address: Some(self.address),
            port: Some(self.port),
            protocol: FlowProtocol::Tcp,
            verdict,
            reason,
        });
    }
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tap").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Drop for Tapped {
    fn drop(&mut self) {
        self.work.abort();
    }
}

impl AsyncRead for Tapped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}
