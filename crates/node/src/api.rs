//! The operations of the API, in terms of the host side.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api_guest::{List, MakeDir, Move, ReadFile, Remove, Request, Stat, WriteFile};
use api_node::{
    AuditList, AuditQuery, BuildEvent, Caller, ColdBoot, ColdBootQuery, CreateSandbox,
    CreateSnapshot, DirectoryList, ErrorCode, EventStream, EventsQuery, ExecEvent, ExecRequest,
    Failure, FileContent, FileEntry, FileQuery, FileReadQuery, FileWriteQuery, Floor, FloorPhase,
    FloorQuery, Fork, Forked, Health, LogsQuery, MakeDirectory, MemoryPath, MoveFile, NodeApi,
    Process, ProcessId, ProcessLine, ProcessList, PtySize, Quota, RemoveQuery, Sandbox,
    SandboxList, SandboxListQuery, SandboxStats, SetTimeout, Snapshot, SnapshotList, SpawnRequest,
    Template, TemplateList, UploadStream, Used,
};
use base_types::{ProjectId, SandboxId, Size, SnapshotId, TemplateName};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use node_access::{Access, WHOLE_NODE};
use node_host::{
    CreateSpec, GuestConnection, GuestError, Host, SandboxHandle, Spread,
    TemplateState as HostTemplateState, Verdict,
};
use node_witness::Witness;
use tokio_util::sync::CancellationToken;

use crate::build::{self, Build};
use crate::exec::{Commands, of_guest, size_of_guest};
use crate::view::sandbox;
use crate::{failure, files, lifecycle, process, quota, seen, system};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The node, as its API sees it.
#[derive(Debug)]
pub(crate) struct Node {
    host: Arc<Host>,
    access: Access,
    witness: Arc<Witness>,
    vmm: PathBuf,
    verdict: Verdict,
    stop: CancellationToken,
    started: Instant,
    commands: Commands,
}

impl Node {
    /// `stop` is cancelled when the node is asked to end.
    pub(crate) fn new(
        host: Arc<Host>,
        access: Access,
        witness: Arc<Witness>,
        vmm: PathBuf,
        verdict: Verdict,
        stop: CancellationToken,
    ) -> Self {
        let (started, commands) = (Instant::now(), Commands::default());
        Self { host, access, witness, vmm, verdict, stop, started, commands }
    }

    fn sandbox(&self, id: SandboxId) -> Result<SandboxHandle, Failure> {
        self.host.sandbox(id).ok_or_else(|| Failure::no_sandbox(id))
    }

    /// Asks the agent of a sandbox one thing.
    async fn ask<T, F>(
        &self,
        id: SandboxId,
        request: impl FnOnce(GuestConnection) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, GuestError>>,
    {
        let sandbox = self.sandbox(id)?;
        let agent = sandbox.connect().await.map_err(|error| failure::of_ask(&error))?;
        match request(agent).await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(failure::of_broken(&sandbox, error).await),
        }
    }

    async fn stat(&self, id: SandboxId, path: String) -> Result<FileEntry, Failure> {
        let stat = Stat { path: path.clone(), follow: false };
        let stat = self.ask(id, |agent| agent.stat(stat)).await?;
        Ok(files::entry(&path, stat))
    }

    async fn simple(&self, id: SandboxId, request: Request) -> Result<(), Failure> {
        self.ask(id, |agent| agent.simple(request)).await
    }

    /// Whether there is such a template, and such a size of it may be made here.
    fn check_template(&self, name: &TemplateName, size: Size) -> Result<(), Failure> {
        let images = self.host.templates().images();
        images.root(name).map_err(|error| failure::of_template(&error.into()))?;
        system::check_memory(size, system::memory())
    }

    fn names(&self) -> Result<Vec<TemplateName>, Failure> {
        self.host.templates().images().names().map_err(|error| failure::of_template(&error.into()))
    }
}

impl NodeApi for Node {
    fn sandbox_project(&self, id: SandboxId) -> Option<ProjectId> {
        self.host.sandbox(id).map(|sandbox| sandbox.facts().project)
    }

    async fn project_used(&self, id: ProjectId) -> Result<Used, Failure> {
        quota::used(&self.access, &self.host, id).await
    }

    async fn health(&self) -> Result<Health, Failure> {
        Ok(Health { ready: !self.stop.is_cancelled(), version: VERSION.to_owned() })
    }

    async fn node_get(&self) -> Result<api_node::Node, Failure> {
        let creates = self.witness.metrics().recent();
        seen::node(&self.host, &self.verdict, self.started, creates).await
    }

    async fn node_stop(&self) -> Result<(), Failure> {
        self.stop.cancel();
        Ok(())
    }

    async fn node_floor(&self, query: FloorQuery) -> Result<Floor, Failure> {
        let report = node_host::floor(&self.vmm, query.runs, query.size.memory_mib()).await;
        let report = report.map_err(|error| failure::of_measure(&error))?;
        let spread = |spread: Spread| {
            let Spread { min_us, p50_us, p99_us } = spread;
            api_node::Spread { min_us, p50_us, p99_us }
        };
        let phases = report
            .phases
            .into_iter()
            .map(|part| FloorPhase { phase: part.phase, spread: spread(part.spread) });
        Ok(Floor {
            runs: report.runs,
            memory_mib: report.memory_mib,
            total: spread(report.total),
            phases: phases.collect(),
        })
    }

    async fn node_cold_boot(&self, query: ColdBootQuery) -> Result<ColdBoot, Failure> {
        let ColdBootQuery { template, size } = query;
        self.check_template(&template, size)?;
        let request = CreateSandbox { template, size, ..CreateSandbox::default() };
        let spec = CreateSpec { cold: true, ..spec(request, ProjectId::DEFAULT, WHOLE_NODE) };
        let created = self.host.create(spec).await.map_err(|error| failure::of_create(&error))?;
        let ready_us = created.view().times.total_us;
        created.kill().await;
        Ok(ColdBoot { ready_us })
    }

    async fn template_list(&self) -> Result<TemplateList, Failure> {
        let all = self.names()?.into_iter().flat_map(|name| Size::ALL.map(|s| (name.clone(), s)));
        Ok(TemplateList {
            templates: all.map(|(name, size)| build::template(&self.host, name, size)).collect(),
        })
    }

    async fn template_get(&self, name: TemplateName, size: Size) -> Result<Template, Failure> {
        let images = self.host.templates().images();
        images.root(&name).map_err(|error| failure::of_template(&error.into()))?;
        Ok(build::template(&self.host, name, size))
    }

    async fn template_build(
        &self,
        name: TemplateName,
        size: Size,
    ) -> Result<EventStream<BuildEvent>, Failure> {
        self.check_template(&name, size)?;
        let templates = self.host.templates();
        let there = matches!(templates.state(&name, size), HostTemplateState::Ready(_));
        let watch = templates.start(&name, size);
        let begun = (!there).then(Instant::now);
        let build = Build { watch, begun, seq: 0, last: false };
        Ok(stream::unfold(build, Build::next).boxed())
    }

    async fn sandbox_create(
        &self,
        caller: &Caller,
        request: CreateSandbox,
    ) -> Result<Sandbox, Failure> {
        let mut request = request;
        if let Some(id) = request.snapshot {
            let found = self.host.snapshot(id).filter(|facts| caller.sees(facts.project));
            let found = found.ok_or_else(|| Failure::no_snapshot(id))?;
            (request.template, request.size) = (found.template, found.size);
        }
        let quota = quota::admit(&self.access, &self.host, caller.project, 1).await?;
        self.check_template(&request.template, request.size)?;
        let created = self.host.create(spec(request, caller.project, quota)).await;
        Ok(sandbox(&created.map_err(|error| failure::of_create(&error))?))
    }

    async fn sandbox_list(
        &self,
        caller: &Caller,
        query: SandboxListQuery,
    ) -> Result<SandboxList, Failure> {
        let all = self.host.sandboxes();
        let seen = all.iter().filter(|sandbox| caller.sees(sandbox.facts().project));
        Ok(SandboxList::page(seen.map(sandbox).collect(), &query))
    }

    async fn sandbox_logs(&self, id: SandboxId, query: LogsQuery) -> Result<String, Failure> {
        self.sandbox(id)?;
        seen::console(self.host.clone(), id, query).await
    }

    async fn metrics(&self) -> Result<String, Failure> {
        Ok(self.witness.metrics().text(&seen::gauges(&self.host)))
    }

    async fn audit_list(&self, query: AuditQuery) -> Result<AuditList, Failure> {
        self.witness.audit_list(query).await
    }

    async fn sandbox_get(&self, id: SandboxId) -> Result<Sandbox, Failure> {
        Ok(sandbox(&self.sandbox(id)?))
    }

    async fn sandbox_kill(&self, id: SandboxId) -> Result<(), Failure> {
        self.sandbox(id)?.kill().await;
        Ok(())
    }

    async fn sandbox_pause(&self, id: SandboxId) -> Result<Sandbox, Failure> {
        let found = self.sandbox(id)?;
        found.pause().await.map_err(|error| failure::of_order(&error))?;
        Ok(sandbox(&found))
    }

    async fn sandbox_resume(&self, id: SandboxId) -> Result<Sandbox, Failure> {
        let found = self.sandbox(id)?;
        found.resume().await.map_err(|error| failure::of_order(&error))?;
        Ok(sandbox(&found))
    }

    async fn sandbox_set_timeout(
        &self,
        id: SandboxId,
        request: SetTimeout,
    ) -> Result<Sandbox, Failure> {
        let found = self.sandbox(id)?;
        let set = found.set_timeout(request.timeout_s).await;
        set.map_err(|error| failure::of_order(&error))?;
        Ok(sandbox(&found))
    }

    async fn sandbox_fork(&self, id: SandboxId, request: Fork) -> Result<Forked, Failure> {
        let parent = self.sandbox(id)?;
        let facts = parent.facts();
        let quota =
            quota::admit(&self.access, &self.host, facts.project, request.count.into()).await?;
        let spec = lifecycle::spec_of_child(&parent, request.name, quota);
        let count = usize::try_from(request.count).unwrap_or(usize::MAX);
        let forked = self.host.fork(&parent, count, spec).await;
        let forked = forked.map_err(|error| failure::of_order(&error))?;
        let sandboxes = forked.children.iter().map(sandbox).collect();
        Ok(Forked { sandboxes, held_us: forked.held_us })
    }

    fn snapshot_project(&self, id: SnapshotId) -> Option<ProjectId> {
        self.host.snapshot(id).map(|facts| facts.project)
    }

    async fn snapshot_create(
        &self,
        id: SandboxId,
        request: CreateSnapshot,
    ) -> Result<Snapshot, Failure> {
        let found = self.sandbox(id)?;
        quota::admit_snapshot(&self.access, &self.host, found.facts().project).await?;
        let kept = self.host.snapshot_create(&found, request.name).await;
        kept.map(lifecycle::snapshot).map_err(|error| failure::of_order(&error))
    }

    async fn snapshot_list(&self, caller: &Caller) -> Result<SnapshotList, Failure> {
        let all = self.host.snapshots().into_iter();
        let seen = all.filter(|facts| caller.sees(facts.project));
        Ok(SnapshotList { snapshots: seen.map(lifecycle::snapshot).collect() })
    }

    async fn snapshot_get(&self, id: SnapshotId) -> Result<Snapshot, Failure> {
        let found = self.host.snapshot(id).ok_or_else(|| Failure::no_snapshot(id))?;
        Ok(lifecycle::snapshot(found))
    }

    async fn snapshot_delete(&self, id: SnapshotId) -> Result<(), Failure> {
        let deleted = self.host.snapshot_delete(id).await;
        match deleted.map_err(|error| failure::of_order(&error))? {
            true => Ok(()),
            false => Err(Failure::no_snapshot(id)),
        }
    }

    async fn sandbox_stats(&self, id: SandboxId) -> Result<SandboxStats, Failure> {
        let stats = self.sandbox(id)?.stats().await.map_err(|error| failure::of_ask(&error))?;
        Ok(SandboxStats {
            faults: stats.faults,
            pages_copied: stats.pages_copied,
            pages_prefetched: stats.pages_prefetched,
            private_pages: stats.private_pages,
            overhead_kib: stats.overhead_kib,
            disk_written_bytes: stats.disk_written_bytes,
            exits: stats.exits,
        })
    }

    async fn process_exec(
        &self,
        id: SandboxId,
        request: ExecRequest,
    ) -> Result<EventStream<ExecEvent>, Failure> {
        self.commands.exec(self.sandbox(id)?, request).await
    }

    async fn process_stdin(
        &self,
        id: SandboxId,
        process: ProcessId,
        data: Bytes,
        close: bool,
    ) -> Result<(), Failure> {
        if !Commands::is_one(process) {
            return self.ask(id, |agent| agent.feed(process.0, data, close)).await;
        }
        self.sandbox(id)?;
        self.commands.stdin(id, process, data, close).await
    }

    async fn process_signal(
        &self,
        id: SandboxId,
        process: ProcessId,
        signal: u8,
    ) -> Result<(), Failure> {
        if !Commands::is_one(process) {
            return self.ask(id, |agent| agent.signal(process.0, signal.into())).await;
        }
        self.sandbox(id)?;
        self.commands.signal(id, process, signal).await
    }

    async fn process_spawn(
        &self,
        id: SandboxId,
        request: SpawnRequest,
    ) -> Result<Process, Failure> {
        let (request, pty) = request.into_parts();
        let exec = of_guest(&self.sandbox(id)?, request, pty);
        self.ask(id, |agent| agent.spawn(exec)).await.map(process::shown)
    }

    async fn process_list(&self, id: SandboxId) -> Result<ProcessList, Failure> {
        let all = self.ask(id, |agent| agent.processes()).await?;
        Ok(ProcessList { processes: all.into_iter().map(process::shown).collect() })
    }

    async fn process_attach(
        &self,
        id: SandboxId,
        process: ProcessId,
        query: EventsQuery,
    ) -> Result<ProcessLine, Failure> {
        process::line(self.sandbox(id)?, process, query).await
    }

    async fn process_resize(
        &self,
        id: SandboxId,
        process: ProcessId,
        size: PtySize,
    ) -> Result<(), Failure> {
        self.ask(id, |agent| agent.resize(process.0, size_of_guest(size))).await
    }

    async fn file_read(&self, id: SandboxId, query: FileReadQuery) -> Result<FileContent, Failure> {
        if query.user.as_deref().is_some_and(|user| user != "root" && user != "0") {
            let message = "files are read with the rights of root only";
            return Err(Failure::new(ErrorCode::Unsupported, message).with_hint("leave `user` out"));
        }
        let read = ReadFile { path: query.path, offset: 0, length: None };
        let (stat, reader) = self.ask(id, |agent| agent.read(read)).await?;
        // What the kernel makes up as it is read has no size.
        let size = (stat.size > 0).then_some(stat.size);
        Ok(FileContent { size, bytes: files::bytes_of(reader, size) })
    }

    async fn file_write(
        &self,
        id: SandboxId,
        query: FileWriteQuery,
        bytes: UploadStream,
    ) -> Result<FileEntry, Failure> {
        let FileWriteQuery { path, mode, user } = query;
        let write = WriteFile { path: path.clone(), mode, user, parents: true };
        let writer = self.ask(id, |agent| agent.write(write)).await?;
        files::copy(bytes, writer).await?;
        self.stat(id, path).await
    }

    async fn file_remove(&self, id: SandboxId, query: RemoveQuery) -> Result<(), Failure> {
        let RemoveQuery { path, recursive } = query;
        self.simple(id, Request::Remove(Remove { path, recursive })).await
    }

    async fn file_list(&self, id: SandboxId, query: FileQuery) -> Result<DirectoryList, Failure> {
        let list = List { path: query.path };
        let (entries, truncated) = self.ask(id, |agent| agent.list(list)).await?;
        let entries = entries.into_iter().map(|entry| files::entry(&entry.name, entry.stat));
        Ok(DirectoryList { entries: entries.collect(), truncated })
    }

    async fn file_stat(&self, id: SandboxId, query: FileQuery) -> Result<FileEntry, Failure> {
        self.stat(id, query.path).await
    }

    async fn file_make(&self, id: SandboxId, request: MakeDirectory) -> Result<FileEntry, Failure> {
        let MakeDirectory { path, mode, user } = request;
        let make = MakeDir { path: path.clone(), mode, user, parents: true };
        self.simple(id, Request::MakeDir(make)).await?;
        self.stat(id, path).await
    }

    async fn file_move(&self, id: SandboxId, request: MoveFile) -> Result<FileEntry, Failure> {
        let MoveFile { from, to } = request;
        self.simple(id, Request::Move(Move { from, to: to.clone() })).await?;
        self.stat(id, to).await
    }
}

/// What the host side is asked for.
fn spec(request: CreateSandbox, project: ProjectId, quota: Quota) -> CreateSpec {
    let lease = lifecycle::lease(&request);
    let CreateSandbox { template, size, name, env, metadata, snapshot, options, .. } = request;
    let memory = options.memory_path.map(|path| match path {
        MemoryPath::Private => api_vmm::MemoryPath::Private,
        MemoryPath::Userfault => api_vmm::MemoryPath::Userfault,
    });
    let ready_within = options.ready_timeout_ms.map(|ms| Duration::from_millis(ms.into()));
    let (prefetch, cold) = (options.prefetch, options.cold);
    CreateSpec {
        project,
        quota,
        template,
        size,
        name,
        env,
        metadata,
        snapshot,
        lease,
        memory,
        prefetch,
        cold,
        ready_within,
    }
}
