use std::time::Duration;

use api_node::{
    AuditList, AuditQuery, AuditVerified, AuditVerifyQuery, BuildEvent, ColdBoot, ColdBootQuery,
    CreateSandbox, CreateSnapshot, ExecEvent, ExecRequest, Failure, Floor, FloorQuery, Fork,
    Forked, Health, LIST_LIMIT_MAX, LogsQuery, Measure, Measured, Node, PREFIX, PageQuery,
    ProcessId, Sandbox, SandboxList, SandboxListQuery, SandboxStats, SetTimeout, SignalRequest,
    Snapshot, SnapshotList, StdinQuery, Template, TemplateList,
};
use base_types::{SandboxId, Size, SnapshotId, TemplateName};
use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::connect::{Credentials, connector};
use crate::error::ClientError;
use crate::events::Events;

/// A node that is up answers a health check at once, however busy it is.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
/// LIMIT: an answer that is not a stream. The largest is a long directory.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A node, to ask. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    url: String,
}

/// Asks; every method fails with a [`ClientError`] when the node is not there, refuses, or answers
/// something this build does not know.
/// The first page of a list, as large as pages are.
pub(crate) fn whole_pages() -> PageQuery {
    PageQuery { limit: Some(LIST_LIMIT_MAX), cursor: None }
}

#[expect(clippy::missing_errors_doc, reason = "said once, above")]
impl Client {
    /// A client without a key of the node at `url`, such as `http://127.0.0.1:7878`. Does not connect
    /// yet.
    pub fn new(url: &str) -> Result<Self, ClientError> {
        Self::with(url, &Credentials::default())
    }

    /// As [`Self::new`], with a key and certificates.
    pub fn with(url: &str, credentials: &Credentials) -> Result<Self, ClientError> {
        let (http, url) = connector(url, credentials)?;
        Ok(Self { http, url })
    }

    /// The node's address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether the node serves.
    pub async fn health(&self) -> Result<Health, ClientError> {
        self.answer(self.ask(Method::GET, "/health").timeout(HEALTH_TIMEOUT)).await
    }

    /// What the node is and has.
    pub async fn node_get(&self) -> Result<Node, ClientError> {
        self.answer(self.ask(Method::GET, "/node")).await
    }

    /// Begins to stop the node.
    pub async fn node_stop(&self) -> Result<(), ClientError> {
        self.done(self.ask(Method::POST, "/node/stop")).await
    }

    /// Measures the machine's floor.
    pub async fn node_floor(&self, query: &FloorQuery) -> Result<Floor, ClientError> {
        self.answer(self.ask(Method::GET, "/node/floor").query(query)).await
    }

    /// Times a cold boot.
    pub async fn node_cold_boot(&self, query: &ColdBootQuery) -> Result<ColdBoot, ClientError> {
        self.answer(self.ask(Method::POST, "/node/cold-boot").query(query)).await
    }

    /// Every template in every size.
    pub async fn template_list(&self) -> Result<TemplateList, ClientError> {
        self.answer(self.ask(Method::GET, "/templates")).await
    }

    /// One template at one size.
    pub async fn template_get(
        &self,
        name: &TemplateName,
        size: Size,
    ) -> Result<Template, ClientError> {
        self.answer(self.ask(Method::GET, &format!("/templates/{name}/{size}"))).await
    }

    /// Makes a template's snapshot unless it is there.
    pub async fn template_build(
        &self,
        name: &TemplateName,
        size: Size,
    ) -> Result<Events<BuildEvent>, ClientError> {
        self.events(self.ask(Method::POST, &format!("/templates/{name}/{size}/build"))).await
    }

    /// Deletes a template's snapshot, unless something stands on it.
    pub async fn template_delete(
        &self,
        name: &TemplateName,
        size: Size,
    ) -> Result<(), ClientError> {
        self.done(self.ask(Method::DELETE, &format!("/templates/{name}/{size}"))).await
    }

    /// Makes a sandbox; returns when its agent answers.
    pub async fn sandbox_create(&self, request: &CreateSandbox) -> Result<Sandbox, ClientError> {
        self.answer(self.ask(Method::POST, "/sandboxes").json(request)).await
    }

    /// Measures the way to a sandbox's agent.
    pub async fn sandbox_measure(
        &self,
        id: SandboxId,
        request: &Measure,
    ) -> Result<Measured, ClientError> {
        self.answer(self.of(id, Method::POST, "/measure").json(request)).await
    }

    /// All sandboxes, oldest first, in as many pages as it takes.
    pub async fn sandbox_list(&self) -> Result<SandboxList, ClientError> {
        let limit = Some(LIST_LIMIT_MAX);
        self.sandbox_search(SandboxListQuery { limit, ..SandboxListQuery::default() }).await
    }

    /// All sandboxes that match, oldest first, in pages of the query's limit.
    pub async fn sandbox_search(
        &self,
        mut query: SandboxListQuery,
    ) -> Result<SandboxList, ClientError> {
        let mut sandboxes = Vec::new();
        loop {
            let page = self.sandbox_page(&query).await?;
            sandboxes.extend(page.sandboxes);
            match page.next_cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return Ok(SandboxList { sandboxes, next_cursor: None }),
            }
        }
    }

    /// A page of sandboxes, oldest first.
    pub async fn sandbox_page(&self, query: &SandboxListQuery) -> Result<SandboxList, ClientError> {
        self.answer(self.ask(Method::GET, "/sandboxes").query(query)).await
    }

    /// The end of what a sandbox's kernel printed.
    pub async fn sandbox_logs(
        &self,
        id: SandboxId,
        query: LogsQuery,
    ) -> Result<String, ClientError> {
        let response = self.send(self.of(id, Method::GET, "/logs").query(&query)).await?;
        Ok(String::from_utf8_lossy(&self.whole(response).await?).into_owned())
    }

    /// Has the node check every line of its audit log.
    pub async fn audit_verify(
        &self,
        query: &AuditVerifyQuery,
    ) -> Result<AuditVerified, ClientError> {
        self.answer(self.ask(Method::GET, "/audit/verify").query(query)).await
    }

    /// Entries of the audit log.
    pub async fn audit_list(&self, query: &AuditQuery) -> Result<AuditList, ClientError> {
        self.answer(self.ask(Method::GET, "/audit").query(query)).await
    }

    /// One sandbox.
    pub async fn sandbox_get(&self, id: SandboxId) -> Result<Sandbox, ClientError> {
        self.answer(self.of(id, Method::GET, "")).await
    }

    /// Destroys a sandbox; returns when nothing of it is left.
    pub async fn sandbox_kill(&self, id: SandboxId) -> Result<(), ClientError> {
        self.done(self.of(id, Method::DELETE, "")).await
    }

    /// Pauses a sandbox; returns when it costs nothing but disk.
    pub async fn sandbox_pause(&self, id: SandboxId) -> Result<Sandbox, ClientError> {
        self.answer(self.of(id, Method::POST, "/pause")).await
    }

    /// Resumes a sandbox; returns when its agent answers.
    pub async fn sandbox_resume(&self, id: SandboxId) -> Result<Sandbox, ClientError> {
        self.answer(self.of(id, Method::POST, "/resume")).await
    }

    /// Gives a sandbox another lifetime.
    pub async fn sandbox_set_timeout(
        &self,
        id: SandboxId,
        request: SetTimeout,
    ) -> Result<Sandbox, ClientError> {
        self.answer(self.of(id, Method::POST, "/timeout").json(&request)).await
    }

    /// Makes sandboxes from one moment of another: all or none.
    pub async fn sandbox_fork(&self, id: SandboxId, request: &Fork) -> Result<Forked, ClientError> {
        self.answer(self.of(id, Method::POST, "/fork").json(request)).await
    }

    /// Keeps one moment of a sandbox.
    pub async fn snapshot_create(
        &self,
        id: SandboxId,
        request: &CreateSnapshot,
    ) -> Result<Snapshot, ClientError> {
        self.answer(self.of(id, Method::POST, "/snapshots").json(request)).await
    }

    /// The snapshots this client's key sees, oldest first, in as many pages as it takes.
    pub async fn snapshot_list(&self) -> Result<SnapshotList, ClientError> {
        let (mut snapshots, mut query) = (Vec::new(), whole_pages());
        loop {
            let page = self.ask(Method::GET, "/snapshots").query(&query);
            let page: SnapshotList = self.answer(page).await?;
            snapshots.extend(page.snapshots);
            match page.next_cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return Ok(SnapshotList { snapshots, next_cursor: None }),
            }
        }
    }

    /// One snapshot.
    pub async fn snapshot_get(&self, id: SnapshotId) -> Result<Snapshot, ClientError> {
        self.answer(self.ask(Method::GET, &format!("/snapshots/{id}"))).await
    }

    /// Deletes a snapshot; sandboxes made from it stay.
    pub async fn snapshot_delete(&self, id: SnapshotId) -> Result<(), ClientError> {
        self.done(self.ask(Method::DELETE, &format!("/snapshots/{id}"))).await
    }

    /// Counters of a sandbox's machine.
    pub async fn sandbox_stats(&self, id: SandboxId) -> Result<SandboxStats, ClientError> {
        self.answer(self.of(id, Method::GET, "/stats")).await
    }

    /// Runs a command. It is killed when the stream is dropped before its end.
    pub async fn process_exec(
        &self,
        id: SandboxId,
        request: &ExecRequest,
    ) -> Result<Events<ExecEvent>, ClientError> {
        self.events(self.of(id, Method::POST, "/exec").json(request)).await
    }

    /// Gives a command or process standard input, at most [`api_node::STDIN_BYTES_MAX`] at once; returns when
    /// the guest took it.
    pub async fn process_stdin(
        &self,
        id: SandboxId,
        process: ProcessId,
        data: Bytes,
        close: bool,
    ) -> Result<(), ClientError> {
        let ask = self.of(id, Method::POST, &format!("/processes/{process}/stdin"));
        self.done(ask.query(&StdinQuery { close }).body(data)).await
    }

    /// Sends the process group of a command or process a signal.
    pub async fn process_signal(
        &self,
        id: SandboxId,
        process: ProcessId,
        signal: u8,
    ) -> Result<(), ClientError> {
        let ask = self.of(id, Method::POST, &format!("/processes/{process}/signal"));
        self.done(ask.json(&SignalRequest { signal })).await
    }

    pub(crate) fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{PREFIX}{path}", self.url))
    }

    pub(crate) fn of(&self, id: SandboxId, method: Method, path: &str) -> RequestBuilder {
        self.ask(method, &format!("/sandboxes/{id}{path}"))
    }

    /// The response, if it is a success.
    pub(crate) async fn send(&self, ask: RequestBuilder) -> Result<Response, ClientError> {
        let response = ask.send().await.map_err(|source| {
            let url = self.url.clone();
            if source.is_connect() {
                ClientError::NoNode { url, source }
            } else {
                ClientError::Broken { url, source }
            }
        })?;
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let body = self.whole(response).await?;
        Err(match serde_json::from_slice::<Failure>(&body) {
            Ok(failure) => ClientError::Refused(Box::new(failure)),
            Err(_) => ClientError::NotANode { url: self.url.clone(), status: status.as_u16() },
        })
    }

    async fn whole(&self, response: Response) -> Result<Vec<u8>, ClientError> {
        let status = response.status().as_u16();
        let mut bytes = response.bytes_stream();
        let mut body = Vec::new();
        while let Some(piece) = bytes.next().await {
            let url = self.url.clone();
            let piece = piece.map_err(|source| ClientError::Broken { url, source })?;
            if body.len() + piece.len() > ANSWER_BYTES_MAX {
                return Err(ClientError::NotANode { url: self.url.clone(), status });
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    pub(crate) async fn answer<T: DeserializeOwned>(
        &self,
        ask: RequestBuilder,
    ) -> Result<T, ClientError> {
        let response = self.send(ask).await?;
        let body = self.whole(response).await?;
        serde_json::from_slice(&body)
            .map_err(|source| ClientError::Malformed { url: self.url.clone(), source })
    }

    pub(crate) async fn done(&self, ask: RequestBuilder) -> Result<(), ClientError> {
        let response = self.send(ask).await?;
        self.whole(response).await.map(|_| ())
    }

    pub(crate) async fn events<E: DeserializeOwned + Serialize>(
        &self,
        ask: RequestBuilder,
    ) -> Result<Events<E>, ClientError> {
        Ok(Events::new(self.url.clone(), self.send(ask).await?))
    }
}
