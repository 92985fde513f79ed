use std::collections::BTreeMap;
use std::sync::Arc;

use api_node::{
    AuditList, AuditQuery, AuditVerified, AuditVerifyQuery, BuildBody, BuildEvent, ByteRange,
    ByteStream, Caller, ColdBoot, ColdBootQuery, CreateSandbox, CreateSnapshot, DataUsage,
    DirectoryList, ErrorCode, EventStream, EventsQuery, ExecBody, ExecEvent, ExecRequest, Failure,
    FileContent, FileEntry, FileQuery, FileWriteQuery, Floor, FloorQuery, Fork, Forked, Health,
    Kvm, KvmKind, LogsQuery, MakeDirectory, Measure, Measured, MemoryUsage, MoveFile, Node,
    NodeApi, PageQuery, Pool, Process, ProcessId, ProcessLine, ProcessList, PtySize, RemoveQuery,
    Sandbox, SandboxList, SandboxListQuery, SandboxState, SandboxStats, SetTimeout, Snapshot,
    SnapshotList, SpawnRequest, Spread, Template, TemplateList, TemplateState, UnpackQuery,
    UploadStream, Used, WatchEvent, WatchQuery,
};
use base_types::{ProjectId, SandboxId, Size, SnapshotId, TemplateName};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use node_witness::{Gauges, Witness};
use tokio::sync::mpsc;

use crate::life::timeout_at;
use crate::process::Kept;
use crate::vault::inherit;
use crate::watched::Watched;
use crate::{Input, NOW_MS, PHASES, SimNode, SimSandbox, program};

/// Room for a burst, small enough that back-pressure is felt in tests.
pub(crate) const EVENTS_PENDING_MAX: usize = 8;

impl NodeApi for SimNode {
    fn sandbox_project(&self, id: SandboxId) -> Option<ProjectId> {
        self.lock().sandboxes.get(&id).map(|sandbox| sandbox.project)
    }

    async fn project_used(&self, id: ProjectId) -> Result<Used, Failure> {
        Ok(self.used_by(id))
    }

    async fn health(&self) -> Result<Health, Failure> {
        Ok(Health { ready: true, version: "0.0.0-sim".into() })
    }

    async fn node_get(&self) -> Result<Node, Failure> {
        Ok(Node {
            version: "0.0.0-sim".into(),
            kernel_release: "6.12.0-sim".into(),
            uptime_ms: 61_000,
            cpus: 2,
            kvm: Kvm { usable: true, kind: KvmKind::Good, reason: "it runs Linux".into() },
            sandboxes: u32::try_from(self.sandbox_count()).unwrap_or(u32::MAX),
            pool: Pool { ready: 2, target: 2 },
            creates: self.witness()?.metrics().recent(),
            memory: MemoryUsage { total_mib: 2500, available_mib: 1800 },
            data: DataUsage {
                templates_bytes: 300 << 20,
                sandboxes_bytes: 4 << 20,
                free_bytes: 9 << 30,
            },
        })
    }

    async fn node_stop(&self) -> Result<(), Failure> {
        self.lock().sandboxes.clear();
        self.stop();
        Ok(())
    }

    async fn node_floor(&self, query: FloorQuery) -> Result<Floor, Failure> {
        Ok(Floor {
            runs: query.runs,
            memory_mib: query.size.memory_mib(),
            total: Spread { min_us: 5_000, p50_us: 5_500, p99_us: 9_000 },
            phases: Vec::new(),
        })
    }

    async fn node_cold_boot(&self, query: ColdBootQuery) -> Result<ColdBoot, Failure> {
        self.template_get(query.template, query.size).await?;
        Ok(ColdBoot { ready_us: 7_000_000 })
    }

    async fn template_list(&self) -> Result<TemplateList, Failure> {
        let mut known: Vec<_> = self.lock().templates.keys().cloned().collect();
        known.sort();
        let mut templates = Vec::new();
        for (name, size) in known {
            templates.push(self.template_get(name, size).await?);
        }
        Ok(TemplateList { templates })
    }

    async fn template_get(&self, name: TemplateName, size: Size) -> Result<Template, Failure> {
        let Some(&state) = self.lock().templates.get(&(name.clone(), size)) else {
            let message = format!("there is no template `{name}`");
            return Err(Failure::new(ErrorCode::TemplateUnknown, message)
                .with_hint("list them with `sandflare template ls`"));
        };
        let ready = state == TemplateState::Ready;
        Ok(Template {
            name,
            size,
            state,
            snapshot_bytes: if ready { 150 << 20 } else { 0 },
            built_at_ms: ready.then_some(1_750_000_000_000),
            message: None,
        })
    }

    async fn template_build(
        &self,
        name: TemplateName,
        size: Size,
    ) -> Result<EventStream<BuildEvent>, Failure> {
        let before = self.template_get(name.clone(), size).await?.state;
        self.lock().templates.insert((name, size), TemplateState::Ready);
        let step = |message: &str, percent| BuildBody::Step { message: message.into(), percent };
        let bodies = if before == TemplateState::Ready {
            vec![BuildBody::Done { took_ms: 0 }]
        } else {
            vec![
                step("booting the guest", 0),
                step("writing the snapshot", 80),
                BuildBody::Done { took_ms: 1_234 },
            ]
        };
        let events = (0..).zip(bodies).map(|(seq, body)| BuildEvent { seq, ts: seq, body });
        Ok(stream::iter(events.collect::<Vec<_>>()).boxed())
    }

    async fn template_delete(&self, name: TemplateName, size: Size) -> Result<(), Failure> {
        self.delete_template(name, size)
    }

    async fn sandbox_create(
        &self,
        caller: &Caller,
        request: CreateSandbox,
    ) -> Result<Sandbox, Failure> {
        let (mut request, mut files) = (request, BTreeMap::new());
        if let Some(id) = request.snapshot {
            let state = self.lock();
            let found = state.snapshots.get(&id);
            let found = found.filter(|(_, moment)| caller.sees(moment.project));
            let (snapshot, moment) = found.ok_or_else(|| Failure::no_snapshot(id))?;
            (request.template, request.size) = (snapshot.template.clone(), snapshot.size);
            files = moment.files.clone();
            request.network.get_or_insert_with(|| moment.network.clone());
            inherit(&mut request.secrets, &moment.secrets);
        }
        self.template_get(request.template.clone(), request.size).await?;
        self.admit(caller.project, request.size)?;
        let mut state = self.lock();
        state.check_secrets(caller.project, &request.secrets)?;
        if let Some(failure) = state.fail_next_create.take() {
            return Err(failure);
        }
        state.templates.insert((request.template.clone(), request.size), TemplateState::Ready);
        state.made += 1;
        let shown = Sandbox {
            id: SandboxId::from_bits(state.made),
            name: request.name,
            template: request.template,
            size: request.size,
            state: SandboxState::Running,
            reason: None,
            created_at_ms: NOW_MS,
            snapshot: request.snapshot,
            metadata: request.metadata,
            timeout_at_ms: timeout_at(request.timeout_s),
            idle_timeout_s: request.idle_timeout_s,
            on_timeout: request.on_timeout,
            phases: PHASES,
        };
        let sandbox = SimSandbox {
            project: caller.project,
            shown: shown.clone(),
            env: request.env,
            timeout_s: request.timeout_s,
            network: request.network.unwrap_or_default(),
            secrets: request.secrets,
            flows: Vec::new(),
            files,
            directories: [].into(),
            watches: Vec::new(),
            processes: [].into(),
            kept: [].into(),
        };
        state.sandboxes.insert(shown.id, sandbox);
        Ok(shown)
    }

    async fn sandbox_list(
        &self,
        caller: &Caller,
        query: SandboxListQuery,
    ) -> Result<SandboxList, Failure> {
        let state = self.lock();
        let seen = state.sandboxes.values().filter(|one| query.shows(caller, one.project));
        let sandboxes = seen.map(|sandbox| sandbox.shown.clone());
        Ok(SandboxList::page(sandboxes.collect(), &query))
    }

    async fn sandbox_logs(&self, id: SandboxId, query: LogsQuery) -> Result<String, Failure> {
        let text =
            self.with_sandbox(id, |sandbox| Ok(format!("console of {}\n", sandbox.shown.id)))?;
        let begin = text.len().saturating_sub(query.bytes as usize);
        Ok(text[begin..].to_owned())
    }

    async fn metrics(&self) -> Result<String, Failure> {
        let running = u64::try_from(self.sandbox_count()).unwrap_or(u64::MAX);
        let databases = self.lock().databases.by_status();
        let sandboxes = vec![("running", running)];
        let gauges = Gauges { sandboxes, databases, ..Gauges::default() };
        Ok(self.witness()?.metrics().text(&gauges))
    }

    async fn audit_list(&self, query: AuditQuery) -> Result<AuditList, Failure> {
        self.witness()?.audit_list(query).await
    }

    async fn audit_verify(&self, query: AuditVerifyQuery) -> Result<AuditVerified, Failure> {
        self.witness()?.audit_verify(query).await
    }

    async fn sandbox_get(&self, id: SandboxId) -> Result<Sandbox, Failure> {
        self.with_sandbox(id, |sandbox| Ok(sandbox.shown.clone()))
    }

    async fn sandbox_kill(&self, id: SandboxId) -> Result<(), Failure> {
        self.with_sandbox(id, |_| Ok(()))?;
        let mut state = self.lock();
        state.sandboxes.remove(&id);
        state.databases.forget_sandbox(id);
        Ok(())
    }

    async fn sandbox_pause(&self, id: SandboxId) -> Result<Sandbox, Failure> {
        self.with_sandbox(id, |sandbox| {
            // Nobody listens to its commands any more.
            sandbox.processes.clear();
            sandbox.shown.state = SandboxState::Paused;
            sandbox.shown.timeout_at_ms = None;
            Ok(sandbox.shown.clone())
        })
    }

    async fn sandbox_resume(&self, id: SandboxId) -> Result<Sandbox, Failure> {
        self.with_sandbox(id, |sandbox| {
            sandbox.wake();
            Ok(sandbox.shown.clone())
        })
    }

    async fn sandbox_set_timeout(
        &self,
        id: SandboxId,
        request: SetTimeout,
    ) -> Result<Sandbox, Failure> {
        self.with_sandbox(id, |sandbox| {
            sandbox.timeout_s = request.timeout_s;
            if sandbox.shown.state == SandboxState::Running {
                sandbox.shown.timeout_at_ms = timeout_at(request.timeout_s);
            }
            Ok(sandbox.shown.clone())
        })
    }

    async fn sandbox_fork(
        &self,
        _: &Caller,
        id: SandboxId,
        request: Fork,
    ) -> Result<Forked, Failure> {
        self.fork(id, &request)
    }

    async fn sandbox_measure(&self, id: SandboxId, _: Measure) -> Result<Measured, Failure> {
        self.measured(id)
    }

    fn snapshot_project(&self, id: SnapshotId) -> Option<ProjectId> {
        self.lock().snapshots.get(&id).map(|(_, moment)| moment.project)
    }

    async fn snapshot_create(
        &self,
        _: &Caller,
        id: SandboxId,
        request: CreateSnapshot,
    ) -> Result<Snapshot, Failure> {
        let moment = self.with_sandbox(id, |sandbox| Ok(sandbox.moment()))?;
        let mut state = self.lock();
        self.admit_snapshot(&state, moment.project)?;
        state.made += 1;
        let snapshot = Snapshot {
            id: SnapshotId::from_bits(state.made),
            name: request.name,
            sandbox: id,
            template: moment.shown.template.clone(),
            size: moment.shown.size,
            created_at_ms: NOW_MS,
            bytes: 3 << 20,
        };
        state.snapshots.insert(snapshot.id, (snapshot.clone(), moment));
        Ok(snapshot)
    }

    async fn snapshot_list(
        &self,
        caller: &Caller,
        query: PageQuery,
    ) -> Result<SnapshotList, Failure> {
        let state = self.lock();
        let seen = state.snapshots.values().filter(|(_, moment)| caller.sees(moment.project));
        let snapshots = seen.map(|(snapshot, _)| snapshot.clone());
        Ok(SnapshotList::page(snapshots.collect(), &query))
    }

    async fn snapshot_get(&self, id: SnapshotId) -> Result<Snapshot, Failure> {
        let state = self.lock();
        let found = state.snapshots.get(&id).ok_or_else(|| Failure::no_snapshot(id))?;
        Ok(found.0.clone())
    }

    async fn snapshot_delete(&self, id: SnapshotId) -> Result<(), Failure> {
        let deleted = self.lock().snapshots.remove(&id);
        deleted.map(drop).ok_or_else(|| Failure::no_snapshot(id))
    }

    async fn sandbox_stats(&self, id: SandboxId) -> Result<SandboxStats, Failure> {
        self.with_sandbox(id, |_| {
            Ok(SandboxStats {
                faults: 900,
                pages_copied: 800,
                pages_prefetched: 700,
                private_pages: 1_000,
                overhead_kib: 3_000,
                disk_written_bytes: 4_096,
                exits: 50,
                cpu_time_us: Some(1_500_000),
                memory_bytes: Some(96 << 20),
                memory_limit_bytes: Some(1_088 << 20),
                disk_bytes: Some(8 << 20),
                uptime_ms: Some(61_000),
            })
        })
    }

    async fn process_exec(
        &self,
        id: SandboxId,
        request: ExecRequest,
    ) -> Result<EventStream<ExecEvent>, Failure> {
        let process_id = {
            let mut state = self.lock();
            state.processes_made += 1;
            ProcessId(state.processes_made)
        };
        let (to_program, input) = mpsc::channel(EVENTS_PENDING_MAX);
        let env = self.with_guest(id, |sandbox| {
            let env = request.env_within(&sandbox.env)?;
            sandbox.processes.insert(process_id, to_program);
            Ok(env)
        })?;
        let env = self.lock().databases.with_wired(id, env);
        let (out, events) = mpsc::channel(EVENTS_PENDING_MAX);
        let found = ExecBody::Started { process_id, pid: 100 + process_id.0 };
        let _ = out.send(found).await;
        tokio::spawn(program::run(request, None, env, input, out));
        let watched = Watched { events, seq: 0, ended: false, abandoned: self.abandoned() };
        Ok(watched.boxed())
    }

    async fn process_stdin(
        &self,
        id: SandboxId,
        process: ProcessId,
        data: Bytes,
        close: bool,
    ) -> Result<(), Failure> {
        self.give(id, process, Input::Stdin(data.to_vec())).await?;
        if close { self.give(id, process, Input::Close).await } else { Ok(()) }
    }

    async fn process_signal(
        &self,
        id: SandboxId,
        process: ProcessId,
        signal: u8,
    ) -> Result<(), Failure> {
        self.give(id, process, Input::Signal(signal)).await
    }

    async fn process_spawn(
        &self,
        id: SandboxId,
        request: SpawnRequest,
    ) -> Result<Process, Failure> {
        self.spawn(id, request)
    }

    async fn process_list(&self, id: SandboxId) -> Result<ProcessList, Failure> {
        self.with_guest(id, |sandbox| {
            Ok(ProcessList { processes: sandbox.kept.values().map(Kept::show).collect() })
        })
    }

    async fn process_get(&self, id: SandboxId, process: ProcessId) -> Result<Process, Failure> {
        self.kept(id, process)
    }

    async fn process_attach(
        &self,
        id: SandboxId,
        process: ProcessId,
        query: EventsQuery,
    ) -> Result<ProcessLine, Failure> {
        self.line(id, process, query)
    }

    async fn process_resize(
        &self,
        id: SandboxId,
        process: ProcessId,
        size: PtySize,
    ) -> Result<(), Failure> {
        self.give(id, process, Input::Resize(size)).await
    }

    async fn file_read(
        &self,
        id: SandboxId,
        query: FileQuery,
        range: Option<ByteRange>,
    ) -> Result<FileContent, Failure> {
        self.read(id, &query.path, range)
    }

    async fn file_write(
        &self,
        id: SandboxId,
        query: FileWriteQuery,
        bytes: UploadStream,
    ) -> Result<FileEntry, Failure> {
        self.write(id, query, bytes).await
    }

    async fn file_remove(&self, id: SandboxId, query: RemoveQuery) -> Result<(), Failure> {
        self.remove(id, query)
    }

    async fn file_list(&self, id: SandboxId, query: FileQuery) -> Result<DirectoryList, Failure> {
        self.list(id, &query.path)
    }

    async fn file_stat(&self, id: SandboxId, query: FileQuery) -> Result<FileEntry, Failure> {
        self.stat(id, &query.path)
    }

    async fn file_make(&self, id: SandboxId, request: MakeDirectory) -> Result<FileEntry, Failure> {
        self.make(id, request)
    }

    async fn file_move(&self, id: SandboxId, request: MoveFile) -> Result<FileEntry, Failure> {
        self.relocate(id, request)
    }

    async fn file_pack(&self, id: SandboxId, query: FileQuery) -> Result<ByteStream, Failure> {
        self.pack(id, &query.path)
    }

    async fn file_unpack(
        &self,
        id: SandboxId,
        query: UnpackQuery,
        bytes: UploadStream,
    ) -> Result<FileEntry, Failure> {
        self.unpack(id, &query.path, bytes).await
    }

    async fn file_watch(
        &self,
        id: SandboxId,
        query: WatchQuery,
    ) -> Result<EventStream<WatchEvent>, Failure> {
        self.watch(id, query)
    }
}

impl SimNode {
    fn witness(&self) -> Result<&Arc<Witness>, Failure> {
        let message = "a node that is not served sees no requests";
        self.witness.get().ok_or_else(|| Failure::new(ErrorCode::Conflict, message))
    }
}
