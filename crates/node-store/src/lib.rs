//! What must survive the daemon, in SQLite. The only crate with SQL in it.
//!
//! One thread owns the connection; everybody else holds a [`Store`], which asks it. Requests are
//! carried out in the order they were made, each in a transaction of its own. The journal is a
//! write-ahead log: what was answered survives the daemon. A power cut takes every machine with it, so
//! only what must outlive that is flushed before it is answered, and all before it in the log with it:
//! that a sandbox is paused or gone, keys and projects.

mod access;
mod databases;
mod ports;
mod schema;
mod secrets;
mod thread;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::mpsc;

use base_types::{ProjectId, SandboxId, Size, SnapshotId, TemplateName};
use tokio::sync::oneshot;

pub use access::{AnswerRow, KeyRow, ProjectRow};
pub use databases::{DatabaseRow, WiringRow};
pub use ports::PortsRow;
pub use secrets::SecretRow;

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    /// The file is no database, damaged, or may not be written.
    #[error("open the node's database `{}`; if it is damaged, stop the node and delete it: running sandboxes are lost, templates are not", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// A newer node wrote it.
    #[error("the node's database `{}` has version {found}, this node knows up to {newest}; run a newer node", path.display())]
    FromTheFuture {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest this build reads.
        newest: u32,
    },
    /// The thread that owns the connection could not be started.
    #[error("start the database thread")]
    Thread(#[source] std::io::Error),
}

/// Why a request to the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk under the database is full.
    #[error("the disk is full: the node's database cannot grow")]
    DiskFull,
    /// SQLite refused.
    #[error("use the node's database")]
    Sqlite(#[source] rusqlite::Error),
    /// A value has no form the database can hold.
    #[error("write a value for the node's database")]
    Unwritable(#[source] serde_json::Error),
    /// A row holds what this build cannot read.
    #[error("the node's database holds {what} `{value}`, which this node cannot read")]
    Unreadable {
        /// Which column.
        what: &'static str,
        /// What is in it.
        value: String,
    },
    /// The store is closed, which happens only when its thread died.
    #[error("the node's database is closed")]
    Closed,
}

/// Where a sandbox is in its life, as it is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredState {
    /// Being made; a daemon that finds this after a restart removes what there is.
    Creating,
    /// Serving.
    Running,
    /// On disk, whole.
    Paused,
    /// Over by itself; kept for its reason.
    Failed,
}

/// A sandbox, as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxRow {
    /// Its id.
    pub id: SandboxId,
    /// The project it belongs to.
    pub project: ProjectId,
    /// Name its owner gave it.
    pub name: Option<String>,
    /// Template it is a clone of.
    pub template: TemplateName,
    /// Its size.
    pub size: Size,
    /// Environment of every command in it. May hold secrets.
    pub env: BTreeMap<String, String>,
    /// What its owner finds it by.
    pub metadata: BTreeMap<String, String>,
    /// The snapshot it was made from.
    pub snapshot: Option<SnapshotId>,
    /// What was agreed about its time.
    pub lease: LeaseRow,
    /// What it may reach, as the node wrote it.
    pub network: String,
    /// The secrets it was granted, as the node wrote it.
    pub secrets: String,
    /// Where it is.
    pub state: StoredState,
    /// When it was asked for, milliseconds since 1970 UTC.
    pub created_at_ms: u64,
    /// Why it is over.
    pub reason: Option<String>,
    /// How long its making took, as the node wrote it; empty until it serves.
    pub times: String,
    /// The create it was made by, where that must not happen twice.
    pub errand: Option<[u8; 32]>,
}

/// What was agreed about a sandbox's time, as it is remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseRow {
    /// Seconds it lives; 0 is for ever.
    pub timeout_s: u32,
    /// Seconds it lives without use; 0 is for ever.
    pub idle_timeout_s: u32,
    /// Whether it is paused when its time is over, rather than killed.
    pub pause: bool,
    /// When its lifetime is over, milliseconds since 1970 UTC.
    pub ends_at_ms: Option<u64>,
}

/// A way to ask the database thread. Cheap to clone; the database closes with the last clone.
#[derive(Clone, Debug)]
pub struct Store {
    asks: mpsc::Sender<Ask>,
}

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

enum Ask {
    Insert(Box<SandboxRow>, Answer<()>),
    SetRunning(SandboxId, LeaseRow, String, Answer<()>),
    SetState(SandboxId, StoredState, Option<String>, Answer<()>),
    Delete(SandboxId, Answer<()>),
    List(Answer<Vec<SandboxRow>>),
    /// Anything else, which answers itself.
    Work(Box<dyn FnOnce(&rusqlite::Connection) + Send>),
}

impl Store {
    /// Opens the database at `path`, making or upgrading it.
    pub fn open(path: &Path) -> Result<Self, OpenStoreError> {
        let connection = schema::open(path)?;
        let (asks, received) = mpsc::channel();
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || thread::run(connection, &received))
            .map_err(OpenStoreError::Thread)?;
        Ok(Self { asks })
    }

    /// Remembers a new sandbox. The request is made at once; only the answer is waited for.
    pub fn sandbox_insert(
        &self,
        row: SandboxRow,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        self.ask(|answer| Ask::Insert(Box::new(row), answer))
    }

    /// Remembers that a sandbox serves, what was agreed about its time, and how long its making took.
    /// A sandbox that is not there is left so.
    pub fn sandbox_set_running(
        &self,
        id: SandboxId,
        lease: LeaseRow,
        times: String,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        self.ask(|answer| Ask::SetRunning(id, lease, times, answer))
    }

    /// Remembers where a sandbox is now, and why; that it is paused, also over a power cut. A sandbox
    /// that is not there is left so.
    pub fn sandbox_set_state(
        &self,
        id: SandboxId,
        state: StoredState,
        reason: Option<String>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        self.ask(|answer| Ask::SetState(id, state, reason, answer))
    }

    /// Remembers what was agreed about a sandbox's time. A sandbox that is not there is left so.
    pub fn sandbox_set_lease(
        &self,
        id: SandboxId,
        lease: LeaseRow,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        self.work(move |connection| thread::set_lease(connection, id, lease))
    }

    /// Remembers whose a sandbox is from now on, and what was agreed about its time.
    pub fn sandbox_give(
        &self,
        id: SandboxId,
        project: ProjectId,
        name: Option<String>,
        lease: LeaseRow,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        self.work(move |connection| thread::give(connection, id, project, name.as_deref(), lease))
    }

    /// Remembers what a sandbox may reach, also over a power cut, and says whether it did: a sandbox
    /// that is not there is left so.
    pub fn sandbox_set_network(
        &self,
        id: SandboxId,
        network: String,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send + use<> {
        self.work(move |connection| thread::set_network(connection, id, &network))
    }

    /// Forgets a sandbox, also over a power cut. One that is not there is no error.
    pub fn sandbox_delete(
        &self,
        id: SandboxId,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        self.ask(|answer| Ask::Delete(id, answer))
    }

    /// All sandboxes, oldest first.
    pub fn sandbox_list(
        &self,
    ) -> impl Future<Output = Result<Vec<SandboxRow>, StoreError>> + Send + use<> {
        self.ask(Ask::List)
    }

    /// The creates from `since_ms` to `now_ms`, whatever became of them, as far as they are within
    /// two minutes of the newest one: whose and when, oldest first. Later ones are forgotten: they
    /// are of a clock that was set back.
    pub fn creates_since(
        &self,
        since_ms: u64,
        now_ms: u64,
    ) -> impl Future<Output = Result<Vec<(ProjectId, u64)>, StoreError>> + Send + use<> {
        self.work(move |connection| thread::creates_since(connection, since_ms, now_ms))
    }

    /// Has the thread do something.
    fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>> {
        self.ask(|answer| {
            // An asker that has left is no concern.
            Ask::Work(Box::new(move |connection| drop(answer.send(work(connection)))))
        })
    }

    /// Makes the request at once and returns the wait for its answer.
    fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(Answer<T>) -> Ask,
    ) -> Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>> {
        let (answer, answered) = oneshot::channel();
        let sent = self.asks.send(ask(answer)).map_err(|_| StoreError::Closed);
        Box::pin(async move {
            sent?;
            answered.await.map_err(|_| StoreError::Closed)?
        })
    }
}

#[cfg(test)]
mod test;
