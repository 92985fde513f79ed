//! Operations on keys and projects. As in [`super::routes`], each without logic.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use base_types::ProjectId;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::access::Doors;
use crate::server::access_api::AccessApi;
use crate::server::api::NodeApi;
use crate::server::extract::{JsonBody, Params, Places, parse};
use crate::server::idempotency::OnRepeat;
use crate::server::seen::Noted;
use crate::{
    Caller, ChangeProject, CreateKey, CreateProject, CreatedKey, ErrorCode, Failure, KeyList,
    PageQuery, Project, ProjectList, QuotaChange, Usage, Used,
};

type Answer<T> = Result<Json<T>, Failure>;

/// Make a project
#[utoipa::path(post, path = "/v1/projects", tag = "access", request_body = CreateProject,
    responses((status = 201, description = "Made", body = Project), Failure))]
async fn project_create<A: NodeApi, G: AccessApi>(
    State(doors): State<Doors<A, G>>,
    caller: Caller,
    JsonBody(request): JsonBody<CreateProject>,
) -> Result<impl IntoResponse, Failure> {
    let made = doors.access.project_create(&caller, request).await?;
    Ok((StatusCode::CREATED, Extension(Noted::made(made.id)), Json(made)))
}

/// List projects
#[utoipa::path(get, path = "/v1/projects", tag = "access", params(PageQuery),
    responses((status = 200, description = "A page of them", body = ProjectList), Failure))]
async fn project_list<A: NodeApi, G: AccessApi>(
    State(doors): State<Doors<A, G>>,
    Params(query): Params<PageQuery>,
) -> Answer<ProjectList> {
    doors.access.project_list(query).await.map(Json)
}

/// Change what a project may use
///
/// Figures that are left out stay as they are. Nothing it has is taken from it: a project that is over a
/// figure makes nothing new until it is under it again.
#[utoipa::path(patch, path = "/v1/projects/{id}", tag = "access",
    params(("id" = String, Path)), request_body = ChangeProject,
    responses((status = 200, description = "The project as it is now", body = Project), Failure))]
async fn project_change<A: NodeApi, G: AccessApi>(
    State(doors): State<Doors<A, G>>,
    Places(id): Places<String>,
    JsonBody(request): JsonBody<ChangeProject>,
) -> Result<impl IntoResponse, Failure> {
    let seen = Extension(Noted::detail(said(&request.quota)));
    Ok((seen, doors.access.project_change(parse(&id)?, request).await.map(Json)?))
}

/// The figures that change, as the audit log has them.
fn said(change: &QuotaChange) -> String {
    let figures = serde_json::to_value(change).unwrap_or_default();
    let figures = figures.as_object().into_iter().flatten();
    let said: Vec<_> = figures.map(|(figure, value)| format!("{figure} {value}")).collect();
    said.join(", ")
}

/// Delete a project
///
/// Its keys stop working. Refused while it has sandboxes or snapshots.
#[utoipa::path(delete, path = "/v1/projects/{id}", tag = "access",
    params(("id" = String, Path)),
    responses((status = 204, description = "Deleted"), Failure))]
async fn project_delete<A: NodeApi, G: AccessApi>(
    State(doors): State<Doors<A, G>>,
    Places(id): Places<String>,
) -> Result<StatusCode, Failure> {
    let id: ProjectId = parse(&id)?;
    let Used { sandboxes, snapshots, .. } = doors.api.project_used(id).await?;
    if sandboxes > 0 || snapshots > 0 {
        let message =
            format!("the project {id} still has {sandboxes} sandboxes and {snapshots} snapshots");
        return Err(Failure::new(ErrorCode::Conflict, message)
            .with_hint("kill the sandboxes and delete the snapshots first"));
    }
    doors.access.project_delete(id).await.map(|()| StatusCode::NO_CONTENT)
}

/// Make a key
///
/// The answer is the only one that ever contains the key itself. A repeat with the same idempotency key
/// makes no other one, and is a `conflict` that names the key there is.
#[utoipa::path(post, path = "/v1/keys", tag = "access", request_body = CreateKey,
    responses((status = 201, description = "Made", body = CreatedKey), Failure))]
async fn key_create<A: NodeApi, G: AccessApi>(
    State(doors): State<Doors<A, G>>,
    caller: Caller,
    JsonBody(request): JsonBody<CreateKey>,
) -> Result<impl IntoResponse, Failure> {
    let made = doors.access.key_create(&caller, request).await?;
    let id = made.facts.id;
    // What a key is made of is kept nowhere, and so not with the answer either.
    let seen = (Extension(Noted::made(id)), Extension(OnRepeat(Failure::key_made_before(id))));
    Ok((StatusCode::CREATED, [(CACHE_CONTROL, "no-store")], seen, Json(made)))
}

/// List keys
#[utoipa::path(get, path = "/v1/keys", tag = "access", params(PageQuery),
    responses((status = 200, description = "A page of them", body = KeyList), Failure))]
async fn key_list<A: NodeApi, G: AccessApi>(
    State(doors): State<Doors<A, G>>,
    Params(query): Params<PageQuery>,
) -> Answer<KeyList> {
    doors.access.key_list(query).await.map(Json)
}

/// Revoke a key
///
/// It stops working at once.
#[utoipa::path(delete, path = "/v1/keys/{id}", tag = "access",
    params(("id" = String, Path)),
    responses((status = 204, description = "Revoked"), Failure))]
async fn key_delete<A: NodeApi, G: AccessApi>(
    State(doors): State<Doors<A, G>>,
    Places(id): Places<String>,
) -> Result<StatusCode, Failure> {
    doors.access.key_delete(parse(&id)?).await.map(|()| StatusCode::NO_CONTENT)
}

/// What the caller's project may use, and uses
#[utoipa::path(get, path = "/v1/usage", tag = "access",
    responses((status = 200, description = "The figures", body = Usage), Failure))]
async fn usage<A: NodeApi, G: AccessApi>(
    State(doors): State<Doors<A, G>>,
    caller: Caller,
) -> Answer<Usage> {
    let project = caller.project;
    let Some(quota) = doors.access.quota(project) else {
        return Err(Failure::new(ErrorCode::NotFound, format!("there is no project {project}")));
    };
    let used = doors.api.project_used(project).await?;
    Ok(Json(Usage { project, quota, used }))
}

pub(crate) fn routes<A: NodeApi, G: AccessApi>() -> OpenApiRouter<Doors<A, G>> {
    OpenApiRouter::new()
        .routes(routes!(project_create, project_list))
        .routes(routes!(project_change, project_delete))
        .routes(routes!(key_create, key_list))
        .routes(routes!(key_delete))
        .routes(routes!(usage))
}
