//! Databases made from one moment of another.

use api_node::{Caller, Database, ErrorCode, Failure, ForkDatabase, Outside};
use base_types::{DatabaseId, SandboxId};
use node_database::{Rights, drop_login, new_login, shut_out};
use node_host::{CreateSpec, Moment};
use node_store::DatabaseRow;

use super::make::Unfinished;
use super::serve::{ask, role, verifier};
use super::{Databases, new_password, new_role, of_store};
use crate::{failure, quota, system};

impl Databases {
    /// Makes a database from one moment of another. Roles that log in to that one are none of it.
    pub(super) async fn fork(
        &self,
        caller: &Caller,
        id: DatabaseId,
        request: ForkDatabase,
    ) -> Result<Database, Failure> {
        let (source, parent) = self.awake(id).await?;
        // No role comes or goes in the middle of the moment.
        let changing = source.changing.lock().await;
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
        let moment = self.0.host.moment(&parent).await;
        let moment = moment.map_err(|error| failure::of_order(&error))?;
        let others = self.logins(&source.row);
        drop(changing);
        let spec = super::make::spec(&row, quota, parent.view().lease);
        self.grow(unfinished, &row, &moment, &others, spec).await?;
        Ok(self.shown(&self.entry(row.id)?.row))
    }

    /// The roles that log in to a database: its owner's, and those of the sandboxes wired to it.
    pub(super) fn logins(&self, row: &DatabaseRow) -> Vec<String> {
        let state = self.lock();
        let wired = state.wirings.values().filter(|wiring| wiring.row.database == row.id);
        wired.map(|wiring| wiring.row.user.clone()).chain([row.user.clone()]).collect()
    }

    /// Makes the database `row`, begun as `unfinished`, from a moment of another, where `others` log in:
    /// here they do not.
    pub(super) async fn grow(
        &self,
        unfinished: Unfinished,
        row: &DatabaseRow,
        moment: &Moment,
        others: &[String],
        spec: CreateSpec,
    ) -> Result<(), Failure> {
        let remembered = self.0.store.database_insert(row.clone());
        let verifying = verifier(row.password.clone());
        let made = self.0.host.children(moment, 1, spec).await;
        let made = made.map_err(|error| failure::of_order(&error))?;
        remembered.await.map_err(|error| of_store(&error))?;
        let Some(machine) = made.first() else {
            return Err(Failure::new(ErrorCode::Internal, "the fork has no child"));
        };
        let mut sql = new_login(role(&row.user)?, &verifying.await?, Rights::ReadWrite);
        for login in others {
            sql += &shut_out(role(login)?);
        }
        ask(machine, &sql).await?;
        let mut sql = String::new();
        for login in others {
            sql += &drop_login(role(login)?);
        }
        ask(machine, &sql).await?;
        let ready = self.0.store.database_set_ready(row.id).await;
        ready.map_err(|error| of_store(&error))?;
        unfinished.done();
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
        ..source.clone()
    })
}
