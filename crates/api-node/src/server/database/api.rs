use std::future::Future;

use base_types::{DatabaseId, ProjectId, SandboxId};

use crate::server::api::{ByteStream, UploadStream};
use crate::{
    Caller, CreateDatabase, CreateDatabaseSnapshot, Database, DatabaseList, DatabaseListQuery,
    DatabaseSnapshot, DatabaseSnapshotList, DatabaseStats, Failure, ForkDatabase, QueryAnswer,
    QueryDatabase, RestoreDatabase, SetOutside, SetPassword, WireDatabase, Wired, WiredList,
};

/// The operations of a node on databases. What is said of [`crate::NodeApi`] holds here too: an
/// operation is called only for a database that its caller sees.
pub trait DatabasesApi: Send + Sync + 'static {
    /// The database that `which` stands for: the id of any, or the name of one of `project`, whatever
    /// the case of its letters. Asked before every operation on one.
    fn database_find(&self, project: ProjectId, which: &str) -> Option<DatabaseId>;

    /// The project a database belongs to, if it is there.
    fn database_project(&self, id: DatabaseId) -> Option<ProjectId>;

    /// Makes a database; returns when it takes connections. When there is one of that name and the
    /// request says so, that one; the flag says whether it was made now.
    fn database_create(
        &self,
        caller: &Caller,
        request: CreateDatabase,
    ) -> impl Future<Output = Result<(Database, bool), Failure>> + Send;

    /// A page of the databases the caller sees, oldest first.
    fn database_list(
        &self,
        caller: &Caller,
        query: DatabaseListQuery,
    ) -> impl Future<Output = Result<DatabaseList, Failure>> + Send;

    /// One database, with its password.
    fn database_get(
        &self,
        id: DatabaseId,
    ) -> impl Future<Output = Result<Database, Failure>> + Send;

    /// How a database is, and what its server counts. Wakes none that is paused, keeps none awake, and
    /// does not wait long for a server that is silent.
    fn database_stats(
        &self,
        id: DatabaseId,
    ) -> impl Future<Output = Result<DatabaseStats, Failure>> + Send;

    /// Deletes a database with all it has; returns when nothing is left.
    fn database_delete(&self, id: DatabaseId) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Runs SQL as the database's owner.
    fn database_query(
        &self,
        id: DatabaseId,
        request: QueryDatabase,
    ) -> impl Future<Output = Result<QueryAnswer, Failure>> + Send;

    /// Gives the database's owner another password. Connections stay.
    fn database_set_password(
        &self,
        id: DatabaseId,
        request: SetPassword,
    ) -> impl Future<Output = Result<Database, Failure>> + Send;

    /// Says anew who may connect to a database from outside. Sessions of others are ended.
    fn database_set_outside(
        &self,
        id: DatabaseId,
        request: SetOutside,
    ) -> impl Future<Output = Result<Database, Failure>> + Send;

    /// Makes a database from one moment of another, which goes on serving. It belongs to the same
    /// project, and nothing is wired to it.
    fn database_fork(
        &self,
        caller: &Caller,
        id: DatabaseId,
        request: ForkDatabase,
    ) -> impl Future<Output = Result<Database, Failure>> + Send;

    /// Keeps one moment of a database, which goes on serving.
    fn database_snapshot(
        &self,
        caller: &Caller,
        id: DatabaseId,
        request: CreateDatabaseSnapshot,
    ) -> impl Future<Output = Result<DatabaseSnapshot, Failure>> + Send;

    /// The snapshots of a database.
    fn database_snapshots(
        &self,
        id: DatabaseId,
    ) -> impl Future<Output = Result<DatabaseSnapshotList, Failure>> + Send;

    /// Deletes a snapshot of a database, by name or id. What was made from it stands as it did.
    fn database_snapshot_delete(
        &self,
        id: DatabaseId,
        which: &str,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Puts a database back to the moment of a snapshot of it. Its name, address, passwords and wirings
    /// stay; its connections end.
    fn database_go_back(
        &self,
        id: DatabaseId,
        request: RestoreDatabase,
    ) -> impl Future<Output = Result<Database, Failure>> + Send;

    /// All that is in a database, as SQL.
    fn database_dump(
        &self,
        id: DatabaseId,
    ) -> impl Future<Output = Result<ByteStream, Failure>> + Send;

    /// Runs what a dump holds as the database's owner: all of it, or nothing when some of it fails.
    fn database_restore(
        &self,
        id: DatabaseId,
        dump: UploadStream,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Lets a sandbox use a database of its project. Wired before, it gets what is asked for now.
    fn database_wire(
        &self,
        sandbox: SandboxId,
        id: DatabaseId,
        request: WireDatabase,
    ) -> impl Future<Output = Result<Wired, Failure>> + Send;

    /// The databases a sandbox may use, by name.
    fn database_wired(
        &self,
        sandbox: SandboxId,
    ) -> impl Future<Output = Result<WiredList, Failure>> + Send;

    /// Lets a sandbox use a database no more; its connections are closed when this returns.
    fn database_unwire(
        &self,
        sandbox: SandboxId,
        id: DatabaseId,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}
