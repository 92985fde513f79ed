//! Operations on secrets. As in [`crate::server::routes`], each without logic.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::api::NodeApi;
use crate::server::extract::{JsonBody, Places, parse};
use crate::server::routes::Answer;
use crate::server::seen::Noted;
use crate::{Caller, Failure, SecretList, SecretName, SetSecret, StoredSecret};

/// List secrets
///
/// Those of the caller's project, by name. What they say is shown by nothing.
#[utoipa::path(get, path = "/v1/secrets", tag = "secrets",
    responses((status = 200, description = "The secrets", body = SecretList), Failure))]
async fn secret_list<A: NodeApi>(State(api): State<Arc<A>>, caller: Caller) -> Answer<SecretList> {
    api.secret_list(&caller).await.map(Json)
}

/// Set a secret
///
/// Makes it, or gives it another value and other hosts, which hold for the next request of every
/// sandbox that has it. Sandboxes never see the value: a create with `secrets` gives them a placeholder
/// in a variable, and the node puts the value in where a request goes to one of the hosts.
#[utoipa::path(put, path = "/v1/secrets/{name}", tag = "secrets",
    params(("name" = String, Path)), request_body = SetSecret,
    responses((status = 201, description = "Made", body = StoredSecret),
        (status = 200, description = "Changed", body = StoredSecret), Failure))]
async fn secret_set<A: NodeApi>(
    State(api): State<Arc<A>>,
    caller: Caller,
    Places(name): Places<String>,
    JsonBody(request): JsonBody<SetSecret>,
) -> Result<impl IntoResponse, Failure> {
    let name: SecretName = parse(&name)?;
    let (set, made) = api.secret_set(&caller, name, request).await?;
    let hosts: Vec<_> = set.hosts.iter().map(ToString::to_string).collect();
    let noted = Noted {
        object: Some(set.name.to_string()),
        detail: Some(format!("for {}", hosts.join(", "))),
    };
    let status = if made { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Extension(noted), Json(set)))
}

/// Delete a secret
///
/// Sandboxes keep their placeholders; a request with one of them is refused from then on, and says so.
#[utoipa::path(delete, path = "/v1/secrets/{name}", tag = "secrets",
    params(("name" = String, Path)),
    responses((status = 204, description = "Gone"), Failure))]
async fn secret_delete<A: NodeApi>(
    State(api): State<Arc<A>>,
    caller: Caller,
    Places(name): Places<String>,
) -> Result<impl IntoResponse, Failure> {
    let name: SecretName = parse(&name)?;
    api.secret_delete(&caller, name.clone()).await?;
    Ok((StatusCode::NO_CONTENT, Extension(Noted::made(name))))
}

pub(super) fn secret_routes<A: NodeApi>() -> OpenApiRouter<Arc<A>> {
    OpenApiRouter::new().routes(routes!(secret_list)).routes(routes!(secret_set, secret_delete))
}
