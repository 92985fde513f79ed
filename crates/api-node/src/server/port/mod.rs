//! The way to programs in sandboxes, beside the API and before it.
//!
//! ```text
//!                         ┌─ a port's host name, headers, or path ─▶ admit ─▶ pass on ─▶ program
//!   request ─▶ what for? ─┤
//!                         └─ anything else ─▶ the API
//! ```
//!
//! What a request is for is decided by its head alone, before any route is looked for: a host name of a
//! port never leads to the API, whatever the path, and no other host name leads to a port unasked.

mod admit;
mod api;
mod credentials;
mod headers;
mod nobody;
mod place;
mod proxy;
mod routes;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{from_fn, from_fn_with_state};
use tower_service::Service as _;

use crate::server::access::Doors;
use crate::server::access_api::AccessApi;
use crate::server::api::NodeApi;
use crate::server::door::finish;
use crate::server::seen::AtPort;

pub use api::{PortIo, PortsAccess, PortsApi};
pub use place::{Domain, ParseDomainError};

pub(crate) use place::begins_like_a_port;
pub(crate) use routes::port_routes;

use place::{Aim, Place, Way, aim};

/// How a node and the ports of its sandboxes are addressed.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// What host names of ports end in.
    pub domain: Domain,
    /// Whether requests come over TLS.
    pub secure: bool,
}

impl Addresses {
    const fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }
}

impl Place {
    /// What a program's paths begin with outside.
    fn prefix(&self) -> String {
        match self.way {
            Way::Path => format!("/v1/sandboxes/{}/ports/{}", self.sandbox, self.port),
            Way::Host | Way::Headers => String::new(),
        }
    }
}

/// What the way to ports needs.
#[derive(Debug)]
struct Front<A, G> {
    doors: Doors<A, G>,
    addresses: Arc<Addresses>,
}

impl<A, G> Clone for Front<A, G> {
    fn clone(&self) -> Self {
        Self { doors: self.doors.clone(), addresses: self.addresses.clone() }
    }
}

/// `api`, and beside it the ports. Both are put into `watch`.
pub(super) fn beside<A: NodeApi, G: AccessApi>(
    api: Router,
    doors: Doors<A, G>,
    addresses: Addresses,
    watch: impl Fn(Router) -> Router,
) -> Router {
    let addresses = Arc::new(addresses);
    let front = Front { doors, addresses: addresses.clone() };
    let ports = Router::new()
        .fallback(proxy::pass_on::<A, G>)
        .layer(from_fn_with_state(front.clone(), admit::admit::<A, G>))
        .layer(from_fn(finish))
        .with_state(front);
    let (api, ports) = (watch(api), watch(ports));
    Router::new().fallback(move |mut request: Request| {
        let aim = aim(request.method(), request.uri(), request.headers(), &addresses.domain);
        let mut router = match aim {
            Aim::Api => api.clone(),
            Aim::Port(_) | Aim::Nothing(_) => ports.clone(),
        };
        let extensions = request.extensions_mut();
        if let Aim::Port(place) = &aim {
            extensions.insert(AtPort { sandbox: place.sandbox, port: place.port });
        }
        extensions.insert(addresses.clone());
        extensions.insert(aim);
        async move { router.call(request).await }
    })
}
