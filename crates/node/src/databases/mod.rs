//! Databases: each is a machine of the template `postgres`, hidden among the sandboxes, with roles in
//! its server that the node makes and takes away.
//!
//! ```text
//!   Databases ── registry of rows, the same as in the store
//!     │ make    a machine, then one round trip as its superuser; all of it or nothing
//!     │ ahead   machines that are made before somebody asks
//!     │ snapshots  moments that are kept, and the way back to them
//!     │ keep    boots a machine that has ended from its disk
//!     │ limit   of the disk
//!     │ serve   SQL as its owner
//!     │ session  one of the owner's that waits for the next question
//!     │ together  forks with the sandboxes wired to them
//!     │ dump    data out and in
//!     │ stats   what its server counts
//!     │ wire    a role for one sandbox; its end
//!     │ links   what a sandbox may connect to, and the streams that are cut with it
//!     └ outside one listener for all, by the user of a session; a rule for each
//! ```
//!
//! What is remembered comes first when something is made and goes last when it is removed, so that a
//! daemon that finds half of it finishes the other half.

mod ahead;
mod api;
mod branch;
mod dump;
mod keep;
mod limit;
mod links;
mod make;
mod outside;
mod serve;
mod session;
mod snapshots;
mod stats;
mod together;
mod wire;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api_node::{Database, DatabaseStatus, ErrorCode, Failure};
use base_types::{DatabaseId, ProjectId, SandboxId};
use futures_util::future::join_all;
use node_access::Access;
use node_database::{Address, DATABASE, DIRECT_PORT, LoginRole, POOLED_PORT, SOCKET};
use node_host::{Host, Phase, PortStream, SandboxHandle};
use node_store::{DatabaseRow, Store, StoreError, WiringRow};
use tokio::sync::{OwnedMutexGuard, Semaphore};
use tokio_util::sync::CancellationToken;

use self::ahead::Ahead;
use self::outside::Door;
pub(crate) use self::outside::Listening;
use self::session::Waiting;
use crate::agent;
use crate::system::random;

/// LIMIT: how often a node that stops looks for databases that are awake: what was under way when it
/// began to stop may wake one again, and one that cannot be paused must not hold it for ever.
const RESTS_MAX: usize = 4;
/// What names of databases end in, for the sandboxes they are wired to.
const DOMAIN: &str = "db.internal";

/// The databases of a node. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Databases(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    host: Arc<Host>,
    access: Access,
    store: Store,
    /// Where connections from outside come in.
    outside: Option<Listening>,
    /// How many are made ahead.
    ahead_max: usize,
    state: Mutex<State>,
    /// Held by machines that are booted again because they ended.
    restarts: Semaphore,
    /// Cancelled when the node stops.
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    databases: BTreeMap<DatabaseId, Entry>,
    wirings: BTreeMap<(SandboxId, DatabaseId), Wiring>,
    ahead: Ahead,
    /// Held by whoever wires a sandbox: its variables and addresses are given once each.
    turns: BTreeMap<SandboxId, Arc<tokio::sync::Mutex<()>>>,
}

/// A database, from the request for it to the last trace of it.
#[derive(Clone, Debug)]
struct Entry {
    row: DatabaseRow,
    /// Held by whoever changes its roles or its machine.
    changing: Arc<tokio::sync::Mutex<()>>,
    door: Arc<Door>,
    /// A session of its owner that is open already.
    waiting: Arc<Waiting>,
}

impl Entry {
    fn new(row: DatabaseRow) -> Self {
        let door = Arc::new(Door::new(&row.outside));
        Self { row, changing: Arc::default(), door, waiting: Arc::default() }
    }
}

/// That a sandbox may use a database.
#[derive(Clone, Debug)]
struct Wiring {
    row: WiringRow,
    /// Cancelled when it may no more; its connections end with that.
    open: CancellationToken,
}

impl State {
    fn named(&self, project: ProjectId, name: &str) -> Option<&Entry> {
        self.databases
            .values()
            .find(|entry| entry.row.project == project && entry.row.name.eq_ignore_ascii_case(name))
    }
}

impl Databases {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a sandbox is the machine of a database, and so none that anybody else is to see.
    pub(crate) fn are_in(&self, sandbox: SandboxId) -> bool {
        let machine = self.0.host.sandbox(sandbox);
        if machine.is_some_and(|machine| machine.facts().project == ProjectId::NODE) {
            return true;
        }
        self.lock()
            .databases
            .values()
            .any(|entry| entry.row.sandbox == sandbox || entry.row.spare == Some(sandbox))
    }

    fn entry(&self, id: DatabaseId) -> Result<Entry, Failure> {
        let found = self.lock().databases.get(&id).cloned();
        found.ok_or_else(|| Failure::no_database(&id.to_string()))
    }

    /// Refuses whatever would keep a database awake while the node puts all of them to rest.
    fn open_for_use(&self) -> Result<(), Failure> {
        match self.0.stop.is_cancelled() {
            true => Err(Failure::new(ErrorCode::Stopping, "the node is shutting down")),
            false => Ok(()),
        }
    }

    /// A database that was made whole, and its machine, which is booted again if it has ended.
    async fn awake(&self, id: DatabaseId) -> Result<(Entry, SandboxHandle), Failure> {
        let (entry, machine) = self.ready(id)?;
        if machine.view().phase == Phase::Failed {
            let restarted = machine.restart().await;
            restarted.map_err(|error| crate::failure::of_order(&error))?;
        }
        Ok((entry, machine))
    }

    /// As [`Self::awake`], held: nobody else changes its roles or its machine until the last of it is
    /// dropped.
    async fn held(
        &self,
        id: DatabaseId,
    ) -> Result<(Entry, SandboxHandle, OwnedMutexGuard<()>), Failure> {
        let changing = self.entry(id)?.changing.lock_owned().await;
        let (entry, machine) = self.awake(id).await?;
        Ok((entry, machine, changing))
    }

    /// A database that was made whole, and its machine as it is.
    fn ready(&self, id: DatabaseId) -> Result<(Entry, SandboxHandle), Failure> {
        self.open_for_use()?;
        let entry = self.entry(id)?;
        if !entry.row.ready {
            let message = format!("database `{}` is being made", entry.row.name);
            return Err(Failure::new(ErrorCode::Conflict, message));
        }
        let machine = self.0.host.sandbox(entry.row.sandbox);
        let machine = machine.ok_or_else(|| Failure::no_database(&id.to_string()))?;
        Ok((entry, machine))
    }

    /// A database, as the API shows it.
    fn shown(&self, row: &DatabaseRow) -> Database {
        let (status, reason) = self.status(row);
        let outside = self.0.outside.as_ref();
        let (host, direct, pooled) = match outside {
            Some(listening) => (listening.host(), listening.at.port(), listening.at.port()),
            None => (host_name(&row.name), DIRECT_PORT, POOLED_PORT),
        };
        let url = |user: &str, port| {
            let (host, password) = (host.as_str(), row.password.as_str());
            let url = Address { user, password, host, port, database: DATABASE }.url();
            // Drivers that would not ask for it are refused.
            let encrypted = outside.is_some_and(Listening::encrypted);
            Some(if encrypted { format!("{url}?sslmode=require") } else { url })
        };
        let direct_user = match outside {
            Some(_) => format!("{}.direct", row.user),
            None => row.user.clone(),
        };
        Database {
            id: row.id,
            name: row.name.clone(),
            status,
            reason,
            size: row.size,
            disk_mib: row.disk_mib,
            extensions: row.extensions.clone(),
            url: url(&row.user, pooled),
            direct_url: url(&direct_user, direct),
            host: host.clone(),
            port: direct,
            outside: outside::read(&row.outside),
            user: row.user.clone(),
            database: DATABASE.to_owned(),
            password: Some(row.password.clone()),
            created_at_ms: row.created_at_ms,
            expires_at_ms: row.expires_at_ms,
        }
    }

    fn status(&self, row: &DatabaseRow) -> (DatabaseStatus, Option<String>) {
        let machine = self.0.host.sandbox(row.sandbox).map(|machine| machine.view());
        match machine {
            _ if !row.ready => (DatabaseStatus::Creating, None),
            Some(view) => match view.phase {
                Phase::Creating => (DatabaseStatus::Creating, None),
                Phase::Running | Phase::Resuming => (DatabaseStatus::Running, None),
                Phase::Pausing | Phase::Paused | Phase::Left => (DatabaseStatus::Paused, None),
                Phase::Failed | Phase::Stopping | Phase::Stopped => {
                    (DatabaseStatus::Failed, view.reason)
                }
            },
            None => (DatabaseStatus::Failed, Some("its machine is gone".to_owned())),
        }
    }

    /// Pauses every database, so that a node that stops keeps them. Nothing new wakes them from then on,
    /// and what was under way is looked for again.
    pub(crate) async fn rest(&self) {
        self.0.stop.cancel();
        for _ in 0..RESTS_MAX {
            if self.pause_awake().await == 0 {
                return;
            }
        }
    }

    /// Pauses those that are awake, all at once, and returns how many that were.
    async fn pause_awake(&self) -> usize {
        let machines: Vec<SandboxHandle> = {
            let state = self.lock();
            let rows = state.databases.values().map(|entry| entry.row.sandbox);
            rows.filter_map(|sandbox| self.0.host.sandbox(sandbox)).collect()
        };
        let awake = |machine: &&SandboxHandle| {
            matches!(machine.view().phase, Phase::Running | Phase::Resuming | Phase::Pausing)
        };
        let pausing = machines.iter().filter(awake).map(async |machine| {
            if let Err(error) = machine.pause().await {
                let sandbox = machine.facts().id;
                tracing::error!(%sandbox, "a database could not be paused and ends: {error}");
            }
        });
        join_all(pausing).await.len()
    }
}

/// What a sandbox that a database is wired to knows it by.
fn host_name(database: &str) -> String {
    format!("{}.{DOMAIN}", database.to_ascii_lowercase())
}

/// A connection to a database's server as its machine's root.
async fn admin(machine: &SandboxHandle) -> Result<PortStream, Failure> {
    agent::ask(machine, |agent| agent.connect_unix(SOCKET.to_owned())).await
}

fn new_role() -> Result<LoginRole, Failure> {
    random().map(|bits| LoginRole::from_bits(u64::from_le_bytes(bits)))
}

fn new_password() -> Result<String, Failure> {
    random().map(node_database::password)
}

fn of_store(error: &StoreError) -> Failure {
    crate::failure::of_store(error, "the database could not be remembered")
}
