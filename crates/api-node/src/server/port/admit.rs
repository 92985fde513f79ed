//! Who is let to a port.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, LOCATION, REFERRER_POLICY, SET_COOKIE, UPGRADE};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base_types::ProjectId;

use crate::server::access_api::AccessApi;
use crate::server::api::NodeApi;
use crate::server::door::refusal;
use crate::server::port::Front;
use crate::server::port::credentials::{Credentials, is_of_another_origin};
use crate::server::port::place::{Aim, Place, Way};
use crate::{Caller, ErrorCode, Failure, PORT_TOKEN_NAME, PortToken};

/// Lets through who may, without what it was let in by, and with the path the program knows.
pub(crate) async fn admit<A: NodeApi, G: AccessApi>(
    State(front): State<Front<A, G>>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    match entry(&front, &mut parts) {
        Ok(Entry::In { project, place }) => {
            let sandbox = Some(place.sandbox);
            parts.extensions.insert(place);
            let request = Request::from_parts(parts, body);
            front.doors.shares.pass(request, project, sandbox, next).await
        }
        Ok(Entry::Again(response)) => response,
        Err(failure) => failure.into_response(),
    }
}

enum Entry {
    In {
        project: ProjectId,
        place: Place,
    },
    /// The same again, with the token in a cookie in place of the address.
    Again(Response),
}

fn entry<A: NodeApi, G: AccessApi>(
    front: &Front<A, G>,
    parts: &mut Parts,
) -> Result<Entry, Failure> {
    let place = match parts.extensions.remove::<Aim>() {
        Some(Aim::Port(place)) => place,
        Some(Aim::Nothing(failure)) => return Err(failure),
        Some(Aim::Api) | None => return Err(Failure::new(ErrorCode::NotFound, "this is no port")),
    };
    let mut query = parts.uri.query().map(str::to_owned);
    let had = Credentials::take(&mut parts.headers, &mut query, place.way);
    let (api, access) = (&*front.doors.api, &*front.doors.access);
    let ports = api.ports_access(place.sandbox);
    let token = ports.as_ref().and_then(|ports| ports.token);
    let has_token = token.is_some_and(|token| had.have(token));
    let is_public = ports.as_ref().is_some_and(|ports| ports.public.contains(&place.port));
    let project = match ports {
        Some(ports) if has_token || is_public => ports.project,
        ports => {
            let caller = had.key.as_deref().and_then(|key| access.caller(key));
            let caller = caller.or_else(|| anybody(access, parts, place.way));
            // Without one, a sandbox that is there is not told from one that is not.
            let caller = caller.ok_or_else(not_let_in)?;
            let seen = ports.filter(|ports| caller.sees(ports.project));
            seen.ok_or_else(|| Failure::no_sandbox(place.sandbox))?.project
        }
    };
    let path = parts.uri.path().get(place.prefix..).unwrap_or_default();
    let path = match &query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let reads = matches!(parts.method, Method::GET | Method::HEAD);
    if let Some(token) = token
        && place.way == Way::Host
        && reads
        && !parts.headers.contains_key(UPGRADE)
        && had.in_query_is(token)
    {
        let scheme = front.addresses.scheme();
        // With its host: a path may begin like the address of another one.
        let location = format!("{scheme}://{}{path}", place.host);
        let cookie = cookie(token, front.addresses.secure);
        return again(&location, &cookie).map(Entry::Again);
    }
    parts.uri = Uri::try_from(path)
        .map_err(|_| Failure::new(ErrorCode::InvalidRequest, "the path is not valid"))?;
    Ok(Entry::In { project, place })
}

/// On a node without keys, whoever reaches its address is an administrator, except for pages of other
/// origins. A host name of a port is reached by all of them.
fn anybody(access: &impl AccessApi, parts: &Parts, way: Way) -> Option<Caller> {
    let local = !access.wants_keys()
        && way != Way::Host
        && refusal(&parts.headers, &parts.uri, false).is_none()
        && !is_of_another_origin(&parts.headers);
    local.then_some(Caller::ANYBODY)
}

fn not_let_in() -> Failure {
    let message = "this port wants the token of its sandbox, or there is no such sandbox";
    Failure::new(ErrorCode::Unauthenticated, message).with_hint(
        "send it as `X-Sandflare-Token`, which `sandflare url SANDBOX PORT` shows, or make the port \
         public",
    )
}

/// A cookie for this host alone: without `Domain`, no other sandbox's pages send it.
fn cookie(token: PortToken, secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    format!("{PORT_TOKEN_NAME}={}; Path=/; HttpOnly; SameSite=Lax{secure}", token.text())
}

fn again(location: &str, cookie: &str) -> Result<Response, Failure> {
    let value = |text: &str| {
        HeaderValue::from_str(text)
            .map_err(|_| Failure::new(ErrorCode::InvalidRequest, "the path is not valid"))
    };
    let headers = [
        (LOCATION, value(location)?),
        (SET_COOKIE, value(cookie)?),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    Ok((StatusCode::SEE_OTHER, headers, Body::empty()).into_response())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn over_tls_the_cookie_goes_over_nothing_else() {
        let token = PortToken::from_bytes([0xab; 16]);
        let plain = cookie(token, false);
        let name = format!("sandflare_token={}", token.text());
        assert_eq!(plain, format!("{name}; Path=/; HttpOnly; SameSite=Lax"));
        assert_eq!(cookie(token, true), format!("{plain}; Secure"));
    }

    #[test]
    fn what_cannot_be_in_a_header_is_no_new_place() {
        assert!(again("http://a/\n", "c").is_err());
        let answer = again("http://a//b?c", "c").unwrap();
        assert_eq!(answer.headers()[LOCATION], "http://a//b?c");
    }
}
