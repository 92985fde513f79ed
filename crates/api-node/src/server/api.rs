use std::future::Future;
use std::io;

use base_types::{ProjectId, SandboxId, Size, SnapshotId, TemplateName};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;

use crate::server::database::DatabasesApi;
use crate::server::policy_api::PolicyApi;
use crate::server::port::PortsApi;
use crate::server::vault_api::SecretsApi;
use crate::{
    AuditList, AuditQuery, AuditVerified, AuditVerifyQuery, BuildEvent, ByteRange, Caller,
    ColdBoot, ColdBootQuery, CreateSandbox, CreateSnapshot, DirectoryList, ErrorCode, EventsQuery,
    ExecEvent, ExecRequest, Extent, Failure, FileEntry, FileQuery, FileWriteQuery, Floor,
    FloorQuery, Fork, Forked, Health, LogsQuery, MakeDirectory, Measure, Measured, MoveFile, Node,
    PageQuery, Process, ProcessId, ProcessList, PtySize, RemoveQuery, Sandbox, SandboxList,
    SandboxListQuery, SandboxStats, SetTimeout, Snapshot, SnapshotList, SpawnRequest, Template,
    TemplateList, UnpackQuery, Used, WatchEvent, WatchQuery,
};

/// Events as they happen. Dropped when the client is gone.
pub type EventStream<T> = BoxStream<'static, T>;
/// Bytes of a file, read as the client takes them. An error breaks the response off.
pub type ByteStream = BoxStream<'static, io::Result<Bytes>>;
/// Bytes of an upload. It must end with `None` for the upload to count.
pub type UploadStream = BoxStream<'static, Result<Bytes, UploadError>>;

/// Why an upload ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UploadError {
    /// The client is gone.
    #[error("the client broke the upload off")]
    BrokenOff,
    /// More than the node takes.
    #[error("the upload is over this node's limit for one file")]
    TooLarge,
}

impl From<UploadError> for Failure {
    fn from(error: UploadError) -> Self {
        let code = match error {
            UploadError::BrokenOff => ErrorCode::InvalidRequest,
            UploadError::TooLarge => ErrorCode::BodyTooLarge,
        };
        Self::new(code, error.to_string())
    }
}

/// A file on its way out.
pub struct FileContent {
    /// How many bytes will come, when that is known.
    pub size: Option<u64>,
    /// How much of the file that is.
    pub extent: Extent,
    /// They.
    pub bytes: ByteStream,
}

impl std::fmt::Debug for FileContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileContent").field("size", &self.size).finish_non_exhaustive()
    }
}

/// What is sent to a process over a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessInput {
    /// Standard input.
    Stdin(Bytes),
    /// The end of standard input.
    CloseStdin,
    /// A signal, 1 to 64, to its process group.
    Signal(u8),
    /// Another size of its terminal.
    Resize(PtySize),
}

/// A line to a process: what happens to it, and a way to it. Input that comes when it is over goes
/// nowhere.
pub struct ProcessLine {
    /// The events, up to the last.
    pub events: EventStream<ExecEvent>,
    /// Takes input as the process does.
    pub input: mpsc::Sender<ProcessInput>,
}

impl std::fmt::Debug for ProcessLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessLine").finish_non_exhaustive()
    }
}

/// The operations of a node.
///
/// Requests arrive checked ([`crate::Check`]), and from callers that may: an operation on a sandbox is
/// called only for one that its caller sees. A returned future is dropped when its client goes
/// away: what it had half made must then be undone. Failures are rendered and logged by the router;
/// implementations do not log them.
pub trait NodeApi: PortsApi + PolicyApi + DatabasesApi + SecretsApi {
    /// The project a sandbox belongs to; `None` when there is no such sandbox. Asked before every
    /// operation on one.
    fn sandbox_project(&self, id: SandboxId) -> Option<ProjectId>;

    /// What a project uses now.
    fn project_used(&self, id: ProjectId) -> impl Future<Output = Result<Used, Failure>> + Send;

    /// Whether it serves.
    fn health(&self) -> impl Future<Output = Result<Health, Failure>> + Send;

    /// What it is and has.
    fn node_get(&self) -> impl Future<Output = Result<Node, Failure>> + Send;

    /// Begins to stop: no new sandboxes, all present ones destroyed, then the process ends. Returns
    /// when that has begun.
    fn node_stop(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The node's figures, as Prometheus reads them.
    fn metrics(&self) -> impl Future<Output = Result<String, Failure>> + Send;

    /// Entries of the audit log.
    fn audit_list(
        &self,
        query: AuditQuery,
    ) -> impl Future<Output = Result<AuditList, Failure>> + Send;

    /// Checks every line of the audit log.
    fn audit_verify(
        &self,
        query: AuditVerifyQuery,
    ) -> impl Future<Output = Result<AuditVerified, Failure>> + Send;

    /// Measures the machine's floor, now.
    fn node_floor(&self, query: FloorQuery) -> impl Future<Output = Result<Floor, Failure>> + Send;

    /// Times one cold boot, now; its machine is destroyed.
    fn node_cold_boot(
        &self,
        query: ColdBootQuery,
    ) -> impl Future<Output = Result<ColdBoot, Failure>> + Send;

    /// Every template in every size.
    fn template_list(&self) -> impl Future<Output = Result<TemplateList, Failure>> + Send;

    /// One template at one size.
    fn template_get(
        &self,
        name: TemplateName,
        size: Size,
    ) -> impl Future<Output = Result<Template, Failure>> + Send;

    /// Makes the snapshot unless it is there. Several callers watch the same build; it goes on when
    /// they leave.
    fn template_build(
        &self,
        name: TemplateName,
        size: Size,
    ) -> impl Future<Output = Result<EventStream<BuildEvent>, Failure>> + Send;

    /// Deletes the snapshot of a template at one size, unless sandboxes or snapshots stand on it.
    fn template_delete(
        &self,
        name: TemplateName,
        size: Size,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Makes a sandbox; returns when its agent answers. Builds the template's snapshot first when
    /// it is missing.
    fn sandbox_create(
        &self,
        caller: &Caller,
        request: CreateSandbox,
    ) -> impl Future<Output = Result<Sandbox, Failure>> + Send;

    /// A page of the sandboxes the caller sees, oldest first.
    fn sandbox_list(
        &self,
        caller: &Caller,
        query: SandboxListQuery,
    ) -> impl Future<Output = Result<SandboxList, Failure>> + Send;

    /// One sandbox.
    fn sandbox_get(&self, id: SandboxId) -> impl Future<Output = Result<Sandbox, Failure>> + Send;

    /// Destroys a sandbox with all it has; returns when nothing is left.
    fn sandbox_kill(&self, id: SandboxId) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The end of what a sandbox's kernel printed.
    fn sandbox_logs(
        &self,
        id: SandboxId,
        query: LogsQuery,
    ) -> impl Future<Output = Result<String, Failure>> + Send;

    /// Pauses a sandbox; returns when it costs nothing but disk.
    fn sandbox_pause(&self, id: SandboxId)
    -> impl Future<Output = Result<Sandbox, Failure>> + Send;

    /// Resumes a sandbox; returns when its agent answers.
    fn sandbox_resume(
        &self,
        id: SandboxId,
    ) -> impl Future<Output = Result<Sandbox, Failure>> + Send;

    /// Gives a sandbox another lifetime.
    fn sandbox_set_timeout(
        &self,
        id: SandboxId,
        request: SetTimeout,
    ) -> impl Future<Output = Result<Sandbox, Failure>> + Send;

    /// Makes sandboxes from one moment of another: all or none.
    fn sandbox_fork(
        &self,
        caller: &Caller,
        id: SandboxId,
        request: Fork,
    ) -> impl Future<Output = Result<Forked, Failure>> + Send;

    /// Measures the way to a sandbox's agent, now.
    fn sandbox_measure(
        &self,
        id: SandboxId,
        request: Measure,
    ) -> impl Future<Output = Result<Measured, Failure>> + Send;

    /// The project a snapshot belongs to, if it is there.
    fn snapshot_project(&self, id: SnapshotId) -> Option<ProjectId>;

    /// Keeps one moment of a sandbox.
    fn snapshot_create(
        &self,
        caller: &Caller,
        id: SandboxId,
        request: CreateSnapshot,
    ) -> impl Future<Output = Result<Snapshot, Failure>> + Send;

    /// A page of the snapshots the caller sees, oldest first.
    fn snapshot_list(
        &self,
        caller: &Caller,
        query: PageQuery,
    ) -> impl Future<Output = Result<SnapshotList, Failure>> + Send;

    /// One snapshot.
    fn snapshot_get(
        &self,
        id: SnapshotId,
    ) -> impl Future<Output = Result<Snapshot, Failure>> + Send;

    /// Deletes a snapshot; sandboxes made from it stay.
    fn snapshot_delete(&self, id: SnapshotId) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Counters of a sandbox's machine.
    fn sandbox_stats(
        &self,
        id: SandboxId,
    ) -> impl Future<Output = Result<SandboxStats, Failure>> + Send;

    /// Runs a command. When the stream is dropped before its end, the command and all it started
    /// are killed. Heartbeats are the router's.
    fn process_exec(
        &self,
        id: SandboxId,
        request: ExecRequest,
    ) -> impl Future<Output = Result<EventStream<ExecEvent>, Failure>> + Send;

    /// Gives a command standard input; returns when the guest took it.
    fn process_stdin(
        &self,
        id: SandboxId,
        process: ProcessId,
        data: Bytes,
        close: bool,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Sends a signal, 1 to 64, to a command's process group.
    fn process_signal(
        &self,
        id: SandboxId,
        process: ProcessId,
        signal: u8,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Starts a process that lives on its own. One whose program cannot be run is there too, over.
    fn process_spawn(
        &self,
        id: SandboxId,
        request: SpawnRequest,
    ) -> impl Future<Output = Result<Process, Failure>> + Send;

    /// The processes of a sandbox that live on their own, and those that did until lately.
    fn process_list(
        &self,
        id: SandboxId,
    ) -> impl Future<Output = Result<ProcessList, Failure>> + Send;

    /// One process that lives on its own.
    fn process_get(
        &self,
        id: SandboxId,
        process: ProcessId,
    ) -> impl Future<Output = Result<Process, Failure>> + Send;

    /// Follows a process, and has a way to it. Dropping it leaves the process as it is. Heartbeats are
    /// the router's.
    fn process_attach(
        &self,
        id: SandboxId,
        process: ProcessId,
        query: EventsQuery,
    ) -> impl Future<Output = Result<ProcessLine, Failure>> + Send;

    /// Gives a process's terminal another size.
    fn process_resize(
        &self,
        id: SandboxId,
        process: ProcessId,
        size: PtySize,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Reads a file, or a range of it.
    fn file_read(
        &self,
        id: SandboxId,
        query: FileQuery,
        range: Option<ByteRange>,
    ) -> impl Future<Output = Result<FileContent, Failure>> + Send;

    /// Writes a file; the old content stays whole until the upload has ended well.
    fn file_write(
        &self,
        id: SandboxId,
        query: FileWriteQuery,
        bytes: UploadStream,
    ) -> impl Future<Output = Result<FileEntry, Failure>> + Send;

    /// Removes a file or directory.
    fn file_remove(
        &self,
        id: SandboxId,
        query: RemoveQuery,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The entries of a directory.
    fn file_list(
        &self,
        id: SandboxId,
        query: FileQuery,
    ) -> impl Future<Output = Result<DirectoryList, Failure>> + Send;

    /// One file or directory; a symbolic link is not followed.
    fn file_stat(
        &self,
        id: SandboxId,
        query: FileQuery,
    ) -> impl Future<Output = Result<FileEntry, Failure>> + Send;

    /// Makes a directory.
    fn file_make(
        &self,
        id: SandboxId,
        request: MakeDirectory,
    ) -> impl Future<Output = Result<FileEntry, Failure>> + Send;

    /// Moves a file or directory.
    fn file_move(
        &self,
        id: SandboxId,
        request: MoveFile,
    ) -> impl Future<Output = Result<FileEntry, Failure>> + Send;

    /// A directory with all that is in it, as a tar stream. An error breaks it off.
    fn file_pack(
        &self,
        id: SandboxId,
        query: FileQuery,
    ) -> impl Future<Output = Result<ByteStream, Failure>> + Send;

    /// Unpacks a tar stream into a directory, and never outside of it.
    fn file_unpack(
        &self,
        id: SandboxId,
        query: UnpackQuery,
        bytes: UploadStream,
    ) -> impl Future<Output = Result<FileEntry, Failure>> + Send;

    /// Watches a directory until the stream is dropped. Heartbeats are the router's.
    fn file_watch(
        &self,
        id: SandboxId,
        query: WatchQuery,
    ) -> impl Future<Output = Result<EventStream<WatchEvent>, Failure>> + Send;
}
