//! Operations on the snapshots of databases. Each without logic.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use base_types::DatabaseId;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::routes::NOT_KEPT;
use crate::server::api::NodeApi;
use crate::server::extract::{JsonBody, Places};
use crate::server::routes::Answer;
use crate::server::seen::Noted;
use crate::{
    Caller, CreateDatabaseSnapshot, Database, DatabaseSnapshot, DatabaseSnapshotList, Failure,
    RestoreDatabase,
};

/// Take a snapshot of a database
///
/// Keeps one moment of it, with all that is in it, under a name. The database goes on after a short stop.
/// It counts as a snapshot of the project, and is deleted with the database.
#[utoipa::path(post, path = "/v1/databases/{id}/snapshots", tag = "databases",
    params(("id" = String, Path)), request_body = CreateDatabaseSnapshot,
    responses((status = 201, description = "Kept", body = DatabaseSnapshot), Failure))]
async fn database_snapshot<A: NodeApi>(
    State(api): State<Arc<A>>,
    caller: Caller,
    Extension(id): Extension<DatabaseId>,
    JsonBody(request): JsonBody<CreateDatabaseSnapshot>,
) -> Result<impl IntoResponse, Failure> {
    let kept = api.database_snapshot(&caller, id, request).await?;
    Ok((StatusCode::CREATED, Extension(Noted::made(kept.id)), Json(kept)))
}

/// Snapshots of a database
#[utoipa::path(get, path = "/v1/databases/{id}/snapshots", tag = "databases",
    params(("id" = String, Path)),
    responses((status = 200, description = "All of them", body = DatabaseSnapshotList), Failure))]
async fn database_snapshots<A: NodeApi>(
    State(api): State<Arc<A>>,
    Extension(id): Extension<DatabaseId>,
) -> Answer<DatabaseSnapshotList> {
    api.database_snapshots(id).await.map(Json)
}

/// Delete a snapshot of a database
///
/// By its name or its id. Databases that were made from it, or went back to it, stand as they did.
#[utoipa::path(delete, path = "/v1/databases/{id}/snapshots/{snapshot}", tag = "databases",
    params(("id" = String, Path), ("snapshot" = String, Path)),
    responses((status = 204, description = "Gone"), Failure))]
async fn database_snapshot_delete<A: NodeApi>(
    State(api): State<Arc<A>>,
    Extension(id): Extension<DatabaseId>,
    Places((_, snapshot)): Places<(String, String)>,
) -> Result<impl IntoResponse, Failure> {
    api.database_snapshot_delete(id, &snapshot).await?;
    Ok((StatusCode::NO_CONTENT, Extension(Noted::made(snapshot))))
}

/// Go back to a snapshot of a database
///
/// All that is in it is as it was then; what was written since is gone. Its name, its address, the passwords
/// and the sandboxes wired to it stay as they are now. Connections end, and new ones find the moment of the
/// snapshot. When it fails, the database is as it was.
#[utoipa::path(post, path = "/v1/databases/{id}/restore", tag = "databases",
    params(("id" = String, Path)), request_body = RestoreDatabase,
    responses((status = 200, description = "The database", body = Database), Failure))]
async fn database_go_back<A: NodeApi>(
    State(api): State<Arc<A>>,
    Extension(id): Extension<DatabaseId>,
    JsonBody(request): JsonBody<RestoreDatabase>,
) -> Result<impl IntoResponse, Failure> {
    let detail = Noted::detail(request.snapshot.clone());
    let database = api.database_go_back(id, request).await?;
    Ok((NOT_KEPT, Extension(detail), Json(database)))
}

pub(crate) fn snapshot_routes<A: NodeApi>() -> OpenApiRouter<Arc<A>> {
    OpenApiRouter::new()
        .routes(routes!(database_snapshot, database_snapshots))
        .routes(routes!(database_snapshot_delete))
        .routes(routes!(database_go_back))
}
