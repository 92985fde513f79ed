//! Operations on databases. As in [`crate::server::routes`], each without logic.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use base_types::{DatabaseId, SandboxId};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::api::NodeApi;
use crate::server::database::outside;
use crate::server::database::snapshots::snapshot_routes;
use crate::server::extract::{JsonBody, Params, Places, parse, upload_of_something};
use crate::server::routes::Answer;
use crate::server::seen::Noted;
use crate::{
    Caller, CreateDatabase, Database, DatabaseList, DatabaseListQuery, Failure, ForkDatabase,
    QueryAnswer, QueryDatabase, SetPassword, WireDatabase, Wired, WiredList,
};

/// Answers with passwords in them are nobody's to keep.
pub(super) const NOT_KEPT: [(axum::http::HeaderName, &str); 1] = [(CACHE_CONTROL, "no-store")];

/// Create a database
///
/// Postgres in a machine of its own. Answers when it takes connections: 201 when it was made, 200 when
/// `exist_ok` found one of that name. When the template's snapshot is missing it is made first, which
/// takes minutes.
#[utoipa::path(post, path = "/v1/databases", tag = "databases", request_body = CreateDatabase,
    responses((status = 201, description = "Created", body = Database),
        (status = 200, description = "It was there", body = Database), Failure))]
async fn database_create<A: NodeApi>(
    State(api): State<Arc<A>>,
    caller: Caller,
    JsonBody(request): JsonBody<CreateDatabase>,
) -> Result<impl IntoResponse, Failure> {
    let (database, made) = api.database_create(&caller, request).await?;
    let status = if made { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, NOT_KEPT, Extension(Noted::made(database.id)), Json(database)))
}

/// List databases
#[utoipa::path(get, path = "/v1/databases", tag = "databases", params(DatabaseListQuery),
    responses((status = 200, description = "A page of them", body = DatabaseList), Failure))]
async fn database_list<A: NodeApi>(
    State(api): State<Arc<A>>,
    caller: Caller,
    Params(query): Params<DatabaseListQuery>,
) -> Answer<DatabaseList> {
    api.database_list(&caller, query).await.map(Json)
}

/// A database
///
/// By its id, or by its name in the caller's project.
#[utoipa::path(get, path = "/v1/databases/{id}", tag = "databases",
    params(("id" = String, Path)),
    responses((status = 200, description = "The database", body = Database), Failure))]
async fn database_get<A: NodeApi>(
    State(api): State<Arc<A>>,
    Extension(id): Extension<DatabaseId>,
) -> Result<impl IntoResponse, Failure> {
    Ok((NOT_KEPT, Json(api.database_get(id).await?)))
}

/// Delete a database
///
/// Answers when nothing of it is left. Sandboxes that were wired to it are wired no more.
#[utoipa::path(delete, path = "/v1/databases/{id}", tag = "databases",
    params(("id" = String, Path)),
    responses((status = 204, description = "Gone"), Failure))]
async fn database_delete<A: NodeApi>(
    State(api): State<Arc<A>>,
    Extension(id): Extension<DatabaseId>,
) -> Result<impl IntoResponse, Failure> {
    api.database_delete(id).await?;
    Ok((StatusCode::NO_CONTENT, Extension(Noted::made(id))))
}

/// Run SQL
///
/// As the database's owner, over a connection of its own that ends with the answer. Resumes a paused
/// database.
#[utoipa::path(post, path = "/v1/databases/{id}/query", tag = "databases",
    params(("id" = String, Path)), request_body = QueryDatabase,
    responses((status = 200, description = "What the last statement gave", body = QueryAnswer), Failure))]
async fn database_query<A: NodeApi>(
    State(api): State<Arc<A>>,
    Extension(id): Extension<DatabaseId>,
    JsonBody(request): JsonBody<QueryDatabase>,
) -> Answer<QueryAnswer> {
    api.database_query(id, request).await.map(Json)
}

/// Give a database another password
///
/// Its owner's. Connections that are open stay so.
#[utoipa::path(post, path = "/v1/databases/{id}/password", tag = "databases",
    params(("id" = String, Path)), request_body = SetPassword,
    responses((status = 200, description = "The database", body = Database), Failure))]
async fn database_set_password<A: NodeApi>(
    State(api): State<Arc<A>>,
    Extension(id): Extension<DatabaseId>,
    JsonBody(request): JsonBody<SetPassword>,
) -> Result<impl IntoResponse, Failure> {
    Ok((NOT_KEPT, Json(api.database_set_password(id, request).await?)))
}

/// Fork a database
///
/// Makes another one from one moment of it, with a name and a password of its own. The database itself
/// goes on after a short stop.
#[utoipa::path(post, path = "/v1/databases/{id}/fork", tag = "databases",
    params(("id" = String, Path)), request_body = ForkDatabase,
    responses((status = 201, description = "The new one", body = Database), Failure))]
async fn database_fork<A: NodeApi>(
    State(api): State<Arc<A>>,
    caller: Caller,
    Extension(id): Extension<DatabaseId>,
    JsonBody(request): JsonBody<ForkDatabase>,
) -> Result<impl IntoResponse, Failure> {
    let made = api.database_fork(&caller, id, request).await?;
    Ok((StatusCode::CREATED, NOT_KEPT, Extension(Noted::made(made.id)), Json(made)))
}

/// Dump a database
///
/// All that is in it, as `pg_dump` writes it: SQL that makes it again in another one, which must have the same
/// extensions. Who owns what and who may what is left out. A dump that broke off is an answer that broke off:
/// it never ends as if it were whole.
#[utoipa::path(get, path = "/v1/databases/{id}/dump", tag = "databases",
    params(("id" = String, Path)),
    responses((status = 200, description = "The dump", body = Vec<u8>,
        content_type = "application/sql"), Failure))]
async fn database_dump<A: NodeApi>(
    State(api): State<Arc<A>>,
    Extension(id): Extension<DatabaseId>,
) -> Result<impl IntoResponse, Failure> {
    let dump = Body::from_stream(api.database_dump(id).await?);
    Ok(([(CONTENT_TYPE, "application/sql")], NOT_KEPT, dump))
}

/// Restore a dump
///
/// Runs it with `psql` as the database's owner, in one transaction: when some of it fails, or the upload breaks
/// off, nothing of it is there. What is in the database already stays.
#[utoipa::path(put, path = "/v1/databases/{id}/dump", tag = "databases",
    params(("id" = String, Path)),
    request_body(content = Vec<u8>, content_type = "application/sql"),
    responses((status = 204, description = "All of it is there"), Failure))]
async fn database_restore<A: NodeApi>(
    State(api): State<Arc<A>>,
    Extension(id): Extension<DatabaseId>,
    request: Request,
) -> Result<impl IntoResponse, Failure> {
    api.database_restore(id, upload_of_something(request).await?).await?;
    Ok((StatusCode::NO_CONTENT, Extension(Noted::made(id))))
}

/// Databases a sandbox may use
#[utoipa::path(get, path = "/v1/sandboxes/{id}/databases", tag = "databases",
    params(("id" = String, Path)),
    responses((status = 200, description = "The databases", body = WiredList), Failure))]
async fn database_wired<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
) -> Result<impl IntoResponse, Failure> {
    Ok((NOT_KEPT, Json(api.database_wired(parse(&id)?).await?)))
}

/// Let a sandbox use a database
///
/// The database, by id or name, is one of the sandbox's project. The sandbox gets a role of its own in it,
/// a name and an address that only it knows, and variables in every process started from then on.
#[utoipa::path(put, path = "/v1/sandboxes/{id}/databases/{database}", tag = "databases",
    params(("id" = String, Path), ("database" = String, Path)), request_body = WireDatabase,
    responses((status = 200, description = "How it is used", body = Wired), Failure))]
async fn database_wire<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places((sandbox, database)): Places<(String, String)>,
    JsonBody(request): JsonBody<WireDatabase>,
) -> Result<impl IntoResponse, Failure> {
    let sandbox = parse(&sandbox)?;
    let database = of_project(&*api, sandbox, &database)?;
    let detail = Noted::detail(format!("{} {}", database, request.role.as_str()));
    let wired = api.database_wire(sandbox, database, request).await?;
    Ok((NOT_KEPT, Extension(detail), Json(wired)))
}

/// Let a sandbox use a database no more
///
/// Its role is dropped, and its connections are closed when this answers. Processes that run keep the
/// variables, which are good for nothing.
#[utoipa::path(delete, path = "/v1/sandboxes/{id}/databases/{database}", tag = "databases",
    params(("id" = String, Path), ("database" = String, Path)),
    responses((status = 204, description = "It is not any more"), Failure))]
async fn database_unwire<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places((sandbox, database)): Places<(String, String)>,
) -> Result<StatusCode, Failure> {
    let sandbox = parse(&sandbox)?;
    let database = of_project(&*api, sandbox, &database)?;
    api.database_unwire(sandbox, database).await.map(|()| StatusCode::NO_CONTENT)
}

/// The database that `which` stands for, where it belongs to the sandbox's project. Nothing tells one of
/// another project from one that never was.
fn of_project(api: &impl NodeApi, sandbox: SandboxId, which: &str) -> Result<DatabaseId, Failure> {
    let project = api.sandbox_project(sandbox).ok_or_else(|| Failure::no_sandbox(sandbox))?;
    let found = api.database_find(project, which);
    let found = found.filter(|id| api.database_project(*id) == Some(project));
    found.ok_or_else(|| Failure::no_database(which))
}

pub(crate) fn database_routes<A: NodeApi>() -> OpenApiRouter<Arc<A>> {
    OpenApiRouter::new()
        .routes(routes!(database_create, database_list))
        .routes(routes!(database_get, database_delete))
        .merge(super::stats::stats_routes())
        .routes(routes!(database_query))
        .routes(routes!(database_set_password))
        .routes(routes!(outside::database_set_outside))
        .routes(routes!(database_fork))
        .routes(routes!(database_dump, database_restore))
        .routes(routes!(database_wired))
        .routes(routes!(database_wire, database_unwire))
        .merge(snapshot_routes())
}
