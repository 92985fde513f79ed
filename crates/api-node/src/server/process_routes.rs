//! Operations on processes that live on their own.

use std::sync::Arc;

use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::api::NodeApi;
use crate::server::extract::{JsonBody, Params, Places, parse};
use crate::server::reply::ndjson;
use crate::server::routes::Answer;
use crate::server::seen::Noted;
use crate::server::shares::Held;
use crate::server::socket;
use crate::{
    ErrorCode, EventsQuery, ExecEvent, Failure, Process, ProcessId, ProcessList, PtySize,
    SOCKET_MESSAGE_BYTES_MAX, SpawnRequest,
};

/// Start a process that lives on its own
///
/// Answers when it runs. It goes on when nobody listens: its events are kept, up to 1 MiB of output, for
/// those who follow it later. One whose program cannot be run is there too, over, as in a shell. At most
/// 64 run at once in a sandbox. A node may be set to other figures than these two.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/processes", tag = "processes",
    params(("id" = String, Path)), request_body = SpawnRequest,
    responses((status = 201, description = "The process", body = Process), Failure))]
async fn process_spawn<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
    JsonBody(request): JsonBody<SpawnRequest>,
) -> Result<impl IntoResponse, Failure> {
    let seen = Extension(Noted::program(&request.argv));
    Ok((StatusCode::CREATED, seen, Json(api.process_spawn(parse(&id)?, request).await?)))
}

/// List processes
///
/// Those started to live on their own; one that is over stays for 10 minutes.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/processes", tag = "processes",
    params(("id" = String, Path)),
    responses((status = 200, description = "The processes", body = ProcessList), Failure))]
async fn process_list<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
) -> Answer<ProcessList> {
    api.process_list(parse(&id)?).await.map(Json)
}

/// A process
#[utoipa::path(get, path = "/v1/sandboxes/{id}/processes/{process_id}", tag = "processes",
    params(("id" = String, Path), ("process_id" = u32, Path)),
    responses((status = 200, description = "The process", body = Process), Failure))]
async fn process_get<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places((id, process)): Places<(String, String)>,
) -> Answer<Process> {
    api.process_get(parse(&id)?, ProcessId(parse(&process)?)).await.map(Json)
}

/// Follow a process
///
/// Answers with a stream of events: first what was kept, then what happens, up to `exit`. A caller that
/// lost its connection asks again with `after` and misses nothing that is still kept; what is not is
/// counted in a `dropped` event. Closing the connection leaves the process as it is.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/processes/{process_id}/events", tag = "processes",
    params(("id" = String, Path), ("process_id" = u32, Path), EventsQuery),
    responses((status = 200, description = "What happens, one event per line", body = ExecEvent,
        content_type = "application/x-ndjson"), Failure))]
async fn process_events<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places((id, process)): Places<(String, String)>,
    Params(query): Params<EventsQuery>,
) -> Result<Response, Failure> {
    let (id, process) = (parse(&id)?, ProcessId(parse(&process)?));
    api.process_attach(id, process, query).await.map(|line| ndjson(line.events))
}

/// Give a process's terminal another size
#[utoipa::path(post, path = "/v1/sandboxes/{id}/processes/{process_id}/resize", tag = "processes",
    params(("id" = String, Path), ("process_id" = u32, Path)), request_body = PtySize,
    responses((status = 204, description = "It has that size"), Failure))]
async fn process_resize<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places((id, process)): Places<(String, String)>,
    JsonBody(size): JsonBody<PtySize>,
) -> Result<StatusCode, Failure> {
    let (id, process) = (parse(&id)?, ProcessId(parse(&process)?));
    api.process_resize(id, process, size).await.map(|()| StatusCode::NO_CONTENT)
}

/// A process's terminal as a WebSocket
///
/// Binary messages are output, and input the other way. Text messages from the node are events other
/// than output, as of `/events`, each with the number of the last output before it; those to the node
/// are `{"resize": {"rows": 24, "cols": 80}}`, `{"signal": 2}` and `{"close_stdin": true}`. After the
/// last event the node closes. Works for processes without a terminal too; their two streams are one here.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/processes/{process_id}/socket", tag = "processes",
    params(("id" = String, Path), ("process_id" = u32, Path), EventsQuery),
    responses((status = 101, description = "The protocol is WebSocket from here on"), Failure))]
async fn process_socket<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places((id, process)): Places<(String, String)>,
    Params(query): Params<EventsQuery>,
    Extension(held): Extension<Held>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Failure> {
    let (id, process) = (parse(&id)?, ProcessId(parse(&process)?));
    let upgrade = upgrade.map_err(|rejection| {
        Failure::new(ErrorCode::Unsupported, "this operation is a WebSocket")
            .with_hint("ask for an upgrade of the connection, or read `events` instead")
            .with_internal(rejection.to_string())
    })?;
    let line = api.process_attach(id, process, query).await?;
    let upgrade =
        upgrade.max_message_size(SOCKET_MESSAGE_BYTES_MAX).max_frame_size(SOCKET_MESSAGE_BYTES_MAX);
    Ok(upgrade.on_upgrade(|socket| socket::serve(socket, line, held)))
}

pub(super) fn process_routes<A: NodeApi>() -> OpenApiRouter<Arc<A>> {
    OpenApiRouter::new()
        .routes(routes!(process_spawn, process_list))
        .routes(routes!(process_get))
        .routes(routes!(process_events))
        .routes(routes!(process_resize))
        .routes(routes!(process_socket))
}
