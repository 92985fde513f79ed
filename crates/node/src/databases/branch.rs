//! Databases made from one moment of another.

use api_node::{Caller, Database, ErrorCode, Failure, ForkDatabase};
use base_types::DatabaseId;
use node_database::{Rights, drop_login, new_login, shut_out};
use node_store::DatabaseRow;

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
        let bits = u64::from_le_bytes(super::random()?);
        let new = new_role()?;
        let row = DatabaseRow {
            id: DatabaseId::from_bits(bits),
            name: request.name,
            sandbox: base_types::SandboxId::from_bits(bits),
            user: new.to_string(),
            password: request.password.map_or_else(new_password, Ok)?,
            ready: false,
            created_at_ms: system::now_ms(),
            expires_at_ms: None,
            errand: caller.errand.map(|errand| errand.0),
            ..source.row.clone()
        };
        let made = self.lock().named(project, &row.name).map(|entry| entry.row.clone());
        if let Some(made) = made.filter(|made| made.ready && made.errand == row.errand)
            && row.errand.is_some()
        {
            return Ok(self.shown(&made));
        }
        let unfinished = self.begin(&row)?;
        let remembered = self.0.store.database_insert(row.clone());
        let spec = super::make::spec(&row, quota, parent.view().lease);
        let forked = self.0.host.fork(&parent, 1, spec).await;
        let forked = forked.map_err(|error| failure::of_order(&error))?;
        // Those that were wired to the source when it stood still, and its owner.
        let logins: Vec<String> = {
            let state = self.lock();
            let wired = state.wirings.values().filter(|wiring| wiring.row.database == id);
            wired.map(|wiring| wiring.row.user.clone()).chain([source.row.user.clone()]).collect()
        };
        drop(changing);
        remembered.await.map_err(|error| of_store(&error))?;
        let Some(machine) = forked.children.first() else {
            return Err(Failure::new(ErrorCode::Internal, "the fork has no child"));
        };
        let secret = verifier(row.password.clone()).await?;
        let mut sql = new_login(new, &secret, Rights::ReadWrite);
        for login in &logins {
            sql += &shut_out(role(login)?);
        }
        ask(machine, &sql).await?;
        let mut sql = String::new();
        for login in &logins {
            sql += &drop_login(role(login)?);
        }
        ask(machine, &sql).await?;
        let ready = self.0.store.database_set_ready(row.id).await;
        ready.map_err(|error| of_store(&error))?;
        unfinished.done();
        Ok(self.shown(&self.entry(row.id)?.row))
    }
}
