//! The operation on who may connect to a database from outside.

use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use base_types::DatabaseId;

use crate::server::api::NodeApi;
use crate::server::database::routes::NOT_KEPT;
use crate::server::extract::JsonBody;
use crate::server::seen::Noted;
use crate::{Database, Failure, SetOutside};

/// Say who may connect to a database from outside
///
/// By the node's listener for databases. It holds at once: sessions of clients that may not connect any more
/// are ended. A paused database stays so.
#[utoipa::path(put, path = "/v1/databases/{id}/outside", tag = "databases",
    params(("id" = String, Path)), request_body = SetOutside,
    responses((status = 200, description = "The database", body = Database), Failure))]
pub(super) async fn database_set_outside<A: NodeApi>(
    State(api): State<Arc<A>>,
    Extension(id): Extension<DatabaseId>,
    JsonBody(request): JsonBody<SetOutside>,
) -> Result<impl IntoResponse, Failure> {
    let detail = Noted::detail(request.outside.to_string());
    let database = api.database_set_outside(id, request).await?;
    Ok((NOT_KEPT, Extension(detail), Json(database)))
}
