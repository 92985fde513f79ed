//! The operation on what a database's server counts. As in [`crate::server::routes`], without logic.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use base_types::DatabaseId;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::api::NodeApi;
use crate::server::routes::Answer;
use crate::{DatabaseStats, Failure};

/// Statistics of a database
///
/// Whether its server answers and how fast, its sessions, transactions, size and cache, and its slowest
/// queries. One that is paused or has failed is not woken: it answers with its status and without
/// figures. So does one that runs and whose server does not answer within 45 seconds, with the reason.
/// Being asked is no use of a database: it is paused all the same when nobody else uses it.
#[utoipa::path(get, path = "/v1/databases/{id}/stats", tag = "databases",
    params(("id" = String, Path)),
    responses((status = 200, description = "The figures", body = DatabaseStats), Failure))]
async fn database_stats<A: NodeApi>(
    State(api): State<Arc<A>>,
    Extension(id): Extension<DatabaseId>,
) -> Answer<DatabaseStats> {
    api.database_stats(id).await.map(Json)
}

pub(crate) fn stats_routes<A: NodeApi>() -> OpenApiRouter<Arc<A>> {
    OpenApiRouter::new().routes(routes!(database_stats))
}
