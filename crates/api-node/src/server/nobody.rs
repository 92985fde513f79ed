//! The implementation that makes the document: nobody, because the document needs no answers.

use base_types::{KeyId, ProjectId, SandboxId, Size, SnapshotId, TemplateName};
use bytes::Bytes;

use crate::server::access_api::{AccessApi, Begun, Fingerprint, KeptAnswer};
use crate::server::api::{
    ByteStream, EventStream, FileContent, NodeApi, ProcessLine, UploadStream,
};
use crate::{
    AuditList, AuditQuery, AuditVerified, AuditVerifyQuery, BuildEvent, ByteRange, Caller,
    ChangeProject, ColdBoot, ColdBootQuery, CreateKey, CreateProject, CreateSandbox,
    CreateSnapshot, CreatedKey, DirectoryList, EventsQuery, ExecEvent, ExecRequest, Failure,
    FileEntry, FileQuery, FileWriteQuery, Floor, FloorQuery, Fork, Forked, Health, KeyList,
    LogsQuery, MakeDirectory, Measure, Measured, MoveFile, Node, PageQuery, Process, ProcessId,
    ProcessList, Project, ProjectList, PtySize, Quota, RemoveQuery, Sandbox, SandboxList,
    SandboxListQuery, SandboxStats, SetTimeout, Snapshot, SnapshotList, SpawnRequest, Template,
    TemplateList, UnpackQuery, Used, WatchEvent, WatchQuery,
};

pub(crate) enum Nobody {}

impl NodeApi for Nobody {
    fn sandbox_project(&self, _: SandboxId) -> Option<ProjectId> {
        match *self {}
    }

    async fn project_used(&self, _: ProjectId) -> Result<Used, Failure> {
        match *self {}
    }

    async fn health(&self) -> Result<Health, Failure> {
        match *self {}
    }

    async fn node_get(&self) -> Result<Node, Failure> {
        match *self {}
    }

    async fn node_stop(&self) -> Result<(), Failure> {
        match *self {}
    }

    async fn node_floor(&self, _: FloorQuery) -> Result<Floor, Failure> {
        match *self {}
    }

    async fn node_cold_boot(&self, _: ColdBootQuery) -> Result<ColdBoot, Failure> {
        match *self {}
    }

    async fn template_list(&self) -> Result<TemplateList, Failure> {
        match *self {}
    }

    async fn template_get(&self, _: TemplateName, _: Size) -> Result<Template, Failure> {
        match *self {}
    }

    async fn template_build(
        &self,
        _: TemplateName,
        _: Size,
    ) -> Result<EventStream<BuildEvent>, Failure> {
        match *self {}
    }

    async fn template_delete(&self, _: TemplateName, _: Size) -> Result<(), Failure> {
        match *self {}
    }

    async fn sandbox_create(&self, _: &Caller, _: CreateSandbox) -> Result<Sandbox, Failure> {
        match *self {}
    }

    async fn sandbox_list(&self, _: &Caller, _: SandboxListQuery) -> Result<SandboxList, Failure> {
        match *self {}
    }

    async fn sandbox_logs(&self, _: SandboxId, _: LogsQuery) -> Result<String, Failure> {
        match *self {}
    }

    async fn metrics(&self) -> Result<String, Failure> {
        match *self {}
    }

    async fn audit_list(&self, _: AuditQuery) -> Result<AuditList, Failure> {
        match *self {}
    }

    async fn audit_verify(&self, _: AuditVerifyQuery) -> Result<AuditVerified, Failure> {
        match *self {}
    }

    async fn sandbox_get(&self, _: SandboxId) -> Result<Sandbox, Failure> {
        match *self {}
    }

    async fn sandbox_pause(&self, _: SandboxId) -> Result<Sandbox, Failure> {
        match *self {}
    }

    async fn sandbox_resume(&self, _: SandboxId) -> Result<Sandbox, Failure> {
        match *self {}
    }

    async fn sandbox_set_timeout(&self, _: SandboxId, _: SetTimeout) -> Result<Sandbox, Failure> {
        match *self {}
    }

    async fn sandbox_fork(&self, _: &Caller, _: SandboxId, _: Fork) -> Result<Forked, Failure> {
        match *self {}
    }

    async fn sandbox_measure(&self, _: SandboxId, _: Measure) -> Result<Measured, Failure> {
        match *self {}
    }

    fn snapshot_project(&self, _: SnapshotId) -> Option<ProjectId> {
        match *self {}
    }

    async fn snapshot_create(
        &self,
        _: &Caller,
        _: SandboxId,
        _: CreateSnapshot,
    ) -> Result<Snapshot, Failure> {
        match *self {}
    }

    async fn snapshot_list(&self, _: &Caller, _: PageQuery) -> Result<SnapshotList, Failure> {
        match *self {}
    }

    async fn snapshot_get(&self, _: SnapshotId) -> Result<Snapshot, Failure> {
        match *self {}
    }

    async fn snapshot_delete(&self, _: SnapshotId) -> Result<(), Failure> {
        match *self {}
    }

    async fn sandbox_kill(&self, _: SandboxId) -> Result<(), Failure> {
        match *self {}
    }

    async fn sandbox_stats(&self, _: SandboxId) -> Result<SandboxStats, Failure> {
        match *self {}
    }

    async fn process_exec(
        &self,
        _: SandboxId,
        _: ExecRequest,
    ) -> Result<EventStream<ExecEvent>, Failure> {
        match *self {}
    }

    async fn process_stdin(
        &self,
        _: SandboxId,
        _: ProcessId,
        _: Bytes,
        _: bool,
    ) -> Result<(), Failure> {
        match *self {}
    }

    async fn process_signal(&self, _: SandboxId, _: ProcessId, _: u8) -> Result<(), Failure> {
        match *self {}
    }

    async fn process_spawn(&self, _: SandboxId, _: SpawnRequest) -> Result<Process, Failure> {
        match *self {}
    }

    async fn process_list(&self, _: SandboxId) -> Result<ProcessList, Failure> {
        match *self {}
    }

    async fn process_attach(
        &self,
        _: SandboxId,
        _: ProcessId,
        _: EventsQuery,
    ) -> Result<ProcessLine, Failure> {
        match *self {}
    }

    async fn process_resize(&self, _: SandboxId, _: ProcessId, _: PtySize) -> Result<(), Failure> {
        match *self {}
    }

    async fn process_get(&self, _: SandboxId, _: ProcessId) -> Result<Process, Failure> {
        match *self {}
    }

    async fn file_read(
        &self,
        _: SandboxId,
        _: FileQuery,
        _: Option<ByteRange>,
    ) -> Result<FileContent, Failure> {
        match *self {}
    }

    async fn file_pack(&self, _: SandboxId, _: FileQuery) -> Result<ByteStream, Failure> {
        match *self {}
    }

    async fn file_unpack(
        &self,
        _: SandboxId,
        _: UnpackQuery,
        _: UploadStream,
    ) -> Result<FileEntry, Failure> {
        match *self {}
    }

    async fn file_watch(
        &self,
        _: SandboxId,
        _: WatchQuery,
    ) -> Result<EventStream<WatchEvent>, Failure> {
        match *self {}
    }

    async fn file_write(
        &self,
        _: SandboxId,
        _: FileWriteQuery,
        _: UploadStream,
    ) -> Result<FileEntry, Failure> {
        match *self {}
    }

    async fn file_remove(&self, _: SandboxId, _: RemoveQuery) -> Result<(), Failure> {
        match *self {}
    }

    async fn file_list(&self, _: SandboxId, _: FileQuery) -> Result<DirectoryList, Failure> {
        match *self {}
    }

    async fn file_stat(&self, _: SandboxId, _: FileQuery) -> Result<FileEntry, Failure> {
        match *self {}
    }

    async fn file_make(&self, _: SandboxId, _: MakeDirectory) -> Result<FileEntry, Failure> {
        match *self {}
    }

    async fn file_move(&self, _: SandboxId, _: MoveFile) -> Result<FileEntry, Failure> {
        match *self {}
    }
}

impl AccessApi for Nobody {
    type Ticket = Self;

    fn wants_keys(&self) -> bool {
        match *self {}
    }

    fn caller(&self, _: &str) -> Option<Caller> {
        match *self {}
    }

    fn quota(&self, _: ProjectId) -> Option<Quota> {
        match *self {}
    }

    async fn project_create(&self, _: &Caller, _: CreateProject) -> Result<Project, Failure> {
        match *self {}
    }

    async fn project_list(&self, _: PageQuery) -> Result<ProjectList, Failure> {
        match *self {}
    }

    async fn project_change(&self, _: ProjectId, _: ChangeProject) -> Result<Project, Failure> {
        match *self {}
    }

    async fn project_delete(&self, _: ProjectId) -> Result<(), Failure> {
        match *self {}
    }

    async fn key_create(&self, _: &Caller, _: CreateKey) -> Result<CreatedKey, Failure> {
        match *self {}
    }

    async fn key_list(&self, _: PageQuery) -> Result<KeyList, Failure> {
        match *self {}
    }

    async fn key_delete(&self, _: KeyId) -> Result<(), Failure> {
        match *self {}
    }

    async fn create_begin(
        &self,
        _: ProjectId,
        _: &str,
        _: Fingerprint,
    ) -> Result<Begun<Self>, Failure> {
        match *self {}
    }

    fn create_keep(&self, _: Self, _: KeptAnswer) {
        match *self {}
    }
}
