//! Whether the caller may: who it is, and whether what it asks for is there for it.
//!
//! Decided here, by route, and not in each operation, so that an operation that is new cannot forget
//! it: a route that [`class`] does not know is for administrators.

use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base_types::SandboxId;

use crate::server::access_api::AccessApi;
use crate::server::api::NodeApi;
use crate::server::extract::parse;
use crate::server::shares::Shares;
use crate::{Caller, ErrorCode, Failure, Role};

/// The other header a key may be in, for tools that cannot set `Authorization`.
const API_KEY_HEADER: HeaderName = HeaderName::from_static("x-api-key");

/// The node, and who may use it.
#[derive(Debug)]
pub(crate) struct Doors<A, G> {
    pub(crate) api: Arc<A>,
    pub(crate) access: Arc<G>,
    pub(crate) shares: Shares,
}

impl<A, G> Clone for Doors<A, G> {
    fn clone(&self) -> Self {
        Self { api: self.api.clone(), access: self.access.clone(), shares: self.shares.clone() }
    }
}

/// Whom a route is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Anybody, without a key.
    Open,
    /// Anybody with a key.
    Keyed,
    /// Whoever sees the sandbox `{id}`.
    Sandbox,
    /// Whoever sees the snapshot `{id}`.
    Snapshot,
    /// Whoever sees the database `{id}`, which may be a name too.
    Database,
    /// Administrators.
    Admin,
}

/// Whom the operation at a route is for; the route is the pattern, not the path.
fn class(method: &Method, route: &str) -> Class {
    let under = |prefix: &str| {
        route.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    match route {
        "/" | "/docs" | "/docs/style.css" | "/v1/health" | "/v1/openapi.json" => Class::Open,
        "/v1/databases" | "/v1/sandboxes" | "/v1/snapshots" | "/v1/usage" => Class::Keyed,
        // Always of the caller's own project.
        "/v1/secrets" | "/v1/secrets/{name}" => Class::Keyed,
        "/v1/templates" | "/v1/templates/{name}/{size}" if method == Method::GET => Class::Keyed,
        _ if under("/v1/sandboxes/{id}") => Class::Sandbox,
        _ if under("/v1/snapshots/{id}") => Class::Snapshot,
        _ if under("/v1/databases/{id}") => Class::Database,
        _ => Class::Admin,
    }
}

/// Finds out who calls, and lets through what that caller may do. The caller goes along in the
/// request's extensions, and comes back in the response's.
pub(crate) async fn admit<A: NodeApi, G: AccessApi>(
    State(doors): State<Doors<A, G>>,
    request: Request,
    next: Next,
) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let class = route.as_deref().map(|route| class(request.method(), route));
    if class == Some(Class::Open) {
        return next.run(request).await;
    }
    let caller = match identify(&*doors.access, request.headers()) {
        Ok(caller) => caller,
        Err(failure) => return unauthenticated(failure),
    };
    let (mut parts, body) = request.into_parts();
    let allowed = match class {
        None | Some(Class::Open | Class::Keyed) => Ok(None),
        Some(Class::Sandbox) => sandbox_is_there(&*doors.api, &caller, &mut parts).await.map(Some),
        Some(Class::Snapshot) => {
            snapshot_is_there(&*doors.api, &caller, &mut parts).await.map(|()| None)
        }
        Some(Class::Database) => {
            database_is_there(&*doors.api, &caller, &mut parts).await.map(|()| None)
        }
        Some(Class::Admin) if caller.role == Role::Admin => Ok(None),
        Some(Class::Admin) => Err(for_admins()),
    };
    let mut response = match allowed {
        Ok(sandbox) => {
            let inside = sandbox.filter(|_| route.as_deref().is_some_and(is_inside));
            parts.extensions.insert(caller);
            let request = Request::from_parts(parts, body);
            doors.shares.pass(request, caller.project, inside, next).await
        }
        Err(failure) => failure.into_response(),
    };
    response.extensions_mut().insert(caller);
    response
}

/// Whether a route of a sandbox leads into it, to its agent.
fn is_inside(route: &str) -> bool {
    let rest = route.strip_prefix("/v1/sandboxes/{id}/").unwrap_or_default();
    matches!(rest.split('/').next(), Some("exec" | "files" | "measure" | "ports" | "processes"))
}

fn identify(access: &impl AccessApi, headers: &HeaderMap) -> Result<Caller, Failure> {
    if !access.wants_keys() {
        return Ok(Caller::ANYBODY);
    }
    let Some(key) = key_of(headers) else {
        return Err(Failure::new(ErrorCode::Unauthenticated, "this node wants an API key")
            .with_hint("send `Authorization: Bearer sfk_…`; `sandflare` sends SANDFLARE_API_KEY"));
    };
    access.caller(key).ok_or_else(|| {
        let message = "this API key is not good here: it was never made, was revoked, or is over";
        Failure::new(ErrorCode::Unauthenticated, message)
            .with_hint("ask the node's administrator for one")
    })
}

/// The key a request carries, whatever it is.
fn key_of(headers: &HeaderMap) -> Option<&str> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| key.trim());
    }
    headers.get(API_KEY_HEADER)?.to_str().ok().map(str::trim)
}

fn unauthenticated(failure: Failure) -> Response {
    let mut response = failure.into_response();
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn for_admins() -> Failure {
    Failure::new(ErrorCode::PermissionDenied, "this operation is for administrators")
        .with_hint("use a key with the role admin")
}

/// Nothing tells a sandbox of somebody else from one that never was.
async fn sandbox_is_there(
    api: &impl NodeApi,
    caller: &Caller,
    parts: &mut Parts,
) -> Result<SandboxId, Failure> {
    let id = parse(&placeholder(parts).await?)?;
    match api.sandbox_project(id) {
        Some(project) if caller.sees(project) => Ok(id),
        _ => Err(Failure::no_sandbox(id)),
    }
}

/// The same for snapshots.
async fn snapshot_is_there(
    api: &impl NodeApi,
    caller: &Caller,
    parts: &mut Parts,
) -> Result<(), Failure> {
    let id = parse(&placeholder(parts).await?)?;
    match api.snapshot_project(id) {
        Some(project) if caller.sees(project) => Ok(()),
        _ => Err(Failure::no_snapshot(id)),
    }
}

/// The same for databases. The one that was found goes along with the request, because a name means
/// another one tomorrow.
async fn database_is_there(
    api: &impl NodeApi,
    caller: &Caller,
    parts: &mut Parts,
) -> Result<(), Failure> {
    let which = placeholder(parts).await?;
    let found = api.database_find(caller.project, &which);
    match found.and_then(|id| api.database_project(id).map(|project| (id, project))) {
        Some((id, project)) if caller.sees(project) => {
            parts.extensions.insert(id);
            Ok(())
        }
        _ => Err(Failure::no_database(&which)),
    }
}

/// The value of `{id}`, decoded as the operation will find it.
async fn placeholder(parts: &mut Parts) -> Result<String, Failure> {
    let places = RawPathParams::from_request_parts(parts, &()).await.map_err(|error| {
        Failure::new(ErrorCode::InvalidRequest, format!("the path is not valid: {error}"))
    })?;
    let id = places.iter().find(|(name, _)| *name == "id").map(|(_, value)| value.to_owned());
    id.ok_or_else(|| Failure::new(ErrorCode::Internal, "the route has no `{id}`"))
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let caller = parts.extensions.get::<Self>().copied();
        caller.ok_or_else(|| Failure::new(ErrorCode::Internal, "the caller is not known"))
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_route_nobody_thought_of_is_for_administrators() {
        for route in ["/v1/new", "/v1/sandboxesque/{id}", "/v1/node", "/v1/keys", "/metrics", ""] {
            assert_eq!(class(&Method::GET, route), Class::Admin, "{route}");
        }
        assert_eq!(class(&Method::DELETE, "/v1/templates/{name}/{size}"), Class::Admin);
        // A build takes a machine for a minute, and no quota counts it.
        assert_eq!(class(&Method::POST, "/v1/templates/{name}/{size}/build"), Class::Admin);
        assert_eq!(class(&Method::GET, "/v1/sandboxes/{id}/new/{thing}"), Class::Sandbox);
        assert_eq!(class(&Method::DELETE, "/v1/sandboxes/{id}"), Class::Sandbox);
    }

    #[test]
    fn a_key_is_found_in_either_header() {
        let of = |name: HeaderName, value: &'static str| {
            HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
        };
        for headers in [
            of(AUTHORIZATION, "Bearer k"),
            of(AUTHORIZATION, "bearer  k "),
            of(API_KEY_HEADER, "k"),
        ] {
            assert_eq!(key_of(&headers), Some("k"), "{headers:?}");
        }
        for headers in [of(AUTHORIZATION, "Basic k"), of(AUTHORIZATION, "k"), HeaderMap::new()] {
            assert_eq!(key_of(&headers), None, "{headers:?}");
        }
    }
}
