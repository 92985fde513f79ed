//! Creates that carry an `Idempotency-Key` happen once: the same request again gets the same answer.

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base_types::ProjectId;

use crate::server::access::Doors;
use crate::server::access_api::{AccessApi, Begun, Fingerprint, KeptAnswer};
use crate::server::api::NodeApi;
use crate::server::extract::whole;
use crate::server::limits::Limits;
use crate::{Caller, Errand, ErrorCode, Failure, IDEMPOTENCY_KEY_HEADER, JSON_BYTES_MAX};

/// LIMIT: a key is a UUID or a few words.
pub(crate) const KEY_BYTES_MAX: usize = 255;
/// LIMIT: the answer to a create. The largest lists 16 forks; it is kept for a day.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Marks an answer that was given before.
pub(crate) const REPLAYED: &str = "idempotency-replayed";

/// The operations that make something; each answers with JSON of bounded size. The document says so of
/// each.
pub(crate) const CREATES: [&str; 9] = [
    "/v1/keys",
    "/v1/projects",
    "/v1/databases",
    "/v1/databases/{id}/fork",
    "/v1/databases/{id}/snapshots",
    "/v1/sandboxes",
    "/v1/sandboxes/{id}/fork",
    "/v1/sandboxes/{id}/processes",
    "/v1/sandboxes/{id}/snapshots",
];

/// In the extensions of an answer that is given only once: what a repeat is told instead.
#[derive(Clone, Debug)]
pub(crate) struct OnRepeat(pub(crate) Failure);

/// Carries a create out, unless it was before.
pub(crate) async fn once<A: NodeApi, G: AccessApi>(
    State(doors): State<Doors<A, G>>,
    request: Request,
    next: Next,
) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    let creates = request.method() == Method::POST
        && route.is_some_and(|route| CREATES.contains(&route.as_str()));
    let caller = request.extensions().get::<Caller>().copied();
    match (caller, key_of(request.headers())) {
        (Some(caller), Ok(Some(key))) if creates => {
            match carry_out(&*doors.access, caller, &key, request, next).await {
                Ok(response) => response,
                Err(failure) => failure.into_response(),
            }
        }
        (_, Err(failure)) if creates => failure.into_response(),
        _ => next.run(request).await,
    }
}

async fn carry_out(
    access: &impl AccessApi,
    caller: Caller,
    key: &str,
    request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let (mut parts, body) = request.into_parts();
    let within = Limits::of(&parts.extensions).body_within;
    let body = whole(body, JSON_BYTES_MAX, within).await?;
    let fingerprint = fingerprint(&parts.method, &parts.uri.to_string(), &body);
    let ticket = match access.create_begin(caller.project, key, fingerprint).await? {
        Begun::Fresh(ticket) => ticket,
        Begun::Kept(answer) => return Ok(again(answer)),
    };
    let errand = Some(errand(caller.project, key, &fingerprint));
    parts.extensions.insert(Caller { errand, ..caller });
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    if !response.status().is_success() {
        // Nothing was made: the same request may be tried again, and the ticket is dropped.
        return Ok(response);
    }
    let (mut parts, body) = response.into_parts();
    let body = whole(body, ANSWER_BYTES_MAX, within).await?;
    let answer = match parts.extensions.remove::<OnRepeat>() {
        None => KeptAnswer { status: parts.status.as_u16(), body: body.clone() },
        Some(OnRepeat(failure)) => {
            let body = serde_json::to_vec(&failure).expect("a failure has only string keys");
            KeptAnswer { status: failure.code.status(), body: body.into() }
        }
    };
    access.create_keep(ticket, answer);
    Ok(Response::from_parts(parts, Body::from(body)))
}

fn key_of(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY_HEADER) else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=KEY_BYTES_MAX).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => {
            let message = format!("`idempotency-key` must be 1 to {KEY_BYTES_MAX} letters");
            Err(Failure::new(ErrorCode::InvalidRequest, message).with_hint("use a UUID"))
        }
    }
}

fn fingerprint(method: &Method, uri: &str, body: &[u8]) -> Fingerprint {
    let mut hasher = blake3::Hasher::new();
    // No method and no address contains a line break, so that the parts cannot run together.
    for part in [method.as_str().as_bytes(), b"\n", uri.as_bytes(), b"\n", body] {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

fn errand(project: ProjectId, key: &str, fingerprint: &Fingerprint) -> Errand {
    let mut hasher = blake3::Hasher::new();
    // The one part that has no fixed length comes last.
    hasher.update(&project.bits().to_le_bytes()).update(fingerprint).update(key.as_bytes());
    Errand(*hasher.finalize().as_bytes())
}

fn again(answer: KeptAnswer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    // A failure is written anew, with the id of this request.
    let failure = if status.is_success() {
        None
    } else {
        serde_json::from_slice::<Failure>(&answer.body).ok()
    };
    let mut response = match failure {
        Some(failure) => failure.into_response(),
        None => (status, Body::from(answer.body)).into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(HeaderName::from_static(REPLAYED), HeaderValue::from_static("true"));
    response
}
