//! The operations of the API, in terms of the host side.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use api_guest::{List, MakeDir, Move, ReadFile, Remove, Request, Stat, WriteFile};
use api_node::{
    BuildBody, BuildEvent, ColdBoot, ColdBootQuery, CreateSandbox, DataUsage, DirectoryList,
    ErrorCode, EventStream, ExecEvent, ExecRequest, Failure, FileContent, FileEntry, FileQuery,
    FileReadQuery, FileWriteQuery, Floor, FloorPhase, FloorQuery, Health, Kvm, KvmKind,
    MakeDirectory, MemoryPath, MoveFile, NodeApi, PhaseTimes, Pool, ProcessId, RemoveQuery,
    Sandbox, SandboxList, SandboxState, SandboxStats, Template, TemplateList, TemplateState,
    UploadStream,
};
use base_types::{SandboxId, Size, TemplateName};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use node_host::{
    CreateSpec, GuestConnection, GuestError, Host, KvmKind as FoundKvm, Phase, SandboxHandle,
    Spread, TemplateState as HostTemplateState, Verdict,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::exec::{Processes, now_us};
use crate::{failure, files, system};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The node, as its API sees it.
#[derive(Debug)]
pub(crate) struct Node {
    host: Arc<Host>,
    vmm: PathBuf,
    verdict: Verdict,
    stop: CancellationToken,
    started: Instant,
    processes: Processes,
}

impl Node {
    /// `stop` is cancelled when the node is asked to end.
    pub(crate) fn new(
        host: Arc<Host>,
        vmm: PathBuf,
        verdict: Verdict,
        stop: CancellationToken,
    ) -> Self {
        let (started, processes) = (Instant::now(), Processes::default());
        Self { host, vmm, verdict, stop, started, processes }
    }

    fn sandbox(&self, id: SandboxId) -> Result<SandboxHandle, Failure> {
        self.host.sandbox(id).ok_or_else(|| failure::no_sandbox(id))
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

    fn template(&self, name: TemplateName, size: Size) -> Template {
        let mut template = Template {
            name,
            size,
            state: TemplateState::Missing,
            snapshot_bytes: 0,
            built_at_ms: None,
            message: None,
        };
        match self.host.templates().state(&template.name, size) {
            HostTemplateState::Ready(ready) => {
                template.state = TemplateState::Ready;
                template.snapshot_bytes = ready.bytes;
                template.built_at_ms = Some(ready.manifest.built_at_ms);
            }
            HostTemplateState::Building { message, .. } => {
                template.state = TemplateState::Building;
                template.message = Some(message);
            }
            HostTemplateState::Failed(error) => {
                template.state = TemplateState::Failed;
                template.message = Some(failure::of_template(&error).message);
            }
            HostTemplateState::Unloaded => {
                if let Some((manifest, bytes)) = self.host.templates().on_disk(&template.name, size)
                {
                    template.state = TemplateState::Ready;
                    template.snapshot_bytes = bytes;
                    template.built_at_ms = Some(manifest.built_at_ms);
                }
            }
        }
        template
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
    async fn health(&self) -> Result<Health, Failure> {
        Ok(Health { ready: !self.stop.is_cancelled(), version: VERSION.to_owned() })
    }

    async fn node_get(&self) -> Result<api_node::Node, Failure> {
        let host = self.host.clone();
        let disk = tokio::task::spawn_blocking(move || host.disk_use()).await.map_err(|error| {
            Failure::because(ErrorCode::Internal, "the disk could not be looked at", &error)
        })?;
        let pool = self.host.pool();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(api_node::Node {
            version: VERSION.to_owned(),
            kernel_release: system::kernel_release(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            cpus: count(thread::available_parallelism().map_or(1, |n| n.get())),
            kvm: Kvm {
                usable: self.verdict.usable,
                kind: match self.verdict.kind {
                    FoundKvm::NoDevice => KvmKind::NoDevice,
                    FoundKvm::NoPermission => KvmKind::NoPermission,
                    FoundKvm::CannotRunLinux => KvmKind::CannotRunLinux,
                    FoundKvm::Good => KvmKind::Good,
                },
                reason: self.verdict.reason.clone(),
            },
            sandboxes: count(self.host.sandboxes().len()),
            pool: Pool { ready: count(pool.ready), target: count(pool.target) },
            memory: system::memory(),
            data: DataUsage {
                templates_bytes: disk.templates_bytes,
                sandboxes_bytes: disk.sandboxes_bytes,
                free_bytes: disk.free_bytes,
            },
        })
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
        let spec = CreateSpec { cold: true, ..spec(request) };
        let created = self.host.create(spec).await.map_err(|error| failure::of_create(&error))?;
        let ready_us = created.view().times.total_us;
        created.kill().await;
        Ok(ColdBoot { ready_us })
    }

    async fn template_list(&self) -> Result<TemplateList, Failure> {
        let all = self.names()?.into_iter().flat_map(|name| Size::ALL.map(|s| (name.clone(), s)));
        Ok(TemplateList { templates: all.map(|(name, size)| self.template(name, size)).collect() })
    }

    async fn template_get(&self, name: TemplateName, size: Size) -> Result<Template, Failure> {
        let images = self.host.templates().images();
        images.root(&name).map_err(|error| failure::of_template(&error.into()))?;
        Ok(self.template(name, size))
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

    async fn sandbox_create(&self, request: CreateSandbox) -> Result<Sandbox, Failure> {
        self.check_template(&request.template, request.size)?;
        let created = self.host.create(spec(request)).await;
        Ok(sandbox(&created.map_err(|error| failure::of_create(&error))?))
    }

    async fn sandbox_list(&self) -> Result<SandboxList, Failure> {
        Ok(SandboxList { sandboxes: self.host.sandboxes().iter().map(sandbox).collect() })
    }

    async fn sandbox_get(&self, id: SandboxId) -> Result<Sandbox, Failure> {
        Ok(sandbox(&self.sandbox(id)?))
    }

    async fn sandbox_kill(&self, id: SandboxId) -> Result<(), Failure> {
        self.sandbox(id)?.kill().await;
        Ok(())
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
        self.processes.exec(self.sandbox(id)?, request).await
    }

    async fn process_stdin(
        &self,
        id: SandboxId,
        process: ProcessId,
        data: Bytes,
        close: bool,
    ) -> Result<(), Failure> {
        self.sandbox(id)?;
        self.processes.stdin(id, process, data, close).await
    }

    async fn process_signal(
        &self,
        id: SandboxId,
        process: ProcessId,
        signal: u8,
    ) -> Result<(), Failure> {
        self.sandbox(id)?;
        self.processes.signal(id, process, signal).await
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
fn spec(request: CreateSandbox) -> CreateSpec {
    let CreateSandbox { template, size, name, env, options } = request;
    let memory = options.memory_path.map(|path| match path {
        MemoryPath::Private => api_vmm::MemoryPath::Private,
        MemoryPath::Userfault => api_vmm::MemoryPath::Userfault,
    });
    let ready_within = options.ready_timeout_ms.map(|ms| Duration::from_millis(ms.into()));
    let (prefetch, cold) = (options.prefetch, options.cold);
    CreateSpec { template, size, name, env, memory, prefetch, cold, ready_within }
}

/// A sandbox, as the API shows it.
fn sandbox(handle: &SandboxHandle) -> Sandbox {
    let (facts, view) = (handle.facts(), handle.view());
    let times = view.times;
    Sandbox {
        id: facts.id,
        name: facts.name.clone(),
        template: facts.template.clone(),
        size: facts.size,
        state: match view.phase {
            Phase::Creating => SandboxState::Creating,
            Phase::Running => SandboxState::Running,
            Phase::Failed => SandboxState::Failed,
            Phase::Stopping | Phase::Stopped => SandboxState::Stopping,
        },
        reason: view.reason,
        created_at_ms: facts.created_at_ms,
        phases: PhaseTimes {
            claim_us: times.claim_us,
            parse_us: times.parse_us,
            map_us: times.map_us,
            state_us: times.state_us,
            devices_us: times.devices_us,
            resume_us: times.resume_us,
            reseed_us: times.reseed_us,
            total_us: times.total_us,
            pool_empty: times.pool_empty,
        },
    }
}

/// The making of a template's snapshot, as a stream of events.
struct Build {
    watch: watch::Receiver<HostTemplateState>,
    /// `None` when the snapshot was there before.
    begun: Option<Instant>,
    seq: u64,
    last: bool,
}

impl Build {
    async fn next(mut self) -> Option<(BuildEvent, Self)> {
        if self.last {
            return None;
        }
        // The first event tells where it is now, all later ones what changed.
        if self.seq > 0 && self.watch.changed().await.is_err() {
            return None;
        }
        let state = self.watch.borrow_and_update().clone();
        let body = match state {
            HostTemplateState::Building { message, percent } => {
                BuildBody::Step { message, percent }
            }
            HostTemplateState::Ready(_) => {
                let took = self.begun.map_or(Duration::ZERO, |begun| begun.elapsed());
                BuildBody::Done { took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX) }
            }
            HostTemplateState::Failed(error) => {
                BuildBody::Error { failure: failure::of_template(&error) }
            }
            HostTemplateState::Unloaded => {
                let message = "the template was not loaded";
                BuildBody::Error { failure: Failure::new(ErrorCode::Internal, message) }
            }
        };
        self.last = !matches!(body, BuildBody::Step { .. });
        let event = BuildEvent { seq: self.seq, ts: now_us(), body };
        self.seq += 1;
        Some((event, self))
    }
}
