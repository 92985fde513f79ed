//! Operations on the life of sandboxes, and on snapshots.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::api::NodeApi;
use crate::server::extract::{JsonBody, Params, Places, parse};
use crate::server::routes::Answer;
use crate::server::seen::{Made, Noted, Origin};
use crate::{
    Caller, CreateSnapshot, Failure, Fork, Forked, Measure, Measured, PageQuery, Sandbox,
    SetTimeout, Snapshot, SnapshotList,
};

/// Pause a sandbox
///
/// Answers when it costs nothing but disk: its processes, memory and files are there. Commands that
/// somebody listens to end with an error for them; what runs on its own goes on at the next use. Any
/// request for the inside of the sandbox resumes it. May be repeated.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/pause", tag = "sandboxes",
    params(("id" = String, Path)),
    responses((status = 200, description = "It is paused", body = Sandbox), Failure))]
async fn sandbox_pause<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
) -> Answer<Sandbox> {
    api.sandbox_pause(parse(&id)?).await.map(Json)
}

/// Resume a sandbox
///
/// Answers when its agent does; its clock is right then. May be repeated.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/resume", tag = "sandboxes",
    params(("id" = String, Path)),
    responses((status = 200, description = "It runs", body = Sandbox), Failure))]
async fn sandbox_resume<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
) -> Answer<Sandbox> {
    api.sandbox_resume(parse(&id)?).await.map(Json)
}

/// Give a sandbox another lifetime
///
/// From now on; that of a paused one begins when it is resumed.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/timeout", tag = "sandboxes",
    params(("id" = String, Path)), request_body = SetTimeout,
    responses((status = 200, description = "The sandbox", body = Sandbox), Failure))]
async fn sandbox_set_timeout<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
    JsonBody(request): JsonBody<SetTimeout>,
) -> Answer<Sandbox> {
    api.sandbox_set_timeout(parse(&id)?, request).await.map(Json)
}

/// Fork a sandbox
///
/// Makes sandboxes from one moment of its memory and disk: each is a machine of its own, with other
/// random numbers, host name and ids, whose processes go on from there. The sandbox itself goes on
/// after a short stop, or stays paused. When one child cannot be made, none is.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/fork", tag = "sandboxes",
    params(("id" = String, Path)), request_body = Fork,
    responses((status = 201, description = "The children", body = Forked), Failure))]
async fn sandbox_fork<A: NodeApi>(
    State(api): State<Arc<A>>,
    caller: Caller,
    Places(id): Places<String>,
    JsonBody(request): JsonBody<Fork>,
) -> Result<impl IntoResponse, Failure> {
    let forked = api.sandbox_fork(&caller, parse(&id)?, request).await?;
    let children: Vec<String> = forked.sandboxes.iter().map(|made| made.id.to_string()).collect();
    let made = Made { from: Origin::Fork, sandboxes: forked.sandboxes.clone() };
    let detail = Noted::detail(format!("made {}", children.join(" ")));
    Ok((StatusCode::CREATED, (Extension(detail), Extension(made)), Json(forked)))
}

/// Keep a snapshot of a sandbox
///
/// One moment of its memory and disk, to create others from. The sandbox goes on after a short stop,
/// or stays paused.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/snapshots", tag = "snapshots",
    params(("id" = String, Path)), request_body = CreateSnapshot,
    responses((status = 201, description = "The snapshot", body = Snapshot), Failure))]
async fn snapshot_create<A: NodeApi>(
    State(api): State<Arc<A>>,
    caller: Caller,
    Places(id): Places<String>,
    JsonBody(request): JsonBody<CreateSnapshot>,
) -> Result<impl IntoResponse, Failure> {
    let made = api.snapshot_create(&caller, parse(&id)?, request).await?;
    let seen = Extension(Noted::detail(format!("made {}", made.id)));
    Ok((StatusCode::CREATED, seen, Json(made)))
}

/// List snapshots
#[utoipa::path(get, path = "/v1/snapshots", tag = "snapshots", params(PageQuery),
    responses((status = 200, description = "A page of them", body = SnapshotList), Failure))]
async fn snapshot_list<A: NodeApi>(
    State(api): State<Arc<A>>,
    caller: Caller,
    Params(query): Params<PageQuery>,
) -> Answer<SnapshotList> {
    api.snapshot_list(&caller, query).await.map(Json)
}

/// A snapshot
#[utoipa::path(get, path = "/v1/snapshots/{id}", tag = "snapshots",
    params(("id" = String, Path)),
    responses((status = 200, description = "The snapshot", body = Snapshot), Failure))]
async fn snapshot_get<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
) -> Answer<Snapshot> {
    api.snapshot_get(parse(&id)?).await.map(Json)
}

/// Delete a snapshot
///
/// Sandboxes made from it stand as they did: what they share with it goes when nothing needs it.
#[utoipa::path(delete, path = "/v1/snapshots/{id}", tag = "snapshots",
    params(("id" = String, Path)),
    responses((status = 204, description = "Deleted"), Failure))]
async fn snapshot_delete<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
) -> Result<StatusCode, Failure> {
    api.snapshot_delete(parse(&id)?).await.map(|()| StatusCode::NO_CONTENT)
}

/// Measure a sandbox
///
/// How long its agent takes for a command and how fast bytes go in and out, seen by the node: to hold
/// what a request takes on the outside against. It runs commands in the sandbox, as its user, and
/// writes one file in `/tmp` that is gone afterwards.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/measure", tag = "sandboxes",
    params(("id" = String, Path)), request_body = Measure,
    responses((status = 200, description = "The figures", body = Measured), Failure))]
async fn sandbox_measure<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
    JsonBody(request): JsonBody<Measure>,
) -> Answer<Measured> {
    api.sandbox_measure(parse(&id)?, request).await.map(Json)
}

pub(super) fn lifecycle_routes<A: NodeApi>() -> OpenApiRouter<Arc<A>> {
    OpenApiRouter::new()
        .routes(routes!(sandbox_pause))
        .routes(routes!(sandbox_resume))
        .routes(routes!(sandbox_set_timeout))
        .routes(routes!(sandbox_fork))
        .routes(routes!(sandbox_measure))
        .routes(routes!(snapshot_create))
        .routes(routes!(snapshot_list))
        .routes(routes!(snapshot_get, snapshot_delete))
}
