//! How answers are rendered.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use tokio::time::timeout;
use utoipa::IntoResponses;
use utoipa::openapi::{self, ContentBuilder, Ref, RefOr};

use crate::server::api::{ByteStream, EventStream, FileContent};
use crate::{
    BuildBody, BuildEvent, ErrorCode, ExecBody, ExecEvent, Extent, Failure, HEARTBEAT_SECS, NDJSON,
    TAR, WatchBody, WatchEvent,
};

impl ErrorCode {
    fn http_status(self) -> StatusCode {
        StatusCode::from_u16(self.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl IntoResponse for Failure {
    /// The body is made by [`super::door::finish`], which knows the request's id.
    fn into_response(self) -> Response {
        let mut response = (self.code.http_status(), Json(&self)).into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl IntoResponses for Failure {
    /// One entry, a reference: the derived one repeats the whole schema in every operation.
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Failure"))).build();
        let response = openapi::ResponseBuilder::new()
            .description("The request failed")
            .content("application/json", content)
            .build();
        [("default".to_owned(), response.into())].into()
    }
}

/// An event that can also say that nothing happened.
pub(crate) trait Event: Serialize + Send + 'static {
    fn seq(&self) -> u64;
    fn ts(&self) -> u64;
    fn heartbeat(seq: u64, ts: u64) -> Self;
}

impl Event for ExecEvent {
    fn seq(&self) -> u64 {
        self.seq
    }

    fn ts(&self) -> u64 {
        self.ts
    }

    fn heartbeat(seq: u64, ts: u64) -> Self {
        Self { seq, ts, body: ExecBody::Heartbeat }
    }
}

impl Event for BuildEvent {
    fn seq(&self) -> u64 {
        self.seq
    }

    fn ts(&self) -> u64 {
        self.ts
    }

    fn heartbeat(seq: u64, ts: u64) -> Self {
        Self { seq, ts, body: BuildBody::Heartbeat }
    }
}

/// Events, one per line, with a heartbeat in every long silence. A heartbeat's time is that of the
/// last event plus the silence since: this crate has no clock of its own.
pub(crate) fn ndjson<E: Event>(events: EventStream<E>) -> Response {
    let lines = stream::unfold((events, 0, 0), |(mut events, seq, ts)| async move {
        let silence = Duration::from_secs(HEARTBEAT_SECS);
        let event = match timeout(silence, events.next()).await {
            Ok(event) => event?,
            Err(_) => E::heartbeat(seq, ts + HEARTBEAT_SECS * 1_000_000),
        };
        let next = (events, event.seq(), event.ts());
        Some((Ok::<_, Infallible>(line(&event)), next))
    });
    let mut response = Body::from_stream(lines).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn line<E: Serialize>(event: &E) -> Bytes {
    let mut line = serde_json::to_vec(event).expect("events have only string keys");
    line.push(b'\n');
    line.into()
}

impl Event for WatchEvent {
    fn seq(&self) -> u64 {
        self.seq
    }

    fn ts(&self) -> u64 {
        self.ts
    }

    fn heartbeat(seq: u64, ts: u64) -> Self {
        Self { seq, ts, body: WatchBody::Heartbeat }
    }
}

/// A directory's tar stream.
pub(crate) fn archive(bytes: ByteStream) -> Response {
    let mut response = Body::from_stream(bytes).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TAR));
    response
}

/// A file's bytes, all or those asked for.
pub(crate) fn file(content: FileContent) -> Response {
    let range = match content.extent {
        Extent::Whole => None,
        Extent::Part { first, last, size } => Some(format!("bytes {first}-{last}/{size}")),
        Extent::Beyond { size } => Some(format!("bytes */{size}")),
    };
    let mut response = if let Extent::Beyond { size } = content.extent {
        let message = format!("the range begins after the end of the file, which is {size} bytes");
        Failure::new(ErrorCode::RangeNotSatisfiable, message).into_response()
    } else {
        let mut response = Body::from_stream(content.bytes).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        if let Some(size) = content.size {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
        }
        if range.is_some() {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        response
    };
    let headers = response.headers_mut();
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // Digits only, so it is always one.
    if let Some(range) = range.and_then(|range| HeaderValue::try_from(range).ok()) {
        headers.insert(CONTENT_RANGE, range);
    }
    response
}
