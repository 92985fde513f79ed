//! Operations that show what happened: the console of a sandbox, the audit log, the figures.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::IntoResponse;
use axum::routing::get;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::api::NodeApi;
use crate::server::extract::{Params, Places, parse};
use crate::{
    AuditList, AuditQuery, AuditVerified, AuditVerifyQuery, Failure, LogsQuery, METRICS_TYPE,
};

/// End of a sandbox's console
///
/// What its kernel printed, as text. What was printed by programs is in their own streams.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/logs", tag = "sandboxes",
    params(("id" = String, Path), LogsQuery),
    responses((status = 200, description = "The text", body = String, content_type = "text/plain"),
        Failure))]
async fn sandbox_logs<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
    Params(query): Params<LogsQuery>,
) -> Result<impl IntoResponse, Failure> {
    let text = api.sandbox_logs(parse(&id)?, query).await?;
    // A guest chose it: no browser may take it for anything else.
    let headers =
        [(CONTENT_TYPE, "text/plain; charset=utf-8"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    Ok((headers, text))
}

/// Entries of the audit log
///
/// The newest ones, or those after a place.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(AuditQuery),
    responses((status = 200, description = "The entries", body = AuditList), Failure))]
async fn audit_list<A: NodeApi>(
    State(api): State<Arc<A>>,
    Params(query): Params<AuditQuery>,
) -> Result<Json<AuditList>, Failure> {
    api.audit_list(query).await.map(Json)
}

/// Verify the audit log
///
/// The node reads every line again, from the first on: one that was edited, removed, inserted or moved
/// shows, and `fault` names it. Whoever may write the node's files could make all of them anew, so note
/// `head` elsewhere and give it with the next question. An answer about a log that was changed is a
/// success too; `whole` says so.
#[utoipa::path(get, path = "/v1/audit/verify", tag = "audit", params(AuditVerifyQuery),
    responses((status = 200, description = "What was found", body = AuditVerified), Failure))]
async fn audit_verify<A: NodeApi>(
    State(api): State<Arc<A>>,
    Params(query): Params<AuditVerifyQuery>,
) -> Result<Json<AuditVerified>, Failure> {
    api.audit_verify(query).await.map(Json)
}

async fn metrics<A: NodeApi>(State(api): State<Arc<A>>) -> Result<impl IntoResponse, Failure> {
    Ok(([(CONTENT_TYPE, METRICS_TYPE)], api.metrics().await?))
}

pub(crate) fn routes<A: NodeApi>() -> OpenApiRouter<Arc<A>> {
    OpenApiRouter::new()
        .routes(routes!(sandbox_logs))
        .routes(routes!(audit_list))
        .routes(routes!(audit_verify))
}

/// `/metrics`, which is no part of the API: its path and form are Prometheus's.
pub(crate) fn metrics_router<A: NodeApi>(api: Arc<A>) -> axum::Router {
    axum::Router::new().route("/metrics", get(metrics::<A>)).with_state(api)
}
