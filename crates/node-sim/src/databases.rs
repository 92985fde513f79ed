//! Databases without Postgres: names, passwords and wires are there, SQL is understood a little.

mod stats;

use std::collections::BTreeMap;

use api_node::{
    ByteStream, Caller, Column, CreateDatabase, CreateDatabaseSnapshot, Database, DatabaseList,
    DatabaseListQuery, DatabaseSnapshot, DatabaseSnapshotList, DatabaseStats, DatabaseStatus,
    DatabasesApi, ErrorCode, Failure, ForkDatabase, ForkDatabases, Outside, QueryAnswer,
    QueryDatabase, RestoreDatabase, SetOutside, SetPassword, UploadStream, WireDatabase, Wired,
    WiredList,
};
use base_types::{DatabaseId, ProjectId, SandboxId, Size, SnapshotId};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use crate::{NOW_MS, SimNode};

/// What is known about databases.
#[derive(Debug, Default)]
pub(crate) struct Databases {
    all: BTreeMap<DatabaseId, SimDatabase>,
    made: u64,
}

#[derive(Debug)]
struct SimDatabase {
    project: ProjectId,
    shown: Database,
    wired: BTreeMap<SandboxId, Wired>,
    snapshots: Vec<DatabaseSnapshot>,
}

impl SimDatabase {
    /// The snapshot of this name or id.
    fn snapshot(&self, which: &str) -> Result<SnapshotId, Failure> {
        let mut all = self.snapshots.iter();
        let found =
            all.find(|one| one.name.eq_ignore_ascii_case(which) || one.id.to_string() == which);
        found.map(|one| one.id).ok_or_else(|| Failure::no_database_snapshot(which))
    }
}

impl Databases {
    /// Sizes of those of a project, which count as its sandboxes do.
    pub(crate) fn sizes_of(&self, project: ProjectId) -> impl Iterator<Item = Size> {
        let of_project = self.all.values().filter(move |database| database.project == project);
        of_project.map(|database| database.shown.size)
    }

    /// How many snapshots there are of those of a project.
    pub(crate) fn snapshots_of(&self, project: ProjectId) -> usize {
        let of_project = self.all.values().filter(|database| database.project == project);
        of_project.map(|database| database.snapshots.len()).sum()
    }

    /// `env`, with the variables of what is wired to a sandbox.
    pub(crate) fn with_wired(
        &self,
        sandbox: SandboxId,
        mut env: BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        for wired in self.all.values().filter_map(|database| database.wired.get(&sandbox)) {
            env.extend(wired.env.clone());
        }
        env
    }

    /// What a child has of the databases its parent is wired to.
    pub(crate) fn fork_wired(&mut self, parent: SandboxId, child: SandboxId, mode: ForkDatabases) {
        let of_parent: Vec<(DatabaseId, Wired)> = self
            .all
            .iter()
            .filter_map(|(id, database)| Some((*id, database.wired.get(&parent)?.clone())))
            .collect();
        for (source, wired) in of_parent {
            let id = match mode {
                ForkDatabases::None => continue,
                ForkDatabases::Share => source,
                ForkDatabases::Fork => {
                    let Some(SimDatabase { project, shown, .. }) = self.all.get(&source) else {
                        continue;
                    };
                    let name = format!("{}-{:08x}", shown.name, child.bits() & 0xffff_ffff);
                    self.insert(*project, name, None).id
                }
            };
            if let Some(database) = self.all.get_mut(&id) {
                let name = database.shown.name.clone();
                database.wired.insert(child, Wired { id, name, ..wired });
            }
        }
    }

    /// A sandbox is gone, and what was wired to it is not any more.
    pub(crate) fn forget_sandbox(&mut self, sandbox: SandboxId) {
        for database in self.all.values_mut() {
            database.wired.remove(&sandbox);
        }
    }

    /// How many there are in each status.
    pub(crate) fn by_status(&self) -> Vec<(&'static str, u64)> {
        let of = |status| self.all.values().filter(|one| one.shown.status == status).count();
        let counts = DatabaseStatus::ALL.map(|status| (status.as_str(), of(status) as u64));
        counts.to_vec()
    }

    fn named(&self, project: ProjectId, name: &str) -> Option<DatabaseId> {
        let mut all = self.all.iter();
        let found = all.find(|(_, database)| {
            database.project == project && database.shown.name.eq_ignore_ascii_case(name)
        });
        found.map(|(id, _)| *id)
    }

    fn insert(
        &mut self,
        project: ProjectId,
        name: String,
        password: Option<String>,
    ) -> &mut Database {
        self.made += 1;
        let id = DatabaseId::from_bits(self.made);
        let shown = Database {
            id,
            name,
            status: DatabaseStatus::Running,
            reason: None,
            size: Size::Nano,
            disk_mib: None,
            extensions: Vec::new(),
            host: "127.0.0.1".to_owned(),
            port: 5432,
            outside: Outside::default(),
            user: format!("u{:012x}", id.bits()),
            database: "main".to_owned(),
            password: None,
            url: None,
            direct_url: None,
            created_at_ms: NOW_MS,
            expires_at_ms: None,
        };
        let shown = with_password(shown, password.unwrap_or_else(|| "generated".to_owned()));
        let database =
            SimDatabase { project, shown, wired: BTreeMap::new(), snapshots: Vec::new() };
        &mut self.all.entry(id).or_insert(database).shown
    }
}

fn with_password(shown: Database, password: String) -> Database {
    // Enough for tests, which compare with what was encoded elsewhere.
    let encoded: String = password
        .bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect();
    let url = |user: &str| {
        let Database { host, port, database, .. } = &shown;
        Some(format!("postgresql://{user}:{encoded}@{host}:{port}/{database}"))
    };
    let (direct, pooled) = (url(&shown.user), url(&format!("{}.pooled", shown.user)));
    Database { password: Some(password), url: pooled, direct_url: direct, ..shown }
}

impl SimNode {
    fn with_database<T>(
        &self,
        id: DatabaseId,
        act: impl FnOnce(&mut SimDatabase) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        match self.lock().databases.all.get_mut(&id) {
            Some(database) => act(database),
            None => Err(Failure::no_database(&id.to_string())),
        }
    }
}

fn taken(name: &str) -> Failure {
    Failure::new(ErrorCode::AlreadyExists, format!("there is a database `{name}` already"))
}

impl DatabasesApi for SimNode {
    fn database_find(&self, project: ProjectId, which: &str) -> Option<DatabaseId> {
        let state = self.lock();
        match which.parse::<DatabaseId>() {
            Ok(id) => state.databases.all.contains_key(&id).then_some(id),
            Err(_) => state.databases.named(project, which),
        }
    }

    fn database_project(&self, id: DatabaseId) -> Option<ProjectId> {
        self.lock().databases.all.get(&id).map(|database| database.project)
    }

    async fn database_create(
        &self,
        caller: &Caller,
        request: CreateDatabase,
    ) -> Result<(Database, bool), Failure> {
        let there = self.lock().databases.named(caller.project, &request.name);
        match there {
            Some(id) if request.exist_ok => return Ok((self.database_get(id).await?, false)),
            Some(_) => return Err(taken(&request.name)),
            None => {}
        }
        self.admit(caller.project, request.size)?;
        if request.seed.as_deref().is_some_and(|seed| answer(seed).is_err()) {
            return Err(Failure::new(ErrorCode::SqlFailed, "the seed failed"));
        }
        let mut state = self.lock();
        let shown = state.databases.insert(caller.project, request.name, request.password);
        shown.size = request.size;
        shown.disk_mib = request.disk_mib;
        shown.extensions = request.extensions;
        shown.outside = request.outside;
        shown.expires_at_ms = (request.ttl_s > 0).then(|| NOW_MS + u64::from(request.ttl_s) * 1000);
        Ok((shown.clone(), true))
    }

    async fn database_list(
        &self,
        caller: &Caller,
        query: DatabaseListQuery,
    ) -> Result<DatabaseList, Failure> {
        let state = self.lock();
        let seen = state.databases.all.values().filter(|one| caller.sees(one.project));
        Ok(DatabaseList::page(seen.map(|one| one.shown.clone()).collect(), &query))
    }

    async fn database_get(&self, id: DatabaseId) -> Result<Database, Failure> {
        self.with_database(id, |database| Ok(database.shown.clone()))
    }

    async fn database_stats(&self, id: DatabaseId) -> Result<DatabaseStats, Failure> {
        self.with_database(id, |database| {
            let Database { status, reason, .. } = &database.shown;
            Ok(stats::stats(*status, reason.clone()))
        })
    }

    async fn database_delete(&self, id: DatabaseId) -> Result<(), Failure> {
        let deleted = self.lock().databases.all.remove(&id);
        deleted.map(drop).ok_or_else(|| Failure::no_database(&id.to_string()))
    }

    async fn database_query(
        &self,
        id: DatabaseId,
        request: QueryDatabase,
    ) -> Result<QueryAnswer, Failure> {
        self.with_database(id, |_| answer(&request.sql))
    }

    async fn database_set_password(
        &self,
        id: DatabaseId,
        request: SetPassword,
    ) -> Result<Database, Failure> {
        self.with_database(id, |database| {
            let password = request.password.unwrap_or_else(|| "generated again".to_owned());
            database.shown = with_password(database.shown.clone(), password);
            Ok(database.shown.clone())
        })
    }

    async fn database_set_outside(
        &self,
        id: DatabaseId,
        request: SetOutside,
    ) -> Result<Database, Failure> {
        self.with_database(id, |database| {
            database.shown.outside = request.outside;
            Ok(database.shown.clone())
        })
    }

    async fn database_fork(
        &self,
        _: &Caller,
        id: DatabaseId,
        request: ForkDatabase,
    ) -> Result<Database, Failure> {
        let (project, source) = self.with_database(id, |database| {
            if let Some(which) = &request.snapshot {
                database.snapshot(which)?;
            }
            Ok((database.project, database.shown.clone()))
        })?;
        if self.lock().databases.named(project, &request.name).is_some() {
            return Err(taken(&request.name));
        }
        self.admit(project, source.size)?;
        let mut state = self.lock();
        let shown = state.databases.insert(project, request.name, request.password);
        (shown.size, shown.extensions) = (source.size, source.extensions);
        shown.disk_mib = source.disk_mib;
        Ok(shown.clone())
    }

    async fn database_snapshot(
        &self,
        _: &Caller,
        id: DatabaseId,
        request: CreateDatabaseSnapshot,
    ) -> Result<DatabaseSnapshot, Failure> {
        let (project, taken) = self.with_database(id, |database| {
            Ok((database.project, database.snapshot(&request.name).is_ok()))
        })?;
        if taken {
            let message = format!("there is a snapshot `{}` already", request.name);
            return Err(Failure::new(ErrorCode::AlreadyExists, message));
        }
        let mut state = self.lock();
        self.admit_snapshot(&state, project)?;
        state.made += 1;
        let bits = state.made;
        let database = state.databases.all.get_mut(&id);
        let database = database.ok_or_else(|| Failure::no_database(&id.to_string()))?;
        let snapshot = DatabaseSnapshot {
            id: SnapshotId::from_bits(bits),
            name: request.name,
            database: id,
            created_at_ms: NOW_MS,
            bytes: 4096,
        };
        database.snapshots.push(snapshot.clone());
        Ok(snapshot)
    }

    async fn database_snapshots(&self, id: DatabaseId) -> Result<DatabaseSnapshotList, Failure> {
        self.with_database(id, |database| {
            Ok(DatabaseSnapshotList { snapshots: database.snapshots.clone() })
        })
    }

    async fn database_snapshot_delete(&self, id: DatabaseId, which: &str) -> Result<(), Failure> {
        self.with_database(id, |database| {
            let found = database.snapshot(which)?;
            database.snapshots.retain(|snapshot| snapshot.id != found);
            Ok(())
        })
    }

    async fn database_go_back(
        &self,
        id: DatabaseId,
        request: RestoreDatabase,
    ) -> Result<Database, Failure> {
        self.with_database(id, |database| {
            database.snapshot(&request.snapshot)?;
            Ok(database.shown.clone())
        })
    }

    async fn database_dump(&self, id: DatabaseId) -> Result<ByteStream, Failure> {
        let name = self.with_database(id, |database| Ok(database.shown.name.clone()))?;
        let dump = format!("-- all of {name}\n");
        Ok(stream::iter([Ok(Bytes::from(dump))]).boxed())
    }

    async fn database_restore(
        &self,
        id: DatabaseId,
        mut dump: UploadStream,
    ) -> Result<(), Failure> {
        self.with_database(id, |_| Ok(()))?;
        let mut sql = Vec::new();
        while let Some(piece) = dump.next().await {
            sql.extend_from_slice(&piece?);
        }
        // No SQL is known here but comments and what ends as a statement does.
        let text = std::str::from_utf8(&sql).map(str::trim).unwrap_or_default();
        let statement = text.ends_with(';') || text.lines().all(|line| line.starts_with("--"));
        if text.is_empty() || !statement {
            return Err(Failure::new(ErrorCode::SqlFailed, "nothing was restored: ERROR: no SQL"));
        }
        Ok(())
    }

    async fn database_wire(
        &self,
        sandbox: SandboxId,
        id: DatabaseId,
        request: WireDatabase,
    ) -> Result<Wired, Failure> {
        self.with_sandbox(sandbox, |_| Ok(()))?;
        self.with_database(id, |database| {
            let shown = &database.shown;
            let host = format!("{}.db.internal", shown.name);
            let user = format!("w{:012x}", sandbox.bits());
            let url = |port: u16| format!("postgresql://{user}:wired@{host}:{port}/main");
            let mut env = BTreeMap::from([
                (request.env.clone(), url(6432)),
                (format!("{}_UNPOOLED", request.env), url(5432)),
            ]);
            if request.env == WireDatabase::ENV_DEFAULT {
                let more = [
                    ("POSTGRES_URL", url(6432)),
                    ("PGHOST", host.clone()),
                    ("PGPORT", "5432".to_owned()),
                    ("PGUSER", user.clone()),
                    ("PGPASSWORD", "wired".to_owned()),
                    ("PGDATABASE", "main".to_owned()),
                ];
                env.extend(more.map(|(name, value)| (name.to_owned(), value)));
            }
            let wired = Wired { id, name: shown.name.clone(), role: request.role, env };
            database.wired.insert(sandbox, wired.clone());
            Ok(wired)
        })
    }

    async fn database_wired(&self, sandbox: SandboxId) -> Result<WiredList, Failure> {
        self.with_sandbox(sandbox, |_| Ok(()))?;
        let state = self.lock();
        let wired = state.databases.all.values().filter_map(|one| one.wired.get(&sandbox));
        let mut databases: Vec<Wired> = wired.cloned().collect();
        databases.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(WiredList { databases })
    }

    async fn database_unwire(&self, sandbox: SandboxId, id: DatabaseId) -> Result<(), Failure> {
        self.with_sandbox(sandbox, |_| Ok(()))?;
        self.with_database(id, |database| match database.wired.remove(&sandbox) {
            Some(_) => Ok(()),
            None => {
                let message = format!("{sandbox} is not wired to {id}");
                Err(Failure::new(ErrorCode::NotFound, message))
            }
        })
    }
}

/// What SQL gives here: `select <word>` that word; `create`, `insert` and the like nothing.
fn answer(sql: &str) -> Result<QueryAnswer, Failure> {
    let mut words = sql.trim().trim_end_matches(';').split_whitespace();
    let first = words.next().unwrap_or_default().to_lowercase();
    match first.as_str() {
        "" => Ok(QueryAnswer::default()),
        "select" => Ok(QueryAnswer {
            columns: vec![Column { name: "?column?".to_owned() }],
            rows: vec![vec![words.next().map(str::to_owned)]],
            truncated: false,
            rows_affected: Some(1),
        }),
        "create" | "insert" | "update" | "delete" | "drop" => {
            Ok(QueryAnswer { rows_affected: Some(0), ..QueryAnswer::default() })
        }
        _ => {
            let message = "syntax error at or near the first word (SQLSTATE 42601)";
            Err(Failure::new(ErrorCode::SqlFailed, message))
        }
    }
}
