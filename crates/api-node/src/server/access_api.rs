use std::future::Future;

use base_types::{KeyId, ProjectId};
use bytes::Bytes;

use crate::{
    Caller, ChangeProject, CreateKey, CreateProject, CreatedKey, Failure, KeyList, PageQuery,
    Project, ProjectList, Quota,
};

/// What makes two requests the same: a hash of method, path, query and body.
pub type Fingerprint = [u8; 32];

/// An answer that was given to a create, to be given again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptAnswer {
    /// Its HTTP status.
    pub status: u16,
    /// Its JSON.
    pub body: Bytes,
}

/// What is known of a create that carries an idempotency key.
#[derive(Debug)]
pub enum Begun<T> {
    /// Nothing: it is to be carried out. Dropping the ticket forgets it again.
    Fresh(T),
    /// It was carried out before, with this answer.
    Kept(KeptAnswer),
}

/// Who may do what: keys, projects, and creates that must not happen twice.
pub trait AccessApi: Send + Sync + 'static {
    /// The right, and the duty, to say how a create ended. No second one of the same idempotency
    /// key begins while it lives.
    type Ticket: Send + 'static;

    /// Whether a request without a key is refused. If not, everybody is [`Caller::ANYBODY`].
    fn wants_keys(&self) -> bool;

    /// Whoever has this key, if it is good now; notes that it was used.
    fn caller(&self, key: &str) -> Option<Caller>;

    /// What a project may use; `None` when there is no such project.
    fn quota(&self, project: ProjectId) -> Option<Quota>;

    /// Makes a project, unless the caller's errand did before.
    fn project_create(
        &self,
        caller: &Caller,
        request: CreateProject,
    ) -> impl Future<Output = Result<Project, Failure>> + Send;

    /// A page of all projects, oldest first.
    fn project_list(
        &self,
        query: PageQuery,
    ) -> impl Future<Output = Result<ProjectList, Failure>> + Send;

    /// Changes what a project may use. What it has beyond that stays.
    fn project_change(
        &self,
        id: ProjectId,
        request: ChangeProject,
    ) -> impl Future<Output = Result<Project, Failure>> + Send;

    /// Forgets a project and its keys. The caller has made sure that it has no sandboxes and
    /// no snapshots.
    fn project_delete(&self, id: ProjectId) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Makes a key, for the caller's project unless the request names one. A conflict when the caller's
    /// errand made one before: what makes it a key is known to nobody here.
    fn key_create(
        &self,
        caller: &Caller,
        request: CreateKey,
    ) -> impl Future<Output = Result<CreatedKey, Failure>> + Send;

    /// A page of all keys, oldest first.
    fn key_list(&self, query: PageQuery) -> impl Future<Output = Result<KeyList, Failure>> + Send;

    /// Makes a key good for nothing, at once.
    fn key_delete(&self, id: KeyId) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Begins a create of `project` that carries `key`. Fails with a conflict when the key belongs
    /// to another request, or to one that is under way.
    fn create_begin(
        &self,
        project: ProjectId,
        key: &str,
        fingerprint: Fingerprint,
    ) -> impl Future<Output = Result<Begun<Self::Ticket>, Failure>> + Send;

    /// Remembers how a create ended, for whoever begins it again from now on. Must be called in a
    /// runtime.
    fn create_keep(&self, ticket: Self::Ticket, answer: KeptAnswer);
}
