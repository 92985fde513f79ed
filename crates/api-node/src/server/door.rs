//! What every request passes on its way in and out.

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::{ErrorCode, Failure, REQUEST_ID_HEADER};

/// Names the request, and gives a failure its id and its one line in the log.
pub(crate) async fn finish(request: Request, next: Next) -> Response {
    let id = request_id();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = next.run(request).await;
    if let Some(mut failure) = response.extensions_mut().remove::<Failure>() {
        failure.request_id.clone_from(&id);
        log(&failure, &method, &path);
        let body = serde_json::to_vec(&failure).expect("a failure has only string keys");
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        *response.body_mut() = Body::from(body);
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(HeaderName::from_static(REQUEST_ID_HEADER), value);
    }
    response
}

fn log(failure: &Failure, method: &Method, path: &str) {
    let Failure { code, message, hint: _, request_id, .. } = failure;
    let internal = failure.internal();
    if code.status() >= 500 {
        tracing::warn!(%request_id, %method, path, %code, message, internal, "request failed");
    } else {
        tracing::debug!(%request_id, %method, path, %code, message, internal, "request refused");
    }
}

fn request_id() -> String {
    let mut bits = [0; 8];
    // Without randomness the id only fails to tell requests apart; the request itself can go on.
    let _ = getrandom::fill(&mut bits);
    format!("req_{:016x}", u64::from_be_bytes(bits))
}

/// Refuses what a web page open in a browser on this machine could send here: requests from
/// another origin, and requests by a host name somebody else may point at this address.
pub(crate) async fn guard(request: Request, next: Next) -> Response {
    match refusal(request.headers(), request.uri()) {
        None => next.run(request).await,
        Some(failure) => failure.into_response(),
    }
}

fn refusal(headers: &HeaderMap, uri: &Uri) -> Option<Failure> {
    let host = headers.get(HOST).map(HeaderValue::as_bytes).or(uri.host().map(str::as_bytes));
    let host = host.and_then(|host| std::str::from_utf8(host).ok()).unwrap_or_default();
    if !is_local_name(host) {
        return Some(
            Failure::new(ErrorCode::PermissionDenied, "this node is not served by that host name")
                .with_hint("use its IP address, or localhost"),
        );
    }
    let origin = headers.get(ORIGIN)?.to_str().unwrap_or_default();
    let origin_host = origin.split_once("://").map_or("", |(_, rest)| rest);
    if is_local_name(origin_host) {
        return None;
    }
    Some(Failure::new(
        ErrorCode::PermissionDenied,
        "requests from web pages of another origin are not served",
    ))
}

/// Whether `authority` (host and perhaps port) is an IP address or localhost.
fn is_local_name(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse::<std::net::IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || host.to_ascii_lowercase().ends_with(".localhost")
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_local() {
        for name in
            ["127.0.0.1", "127.0.0.1:7878", "[::1]:1", "[::1]", "localhost:80", "a.localhost"]
        {
            assert!(is_local_name(name), "{name}");
        }
        for name in ["", "evil.example", "evil.example:7878", "127.0.0.1.evil.example", "null"] {
            assert!(!is_local_name(name), "{name}");
        }
    }
}
