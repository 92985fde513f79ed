//! Operations on ports. As in [`crate::server::routes`], each without logic.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, HOST};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use base_types::SandboxId;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::api::NodeApi;
use crate::server::extract::{JsonBody, Places, parse};
use crate::server::port::Addresses;
use crate::server::port::place::number;
use crate::server::seen::Noted;
use crate::{ErrorCode, Failure, Port, PortList, SetPort};

/// Ports of a sandbox that anybody may reach
#[utoipa::path(get, path = "/v1/sandboxes/{id}/ports", tag = "ports",
    params(("id" = String, Path)),
    responses((status = 200, description = "The ports", body = PortList), Failure))]
async fn port_list<A: NodeApi>(
    State(api): State<Arc<A>>,
    Extension(addresses): Extension<Arc<Addresses>>,
    Places(id): Places<String>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Failure> {
    let id = parse(&id)?;
    let token = api.ports_token(id).await?.text();
    let public = public(&*api, id)?.into_iter();
    let ports = public.map(|port| addresses.port(&headers, id, port, true, &token));
    Ok(([(CACHE_CONTROL, "no-store")], Json(PortList { ports: ports.collect() })))
}

/// Where and how a port of a sandbox is reached
///
/// Programs in a sandbox that listen on a TCP port of it, on any address or on loopback, are reached over
/// HTTP and WebSocket: by a host name, below `/v1/sandboxes/{id}/ports/{port}/`, or on any path with the
/// headers `X-Sandflare-Sandbox` and `X-Sandflare-Port`. A key that sees the sandbox opens all of its
/// ports, and so does its token. Nothing need listen there yet. A paused sandbox is resumed by whoever
/// reaches a port.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/ports/{port}", tag = "ports",
    params(("id" = String, Path), ("port" = u16, Path, minimum = 1)),
    responses((status = 200, description = "The port", body = Port), Failure))]
async fn port_get<A: NodeApi>(
    State(api): State<Arc<A>>,
    Extension(addresses): Extension<Arc<Addresses>>,
    Places((id, port)): Places<(String, String)>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Failure> {
    let (id, port) = (parse(&id)?, port_number(&port)?);
    shown(&*api, &addresses, &headers, id, port).await
}

/// Make a port public, or private again
///
/// Whoever reaches the node reaches a public port of it, without a token or key.
#[utoipa::path(put, path = "/v1/sandboxes/{id}/ports/{port}", tag = "ports",
    params(("id" = String, Path), ("port" = u16, Path, minimum = 1)), request_body = SetPort,
    responses((status = 200, description = "The port", body = Port), Failure))]
async fn port_set<A: NodeApi>(
    State(api): State<Arc<A>>,
    Extension(addresses): Extension<Arc<Addresses>>,
    Places((id, port)): Places<(String, String)>,
    headers: HeaderMap,
    JsonBody(request): JsonBody<SetPort>,
) -> Result<impl IntoResponse, Failure> {
    let (id, port) = (parse(&id)?, port_number(&port)?);
    api.port_set(id, port, request.public).await?;
    let seen = Noted::detail(if request.public { "public" } else { "private" }.to_owned());
    let shown = shown(&*api, &addresses, &headers, id, port).await?;
    Ok((Extension(seen), shown))
}

async fn shown<A: NodeApi>(
    api: &A,
    addresses: &Addresses,
    headers: &HeaderMap,
    id: SandboxId,
    port: u16,
) -> Result<impl IntoResponse + use<A>, Failure> {
    let token = api.ports_token(id).await?.text();
    let public = public(api, id)?.contains(&port);
    let port = addresses.port(headers, id, port, public, &token);
    Ok(([(CACHE_CONTROL, "no-store")], Json(port)))
}

fn public(api: &impl NodeApi, id: SandboxId) -> Result<std::collections::BTreeSet<u16>, Failure> {
    let access = api.ports_access(id).ok_or_else(|| Failure::no_sandbox(id))?;
    Ok(access.public)
}

fn port_number(text: &str) -> Result<u16, Failure> {
    number(text).ok_or_else(|| {
        let message = format!("`{text}` is not a port; ports are 1 to 65535");
        Failure::new(ErrorCode::InvalidRequest, message)
    })
}

impl Addresses {
    /// A port, as whoever asked by these headers reaches it.
    fn port(
        &self,
        headers: &HeaderMap,
        id: SandboxId,
        port: u16,
        public: bool,
        token: &str,
    ) -> Port {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let (scheme, domain) = (self.scheme(), &self.domain);
        let at = super::place::port_of(host);
        let host = if host.is_empty() { &domain.to_string() } else { host };
        Port {
            port,
            public,
            url: format!("{scheme}://{port}-{:016x}.{domain}{at}", id.bits()),
            path_url: format!("{scheme}://{host}/v1/sandboxes/{id}/ports/{port}/"),
            token: token.to_owned(),
        }
    }
}

pub(crate) fn port_routes<A: NodeApi>() -> OpenApiRouter<Arc<A>> {
    OpenApiRouter::new().routes(routes!(port_list)).routes(routes!(port_get, port_set))
}
