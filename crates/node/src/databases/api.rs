//! The operations of the API on databases.

use api_node::{
    ByteStream, Caller, CreateDatabase, CreateDatabaseSnapshot, Database, DatabaseList,
    DatabaseListQuery, DatabaseSnapshot, DatabaseSnapshotList, DatabaseStats, DatabasesApi,
    ErrorCode, Failure, ForkDatabase, QueryAnswer, QueryDatabase, RestoreDatabase, SetOutside,
    SetPassword, UploadStream, WireDatabase, Wired, WiredList,
};
use base_types::{DatabaseId, ProjectId, SandboxId};

use super::new_password;
use crate::api::Node;

impl DatabasesApi for Node {
    fn database_find(&self, project: ProjectId, which: &str) -> Option<DatabaseId> {
        let state = self.databases().lock();
        match which.parse::<DatabaseId>() {
            Ok(id) => state.databases.contains_key(&id).then_some(id),
            Err(_) => state.named(project, which).map(|entry| entry.row.id),
        }
    }

    fn database_project(&self, id: DatabaseId) -> Option<ProjectId> {
        self.databases().lock().databases.get(&id).map(|entry| entry.row.project)
    }

    async fn database_create(
        &self,
        caller: &Caller,
        request: CreateDatabase,
    ) -> Result<(Database, bool), Failure> {
        self.databases().create(caller, request).await
    }

    async fn database_list(
        &self,
        caller: &Caller,
        query: DatabaseListQuery,
    ) -> Result<DatabaseList, Failure> {
        let databases = self.databases();
        let rows: Vec<_> = {
            let state = databases.lock();
            let all = state.databases.values().map(|entry| &entry.row);
            all.filter(|row| caller.sees(row.project)).cloned().collect()
        };
        let all = rows.iter().map(|row| databases.shown(row)).collect();
        Ok(DatabaseList::page(all, &query))
    }

    async fn database_get(&self, id: DatabaseId) -> Result<Database, Failure> {
        Ok(self.databases().shown(&self.databases().entry(id)?.row))
    }

    async fn database_stats(&self, id: DatabaseId) -> Result<DatabaseStats, Failure> {
        self.databases().stats(id).await
    }

    async fn database_delete(&self, id: DatabaseId) -> Result<(), Failure> {
        self.databases().delete(id).await
    }

    async fn database_query(
        &self,
        id: DatabaseId,
        request: QueryDatabase,
    ) -> Result<QueryAnswer, Failure> {
        self.databases().query(id, request).await
    }

    async fn database_set_password(
        &self,
        id: DatabaseId,
        request: SetPassword,
    ) -> Result<Database, Failure> {
        let password = request.password.map_or_else(new_password, Ok)?;
        self.databases().set_password(id, password).await?;
        self.database_get(id).await
    }

    async fn database_set_outside(
        &self,
        id: DatabaseId,
        request: SetOutside,
    ) -> Result<Database, Failure> {
        self.databases().set_outside(id, request.outside).await
    }

    async fn database_fork(
        &self,
        caller: &Caller,
        id: DatabaseId,
        request: ForkDatabase,
    ) -> Result<Database, Failure> {
        self.databases().fork(caller, id, request).await
    }

    async fn database_snapshot(
        &self,
        caller: &Caller,
        id: DatabaseId,
        request: CreateDatabaseSnapshot,
    ) -> Result<DatabaseSnapshot, Failure> {
        self.databases().snapshot(caller, id, request).await
    }

    async fn database_snapshots(&self, id: DatabaseId) -> Result<DatabaseSnapshotList, Failure> {
        Ok(DatabaseSnapshotList { snapshots: self.databases().snapshots(id) })
    }

    async fn database_snapshot_delete(&self, id: DatabaseId, which: &str) -> Result<(), Failure> {
        self.databases().snapshot_delete(id, which).await
    }

    async fn database_go_back(
        &self,
        id: DatabaseId,
        request: RestoreDatabase,
    ) -> Result<Database, Failure> {
        self.databases().go_back(id, &request.snapshot).await
    }

    async fn database_dump(&self, id: DatabaseId) -> Result<ByteStream, Failure> {
        self.databases().dump(id).await
    }

    async fn database_restore(&self, id: DatabaseId, dump: UploadStream) -> Result<(), Failure> {
        self.databases().restore(id, dump).await
    }

    async fn database_wire(
        &self,
        sandbox: SandboxId,
        id: DatabaseId,
        request: WireDatabase,
    ) -> Result<Wired, Failure> {
        let project = self.sandbox(sandbox)?.facts().project;
        if self.database_project(id) != Some(project) {
            let message = "a sandbox is wired to databases of its own project only";
            return Err(Failure::new(ErrorCode::Conflict, message));
        }
        self.databases().wire(sandbox, id, request).await
    }

    async fn database_wired(&self, sandbox: SandboxId) -> Result<WiredList, Failure> {
        self.sandbox(sandbox)?;
        Ok(WiredList { databases: self.databases().wired(sandbox) })
    }

    async fn database_unwire(&self, sandbox: SandboxId, id: DatabaseId) -> Result<(), Failure> {
        self.sandbox(sandbox)?;
        self.databases().unwire(sandbox, id).await
    }
}
