//! The implementation that makes the document: nobody, because the document needs no answers.

use base_types::{SandboxId, Size, TemplateName};
use bytes::Bytes;

use crate::server::api::{EventStream, FileContent, NodeApi, UploadStream};
use crate::{
    BuildEvent, ColdBoot, ColdBootQuery, CreateSandbox, DirectoryList, ExecEvent, ExecRequest,
    Failure, FileEntry, FileQuery, FileReadQuery, FileWriteQuery, Floor, FloorQuery, Health,
    MakeDirectory, MoveFile, Node, ProcessId, RemoveQuery, Sandbox, SandboxList, SandboxStats,
    Template, TemplateList,
};

pub(crate) enum Nobody {}

impl NodeApi for Nobody {
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

    async fn sandbox_create(&self, _: CreateSandbox) -> Result<Sandbox, Failure> {
        match *self {}
    }

    async fn sandbox_list(&self) -> Result<SandboxList, Failure> {
        match *self {}
    }

    async fn sandbox_get(&self, _: SandboxId) -> Result<Sandbox, Failure> {
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

    async fn file_read(&self, _: SandboxId, _: FileReadQuery) -> Result<FileContent, Failure> {
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
