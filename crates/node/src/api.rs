//! The operations of the API, in terms of the host side.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use api_guest::{Remove, Request};
use api_node::{
    AuditList, AuditQuery, AuditVerified, AuditVerifyQuery, BuildEvent, ByteRange, ByteStream,
    Caller, ColdBoot, ColdBootQuery, CreateSandbox, CreateSnapshot, DirectoryList, EventStream,
    EventsQuery, ExecEvent, ExecRequest, Failure, FileContent, FileEntry, FileQuery,
    FileWriteQuery, Floor, FloorPhase, FloorQuery, Fork, Forked, Health, LogsQuery, MakeDirectory,
    Measure, Measured, MoveFile, NodeApi, PageQuery, Process, ProcessId, ProcessLine, ProcessList,
    PtySize, RemoveQuery, Sandbox, SandboxList, SandboxListQuery, SandboxStats, SetTimeout,
    Snapshot, SnapshotList, SpawnRequest, Template, TemplateList, UnpackQuery, UploadStream, Used,
    WatchEvent, WatchQuery,
};
use base_types::{ProjectId, SandboxId, Size, SnapshotId, TemplateName};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use node_access::{Access, WHOLE_NODE};
use node_gateway::Authority;
use node_host::{
    CreateSpec, GuestConnection, GuestError, Host, SandboxHandle, Spread,
    TemplateState as HostTemplateState, Verdict,
};
use node_witness::Witness;
use tokio_util::sync::CancellationToken;

use crate::build::{self, Build};
use crate::databases::Databases;
use crate::exec::{Commands, of_guest, size_of_guest};
use crate::files::not_root;
use crate::vault::Vault;
use crate::view::sandbox;
use crate::wanted::spec;
use crate::{agent, failure, lifecycle, measure, process, quota, seen, system, watch};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The node, as its API sees it.
#[derive(Debug)]
pub(crate) struct Node {
    host: Arc<Host>,
    pub(crate) access: Access,
    witness: Arc<Witness>,
    vmm: PathBuf,
    verdict: Verdict,
    stop: CancellationToken,
    started: Instant,
    commands: Commands,
    databases: Databases,
    pub(crate) vault: Vault,
    pub(crate) authority: Arc<Authority>,
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
        given: (Databases, Vault, Arc<Authority>),
    ) -> Self {
        let (started, commands) = (Instant::now(), Commands::default());
        let (databases, vault, authority) = given;
        Self {
            host,
            access,
            witness,
            vmm,
            verdict,
            stop,
            started,
            commands,
            databases,
            vault,
            authority,
        }
    }

    pub(crate) const fn host(&self) -> &Arc<Host> {
        &self.host
    }

    pub(crate) const fn databases(&self) -> &Databases {
        &self.databases
    }

    pub(crate) fn sandbox(&self, id: SandboxId) -> Result<SandboxHandle, Failure> {
        let found = self.host.sandbox(id).filter(|_| !self.databases.are_in(id));
        found.ok_or_else(|| Failure::no_sandbox(id))
    }

    /// Asks the agent of a sandbox one thing.
    pub(crate) async fn ask<T, F>(
        &self,
        id: SandboxId,
        request: impl FnOnce(GuestConnection) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, GuestError>>,
    {
        agent::ask(&self.sandbox(id)?, request).await
    }

    /// Whether there is such a template, and such a size of it may be made here.
    pub(crate) fn check_template(&self, name: &TemplateName, size: Size) -> Result<(), Failure> {
        let templates = self.host.templates();
        // One that is loaded holds its files open.
        if !matches!(templates.state(name, size), HostTemplateState::Ready(_)) {
            let root = templates.images().root(name);
            root.map_err(|error| failure::of_template(&error.into()))?;
        }
        system::check_memory(size, system::total_memory_mib())
    }

    fn names(&self) -> Result<Vec<TemplateName>, Failure> {
        self.host.templates().images().names().map_err(|error| failure::of_template(&error.into()))
    }
}

impl NodeApi for Node {
    fn sandbox_project(&self, id: SandboxId) -> Option<ProjectId> {
        self.sandbox(id).ok().map(|sandbox| sandbox.facts().project)
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

    async fn template_delete(&self, name: TemplateName, size: Size) -> Result<(), Failure> {
        // What was made ahead is no reason to keep what it was made of.
        self.databases.drop_made().await;
        build::delete(&self.host, name, size).await
    }

    async fn sandbox_create(
        &self,
        caller: &Caller,
        request: CreateSandbox,
    ) -> Result<Sandbox, Failure> {
        self.create(caller, request).await
    }

    async fn sandbox_list(
        &self,
        caller: &Caller,
        query: SandboxListQuery,
    ) -> Result<SandboxList, Failure> {
        let all = self.host.sandboxes();
        let seen = all.iter().filter(|sandbox| {
            let facts = sandbox.facts();
            query.shows(caller, facts.project) && !self.databases.are_in(facts.id)
        });
        Ok(SandboxList::page(seen.map(sandbox).collect(), &query))
    }

    async fn sandbox_logs(&self, id: SandboxId, query: LogsQuery) -> Result<String, Failure> {
        self.sandbox(id)?;
        seen::console(self.host.clone(), id, query).await
    }

    async fn metrics(&self) -> Result<String, Failure> {
        let databases = self.databases().by_status();
        Ok(self.witness.metrics().text(&seen::gauges(&self.host, databases)))
    }

    async fn audit_list(&self, query: AuditQuery) -> Result<AuditList, Failure> {
        self.witness.audit_list(query).await
    }

    async fn audit_verify(&self, query: AuditVerifyQuery) -> Result<AuditVerified, Failure> {
        self.witness.audit_verify(query).await
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

    async fn sandbox_fork(
        &self,
        caller: &Caller,
        id: SandboxId,
        request: Fork,
    ) -> Result<Forked, Failure> {
        let parent = self.sandbox(id)?;
        let (host, access) = (&self.host, &self.access);
        lifecycle::fork(host, access, self.databases(), caller, &parent, request).await
    }

    async fn sandbox_measure(&self, id: SandboxId, request: Measure) -> Result<Measured, Failure> {
        measure::measure(&self.sandbox(id)?, request).await
    }

    fn snapshot_project(&self, id: SnapshotId) -> Option<ProjectId> {
        let found = self.host.snapshot(id).filter(lifecycle::is_of_sandbox);
        found.map(|facts| facts.project)
    }

    async fn snapshot_create(
        &self,
        caller: &Caller,
        id: SandboxId,
        request: CreateSnapshot,
    ) -> Result<Snapshot, Failure> {
        let parent = self.sandbox(id)?;
        lifecycle::snapshot_create(&self.host, &self.access, caller, &parent, request).await
    }

    async fn snapshot_list(
        &self,
        caller: &Caller,
        query: PageQuery,
    ) -> Result<SnapshotList, Failure> {
        let all = self.host.snapshots().into_iter();
        let all = all.filter(lifecycle::is_of_sandbox);
        let seen = all.filter(|facts| caller.sees(facts.project));
        Ok(SnapshotList::page(seen.map(lifecycle::snapshot).collect(), &query))
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
        let host = self.host.clone();
        // What cannot be looked at is left out.
        let usage = tokio::task::spawn_blocking(move || host.usage(id)).await.unwrap_or_default();
        Ok(SandboxStats {
            faults: stats.faults,
            pages_copied: stats.pages_copied,
            pages_prefetched: stats.pages_prefetched,
            private_pages: stats.private_pages,
            overhead_kib: stats.overhead_kib,
            disk_written_bytes: stats.disk_written_bytes,
            exits: stats.exits,
            cpu_time_us: usage.cpu_time_us,
            memory_bytes: usage.memory_bytes,
            memory_limit_bytes: usage.memory_max_bytes,
            disk_bytes: usage.disk_bytes,
            uptime_ms: usage.uptime.and_then(|uptime| u64::try_from(uptime.as_millis()).ok()),
        })
    }

    async fn process_exec(
        &self,
        id: SandboxId,
        mut request: ExecRequest,
    ) -> Result<EventStream<ExecEvent>, Failure> {
        request.env = self.environment(id, request.env)?;
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
        let (mut request, pty) = request.into_parts();
        request.env = self.environment(id, request.env)?;
        let sandbox = self.sandbox(id)?;
        let exec = of_guest(&sandbox.facts().env, request, pty)?;
        process::spawn(&sandbox, exec, self.host.process_bounds().clone()).await
    }

    async fn process_list(&self, id: SandboxId) -> Result<ProcessList, Failure> {
        let all = self.ask(id, |agent| agent.processes()).await?;
        Ok(ProcessList { processes: all.into_iter().map(process::shown).collect() })
    }

    async fn process_get(&self, id: SandboxId, process: ProcessId) -> Result<Process, Failure> {
        let all = self.ask(id, |agent| agent.processes()).await?;
        process::find(all, process)
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

    async fn file_read(
        &self,
        id: SandboxId,
        query: FileQuery,
        range: Option<ByteRange>,
    ) -> Result<FileContent, Failure> {
        self.read(id, query, range).await
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
        let RemoveQuery { path, recursive, user } = query;
        self.act(id, not_root(user), Request::Remove(Remove { path, recursive })).await
    }

    async fn file_list(&self, id: SandboxId, query: FileQuery) -> Result<DirectoryList, Failure> {
        self.list(id, query).await
    }

    async fn file_stat(&self, id: SandboxId, query: FileQuery) -> Result<FileEntry, Failure> {
        self.entry(id, query).await
    }

    async fn file_make(&self, id: SandboxId, request: MakeDirectory) -> Result<FileEntry, Failure> {
        self.make(id, request).await
    }

    async fn file_move(&self, id: SandboxId, request: MoveFile) -> Result<FileEntry, Failure> {
        self.relocate(id, request).await
    }

    async fn file_pack(&self, id: SandboxId, query: FileQuery) -> Result<ByteStream, Failure> {
        self.pack(id, query).await
    }

    async fn file_unpack(
        &self,
        id: SandboxId,
        query: UnpackQuery,
        bytes: UploadStream,
    ) -> Result<FileEntry, Failure> {
        self.unpack(id, query, bytes).await
    }

    async fn file_watch(
        &self,
        id: SandboxId,
        query: WatchQuery,
    ) -> Result<EventStream<WatchEvent>, Failure> {
        watch::watch(self.sandbox(id)?, query).await
    }
}
