//! Connections to databases from outside: one listener, and the user of a session says whose it is.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BufMut as _;
use node_database::{
    ASKS_MAX, DIRECT_PORT, NO_ENCRYPTION, Opening, POOLED_PORT, STARTUP_BYTES_MAX, Startup,
    opening, refusal,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::Databases;
use crate::agent;

/// LIMIT: connections from outside at once, to all databases together; each is one more descriptor here
/// and one in a machine.
const CONNECTIONS_MAX: usize = 1024;
/// LIMIT: how long a client may take to say whose session it wants.
const STARTUP_WITHIN: Duration = Duration::from_secs(10);
/// How long nothing is accepted after the system had no room for a connection.
const FULL_PAUSE: Duration = Duration::from_millis(100);

impl Databases {
    /// Carries connections to databases until it is dropped.
    pub(crate) async fn listen(self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let client = match listener.accept().await {
                Ok((client, _)) => client,
                Err(error) => {
                    tracing::warn!("take a connection to a database: {error}");
                    sleep(FULL_PAUSE).await;
                    continue;
                }
            };
            let databases = self.clone();
            tokio::spawn(async move {
                // How a connection ends is its two ends' affair.
                let _ = databases.carry(client).await;
                drop(place);
            });
        }
    }

    async fn carry(&self, mut client: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let Ok(begun) = timeout(STARTUP_WITHIN, begin(&mut client)).await else { return Ok(()) };
        let Some((startup, early)) = begun? else { return Ok(()) };
        let user = startup.role.to_string();
        let id = {
            let state = self.lock();
            let found = state.databases.values().find(|entry| entry.row.user == user);
            found.map(|entry| entry.row.id)
        };
        let Some(id) = id.filter(|id| self.ready(*id).is_ok()) else {
            // No other word for those who are not there.
            let message = format!("password authentication failed for user \"{user}\"");
            return client.write_all(&refusal("28P01", &message)).await;
        };
        let connecting = async {
            let (_, machine) = self.awake(id).await?;
            let port = if startup.direct { DIRECT_PORT } else { POOLED_PORT };
            agent::ask(&machine, |agent| agent.connect_port(port)).await
        };
        let connected = connecting.await;
        let mut server = match connected {
            Ok(server) => server,
            Err(failure) => return client.write_all(&refusal("57P03", &failure.message)).await,
        };
        server.write_all(&startup.packet).await?;
        server.write_all(&early).await?;
        copy_bidirectional(&mut client, &mut server).await.map(drop)
    }
}

/// Whose session a client wants, and what it said after that; `None` when it wants none.
async fn begin(client: &mut TcpStream) -> io::Result<Option<(Startup, Vec<u8>)>> {
    let mut bytes = Vec::new();
    let mut asks = 0;
    loop {
        match opening(&bytes) {
            Err(error) => {
                client.write_all(&refusal("08P01", &error.to_string())).await?;
                return Ok(None);
            }
            Ok(Some((Opening::Startup(startup), length))) => {
                return Ok(Some((startup, bytes.split_off(length))));
            }
            Ok(Some((Opening::Encryption, length))) if asks < ASKS_MAX => {
                asks += 1;
                // What came with it was meant to be read by nobody else, were it answered otherwise.
                if bytes.len() > length {
                    return Ok(None);
                }
                bytes.clear();
                client.write_all(NO_ENCRYPTION).await?;
            }
            Ok(Some((Opening::Encryption | Opening::Cancel, _))) => return Ok(None),
            Ok(None) => {
                let room = STARTUP_BYTES_MAX.saturating_sub(bytes.len()).max(1);
                let read = client.read_buf(&mut (&mut bytes).limit(room)).await?;
                if read == 0 {
                    return Ok(None);
                }
            }
        }
    }
}
