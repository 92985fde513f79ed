use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use api_node::{AtPort, Caller, ErrorCode, Failure, Made, Noted, REQUEST_ID_HEADER, RequestId};
use axum::Json;
use axum::extract::{ConnectInfo, FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base_audit::Event;
use base_types::Chain;
use node_audit::{AppendError, Durability};
use tracing::Instrument;

use crate::operations::{Operation, PORT_REQUEST, Weight};
use crate::{LOCAL_ACTOR, UNKNOWN_ACTOR, Witness, output};

/// What a line says when the caller left before there was an answer.
const ABANDONED: &str = "abandoned";
/// Marks an answer that was given before, to the same idempotency key.
const REPLAYED_HEADER: &str = "idempotency-replayed";
/// The operation whose first output is timed.
const EXEC: &str = "process_exec";

/// Sees one request from its first byte to the head of its answer.
pub(crate) async fn see(
    State(witness): State<Arc<Witness>>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    let id = RequestId::random();
    parts.extensions.insert(id.clone());
    let route = parts.extensions.get::<MatchedPath>().cloned();
    let at_port = parts.extensions.get::<AtPort>().copied();
    let operation = match at_port {
        Some(_) => PORT_REQUEST,
        None => witness.operations.find(&parts.method, route.as_ref().map(MatchedPath::as_str)),
    };
    let (object, path) = match at_port {
        Some(AtPort { sandbox, port }) => (Some(format!("{sandbox}/{port}")), None),
        None => (object(&mut parts).await, file_path(&parts.uri)),
    };
    let seen = Seen {
        witness: &witness,
        operation,
        begun: Instant::now(),
        source: parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.to_string()),
        object,
        path,
        id: id.as_str(),
    };
    let span = tracing::info_span!("request", request_id = id.as_str(), operation = operation.name);
    let request = Request::from_parts(parts, body);
    seen.follow(request, next).instrument(span).await
}

/// The placeholders of the path: which sandbox, process, key, project.
async fn object(parts: &mut Parts) -> Option<String> {
    let places = RawPathParams::from_request_parts(parts, &()).await.ok()?;
    let values: Vec<&str> = places.iter().map(|(_, value)| value).collect();
    (!values.is_empty()).then(|| values.join("/"))
}

/// The file a request is about.
fn file_path(uri: &Uri) -> Option<String> {
    let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    let (_, path) = pairs.into_iter().find(|(name, _)| *name == "path")?;
    Some(format!("path {path}"))
}

struct Seen<'a> {
    witness: &'a Arc<Witness>,
    operation: Operation<'a>,
    begun: Instant,
    source: Option<String>,
    object: Option<String>,
    path: Option<String>,
    id: &'a str,
}

impl Seen<'_> {
    async fn follow(self, request: Request, next: Next) -> Response {
        let writes_line = self.operation.weight != Weight::Reads;
        if matches!(self.operation.weight, Weight::Changes | Weight::ChangesAccess)
            && let Err(error) = self.witness.log.writable().await
        {
            return self.refuse(&error);
        }
        let mut unfinished = Unfinished(writes_line.then(|| (&**self.witness, self.event())));
        let mut response = next.run(request).await;
        unfinished.0 = None;

        let code = response.extensions().get::<ErrorCode>().copied();
        let status = response.status();
        // What a program in a sandbox answers is its own business: it refuses nobody in our name.
        let programs = self.operation == PORT_REQUEST && code.is_none();
        self.measure(status, programs, code, &response);
        let event = self.event_of(code, status, &response);
        let unknown = status == StatusCode::UNAUTHORIZED && !programs;
        let refused = unknown || (status == StatusCode::FORBIDDEN && !programs);
        if unknown || (refused && !writes_line) {
            self.write_refusal(event).await;
        } else if writes_line {
            self.write(event).await;
            let took_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::info!(status = status.as_u16(), took_ms, object = self.object, "served");
        }
        if self.operation.name == EXEC && status.is_success() {
            let (witness, begun) = (self.witness.clone(), self.begun);
            response = response.map(|body| output::timed(body, begun, witness));
        }
        response
    }

    fn measure(
        &self,
        status: StatusCode,
        programs: bool,
        code: Option<ErrorCode>,
        response: &Response,
    ) {
        let metrics = &self.witness.metrics;
        // Programs may answer with any number, and each would be a series of its own.
        let shown = if programs { status.as_u16() / 100 * 100 } else { status.as_u16() };
        metrics.request(self.operation.name, shown, self.begun.elapsed());
        if let Some(code) = code {
            metrics.error(code);
        }
        if let Some(made) = response.extensions().get::<Made>() {
            metrics.made(made);
        }
    }

    /// The line, as far as it is known before the answer.
    fn event(&self) -> Event {
        Event {
            time_ms: (self.witness.now_ms)(),
            actor: UNKNOWN_ACTOR.into(),
            source: self.source.clone(),
            request: Some(self.id.to_owned()),
            action: self.operation.name.to_owned(),
            object: self.object.clone(),
            result: ABANDONED.into(),
            detail: self.path.clone(),
            ..Event::default()
        }
    }

    /// The line, with what the answer says.
    fn event_of(&self, code: Option<ErrorCode>, status: StatusCode, response: &Response) -> Event {
        let mut event = self.event();
        if let Some(caller) = response.extensions().get::<Caller>() {
            let key = caller.key.map(|key| key.to_string());
            event.actor = key.unwrap_or_else(|| LOCAL_ACTOR.to_owned());
            event.project = Some(caller.project.to_string());
        }
        event.result = match code {
            Some(code) => code.as_str().to_owned(),
            None if status.is_client_error() || status.is_server_error() => status.to_string(),
            None => "ok".to_owned(),
        };
        if let Some(Noted { object, detail }) = response.extensions().get::<Noted>() {
            event.object = object.clone().or(event.object);
            event.detail = detail.clone().or(event.detail);
        }
        if response.headers().contains_key(REPLAYED_HEADER) {
            event.detail = Some("nothing was done: the answer to an earlier request".to_owned());
        }
        event
    }

    async fn write(&self, event: Event) {
        let durability = match self.operation.weight {
            Weight::ChangesAccess => Durability::Flushed,
            _ => Durability::Written,
        };
        // What fails here was said in the node's log, and is counted for the next line.
        let _ = self.witness.log.append(event, durability).await;
    }

    /// A line about somebody who was not let in; not one for each when there are many.
    async fn write_refusal(&self, mut event: Event) {
        let Some(passed_over) = self.witness.refusals.line(event.time_ms) else { return };
        if passed_over > 0 {
            event.detail = Some(format!("{passed_over} refusals before this one have no line"));
        }
        let _ = self.witness.log.append(event, Durability::Written).await;
    }

    /// What cannot be written down is not done.
    fn refuse(&self, error: &AppendError) -> Response {
        tracing::warn!("refused, because it cannot be written down: {}", Chain(error));
        let message = "the node's audit log cannot be written, and what must be in it is not done";
        let mut failure = Failure::new(ErrorCode::NoCapacity, message)
            .with_hint("free space on the node's disk, by killing sandboxes for instance");
        self.id.clone_into(&mut failure.request_id);
        let status = StatusCode::SERVICE_UNAVAILABLE;
        self.witness.metrics.request(self.operation.name, status.as_u16(), self.begun.elapsed());
        self.witness.metrics.error(failure.code);
        let mut response = (status, Json(&failure)).into_response();
        if let Ok(id) = HeaderValue::from_str(self.id) {
            response.headers_mut().insert(HeaderName::from_static(REQUEST_ID_HEADER), id);
        }
        response
    }
}

/// A request that has no answer yet. When it is dropped so, its caller left, and what it did by then
/// is written down.
struct Unfinished<'a>(Option<(&'a Witness, Event)>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some((witness, event)) = self.0.take() {
            witness.log.note(event);
        }
    }
}
