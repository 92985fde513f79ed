use base_types::{DatabaseId, ProjectId, SandboxId};

use crate::server::api::{ByteStream, UploadStream};
use crate::server::database::api::DatabasesApi;
use crate::server::nobody::Nobody;
use crate::{
    Caller, CreateDatabase, CreateDatabaseSnapshot, Database, DatabaseList, DatabaseListQuery,
    DatabaseSnapshot, DatabaseSnapshotList, DatabaseStats, Failure, ForkDatabase, QueryAnswer,
    QueryDatabase, RestoreDatabase, SetOutside, SetPassword, WireDatabase, Wired, WiredList,
};

impl DatabasesApi for Nobody {
    fn database_find(&self, _: ProjectId, _: &str) -> Option<DatabaseId> {
        match *self {}
    }

    fn database_project(&self, _: DatabaseId) -> Option<ProjectId> {
        match *self {}
    }

    async fn database_create(
        &self,
        _: &Caller,
        _: CreateDatabase,
    ) -> Result<(Database, bool), Failure> {
        match *self {}
    }

    async fn database_list(
        &self,
        _: &Caller,
        _: DatabaseListQuery,
    ) -> Result<DatabaseList, Failure> {
        match *self {}
    }

    async fn database_get(&self, _: DatabaseId) -> Result<Database, Failure> {
        match *self {}
    }

    async fn database_stats(&self, _: DatabaseId) -> Result<DatabaseStats, Failure> {
        match *self {}
    }

    async fn database_delete(&self, _: DatabaseId) -> Result<(), Failure> {
        match *self {}
    }

    async fn database_query(
        &self,
        _: DatabaseId,
        _: QueryDatabase,
    ) -> Result<QueryAnswer, Failure> {
        match *self {}
    }

    async fn database_set_password(
        &self,
        _: DatabaseId,
        _: SetPassword,
    ) -> Result<Database, Failure> {
        match *self {}
    }

    async fn database_set_outside(
        &self,
        _: DatabaseId,
        _: SetOutside,
    ) -> Result<Database, Failure> {
        match *self {}
    }

    async fn database_fork(
        &self,
        _: &Caller,
        _: DatabaseId,
        _: ForkDatabase,
    ) -> Result<Database, Failure> {
        match *self {}
    }

    async fn database_snapshot(
        &self,
        _: &Caller,
        _: DatabaseId,
        _: CreateDatabaseSnapshot,
    ) -> Result<DatabaseSnapshot, Failure> {
        match *self {}
    }

    async fn database_snapshots(&self, _: DatabaseId) -> Result<DatabaseSnapshotList, Failure> {
        match *self {}
    }

    async fn database_snapshot_delete(&self, _: DatabaseId, _: &str) -> Result<(), Failure> {
        match *self {}
    }

    async fn database_go_back(
        &self,
        _: DatabaseId,
        _: RestoreDatabase,
    ) -> Result<Database, Failure> {
        match *self {}
    }

    async fn database_dump(&self, _: DatabaseId) -> Result<ByteStream, Failure> {
        match *self {}
    }

    async fn database_restore(&self, _: DatabaseId, _: UploadStream) -> Result<(), Failure> {
        match *self {}
    }

    async fn database_wire(
        &self,
        _: SandboxId,
        _: DatabaseId,
        _: WireDatabase,
    ) -> Result<Wired, Failure> {
        match *self {}
    }

    async fn database_wired(&self, _: SandboxId) -> Result<WiredList, Failure> {
        match *self {}
    }

    async fn database_unwire(&self, _: SandboxId, _: DatabaseId) -> Result<(), Failure> {
        match *self {}
    }
}
