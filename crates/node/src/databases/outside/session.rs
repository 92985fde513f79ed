//! One session from outside, from its first byte to its end.
//!
//! ```text
//!   first byte of TLS ─────────────┐ TLS, of Postgres by name
//!   asked for TLS ─▶ `S` ──────────┤
//!   asked otherwise ─▶ `N` ──┐     │
//!   says whose it is ◀───────┴─────┘─▶ nobody's, or not open to it ─▶ the same answer
//!                                    └▶ no place ─▶ refused
//!                                     └▶ its database is woken, and bytes go both ways
//! ```
//!
//! Nothing of a database is touched before its rule allows the client, and a session ends when that does
//! no more.

#[cfg(test)]
mod test;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api_node::{Failure, Outside};
use base_types::DatabaseId;
use bytes::BufMut as _;
use node_database::{
    ASKS_MAX, DIRECT_PORT, NO_ENCRYPTION, Opening, POOLED_PORT, STARTUP_BYTES_MAX, Startup,
    TLS_BEGINS, TLS_FIRST_BYTE, TLS_PROTOCOL, opening, refusal,
};
use node_gateway::Stream;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// LIMIT: how long a client may take to say whose session it wants, a handshake of TLS included.
const STARTUP_WITHIN: Duration = Duration::from_secs(10);

/// What sessions lead to.
pub(super) trait Inside: Send + Sync {
    /// A connection to a database's server.
    type Server: AsyncRead + AsyncWrite + Unpin + Send;

    /// The way to the database that has a user of this name, where there is one.
    fn way(&self, user: &str) -> Option<Way>;

    /// Connects to a port of a database's machine. A paused one is resumed.
    fn connect(
        &self,
        id: DatabaseId,
        port: u16,
    ) -> impl Future<Output = Result<Self::Server, Failure>> + Send;

    /// Is told that a client was not let in to a database, by its rule.
    fn denied(&self, id: DatabaseId, from: SocketAddr, rule: &Outside);
}

/// The way to a database.
pub(super) struct Way {
    pub(super) id: DatabaseId,
    /// Who may go it, now and later.
    pub(super) rule: watch::Receiver<Outside>,
    /// How many may at once.
    pub(super) places: Arc<Semaphore>,
}

/// A session that begins.
pub(super) struct Session<I> {
    pub(super) inside: I,
    /// Whom it is with.
    pub(super) from: SocketAddr,
    pub(super) tls: Option<TlsAcceptor>,
}

/// What a client wants of an unencrypted connection, or one that is encrypted already.
enum Wanted {
    /// A session; and what it said after that.
    Session(Startup, Vec<u8>),
    Tls,
    /// Nothing that is given here.
    Nothing,
}

/// What a client may ask for before its session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Encryption {
    Offered,
    NotOffered,
    /// It is there.
    Begun,
}

impl<I: Inside> Session<I> {
    /// Carries the session to its end.
    pub(super) async fn carry(self, client: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let Ok(begun) = timeout(STARTUP_WITHIN, self.begin(client)).await else { return Ok(()) };
        let Some((mut client, startup, early)) = begun? else { return Ok(()) };
        let user = startup.role.to_string();
        let way = self.inside.way(&user).filter(|way| self.is_open(way));
        let Some(Way { id, mut rule, places }) = way else {
            // No other word for those who are not there, or not open to it.
            let message = format!("password authentication failed for user \"{user}\"");
            return refuse(client, "28P01", &message).await;
        };
        let Ok(_place) = places.try_acquire() else {
            return refuse(client, "53300", "this database has as many connections as it can")
                .await;
        };
        let serving = async {
            let port = if startup.direct { DIRECT_PORT } else { POOLED_PORT };
            let mut server = match self.inside.connect(id, port).await {
                Ok(server) => server,
                Err(failure) => return refuse(client, "57P03", &failure.message).await,
            };
            server.write_all(&startup.packet).await?;
            server.write_all(&early).await?;
            copy_bidirectional(&mut client, &mut server).await.map(drop)
        };
        tokio::select! {
            ended = serving => ended,
            // Or the database is gone.
            _ = rule.wait_for(|rule| !rule.allows(self.from.ip())) => Ok(()),
        }
    }

    fn is_open(&self, way: &Way) -> bool {
        let rule = way.rule.borrow().clone();
        let open = rule.allows(self.from.ip());
        if !open {
            self.inside.denied(way.id, self.from, &rule);
        }
        open
    }

    /// Whose session a client wants, and what it said after that; `None` when it wants none.
    async fn begin(
        &self,
        mut client: TcpStream,
    ) -> io::Result<Option<(Box<dyn Stream>, Startup, Vec<u8>)>> {
        let Some(tls) = &self.tls else {
            let wanted = want(&mut client, Encryption::NotOffered).await?;
            return Ok(begun(client, wanted));
        };
        let mut first = [0];
        // Who begins so asks nobody, and has to say that it is Postgres it wants.
        let unasked = client.peek(&mut first).await? == 1 && first == [TLS_FIRST_BYTE];
        if !unasked {
            match want(&mut client, Encryption::Offered).await? {
                Wanted::Tls => {}
                Wanted::Session(..) if !self.from.ip().to_canonical().is_loopback() => {
                    let message = "connections from other machines are encrypted: sslmode=require";
                    return refuse(Box::new(client), "28000", message).await.map(|()| None);
                }
                wanted => return Ok(begun(client, wanted)),
            }
        }
        let mut client = tls.accept(client).await?;
        if unasked && client.get_ref().1.alpn_protocol() != Some(TLS_PROTOCOL) {
            return Ok(None);
        }
        let wanted = want(&mut client, Encryption::Begun).await?;
        Ok(begun(client, wanted))
    }
}

fn begun<S>(client: S, wanted: Wanted) -> Option<(Box<dyn Stream>, Startup, Vec<u8>)>
where
    S: Stream + 'static,
{
    match wanted {
        Wanted::Session(startup, early) => Some((Box::new(client), startup, early)),
        Wanted::Tls | Wanted::Nothing => None,
    }
}

/// Reads what a client wants.
async fn want<S>(client: &mut S, encryption: Encryption) -> io::Result<Wanted>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut bytes = Vec::new();
    let mut asks = 0;
    loop {
        match opening(&bytes) {
            Err(error) => {
                client.write_all(&refusal("08P01", &error.to_string())).await?;
                return Ok(Wanted::Nothing);
            }
            Ok(Some((Opening::Startup(startup), length))) => {
                return Ok(Wanted::Session(startup, bytes.split_off(length)));
            }
            Ok(Some((asked @ (Opening::Tls | Opening::Gssapi), length)))
                if encryption != Encryption::Begun && asks < ASKS_MAX =>
            {
                asks += 1;
                // What came with it would be taken for what came encrypted, whoever put it there.
                if bytes.len() > length {
                    return Ok(Wanted::Nothing);
                }
                bytes.clear();
                if asked == Opening::Tls && encryption == Encryption::Offered {
                    client.write_all(TLS_BEGINS).await?;
                    return Ok(Wanted::Tls);
                }
                client.write_all(NO_ENCRYPTION).await?;
            }
            Ok(Some((Opening::Tls | Opening::Gssapi | Opening::Cancel, _))) => {
                return Ok(Wanted::Nothing);
            }
            Ok(None) => {
                let room = STARTUP_BYTES_MAX.saturating_sub(bytes.len()).max(1);
                let read = client.read_buf(&mut (&mut bytes).limit(room)).await?;
                if read == 0 {
                    return Ok(Wanted::Nothing);
                }
            }
        }
    }
}

/// Says that there is no session, and why.
async fn refuse(mut client: Box<dyn Stream>, code: &str, message: &str) -> io::Result<()> {
    client.write_all(&refusal(code, message)).await?;
    client.shutdown().await
}
