//! Moments of databases that are kept, and the way back to them.
//!
//! A database goes back by getting another machine, made from the snapshot. Until that serves, with the
//! roles there are now, everybody is with the old one; then the store swaps the two at once, and the old one
//! goes. The one that is not the database's is its spare: what a daemon that died left of it is removed by the
//! next one.

use api_node::{
    Caller, CreateDatabaseSnapshot, Database, DatabaseSnapshot, ErrorCode, Failure, Quota,
};
use base_types::{DatabaseId, SandboxId, SnapshotId};
use futures_util::future::try_join_all;
use node_database::{LoginRole, Rights, Verifier, drop_others, new_login, shut_out_others};
use node_host::{CreateSpec, SandboxHandle, SnapshotFacts, WantedSnapshot};
use node_store::DatabaseRow;

use super::serve::{ask, role, verifier};
use super::{Databases, make, of_store};
use crate::{failure, quota, system};

impl Databases {
    /// Keeps one moment of a database, unless the caller's errand did before.
    pub(super) async fn snapshot(
        &self,
        caller: &Caller,
        id: DatabaseId,
        request: CreateDatabaseSnapshot,
    ) -> Result<DatabaseSnapshot, Failure> {
        let (_, machine, _changing) = self.held(id).await?;
        let project = machine.facts().project;
        let host = &self.0.host;
        let made = caller.errand.and_then(|errand| host.snapshot_made_by(project, errand));
        if let Some(made) = made.filter(|made| made.database == Some(id)) {
            return Ok(shown(id, made));
        }
        if self.snapshot_of(id, &request.name).is_ok() {
            let message = format!("the database has a snapshot `{}` already", request.name);
            return Err(Failure::new(ErrorCode::AlreadyExists, message)
                .with_hint("choose another name, or delete that one first"));
        }
        let quota = quota::admit_snapshot(&self.0.access, host, project).await?;
        let wanted =
            WantedSnapshot { name: Some(request.name), errand: caller.errand, database: Some(id) };
        let kept = host.snapshot_create(&machine, wanted, &quota).await;
        kept.map(|kept| shown(id, kept)).map_err(|error| failure::of_order(&error))
    }

    /// The snapshots of a database, oldest first.
    pub(super) fn snapshots(&self, id: DatabaseId) -> Vec<DatabaseSnapshot> {
        self.snapshots_of(id).map(|facts| shown(id, facts)).collect()
    }

    fn snapshots_of(&self, id: DatabaseId) -> impl Iterator<Item = SnapshotFacts> + use<> {
        self.0.host.snapshots().into_iter().filter(move |facts| facts.database == Some(id))
    }

    /// The snapshot of a database that `which` stands for: its id or its name.
    pub(super) fn snapshot_of(&self, id: DatabaseId, which: &str) -> Result<SnapshotId, Failure> {
        let wanted = which.parse::<SnapshotId>().ok();
        let found = self.snapshots_of(id).find(|facts| {
            let named = facts.name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(which));
            named || Some(facts.id) == wanted
        });
        found.map(|facts| facts.id).ok_or_else(|| Failure::no_database_snapshot(which))
    }

    /// Deletes a snapshot of a database.
    pub(super) async fn snapshot_delete(&self, id: DatabaseId, which: &str) -> Result<(), Failure> {
        let deleted = self.0.host.snapshot_delete(self.snapshot_of(id, which)?).await;
        match deleted.map_err(|error| failure::of_order(&error))? {
            true => Ok(()),
            false => Err(Failure::no_database_snapshot(which)),
        }
    }

    /// Deletes all snapshots of a database, which goes itself.
    pub(super) async fn snapshots_delete(&self, id: DatabaseId) -> Result<(), Failure> {
        for facts in self.snapshots_of(id) {
            let deleted = self.0.host.snapshot_delete(facts.id).await;
            deleted.map_err(|error| failure::of_order(&error))?;
        }
        Ok(())
    }

    /// Puts a database back to the moment of a snapshot. When that fails it is as it was.
    pub(super) async fn go_back(&self, id: DatabaseId, which: &str) -> Result<Database, Failure> {
        self.snapshot_of(id, which)?;
        // Carried through whoever leaves: nobody could go on with half of it.
        let (databases, which) = (self.clone(), which.to_owned());
        let going = tokio::spawn(async move { databases.back_to(id, &which).await });
        going.await.map_err(|error| {
            Failure::because(ErrorCode::Internal, "the database did not go back", &error)
        })??;
        Ok(self.shown(&self.entry(id)?.row))
    }

    async fn back_to(&self, id: DatabaseId, which: &str) -> Result<(), Failure> {
        // The machine it has may be broken, and is not woken.
        let changing = self.entry(id)?.changing;
        let _changing = changing.lock().await;
        let (entry, old) = self.ready(id)?;
        let snapshot = self.snapshot_of(id, which)?;
        let row = entry.row;
        let quota = quota::admit(&self.0.access, &self.0.host, row.project, 1).await?;
        let spare = SandboxId::from_bits(u64::from_le_bytes(system::random()?));
        self.set_spare(id, Some(spare)).await?;
        let spec = CreateSpec {
            id: Some(spare),
            snapshot: Some(snapshot),
            ..make::spec(&row, with_one_more(quota, &row), old.view().lease)
        };
        let made = self.machine_of(&row, spec).await;
        let swapped = match made {
            Ok(()) => self.0.store.database_swap(id).await.map_err(|error| of_store(&error)),
            Err(failure) => Err(failure),
        };
        if let Err(failure) = swapped {
            self.drop_spare(id).await?;
            return Err(failure);
        }
        if let Some(entry) = self.lock().databases.get_mut(&id) {
            entry.row.spare = Some(entry.row.sandbox);
            entry.row.sandbox = spare;
        }
        self.keep_up(&DatabaseRow { sandbox: spare, ..row });
        self.drop_spare(id).await
    }

    /// Makes a machine from a snapshot in which those log in who may now, and nobody else.
    async fn machine_of(&self, row: &DatabaseRow, spec: CreateSpec) -> Result<(), Failure> {
        let logins = self.logins(row);
        let verifying = logins.into_iter().map(async |(user, password, rights)| {
            Ok::<_, Failure>((role(&user)?, verifier(password).await?, rights))
        });
        let (verified, machine) = tokio::join!(try_join_all(verifying), self.0.host.create(spec));
        let machine = machine.map_err(|error| failure::of_create(&error))?;
        let verified = verified?;
        only_these(&machine, &[], &verified).await
    }

    /// Who logs in to a database, with what, and what they may: its owner, and the sandboxes wired to it.
    fn logins(&self, row: &DatabaseRow) -> Vec<(String, String, Rights)> {
        let state = self.lock();
        let wired = state.wirings.values().filter(|wiring| wiring.row.database == row.id);
        let wired = wired.map(|wiring| {
            let rights = if wiring.row.read_only { Rights::ReadOnly } else { Rights::ReadWrite };
            (wiring.row.user.clone(), wiring.row.password.clone(), rights)
        });
        let owner = (row.user.clone(), row.password.clone(), Rights::ReadWrite);
        wired.chain([owner]).collect()
    }

    async fn set_spare(&self, id: DatabaseId, spare: Option<SandboxId>) -> Result<(), Failure> {
        let set = self.0.store.database_set_spare(id, spare).await;
        set.map_err(|error| of_store(&error))?;
        if let Some(entry) = self.lock().databases.get_mut(&id) {
            entry.row.spare = spare;
        }
        Ok(())
    }

    /// Removes the machine that is not a database's any more, or never was.
    async fn drop_spare(&self, id: DatabaseId) -> Result<(), Failure> {
        let Some(spare) = self.entry(id)?.row.spare else { return Ok(()) };
        if let Some(machine) = self.0.host.sandbox(spare) {
            machine.kill().await;
        }
        self.set_spare(id, None).await
    }
}

/// Lets those roles of a machine log in that are `kept` there or `new`, and nobody else, whoever did at the
/// moment it was made from.
pub(super) async fn only_these(
    machine: &SandboxHandle,
    kept: &[LoginRole],
    new: &[(LoginRole, Verifier, Rights)],
) -> Result<(), Failure> {
    ask(machine, &shut_out_others(kept)).await?;
    // What a session that ended held is free now.
    let mut sql = drop_others(kept);
    for (role, verifier, rights) in new {
        sql += &new_login(*role, verifier, *rights);
    }
    ask(machine, &sql).await
}

/// What a project may have while one of its databases has two machines.
fn with_one_more(quota: Quota, row: &DatabaseRow) -> Quota {
    Quota {
        sandboxes: quota.sandboxes.saturating_add(1),
        vcpus: quota.vcpus.saturating_add(row.size.vcpus().into()),
        memory_mib: quota.memory_mib.saturating_add(row.size.memory_mib().into()),
        ..quota
    }
}

fn shown(database: DatabaseId, facts: SnapshotFacts) -> DatabaseSnapshot {
    let SnapshotFacts { id, name, created_at_ms, bytes, .. } = facts;
    DatabaseSnapshot { id, name: name.unwrap_or_default(), database, created_at_ms, bytes }
}
