//! Who may do what on a node: its projects, their keys, how often they create, and the creates that
//! must not happen twice.
//!
//! Everything a request needs at the door is in memory and answered at once; what changes is first
//! written to the store, and only then true here. It knows nothing of sandboxes: what a project uses
//! is counted where they are. The clock is passed in.
#![warn(missing_docs)]

mod answers;
mod api;
mod state;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api_node::{Failure, Quota, QuotaChange, Role, Secret, SecretHash};
use base_types::{KeyId, ProjectId};
use node_store::{KeyRow, ProjectRow, Store, StoreError};

pub use answers::Ticket;

use crate::state::State;

/// LIMIT: projects of one node; each is a row and some hundred bytes of memory.
pub const PROJECTS_MAX: usize = 10_000;
/// LIMIT: keys of one node, for the same reason.
pub const KEYS_MAX: usize = 100_000;
/// What the project that a node begins with may use: all the node has, which has its own limits.
pub const WHOLE_NODE: Quota = Quota {
    sandboxes: api_node::QUOTA_MAX,
    vcpus: api_node::QUOTA_MAX,
    memory_mib: api_node::QUOTA_MAX,
    disk_mib: api_node::QUOTA_MAX,
    creates_per_minute: api_node::QUOTA_MAX,
    snapshots: api_node::QUOTA_MAX,
};
/// What the number of creates is limited over, with the second that has begun.
const MINUTE_MS: u64 = 61_000;
/// Name of the key whose hash whoever starts the node hands in.
const STARTER_KEY: &str = "starter";
/// Name of the key a node makes for itself.
const FIRST_KEY: &str = "first";

/// Milliseconds since 1970 UTC.
pub type Clock = fn() -> u64;

/// Why it cannot be said who may do what.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The store refused.
    #[error("use what is remembered of keys and projects")]
    Store(#[from] StoreError),
    /// What is remembered of a project does not decode.
    #[error("read the quota of the project {0}")]
    Quota(ProjectId, #[source] serde_json::Error),
    /// The system has no randomness.
    #[error("get random bytes for a key: {0}")]
    Random(getrandom::Error),
    /// A key that was made could not be given to anybody.
    #[error("save the key")]
    Save(#[source] io::Error),
}

/// Who may do what on one node. Clones are the same.
#[derive(Clone)]
pub struct Access {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) wants_keys: bool,
    state: Mutex<State>,
    /// Held from reading what a project may use until something else is remembered.
    changing: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("wants_keys", &self.inner.wants_keys).finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now_ms(&self) -> u64 {
        (self.clock)()
    }
}

impl Access {
    /// Reads what `store` remembers; makes the default project when there is none. Without
    /// `wants_keys`, everybody is an administrator of that project.
    ///
    /// # Errors
    ///
    /// The store refused, or holds what this build cannot read.
    pub async fn open(store: Store, clock: Clock, wants_keys: bool) -> Result<Self, AccessError> {
        let mut state = State::default();
        for row in store.project_list().await? {
            let quota = remembered(&row).map_err(|e| AccessError::Quota(row.id, e))?;
            state.project_add(&row, quota);
        }
        for row in store.key_list().await? {
            state.key_add(row);
        }
        if state.project(ProjectId::DEFAULT).is_none() {
            let row = ProjectRow {
                id: ProjectId::DEFAULT,
                name: "default".to_owned(),
                quota: written(&WHOLE_NODE),
                created_at_ms: clock(),
            };
            store.project_insert(row.clone()).await?;
            state.project_add(&row, WHOLE_NODE);
        }
        let now_ms = clock();
        for (project, at_ms) in
            store.creates_since(now_ms.saturating_sub(MINUTE_MS), now_ms).await?
        {
            if let Some(project) = state.project_mut(project) {
                project.creates.recall(at_ms);
            }
        }
        let inner = Inner {
            store,
            clock,
            wants_keys,
            state: Mutex::new(state),
            changing: tokio::sync::Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Makes a key for an administrator unless there is one that works, has it saved, and returns it:
    /// nobody else ever can. It is good only when `save` went well.
    ///
    /// # Errors
    ///
    /// It could not be saved, the store refused, or the system has no randomness.
    pub async fn first_key(
        &self,
        save: impl FnOnce(&Secret) -> io::Result<()>,
    ) -> Result<Option<Secret>, AccessError> {
        let now_ms = self.inner.now_ms();
        if self.inner.lock().keys().any(|key| key.admin && state::is_good(key, now_ms)) {
            return Ok(None);
        }
        let secret = random_secret()?;
        save(&secret).map_err(AccessError::Save)?;
        self.admin_key(FIRST_KEY, secret.hash()).await?;
        Ok(Some(secret))
    }

    /// Makes the key with this hash good for an administrator, in place of the one that was given so
    /// before: whoever starts the node keeps the key, and the node never sees it.
    ///
    /// # Errors
    ///
    /// The store refused.
    pub async fn starter_key(&self, hash: SecretHash) -> Result<(), AccessError> {
        let before: Vec<KeyId> = {
            let state = self.inner.lock();
            let mut of_starter = Vec::new();
            for key in state.keys().filter(|key| key.name == STARTER_KEY && key.admin) {
                if SecretHash::from_bytes(key.hash) == hash {
                    return Ok(());
                }
                of_starter.push(key.id);
            }
            of_starter
        };
        for id in before {
            self.inner.store.key_delete(id).await?;
            self.inner.lock().key_remove(id);
        }
        self.admin_key(STARTER_KEY, hash).await
    }

    /// Counts `count` creates of a project, of as many as it may make within a minute.
    ///
    /// # Errors
    ///
    /// When they would be more, with the figures.
    pub fn count_creates(&self, project: ProjectId, count: u64) -> Result<(), Failure> {
        let now_ms = self.inner.now_ms();
        let mut state = self.inner.lock();
        let Some(project) = state.project_mut(project) else {
            return Err(api::no_project(project));
        };
        let limit = project.quota.creates_per_minute;
        project.creates.admit(now_ms, count, limit).map_err(|error| exceeded(&error))
    }

    /// How many sandboxes a project asked for within the last minute.
    pub fn creates_within_a_minute(&self, project: ProjectId) -> u64 {
        let now_ms = self.inner.now_ms();
        let mut state = self.inner.lock();
        state.project_mut(project).map_or(0, |project| project.creates.within_a_minute(now_ms))
    }

    async fn admin_key(&self, name: &str, hash: SecretHash) -> Result<(), AccessError> {
        let row = KeyRow {
            id: KeyId::from_bits(random_bits()?),
            project: ProjectId::DEFAULT,
            name: name.to_owned(),
            admin: true,
            hash: *hash.as_bytes(),
            created_at_ms: self.inner.now_ms(),
            expires_at_ms: None,
            last_used_at_ms: None,
        };
        self.inner.store.key_insert(row.clone()).await?;
        self.inner.lock().key_add(row);
        Ok(())
    }
}

/// A refusal for want of quota, as its caller sees it.
pub fn exceeded(error: &node_quota::QuotaExceeded) -> Failure {
    Failure::new(api_node::ErrorCode::QuotaExceeded, error.to_string())
        .with_hint("kill, delete or wait, or ask the node's administrator for a larger quota")
}

pub(crate) fn written(quota: &Quota) -> String {
    serde_json::to_string(quota).expect("a quota has only string keys")
}

/// A figure that came after the row was written is the whole node's for the project that has all, and
/// the plan's for others.
fn remembered(row: &ProjectRow) -> serde_json::Result<Quota> {
    let plan = if row.id == ProjectId::DEFAULT { WHOLE_NODE } else { Quota::default() };
    let known: QuotaChange = serde_json::from_str(&row.quota)?;
    Ok(known.applied_to(plan))
}

pub(crate) const fn role(admin: bool) -> Role {
    if admin { Role::Admin } else { Role::User }
}

pub(crate) fn random_secret() -> Result<Secret, AccessError> {
    let mut bytes = [0; api_node::SECRET_BYTES];
    getrandom::fill(&mut bytes).map_err(AccessError::Random)?;
    Ok(Secret::from_random(bytes))
}

pub(crate) fn random_bits() -> Result<u64, AccessError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(AccessError::Random)?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod test;
