//! Operations on what sandboxes may reach. As in [`crate::server::routes`], each without logic.

use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::api::NodeApi;
use crate::server::extract::{JsonBody, Params, Places, parse};
use crate::server::routes::Answer;
use crate::server::seen::Noted;
use crate::{Failure, FlowList, FlowQuery, Policy};

/// What a sandbox may reach
#[utoipa::path(get, path = "/v1/sandboxes/{id}/policy", tag = "network",
    params(("id" = String, Path)),
    responses((status = 200, description = "Its policy", body = Policy), Failure))]
async fn policy_get<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
) -> Answer<Policy> {
    api.policy_get(parse(&id)?).await.map(Json)
}

/// Change what a sandbox may reach
///
/// In place of the policy it has. Holds at once, also for connections there are, and for a paused
/// sandbox. Never reached, whatever the policy says, are the node's host, other sandboxes, and
/// loopback, private, link-local, metadata, multicast and reserved addresses.
#[utoipa::path(put, path = "/v1/sandboxes/{id}/policy", tag = "network",
    params(("id" = String, Path)), request_body = Policy,
    responses((status = 200, description = "The policy that holds", body = Policy), Failure))]
async fn policy_set<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
    JsonBody(policy): JsonBody<Policy>,
) -> Result<impl IntoResponse, Failure> {
    let set = api.policy_set(parse(&id)?, policy).await?;
    Ok((Extension(Noted::detail(set.summary())), Json(set)))
}

/// The latest flows of a sandbox
///
/// Connections, exchanges and questions that are over, and those that were denied. A sandbox keeps the
/// newest thousand since the node began to serve it; the audit log has all of them.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/flows", tag = "network",
    params(("id" = String, Path), FlowQuery),
    responses((status = 200, description = "Some flows", body = FlowList), Failure))]
async fn flow_list<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
    Params(query): Params<FlowQuery>,
) -> Answer<FlowList> {
    api.flow_list(parse(&id)?, query).await.map(Json)
}

pub(super) fn policy_routes<A: NodeApi>() -> OpenApiRouter<Arc<A>> {
    OpenApiRouter::new().routes(routes!(policy_get, policy_set)).routes(routes!(flow_list))
}
