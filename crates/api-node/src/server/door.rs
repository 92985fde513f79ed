//! What every request passes on its way in and out.

use std::net::IpAddr;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::server::access::Doors;
use crate::server::access_api::AccessApi;
use crate::server::api::NodeApi;
use crate::server::port::begins_like_a_port;
use crate::server::seen::{AtPort, RequestId};
use crate::{ErrorCode, Failure, REQUEST_ID_HEADER};

/// Names the request, and gives a failure its id and its one line in the log.
pub(crate) async fn finish(request: Request, next: Next) -> Response {
    let given = request.extensions().get::<RequestId>().cloned();
    let id = given.unwrap_or_else(RequestId::random).as_str().to_owned();
    let method = request.method().clone();
    let path = match request.extensions().get::<AtPort>() {
        // What follows is between a program and its users.
        Some(AtPort { sandbox, port }) => format!("port {port} of {sandbox}"),
        None => request.uri().path().to_owned(),
    };
    let mut response = next.run(request).await;
    if let Some(mut failure) = response.extensions_mut().remove::<Failure>() {
        failure.request_id.clone_from(&id);
        log(&failure, &method, &path);
        let body = serde_json::to_vec(&failure).expect("a failure has only string keys");
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        *response.body_mut() = Body::from(body);
        response.extensions_mut().insert(failure.code);
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(HeaderName::from_static(REQUEST_ID_HEADER), value);
    }
    response
}

fn log(failure: &Failure, method: &Method, path: &str) {
    let Failure { code, message, hint: _, request_id, .. } = failure;
    let internal = failure.internal();
    // What a program in a sandbox does not do is no failure of the node.
    let programs = matches!(code, ErrorCode::PortUnreachable | ErrorCode::PortBroken);
    if code.status() >= 500 && !programs {
        tracing::warn!(%request_id, %method, path, %code, message, internal, "request failed");
    } else {
        // Without the message: it may repeat what the caller sent.
        tracing::debug!(%request_id, %method, path, %code, internal, "request refused");
    }
}

/// Refuses what a web page open in a browser on this machine could send here: requests from another
/// origin, such as a page that a sandbox serves, and, on a node without keys, requests by a host name
/// somebody else may point at this address. Where a key is asked for, such a page has none.
pub(crate) async fn guard<A: NodeApi, G: AccessApi>(
    State(doors): State<Doors<A, G>>,
    request: Request,
    next: Next,
) -> Response {
    match refusal(request.headers(), request.uri(), doors.access.wants_keys()) {
        None => next.run(request).await,
        Some(failure) => failure.into_response(),
    }
}

pub(crate) fn refusal(headers: &HeaderMap, uri: &Uri, wants_keys: bool) -> Option<Failure> {
    let host = headers.get(HOST).map(HeaderValue::as_bytes).or(uri.host().map(str::as_bytes));
    let host = host.and_then(|host| std::str::from_utf8(host).ok()).unwrap_or_default();
    if !wants_keys && !is_local_name(host) {
        return Some(
            Failure::new(ErrorCode::PermissionDenied, "this node is not served by that host name")
                .with_hint("use its IP address, or localhost"),
        );
    }
    let origin = headers.get(ORIGIN)?.to_str().unwrap_or_default();
    let origin_host = origin.split_once("://").map_or("", |(_, rest)| rest);
    // The node's own page, by a name or address that it is served by, or it would have ended above.
    let own = !host.is_empty() && origin_host.eq_ignore_ascii_case(host);
    if own || (is_this_machine(origin_host) && !begins_like_a_port(origin_host)) {
        return None;
    }
    Some(Failure::new(
        ErrorCode::PermissionDenied,
        "requests from web pages of another origin are not served",
    ))
}

/// Whether `authority` is an IP address or localhost, which nobody can point somewhere else.
fn is_local_name(authority: &str) -> bool {
    host_of(authority).parse::<IpAddr>().is_ok() || is_this_machine(authority)
}

/// Whether `authority` is a loopback address or localhost: any other address may be anybody's.
fn is_this_machine(authority: &str) -> bool {
    let host = host_of(authority);
    host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
        || host.eq_ignore_ascii_case("localhost")
        || host.to_ascii_lowercase().ends_with(".localhost")
}

/// The host of a host and perhaps a port, an address without its brackets.
fn host_of(authority: &str) -> &str {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_page_of_another_origin_gets_nothing_and_a_rebound_name_only_asks_for_keys() {
        let asked = |host: &'static str, origin: Option<&str>, wants_keys| {
            let mut headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]);
            if let Some(origin) = origin {
                headers.insert(ORIGIN, origin.parse().unwrap());
            }
            refusal(&headers, &Uri::from_static("/v1/node"), wants_keys).is_none()
        };
        assert!(asked("127.0.0.1:7878", None, false));
        assert!(!asked("evil.example", None, false));
        assert!(asked("node.example", None, true));
        for wants_keys in [false, true] {
            assert!(!asked("127.0.0.1", Some("https://evil.example"), wants_keys));
            assert!(!asked("127.0.0.1", Some("null"), wants_keys));
            let sandboxs = "http://8000-0123456789abcdef.localhost:7878";
            assert!(!asked("127.0.0.1:7878", Some(sandboxs), wants_keys));
            for address in ["203.0.113.5", "10.0.0.1:80", "[2001:db8::1]", "[::ffff:203.0.113.5]"] {
                let origin = format!("http://{address}");
                assert!(!asked("127.0.0.1:7878", Some(&origin), wants_keys), "{origin}");
            }
            // An address by which the node is asked itself; another port of it is another origin.
            assert!(asked("203.0.113.5:7878", Some("http://203.0.113.5:7878"), wants_keys));
            assert!(!asked("203.0.113.5:7878", Some("http://203.0.113.5"), wants_keys));
            for own in ["localhost:80", "127.0.0.2", "[::1]:3000", "[::ffff:127.0.0.1]"] {
                let origin = format!("http://{own}");
                assert!(asked("127.0.0.1", Some(&origin), wants_keys), "{origin}");
            }
        }
        assert!(asked("node.example", Some("https://node.example"), true));
        assert!(!asked("node.example", Some("https://node.example"), false));
        assert!(!asked("", Some("https://"), true));
    }

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
