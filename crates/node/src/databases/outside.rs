//! Connections to databases from outside: one listener, whose sessions say by their user which database they
//! are for, and a door of each database, which is open by its rule.

mod session;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api_node::{Database, ErrorCode, Failure, Outside};
use base_types::DatabaseId;
use node_host::PortStream;
use node_witness::Witness;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use self::session::{Inside, Session, Way};
use super::{Databases, of_store};
use crate::agent;

/// LIMIT: connections from outside at once, to all databases together; each is one more descriptor here
/// and one in a machine.
const CONNECTIONS_MAX: usize = 1024;
/// LIMIT: those to one database, a quarter of all, so that it leaves places to others. Its server has 95
/// sessions around the pool, and 60 in it, which clients of the pool wait for.
const CONNECTIONS_OF_ONE_MAX: usize = 256;
/// How long nothing is accepted after the system had no room for a connection.
const FULL_PAUSE: Duration = Duration::from_millis(100);
/// What is written down of a client that is not let in.
const DENIED: &str = "database.denied";

/// Where connections come in.
#[derive(Clone, Debug)]
pub(crate) struct Listening {
    /// Where the node listens for them.
    pub(crate) at: SocketAddr,
    /// What clients know the node by, where that is not this address.
    pub(crate) host: Option<String>,
    /// Whether it speaks TLS there.
    pub(crate) tls: bool,
}

impl Listening {
    /// Whether clients must ask for TLS: all but those on this machine.
    pub(super) fn encrypted(&self) -> bool {
        self.tls && !self.at.ip().is_loopback()
    }

    /// What addresses of databases have for a host.
    pub(super) fn host(&self) -> String {
        self.host.clone().unwrap_or_else(|| self.at.ip().to_string())
    }
}

/// Who may come in to a database from outside, and how many are.
#[derive(Debug)]
pub(super) struct Door {
    rule: watch::Sender<Outside>,
    places: Arc<Semaphore>,
    /// Held by whoever changes the rule.
    changing: Mutex<()>,
}

impl Door {
    /// One with the rule that is remembered as `rule`.
    pub(super) fn new(rule: &str) -> Self {
        Self {
            rule: watch::Sender::new(read(rule)),
            places: Arc::new(Semaphore::new(CONNECTIONS_OF_ONE_MAX)),
            changing: Mutex::default(),
        }
    }
}

/// The rule that was remembered as `text`. One that cannot be read lets nobody in.
pub(super) fn read(text: &str) -> Outside {
    text.parse().unwrap_or_else(|error| {
        tracing::error!(
            "a database is open to nobody outside, as its rule cannot be read: {error}"
        );
        Outside::Off
    })
}

impl Databases {
    /// Carries connections to databases until it is dropped. Denials are told to `witness`.
    pub(crate) async fn listen(
        self,
        listener: TcpListener,
        tls: Option<TlsAcceptor>,
        witness: Arc<Witness>,
    ) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let machines = Machines { databases: self, witness };
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let (client, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!("take a connection to a database: {error}");
                    sleep(FULL_PAUSE).await;
                    continue;
                }
            };
            let session = Session { inside: machines.clone(), from, tls: tls.clone() };
            tokio::spawn(async move {
                // How a connection ends is its two ends' affair.
                let _ = session.carry(client).await;
                drop(place);
            });
        }
    }

    /// Changes who may connect to a database from outside, and ends sessions of those who may not.
    pub(super) async fn set_outside(
        &self,
        id: DatabaseId,
        outside: Outside,
    ) -> Result<Database, Failure> {
        let door = self.entry(id)?.door;
        let databases = self.clone();
        // Carried through whoever leaves: what is remembered and what holds are the same rule.
        let changing = tokio::spawn(async move {
            let _changing = door.changing.lock().await;
            let (text, store) = (outside.to_string(), &databases.0.store);
            let stored = store.database_set_outside(id, text.clone()).await;
            stored.map_err(|error| of_store(&error))?;
            if let Some(entry) = databases.lock().databases.get_mut(&id) {
                entry.row.outside = text;
            }
            door.rule.send_replace(outside);
            Ok(databases.shown(&databases.entry(id)?.row))
        });
        changing.await.map_err(|error| {
            Failure::because(ErrorCode::Internal, "the rule was not changed", &error)
        })?
    }
}

/// The databases, for those who come from outside.
#[derive(Clone, Debug)]
struct Machines {
    databases: Databases,
    witness: Arc<Witness>,
}

impl Inside for Machines {
    type Server = PortStream;

    fn way(&self, user: &str) -> Option<Way> {
        let (id, door) = {
            let state = self.databases.lock();
            let entry = state.databases.values().find(|entry| entry.row.user == user)?;
            (entry.row.id, entry.door.clone())
        };
        self.databases.ready(id).ok()?;
        Some(Way { id, rule: door.rule.subscribe(), places: door.places.clone() })
    }

    async fn connect(&self, id: DatabaseId, port: u16) -> Result<PortStream, Failure> {
        let (_, machine) = self.databases.awake(id).await?;
        agent::ask(&machine, |agent| agent.connect_port(port)).await
    }

    fn denied(&self, id: DatabaseId, from: SocketAddr, rule: &Outside) {
        let detail = format!("it is open to {rule}");
        self.witness.node_denied(DENIED, id.to_string(), from.to_string(), detail);
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_rule_that_cannot_be_read_lets_nobody_in() {
        let local = [127, 0, 0, 1].into();
        for (text, open) in [("loopback", true), ("off", false), ("", false), ("0.0.0.0/99", false)]
        {
            assert_eq!(read(text).allows(local), open, "{text}");
        }
    }

    #[test]
    fn clients_beyond_this_machine_encrypt_where_there_is_tls() {
        for (at, tls, encrypted) in [
            ("127.0.0.1:5432", true, false),
            ("[::1]:5432", true, false),
            ("0.0.0.0:5432", true, true),
            ("10.0.2.15:5432", false, false),
        ] {
            let listening = Listening { at: at.parse().unwrap(), host: None, tls };
            assert_eq!(listening.encrypted(), encrypted, "{listening:?}");
        }
    }
}
