//! Databases, and which sandboxes may use them. `which` is an id, or a name in the caller's project.

use std::io;

use api_node::{
    CreateDatabase, CreateDatabaseSnapshot, Database, DatabaseList, DatabaseListQuery,
    DatabaseSnapshot, DatabaseSnapshotList, DatabaseStats, ForkDatabase, QueryAnswer,
    QueryDatabase, RestoreDatabase, SetOutside, SetPassword, WireDatabase, Wired, WiredList,
};
use base_types::SandboxId;
use bytes::Bytes;
use futures_util::Stream;
use reqwest::{Body, Method};

use crate::error::ClientError;
use crate::operations::Client;

/// Asks; every method fails with a [`ClientError`] when the node is not there, refuses, or answers
/// something this build does not know.
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
impl Client {
    /// Makes a database; answers when it takes connections.
    pub async fn database_create(&self, request: &CreateDatabase) -> Result<Database, ClientError> {
        self.answer(self.ask(Method::POST, "/databases").json(request)).await
    }

    /// A page of databases.
    pub async fn database_list(
        &self,
        query: &DatabaseListQuery,
    ) -> Result<DatabaseList, ClientError> {
        self.answer(self.ask(Method::GET, "/databases").query(query)).await
    }

    /// One database.
    pub async fn database_get(&self, which: &str) -> Result<Database, ClientError> {
        self.answer(self.ask(Method::GET, &format!("/databases/{which}"))).await
    }

    /// How a database is, and what its server counts; it is not woken.
    pub async fn database_stats(&self, which: &str) -> Result<DatabaseStats, ClientError> {
        self.answer(self.ask(Method::GET, &format!("/databases/{which}/stats"))).await
    }

    /// Deletes a database.
    pub async fn database_delete(&self, which: &str) -> Result<(), ClientError> {
        self.done(self.ask(Method::DELETE, &format!("/databases/{which}"))).await
    }

    /// Runs SQL as its owner.
    pub async fn database_query(
        &self,
        which: &str,
        request: &QueryDatabase,
    ) -> Result<QueryAnswer, ClientError> {
        let path = format!("/databases/{which}/query");
        self.answer(self.ask(Method::POST, &path).json(request)).await
    }

    /// Gives its owner another password.
    pub async fn database_set_password(
        &self,
        which: &str,
        request: &SetPassword,
    ) -> Result<Database, ClientError> {
        let path = format!("/databases/{which}/password");
        self.answer(self.ask(Method::POST, &path).json(request)).await
    }

    /// Says anew who may connect to it from outside.
    pub async fn database_set_outside(
        &self,
        which: &str,
        request: &SetOutside,
    ) -> Result<Database, ClientError> {
        let path = format!("/databases/{which}/outside");
        self.answer(self.ask(Method::PUT, &path).json(request)).await
    }

    /// All that is in it, as SQL; what came only in part ends with an error.
    pub async fn database_dump(
        &self,
        which: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, ClientError>> + Send + use<>, ClientError> {
        let ask = self.ask(Method::GET, &format!("/databases/{which}/dump"));
        self.bytes(ask).await.map(|(_, bytes)| bytes)
    }

    /// Runs the dump that `bytes` yields as its owner, all of it or nothing.
    pub async fn database_restore(
        &self,
        which: &str,
        bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), ClientError> {
        let ask = self.ask(Method::PUT, &format!("/databases/{which}/dump"));
        self.done(ask.body(Body::wrap_stream(bytes))).await
    }

    /// Makes a database from one moment of another.
    pub async fn database_fork(
        &self,
        which: &str,
        request: &ForkDatabase,
    ) -> Result<Database, ClientError> {
        let path = format!("/databases/{which}/fork");
        self.answer(self.ask(Method::POST, &path).json(request)).await
    }

    /// Keeps one moment of a database.
    pub async fn database_snapshot(
        &self,
        which: &str,
        request: &CreateDatabaseSnapshot,
    ) -> Result<DatabaseSnapshot, ClientError> {
        let path = format!("/databases/{which}/snapshots");
        self.answer(self.ask(Method::POST, &path).json(request)).await
    }

    /// The snapshots of a database, oldest first.
    pub async fn database_snapshots(
        &self,
        which: &str,
    ) -> Result<DatabaseSnapshotList, ClientError> {
        let path = format!("/databases/{which}/snapshots");
        self.answer(self.ask(Method::GET, &path)).await
    }

    /// Deletes a snapshot of a database, by name or id.
    pub async fn database_snapshot_delete(
        &self,
        which: &str,
        snapshot: &str,
    ) -> Result<(), ClientError> {
        let path = format!("/databases/{which}/snapshots/{snapshot}");
        self.done(self.ask(Method::DELETE, &path)).await
    }

    /// Puts a database back to a snapshot of it.
    pub async fn database_go_back(
        &self,
        which: &str,
        request: &RestoreDatabase,
    ) -> Result<Database, ClientError> {
        let path = format!("/databases/{which}/restore");
        self.answer(self.ask(Method::POST, &path).json(request)).await
    }

    /// Lets a sandbox use a database.
    pub async fn database_wire(
        &self,
        sandbox: SandboxId,
        which: &str,
        request: &WireDatabase,
    ) -> Result<Wired, ClientError> {
        let path = format!("/databases/{which}");
        self.answer(self.of(sandbox, Method::PUT, &path).json(request)).await
    }

    /// The databases a sandbox may use.
    pub async fn database_wired(&self, sandbox: SandboxId) -> Result<WiredList, ClientError> {
        self.answer(self.of(sandbox, Method::GET, "/databases")).await
    }

    /// Lets a sandbox use a database no more.
    pub async fn database_unwire(
        &self,
        sandbox: SandboxId,
        which: &str,
    ) -> Result<(), ClientError> {
        self.done(self.of(sandbox, Method::DELETE, &format!("/databases/{which}"))).await
    }
}
