use std::io;

use api_node::{
    ByteRange, DirectoryList, FileEntry, FileQuery, FileWriteQuery, MakeDirectory, MoveFile,
    RemoveQuery, UnpackQuery, WatchEvent, WatchQuery,
};
use base_types::SandboxId;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use reqwest::header::RANGE;
use reqwest::{Body, Method, RequestBuilder};

use crate::error::ClientError;
use crate::events::Events;
use crate::operations::Client;

/// Files of a sandbox. Every method fails as those of [`Client`] do.
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
impl Client {
    /// Reads a file. The length, where the node knows it, and the bytes as they come; a file that
    /// came only in part ends with an error.
    pub async fn file_read(
        &self,
        id: SandboxId,
        query: &FileQuery,
    ) -> Result<
        (Option<u64>, impl Stream<Item = Result<Bytes, ClientError>> + Send + use<>),
        ClientError,
    > {
        self.bytes(self.of(id, Method::GET, "/files").query(query)).await
    }

    /// As [`Self::file_read`], a range of it. What has no size comes whole.
    pub async fn file_read_range(
        &self,
        id: SandboxId,
        query: &FileQuery,
        range: ByteRange,
    ) -> Result<
        (Option<u64>, impl Stream<Item = Result<Bytes, ClientError>> + Send + use<>),
        ClientError,
    > {
        let ask = self.of(id, Method::GET, "/files").query(query);
        self.bytes(ask.header(RANGE, range.to_string())).await
    }

    /// Writes a file with what `bytes` yields. An error in there breaks the upload off, and the old
    /// file stays.
    pub async fn file_write(
        &self,
        id: SandboxId,
        query: &FileWriteQuery,
        bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<FileEntry, ClientError> {
        let ask = self.of(id, Method::PUT, "/files").query(query);
        self.answer(ask.body(Body::wrap_stream(bytes))).await
    }

    /// Removes a file or directory.
    pub async fn file_remove(&self, id: SandboxId, query: &RemoveQuery) -> Result<(), ClientError> {
        self.done(self.of(id, Method::DELETE, "/files").query(query)).await
    }

    /// The entries of a directory.
    pub async fn file_list(
        &self,
        id: SandboxId,
        query: &FileQuery,
    ) -> Result<DirectoryList, ClientError> {
        self.answer(self.of(id, Method::GET, "/files/list").query(query)).await
    }

    /// One file or directory.
    pub async fn file_stat(
        &self,
        id: SandboxId,
        query: &FileQuery,
    ) -> Result<FileEntry, ClientError> {
        self.answer(self.of(id, Method::GET, "/files/stat").query(query)).await
    }

    /// Makes a directory.
    pub async fn file_make(
        &self,
        id: SandboxId,
        request: &MakeDirectory,
    ) -> Result<FileEntry, ClientError> {
        self.answer(self.of(id, Method::POST, "/files/make").json(request)).await
    }

    /// Moves a file or directory.
    pub async fn file_move(
        &self,
        id: SandboxId,
        request: &MoveFile,
    ) -> Result<FileEntry, ClientError> {
        self.answer(self.of(id, Method::POST, "/files/move").json(request)).await
    }

    /// A directory with all that is in it, as a tar stream; one that came only in part ends with an
    /// error.
    pub async fn file_pack(
        &self,
        id: SandboxId,
        query: &FileQuery,
    ) -> Result<impl Stream<Item = Result<Bytes, ClientError>> + Send + use<>, ClientError> {
        let ask = self.of(id, Method::GET, "/files/archive").query(query);
        self.bytes(ask).await.map(|(_, bytes)| bytes)
    }

    /// Unpacks the tar stream that `bytes` yields into a directory. What was unpacked before an error
    /// in there stays.
    pub async fn file_unpack(
        &self,
        id: SandboxId,
        query: &UnpackQuery,
        bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<FileEntry, ClientError> {
        let ask = self.of(id, Method::PUT, "/files/archive").query(query);
        self.answer(ask.body(Body::wrap_stream(bytes))).await
    }

    /// Watches a directory until the stream is dropped.
    pub async fn file_watch(
        &self,
        id: SandboxId,
        query: &WatchQuery,
    ) -> Result<Events<WatchEvent>, ClientError> {
        self.events(self.of(id, Method::GET, "/files/watch").query(query)).await
    }

    pub(crate) async fn bytes(
        &self,
        ask: RequestBuilder,
    ) -> Result<
        (Option<u64>, impl Stream<Item = Result<Bytes, ClientError>> + Send + use<>),
        ClientError,
    > {
        let response = self.send(ask).await?;
        let size = response.content_length();
        let url = self.url().to_owned();
        let bytes = response.bytes_stream().map(move |bytes| {
            bytes.map_err(|source| ClientError::Broken { url: url.clone(), source })
        });
        Ok((size, bytes))
    }
}
