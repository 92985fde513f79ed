//! Making databases, finding them again, and removing them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api_node::{Base, Caller, CreateDatabase, Database, ErrorCode, Failure, Policy, Quota};
use api_vmm::MemoryPath;
use base_types::{DatabaseId, ProjectId, SandboxId, Size};
use node_access::Access;
use node_database::{LoginRole, Question, Rights, Session, extensions, new_login};
use node_host::{CreateSpec, Host, Lease, OnTimeout, SandboxHandle};
use node_store::{DatabaseRow, StoreError};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::keep::RESTARTS_MAX;
use super::serve::{ask, of_ask, silent, verifier};
use super::{
    Databases, Entry, Listening, Shared, State, Wiring, admin, limit, new_password, new_role,
    of_store,
};
use crate::{failure, quota, system};

/// The template databases are made of.
const TEMPLATE: &str = "postgres";
/// LIMIT: how long a seed may run; a MiB of SQL under emulation.
const SEED_WITHIN: Duration = Duration::from_secs(300);
/// LIMIT: what a server may say about a seed.
const SEED_BYTES_MAX: usize = 16 << 20;

impl Databases {
    /// Takes over the databases of an earlier run and removes what was left half made. Must be called
    /// in a runtime.
    pub(crate) async fn open(
        host: Arc<Host>,
        access: Access,
        outside: Option<Listening>,
        ahead_max: usize,
    ) -> Result<Self, StoreError> {
        let store = host.store();
        let (rows, wirings) = (store.database_list().await?, store.wiring_list().await?);
        let mut databases = BTreeMap::new();
        for ahead in host.sandboxes() {
            // What an earlier daemon made ahead, and gave to nobody.
            if ahead.facts().project == ProjectId::NODE {
                ahead.kill().await;
            }
        }
        for mut row in rows {
            // A daemon died while it changed machines; the other one is nobody's.
            if let Some(spare) = row.spare.take() {
                if let Some(machine) = host.sandbox(spare) {
                    machine.kill().await;
                }
                store.database_set_spare(row.id, None).await?;
            }
            let machine = host.sandbox(row.sandbox);
            match machine {
                Some(_) if row.ready => {
                    databases.insert(row.id, Entry::new(row));
                    continue;
                }
                // Nobody was told that it is there.
                Some(machine) => machine.kill().await,
                None => {}
            }
            tracing::info!(database = %row.id, "removing what is left of a database");
            store.database_delete(row.id).await?;
        }
        for facts in host.snapshots() {
            if facts.database.is_some_and(|id| !databases.contains_key(&id)) {
                // When it cannot be removed now, the next daemon tries.
                if let Err(error) = host.snapshot_delete(facts.id).await {
                    tracing::error!(snapshot = %facts.id, "of a database that is gone: {error}");
                }
            }
        }
        let there = |row: &node_store::WiringRow| databases.contains_key(&row.database);
        let wirings: BTreeMap<_, _> = wirings
            .into_iter()
            .filter(there)
            .map(|row| {
                let key = (row.sandbox, row.database);
                (key, Wiring { row, open: CancellationToken::new() })
            })
            .collect();
        let state = State { databases, wirings, ..State::default() };
        let found = Self(Arc::new(Shared {
            host,
            access,
            store,
            outside,
            ahead_max,
            state: Mutex::new(state),
            restarts: Semaphore::new(RESTARTS_MAX),
            stop: CancellationToken::new(),
        }));
        let (rows, wired): (Vec<_>, Vec<_>) = {
            let state = found.lock();
            let rows = state.databases.values().map(|entry| entry.row.clone());
            (rows.collect(), state.wirings.keys().copied().collect())
        };
        for row in &rows {
            found.expire(row);
            found.keep_up(row);
        }
        wired.into_iter().for_each(|(sandbox, database)| found.unwire_at_end(sandbox, database));
        Ok(found)
    }

    /// Makes a database, or finds the one of that name where that is allowed; says which.
    pub(super) async fn create(
        &self,
        caller: &Caller,
        request: CreateDatabase,
    ) -> Result<(Database, bool), Failure> {
        self.open_for_use()?;
        if let Some(found) = self.found(caller, &request)? {
            return Ok(found);
        }
        system::check_memory(request.size, system::total_memory_mib())?;
        let quota = quota::admit(&self.0.access, &self.0.host, caller.project, 1).await?;
        let made = self.take_made(request.size);
        let created_at_ms = system::now_ms();
        let (bits, role, own) = match &made {
            Some(made) => (made.sandbox().bits(), made.role, made.password.clone()),
            None => (u64::from_le_bytes(system::random()?), new_role()?, new_password()?),
        };
        let password = request.password.unwrap_or(own);
        let ttl_ms = u64::from(request.ttl_s) * 1000;
        let row = DatabaseRow {
            id: DatabaseId::from_bits(bits),
            project: caller.project,
            name: request.name,
            sandbox: SandboxId::from_bits(bits),
            size: request.size,
            disk_mib: request.disk_mib,
            extensions: request.extensions,
            user: role.to_string(),
            password,
            ready: false,
            created_at_ms,
            expires_at_ms: (ttl_ms > 0).then(|| created_at_ms + ttl_ms),
            outside: request.outside.to_string(),
            errand: caller.errand.map(|errand| errand.0),
            spare: None,
        };
        let lease = Lease {
            timeout_s: 0,
            idle_timeout_s: request.idle_timeout_s,
            on_timeout: OnTimeout::Pause,
        };
        let (size, seed) = (row.size, request.seed.as_deref());
        let unfinished = match self.begin(&row) {
            Ok(unfinished) => unfinished,
            Err(failure) => {
                made.into_iter().for_each(|made| self.put_back(made));
                return Err(failure);
            }
        };
        let making = match made {
            Some(made) => self.give(&row, made, (quota, lease), seed).await,
            None => self.make(&row, role, spec(&row, quota, lease), seed).await,
        };
        match making {
            Ok(()) => {
                unfinished.done();
                self.await_question(row.id);
                self.expect(size);
            }
            Err(failure) => {
                unfinished.undo().await;
                return Err(failure);
            }
        }
        self.expire(&row);
        Ok((self.shown(&self.entry(row.id)?.row), true))
    }

    /// Makes the machine, and what is in it.
    async fn make(
        &self,
        row: &DatabaseRow,
        role: LoginRole,
        spec: CreateSpec,
        seed: Option<&str>,
    ) -> Result<(), Failure> {
        // Asked for before the machine is, so that no daemon finds a machine that is nobody's.
        let remembered = self.0.store.database_insert(row.clone());
        let verifying = verifier(row.password.clone());
        let machine = self.0.host.create(spec).await.map_err(|error| failure::of_create(&error))?;
        remembered.await.map_err(|error| of_store(&error))?;
        let sql =
            new_login(role, &verifying.await?, Rights::ReadWrite) + &extensions(&row.extensions);
        tokio::try_join!(ask(&machine, &sql), limit::set(&machine, row.disk_mib))?;
        if let Some(seed) = seed {
            sow(&machine, role, seed).await?;
        }
        self.0.store.database_set_ready(row.id).await.map_err(|error| of_store(&error))
    }

    /// The database that is there already: made by this errand, or of this name.
    fn found(
        &self,
        caller: &Caller,
        request: &CreateDatabase,
    ) -> Result<Option<(Database, bool)>, Failure> {
        let found = self.lock().named(caller.project, &request.name).cloned();
        let Some(Entry { row, .. }) = found else { return Ok(None) };
        let errand = caller.errand.map(|errand| errand.0);
        let made = errand.is_some() && row.errand == errand;
        match row.ready && (made || request.exist_ok) {
            true => Ok(Some((self.shown(&row), made))),
            false => Err(taken(&row)),
        }
    }

    /// Takes the name, until what is returned is dropped before it is done.
    pub(super) fn begin(&self, row: &DatabaseRow) -> Result<Unfinished, Failure> {
        let mut state = self.lock();
        if let Some(entry) = state.named(row.project, &row.name) {
            return Err(taken(&entry.row));
        }
        state.databases.insert(row.id, Entry::new(row.clone()));
        drop(state);
        Ok(Unfinished { databases: self.clone(), row: row.clone(), done: false })
    }

    /// Deletes a database with all it has.
    pub(super) async fn delete(&self, id: DatabaseId) -> Result<(), Failure> {
        let Entry { row, changing, .. } = self.entry(id)?;
        if !row.ready {
            let message = format!("database `{}` is being made", row.name);
            return Err(Failure::new(ErrorCode::Conflict, message));
        }
        // Carried through whoever leaves: half of it could not be deleted again.
        let databases = self.clone();
        let removing = tokio::spawn(async move {
            let _changing = changing.lock().await;
            // It may have got another machine meanwhile.
            let row = databases.entry(id)?.row;
            databases.remove(&row).await
        });
        removing.await.map_err(|error| {
            Failure::because(ErrorCode::Internal, "the database was not removed", &error)
        })?
    }

    /// Removes what there is of a database.
    async fn remove(&self, row: &DatabaseRow) -> Result<(), Failure> {
        let id = row.id;
        let wirings: Vec<Wiring> = {
            let mut state = self.lock();
            let all = std::mem::take(&mut state.wirings).into_iter();
            let (gone, kept) = all.partition(|((_, database), _)| *database == id);
            state.wirings = kept;
            BTreeMap::into_values(gone).collect()
        };
        wirings.iter().for_each(|wiring| wiring.open.cancel());
        for machine in row.spare.into_iter().chain([row.sandbox]) {
            if let Some(machine) = self.0.host.sandbox(machine) {
                machine.kill().await;
            }
        }
        self.snapshots_delete(id).await?;
        self.0.store.database_delete(id).await.map_err(|error| of_store(&error))?;
        self.lock().databases.remove(&id);
        Ok(())
    }

    /// Deletes a database when its time is over.
    fn expire(&self, row: &DatabaseRow) {
        let (Some(at_ms), id) = (row.expires_at_ms, row.id) else { return };
        let (weak, stop) = (Arc::downgrade(&self.0), self.0.stop.clone());
        tokio::spawn(async move {
            let left = Duration::from_millis(at_ms.saturating_sub(system::now_ms()));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(left) => {}
            }
            let Some(shared) = weak.upgrade() else { return };
            tracing::info!(database = %id, "its time was over");
            // One that is gone already needs no deleting.
            let _ = Self(shared).delete(id).await;
        });
    }
}

/// The machine of a database.
pub(super) fn spec(row: &DatabaseRow, quota: Quota, lease: Lease) -> CreateSpec {
    machine(row.sandbox, (row.project, quota), Some(row.name.clone()), row.size, lease)
}

/// A machine for a database.
pub(super) fn machine(
    id: SandboxId,
    (project, quota): (ProjectId, Quota),
    name: Option<String>,
    size: Size,
    lease: Lease,
) -> CreateSpec {
    CreateSpec {
        id: Some(id),
        project,
        quota,
        template: TEMPLATE.parse().expect("`postgres` is a legal template name"),
        size,
        name,
        env: BTreeMap::new(),
        metadata: BTreeMap::new(),
        snapshot: None,
        lease,
        // All at once, also what a fork has beside its template: a server touches most of it, and a page that comes
        // in by itself wakes a thread for it.
        memory: Some(MemoryPath::Private),
        prefetch: None,
        cold: false,
        ready_within: None,
        durable: true,
        errand: None,
        // It is reached through its agent, and has nobody to reach.
        network: Some(Policy { base: Base::None, ..Policy::default() }),
        secrets: Vec::new(),
    }
}

/// Runs a seed as the database's owner.
pub(super) async fn sow(
    machine: &SandboxHandle,
    role: LoginRole,
    seed: &str,
) -> Result<(), Failure> {
    let timeout_ms = u32::try_from(SEED_WITHIN.as_millis()).unwrap_or(u32::MAX);
    let question = Question { sql: seed, rows_max: 0, bytes_max: SEED_BYTES_MAX, timeout_ms };
    let stream = admin(machine).await?;
    let sowing = async { Session::begin(stream, role, timeout_ms).await?.ask(question).await };
    // What a seed sets for itself, and many statements, are within it too.
    let sown = timeout(SEED_WITHIN, sowing).await.map_err(|_| silent(SEED_WITHIN))?;
    sown.map(drop).map_err(|error| {
        let mut failure = of_ask(&error);
        failure.message = format!("the seed failed, and there is no database: {}", failure.message);
        failure
    })
}

fn taken(row: &DatabaseRow) -> Failure {
    let message = match row.ready {
        true => format!("there is a database `{}` already", row.name),
        false => format!("a database `{}` is being made", row.name),
    };
    Failure::new(ErrorCode::AlreadyExists, message)
        .with_hint("choose another name, or ask with `exist_ok`")
}

/// A database that is not whole yet: removed when it ends before.
pub(super) struct Unfinished {
    databases: Databases,
    row: DatabaseRow,
    done: bool,
}

impl Unfinished {
    /// It is whole.
    pub(super) fn done(mut self) {
        self.done = true;
        if let Some(entry) = self.databases.lock().databases.get_mut(&self.row.id) {
            entry.row.ready = true;
        }
        self.databases.keep_up(&self.row);
    }
}

impl Unfinished {
    /// It will not be whole: returns when nothing of it is left.
    pub(super) async fn undo(mut self) {
        remove(&self.databases, &self.row).await;
        self.done = true;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let (databases, row) = (self.databases.clone(), self.row.clone());
        tokio::spawn(async move { remove(&databases, &row).await });
    }
}

async fn remove(databases: &Databases, row: &DatabaseRow) {
    if let Err(error) = databases.remove(row).await {
        tracing::error!(database = %row.id, "it is not removed yet: {error}");
    }
}
