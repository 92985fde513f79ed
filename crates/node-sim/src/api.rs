use std::pin::Pin;
use std::task::{Context, Poll};

use api_node::{
    BuildBody, BuildEvent, ColdBoot, ColdBootQuery, CreateSandbox, DataUsage, DirectoryList,
    ErrorCode, EventStream, ExecBody, ExecEvent, ExecRequest, Failure, FileContent, FileEntry,
    FileKind, FileQuery, FileReadQuery, FileWriteQuery, Floor, FloorQuery, Health, Kvm, KvmKind,
    MakeDirectory, MemoryUsage, MoveFile, Node, NodeApi, Pool, ProcessId, RemoveQuery, Sandbox,
    SandboxList, SandboxState, SandboxStats, Spread, Template, TemplateList, TemplateState,
    UploadStream,
};
use base_types::{SandboxId, Size, TemplateName};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::{mpsc, watch};

use crate::{Input, PHASES, SimNode, SimSandbox, program};

/// Room for a burst, small enough that back-pressure is felt in tests.
const EVENTS_PENDING_MAX: usize = 8;

impl NodeApi for SimNode {
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

    async fn sandbox_create(&self, request: CreateSandbox) -> Result<Sandbox, Failure> {
        self.template_get(request.template.clone(), request.size).await?;
        let mut state = self.lock();
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
            created_at_ms: 1_750_000_000_000,
            phases: PHASES,
        };
        let sandbox = SimSandbox {
            shown: shown.clone(),
            env: request.env,
            files: [].into(),
            processes: [].into(),
        };
        state.sandboxes.insert(shown.id, sandbox);
        Ok(shown)
    }

    async fn sandbox_list(&self) -> Result<SandboxList, Failure> {
        let state = self.lock();
        let sandboxes = state.sandboxes.values().map(|sandbox| sandbox.shown.clone());
        Ok(SandboxList { sandboxes: sandboxes.collect() })
    }

    async fn sandbox_get(&self, id: SandboxId) -> Result<Sandbox, Failure> {
        self.with_sandbox(id, |sandbox| Ok(sandbox.shown.clone()))
    }

    async fn sandbox_kill(&self, id: SandboxId) -> Result<(), Failure> {
        self.with_sandbox(id, |_| Ok(()))?;
        self.lock().sandboxes.remove(&id);
        Ok(())
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
        let env = self.with_sandbox(id, |sandbox| {
            sandbox.processes.insert(process_id, to_program);
            Ok(sandbox.env.clone())
        })?;
        let (out, events) = mpsc::channel(EVENTS_PENDING_MAX);
        let found = ExecBody::Started { process_id, pid: 100 + process_id.0 };
        let _ = out.send(found).await;
        tokio::spawn(program::run(request, env, input, out));
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

    async fn file_read(&self, id: SandboxId, query: FileReadQuery) -> Result<FileContent, Failure> {
        let bytes = self.with_sandbox(id, |sandbox| {
            sandbox.files.get(&query.path).cloned().ok_or_else(|| no_file(&query.path))
        })?;
        let size = Some(bytes.len() as u64);
        let pieces: Vec<_> = bytes.chunks(65_521).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        Ok(FileContent { size, bytes: stream::iter(pieces).boxed() })
    }

    async fn file_write(
        &self,
        id: SandboxId,
        query: FileWriteQuery,
        mut bytes: UploadStream,
    ) -> Result<FileEntry, Failure> {
        let mut content = Vec::new();
        while let Some(piece) = bytes.next().await {
            let piece = piece.map_err(|error| {
                Failure::because(ErrorCode::InvalidRequest, "the upload did not end", &error)
            })?;
            content.extend_from_slice(&piece);
        }
        self.with_sandbox(id, |sandbox| {
            let entry = entry(&query.path, content.len(), query.mode.unwrap_or(0o644));
            sandbox.files.insert(query.path, content);
            Ok(entry)
        })
    }

    async fn file_remove(&self, id: SandboxId, query: RemoveQuery) -> Result<(), Failure> {
        self.with_sandbox(id, |sandbox| {
            sandbox.files.remove(&query.path).map(drop).ok_or_else(|| no_file(&query.path))
        })
    }

    async fn file_list(&self, id: SandboxId, query: FileQuery) -> Result<DirectoryList, Failure> {
        self.with_sandbox(id, |sandbox| {
            let inside = format!("{}/", query.path.trim_end_matches('/'));
            let entries = sandbox.files.iter().filter(|(path, _)| {
                path.strip_prefix(&inside).is_some_and(|rest| !rest.contains('/'))
            });
            let entries = entries.map(|(path, bytes)| entry(path, bytes.len(), 0o644)).collect();
            Ok(DirectoryList { entries, truncated: false })
        })
    }

    async fn file_stat(&self, id: SandboxId, query: FileQuery) -> Result<FileEntry, Failure> {
        self.with_sandbox(id, |sandbox| match sandbox.files.get(&query.path) {
            Some(bytes) => Ok(entry(&query.path, bytes.len(), 0o644)),
            None => Err(no_file(&query.path)),
        })
    }

    async fn file_make(&self, id: SandboxId, request: MakeDirectory) -> Result<FileEntry, Failure> {
        let made = entry(&request.path, 0, request.mode.unwrap_or(0o755));
        self.with_sandbox(id, |_| Ok(FileEntry { kind: FileKind::Directory, ..made }))
    }

    async fn file_move(&self, id: SandboxId, request: MoveFile) -> Result<FileEntry, Failure> {
        self.with_sandbox(id, |sandbox| {
            let bytes = sandbox.files.remove(&request.from);
            let bytes = bytes.ok_or_else(|| no_file(&request.from))?;
            let moved = entry(&request.to, bytes.len(), 0o644);
            sandbox.files.insert(request.to, bytes);
            Ok(moved)
        })
    }
}

impl SimNode {
    async fn give(&self, id: SandboxId, process: ProcessId, what: Input) -> Result<(), Failure> {
        let gone = || Failure::new(ErrorCode::NotFound, format!("there is no process {process}"));
        let to_program = self.with_sandbox(id, |sandbox| {
            sandbox.processes.get(&process).cloned().ok_or_else(gone)
        })?;
        to_program.send(what).await.map_err(|_| gone())
    }
}

fn no_file(path: &str) -> Failure {
    Failure::new(ErrorCode::PathNotFound, format!("there is no file `{path}` in the sandbox"))
}

fn entry(path: &str, size: usize, mode: u32) -> FileEntry {
    FileEntry {
        name: path.rsplit('/').next().unwrap_or_default().to_owned(),
        kind: FileKind::File,
        size: size as u64,
        mode,
        uid: 1000,
        gid: 1000,
        modified_at_ms: 1_750_000_000_000,
        target: None,
    }
}

/// A program's events; counts it as abandoned when it is dropped before its end.
struct Watched {
    events: mpsc::Receiver<ExecBody>,
    seq: u64,
    ended: bool,
    abandoned: watch::Sender<usize>,
}

impl Stream for Watched {
    type Item = ExecEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ExecEvent>> {
        let body = std::task::ready!(self.events.poll_recv(cx));
        self.ended |= matches!(body, None | Some(ExecBody::Exit { .. } | ExecBody::Error { .. }));
        let seq = self.seq;
        self.seq += 1;
        Poll::Ready(body.map(|body| ExecEvent { seq, ts: 1_750_000_000_000_000 + seq, body }))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.ended {
            self.abandoned.send_modify(|abandoned| *abandoned += 1);
        }
    }
}
