//! One function per operation, each without logic; its doc comment is its text in the document.

use std::sync::Arc;

use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::access::{Doors, admit};
use crate::server::access_api::AccessApi;
use crate::server::access_routes;
use crate::server::api::NodeApi;
use crate::server::database::database_routes;
use crate::server::document::with_forms;
use crate::server::door::{finish, guard};
use crate::server::extract::{JsonBody, Params, Places, parse, whole};
use crate::server::file_routes::file_routes;
use crate::server::idempotency::once;
use crate::server::lifecycle_routes::lifecycle_routes;
use crate::server::limits::Limits;
use crate::server::nobody::Nobody;
use crate::server::page;
use crate::server::policy_routes::policy_routes;
use crate::server::port::{self, Addresses, port_routes};
use crate::server::process_routes::process_routes;
use crate::server::reply::ndjson;
use crate::server::seen::{Made, Noted, Origin};
use crate::server::seen_routes;
use crate::server::shares::Shares;
use crate::server::vault_routes::secret_routes;
use crate::{
    BuildEvent, Caller, ColdBoot, ColdBootQuery, CreateSandbox, ErrorCode, ExecEvent, ExecRequest,
    Failure, Floor, FloorQuery, Health, Node, ProcessId, STDIN_BYTES_MAX, Sandbox, SandboxList,
    SandboxListQuery, SandboxStats, SignalRequest, StdinQuery, Template, TemplateList,
};

pub(super) type Answer<T> = Result<Json<T>, Failure>;

/// Health of the node
#[utoipa::path(get, path = "/v1/health", tag = "node", security(()),
    responses((status = 200, description = "It serves", body = Health), Failure))]
async fn health<A: NodeApi>(State(api): State<Arc<A>>) -> Answer<Health> {
    api.health().await.map(Json)
}

/// What the node is and has
#[utoipa::path(get, path = "/v1/node", tag = "node",
    responses((status = 200, description = "The node", body = Node), Failure))]
async fn node_get<A: NodeApi>(State(api): State<Arc<A>>) -> Answer<Node> {
    api.node_get().await.map(Json)
}

/// Stop the node
///
/// All its sandboxes are destroyed.
#[utoipa::path(post, path = "/v1/node/stop", tag = "node",
    responses((status = 202, description = "Stopping"), Failure))]
async fn node_stop<A: NodeApi>(State(api): State<Arc<A>>) -> Result<StatusCode, Failure> {
    api.node_stop().await.map(|()| StatusCode::ACCEPTED)
}

/// Measure the machine's floor
#[utoipa::path(get, path = "/v1/node/floor", tag = "node", params(FloorQuery),
    responses((status = 200, description = "The figures", body = Floor), Failure))]
async fn node_floor<A: NodeApi>(
    State(api): State<Arc<A>>,
    Params(query): Params<FloorQuery>,
) -> Answer<Floor> {
    api.node_floor(query).await.map(Json)
}

/// Time a cold boot
#[utoipa::path(post, path = "/v1/node/cold-boot", tag = "node", params(ColdBootQuery),
    responses((status = 200, description = "The figure", body = ColdBoot), Failure))]
async fn node_cold_boot<A: NodeApi>(
    State(api): State<Arc<A>>,
    Params(query): Params<ColdBootQuery>,
) -> Answer<ColdBoot> {
    api.node_cold_boot(query).await.map(Json)
}

/// List templates
#[utoipa::path(get, path = "/v1/templates", tag = "templates",
    responses((status = 200, description = "The templates", body = TemplateList), Failure))]
async fn template_list<A: NodeApi>(State(api): State<Arc<A>>) -> Answer<TemplateList> {
    api.template_list().await.map(Json)
}

/// A template at one size
#[utoipa::path(get, path = "/v1/templates/{name}/{size}", tag = "templates",
    params(("name" = String, Path), ("size" = String, Path)),
    responses((status = 200, description = "The template", body = Template), Failure))]
async fn template_get<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places((name, size)): Places<(String, String)>,
) -> Answer<Template> {
    api.template_get(parse(&name)?, parse(&size)?).await.map(Json)
}

/// Delete a template's snapshot
///
/// The next create makes it again, from the template's image, which stays. Refused while sandboxes or
/// snapshots stand on it.
#[utoipa::path(delete, path = "/v1/templates/{name}/{size}", tag = "templates",
    params(("name" = String, Path), ("size" = String, Path)),
    responses((status = 204, description = "Gone"), Failure))]
async fn template_delete<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places((name, size)): Places<(String, String)>,
) -> Result<StatusCode, Failure> {
    api.template_delete(parse(&name)?, parse(&size)?).await.map(|()| StatusCode::NO_CONTENT)
}

/// Make a template's snapshot
///
/// Answers at once with a stream of events that ends with `done` or `error`. A build goes on when
/// the caller leaves; a second caller watches the same one. For administrators, because no quota counts
/// it; a create makes a missing snapshot for anybody.
#[utoipa::path(post, path = "/v1/templates/{name}/{size}/build", tag = "templates",
    params(("name" = String, Path), ("size" = String, Path)),
    responses((status = 200, description = "What happens, one event per line", body = BuildEvent,
        content_type = "application/x-ndjson"), Failure))]
async fn template_build<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places((name, size)): Places<(String, String)>,
) -> Result<Response, Failure> {
    api.template_build(parse(&name)?, parse(&size)?).await.map(ndjson)
}

/// Create a sandbox
///
/// Answers when the sandbox's agent does. When the template's snapshot is missing it is made first,
/// which takes a minute; make it before to see its progress.
#[utoipa::path(post, path = "/v1/sandboxes", tag = "sandboxes", request_body = CreateSandbox,
    responses((status = 201, description = "Created", body = Sandbox), Failure))]
async fn sandbox_create<A: NodeApi>(
    State(api): State<Arc<A>>,
    caller: Caller,
    JsonBody(request): JsonBody<CreateSandbox>,
) -> Result<impl IntoResponse, Failure> {
    let from = if request.snapshot.is_some() { Origin::Snapshot } else { Origin::Template };
    let made = api.sandbox_create(&caller, request).await?;
    let all = Made { from, sandboxes: vec![made.clone()] };
    let seen = (Extension(Noted::made(made.id)), Extension(all));
    Ok((StatusCode::CREATED, seen, Json(made)))
}

/// List sandboxes
#[utoipa::path(get, path = "/v1/sandboxes", tag = "sandboxes",
    params(SandboxListQuery),
    responses((status = 200, description = "A page of them", body = SandboxList), Failure))]
async fn sandbox_list<A: NodeApi>(
    State(api): State<Arc<A>>,
    caller: Caller,
    Params(query): Params<SandboxListQuery>,
) -> Answer<SandboxList> {
    api.sandbox_list(&caller, query).await.map(Json)
}

/// A sandbox
#[utoipa::path(get, path = "/v1/sandboxes/{id}", tag = "sandboxes",
    params(("id" = String, Path)),
    responses((status = 200, description = "The sandbox", body = Sandbox), Failure))]
async fn sandbox_get<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
) -> Answer<Sandbox> {
    api.sandbox_get(parse(&id)?).await.map(Json)
}

/// Kill a sandbox
///
/// Answers when nothing of it is left.
#[utoipa::path(delete, path = "/v1/sandboxes/{id}", tag = "sandboxes",
    params(("id" = String, Path)),
    responses((status = 204, description = "Gone"), Failure))]
async fn sandbox_kill<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
) -> Result<StatusCode, Failure> {
    api.sandbox_kill(parse(&id)?).await.map(|()| StatusCode::NO_CONTENT)
}

/// Counters of a sandbox's machine
#[utoipa::path(get, path = "/v1/sandboxes/{id}/stats", tag = "sandboxes",
    params(("id" = String, Path)),
    responses((status = 200, description = "The counters", body = SandboxStats), Failure))]
async fn sandbox_stats<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
) -> Answer<SandboxStats> {
    api.sandbox_stats(parse(&id)?).await.map(Json)
}

/// Run a command
///
/// Answers with a stream of events that ends with `exit` or `error`. When the caller closes the
/// connection the command and all it started are killed.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/exec", tag = "processes",
    params(("id" = String, Path)), request_body = ExecRequest,
    responses((status = 200, description = "What happens, one event per line", body = ExecEvent,
        content_type = "application/x-ndjson"), Failure))]
async fn process_exec<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
    JsonBody(request): JsonBody<ExecRequest>,
) -> Result<impl IntoResponse, Failure> {
    let seen = Extension(Noted::program(&request.argv));
    Ok((seen, api.process_exec(parse(&id)?, request).await.map(ndjson)?))
}

/// Write to a command's standard input
#[utoipa::path(post, path = "/v1/sandboxes/{id}/processes/{process_id}/stdin", tag = "processes",
    params(("id" = String, Path), ("process_id" = u32, Path), StdinQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 204, description = "The guest took it"), Failure))]
async fn process_stdin<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places((id, process)): Places<(String, String)>,
    query: Result<Query<StdinQuery>, axum::extract::rejection::QueryRejection>,
    request: Request,
) -> Result<StatusCode, Failure> {
    let (id, process) = (parse(&id)?, ProcessId(parse(&process)?));
    let Query(query) = query.map_err(|_| {
        Failure::new(ErrorCode::InvalidRequest, "`close` must be `true` or `false`")
    })?;
    let within = Limits::of(request.extensions()).body_within;
    let data = whole(request.into_body(), STDIN_BYTES_MAX, within).await?;
    api.process_stdin(id, process, data, query.close).await.map(|()| StatusCode::NO_CONTENT)
}

/// Send a command a signal
#[utoipa::path(post, path = "/v1/sandboxes/{id}/processes/{process_id}/signal", tag = "processes",
    params(("id" = String, Path), ("process_id" = u32, Path)), request_body = SignalRequest,
    responses((status = 204, description = "Sent"), Failure))]
async fn process_signal<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places((id, process)): Places<(String, String)>,
    JsonBody(request): JsonBody<SignalRequest>,
) -> Result<StatusCode, Failure> {
    let (id, process) = (parse(&id)?, ProcessId(parse(&process)?));
    api.process_signal(id, process, request.signal).await.map(|()| StatusCode::NO_CONTENT)
}

#[derive(OpenApi)]
#[openapi(
    components(schemas(Failure)),
    modifiers(&Keys),
    security(("bearer" = []), ("api_key" = [])),
    info(
        title = "Sandflare node",
        description = "Sandboxes of one node: machines restored from a template's snapshot, commands \
        run in them, and their files.",
    )
)]
struct Doc;

/// The two ways to send a key.
struct Keys;

impl Modify for Keys {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        let header = ApiKey::Header(ApiKeyValue::new("X-API-Key"));
        components.add_security_scheme("api_key", SecurityScheme::ApiKey(header));
    }
}

fn routes<A: NodeApi>() -> OpenApiRouter<Arc<A>> {
    OpenApiRouter::with_openapi(Doc::openapi())
        .routes(routes!(health))
        .routes(routes!(node_get))
        .routes(routes!(node_stop))
        .routes(routes!(node_floor))
        .routes(routes!(node_cold_boot))
        .routes(routes!(template_list))
        .routes(routes!(template_get, template_delete))
        .routes(routes!(template_build))
        .routes(routes!(sandbox_create, sandbox_list))
        .routes(routes!(sandbox_get, sandbox_kill))
        .routes(routes!(sandbox_stats))
        .merge(seen_routes::routes())
        .routes(routes!(process_exec))
        .routes(routes!(process_stdin))
        .routes(routes!(process_signal))
        .merge(process_routes())
        .merge(lifecycle_routes())
        .merge(port_routes())
        .merge(policy_routes())
        .merge(database_routes())
        .merge(secret_routes())
        .merge(file_routes())
}

/// Serves `api` over HTTP to whom `access` lets, within `limits`, and the ports of its sandboxes beside it.
/// Every body is bounded by the operation that reads it. `watch` may put something around all of it
/// that sees requests with their route.
pub fn router<A: NodeApi, G: AccessApi>(
    api: Arc<A>,
    access: Arc<G>,
    limits: Limits,
    addresses: Addresses,
    watch: impl Fn(axum::Router) -> axum::Router,
) -> axum::Router {
    let doors = Doors { api: api.clone(), access, shares: Shares::new(limits) };
    let access_routes = access_routes::routes().with_state(doors.clone());
    let operations = axum::Router::from(routes::<A>().with_state(api.clone()).merge(access_routes))
        .merge(page::router())
        .merge(seen_routes::metrics_router(api))
        .fallback(nothing_here)
        .method_not_allowed_fallback(not_that_way)
        .layer(from_fn_with_state(doors.clone(), once::<A, G>))
        .layer(from_fn_with_state(doors.clone(), admit::<A, G>))
        .layer(from_fn_with_state(doors.clone(), guard::<A, G>))
        .layer(from_fn(finish));
    port::beside(operations, doors, addresses, watch)
}

async fn nothing_here() -> Failure {
    Failure::new(ErrorCode::NotFound, "there is no such operation")
}

async fn not_that_way() -> impl IntoResponse {
    let failure = Failure::new(ErrorCode::Unsupported, "this path does not take that method");
    (StatusCode::METHOD_NOT_ALLOWED, failure)
}

/// The document of the whole API, made without any implementation.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let access = access_routes::routes::<Nobody, Nobody>();
    with_forms(routes::<Nobody>().into_openapi().merge_from(access.into_openapi()))
}
