//! Databases made from one moment of another.

use api_node::{Caller, Database, ErrorCode, Failure, ForkDatabase, Outside};
use base_types::{DatabaseId, SandboxId};
use node_database::{LoginRole, Rights};
use node_host::{CreateSpec, Moment, SandboxHandle};
use node_store::DatabaseRow;

use super::make::Unfinished;
use super::serve::{role, verifier};
use super::snapshots::only_these;
use super::stats::begin_anew;
use super::{Databases, new_password, new_role, of_store};
use crate::{failure, quota, system};

impl Databases {
    /// Makes a database from one moment of another, this one or that of a snapshot. Roles that log in to
    /// that one are none of it.
    pub(super) async fn fork(
        &self,
        caller: &Caller,
        id: DatabaseId,
        request: ForkDatabase,
    ) -> Result<Database, Failure> {
        let snapshot = request.snapshot.map(|which| self.snapshot_of(id, &which)).transpose()?;
        // No role comes or goes in the middle of the moment.
        let changing = self.entry(id)?.changing.lock_owned().await;
        // One that was kept needs no machine that runs.
        let (source, parent) = match snapshot {
            Some(_) => self.ready(id)?,
            None => self.awake(id).await?,
        };
        let project = source.row.project;
        let quota = quota::admit(&self.0.access, &self.0.host, project, 1).await?;
        let row = branch_of(&source.row, request.name)?;
        let row = DatabaseRow {
            password: request.password.unwrap_or(row.password),
            errand: caller.errand.map(|errand| errand.0),
            ..row
        };
        let made = self.lock().named(project, &row.name).map(|entry| entry.row.clone());
        if let Some(made) = made.filter(|made| made.ready && made.errand == row.errand)
            && row.errand.is_some()
        {
            return Ok(self.shown(&made));
        }
        let unfinished = self.begin(&row)?;
        let spec = super::make::spec(&row, quota, parent.view().lease);
        match snapshot {
            Some(_) => {
                drop(changing);
                let making = self.0.host.create(CreateSpec { snapshot, ..spec });
                let making = async { making.await.map_err(|error| failure::of_create(&error)) };
                self.grow(unfinished, &row, making, &[]).await?;
            }
            None => {
                let moment = self.0.host.moment(&parent).await;
                let moment = moment.map_err(|error| failure::of_order(&error))?;
                drop(changing);
                self.grow(unfinished, &row, self.child(&moment, spec), &[]).await?;
            }
        }
        Ok(self.shown(&self.entry(row.id)?.row))
    }

    /// A machine made from a moment of another.
    pub(super) async fn child(
        &self,
        moment: &Moment,
        spec: CreateSpec,
    ) -> Result<SandboxHandle, Failure> {
        let made = self.0.host.children(moment, 1, spec).await;
        let mut made = made.map_err(|error| failure::of_order(&error))?;
        made.pop().ok_or_else(|| Failure::new(ErrorCode::Internal, "the fork has no child"))
    }

    /// Makes the database `row`, begun as `unfinished`, of the machine that `making` makes from a moment of
    /// another. Of those that logged in there only `kept` do here.
    pub(super) async fn grow(
        &self,
        unfinished: Unfinished,
        row: &DatabaseRow,
        making: impl Future<Output = Result<SandboxHandle, Failure>>,
        kept: &[LoginRole],
    ) -> Result<(), Failure> {
        let remembered = self.0.store.database_insert(row.clone());
        let verifying = verifier(row.password.clone());
        let machine = making.await?;
        remembered.await.map_err(|error| of_store(&error))?;
        let owner = [(role(&row.user)?, verifying.await?, Rights::ReadWrite)];
        only_these(&machine, kept, &owner).await?;
        let ready = self.0.store.database_set_ready(row.id).await;
        ready.map_err(|error| of_store(&error))?;
        unfinished.done();
        // Nobody waits for it: until it is done, the slow queries of its source are shown as its own.
        tokio::spawn(async move { begin_anew(&machine).await });
        Ok(())
    }
}

/// A database called `name` that comes from another: with an owner of its own.
pub(super) fn branch_of(source: &DatabaseRow, name: String) -> Result<DatabaseRow, Failure> {
    let bits = u64::from_le_bytes(system::random()?);
    Ok(DatabaseRow {
        id: DatabaseId::from_bits(bits),
        name,
        sandbox: SandboxId::from_bits(bits),
        user: new_role()?.to_string(),
        password: new_password()?,
        ready: false,
        created_at_ms: system::now_ms(),
        expires_at_ms: None,
        // Who may come to the other one was said of that one.
        outside: Outside::default().to_string(),
        errand: None,
        spare: None,
        ..source.clone()
    })
}
