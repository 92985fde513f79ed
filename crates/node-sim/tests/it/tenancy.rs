//! No operation shows, changes or even admits to what belongs to another project.
//!
//! The operations are those of the document, so that one that is new fails here until it has a row.

use std::collections::BTreeMap;

use api_node::{Database, Quota, Sandbox, Snapshot};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::world::World;

/// What a user of another project gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gets {
    /// The answer everybody gets, key or not.
    Open,
    /// What belongs to the own project: the answer does not name anything of another.
    Own,
    /// What an id that never was gets, letter by letter.
    Nothing,
    /// That it is for administrators.
    Refused,
}

/// Every operation. Whatever follows the method is the route as the document has it.
const ROWS: &[(&str, Gets)] = &[
    ("get /v1/health", Gets::Open),
    ("get /v1/node", Gets::Refused),
    ("post /v1/node/stop", Gets::Refused),
    ("get /v1/node/floor", Gets::Refused),
    ("post /v1/node/cold-boot", Gets::Refused),
    ("get /v1/audit", Gets::Refused),
    ("get /v1/audit/verify", Gets::Refused),
    ("get /v1/projects", Gets::Refused),
    ("post /v1/projects", Gets::Refused),
    ("patch /v1/projects/{id}", Gets::Refused),
    ("delete /v1/projects/{id}", Gets::Refused),
    ("get /v1/keys", Gets::Refused),
    ("post /v1/keys", Gets::Refused),
    ("delete /v1/keys/{id}", Gets::Refused),
    ("get /v1/usage", Gets::Own),
    ("get /v1/templates", Gets::Own),
    ("get /v1/templates/{name}/{size}", Gets::Own),
    ("delete /v1/templates/{name}/{size}", Gets::Refused),
    ("post /v1/templates/{name}/{size}/build", Gets::Refused),
    ("get /v1/sandboxes", Gets::Own),
    ("post /v1/sandboxes", Gets::Own),
    ("get /v1/sandboxes/{id}", Gets::Nothing),
    ("delete /v1/sandboxes/{id}", Gets::Nothing),
    ("get /v1/sandboxes/{id}/stats", Gets::Nothing),
    ("get /v1/sandboxes/{id}/logs", Gets::Nothing),
    ("post /v1/sandboxes/{id}/pause", Gets::Nothing),
    ("post /v1/sandboxes/{id}/resume", Gets::Nothing),
    ("post /v1/sandboxes/{id}/timeout", Gets::Nothing),
    ("post /v1/sandboxes/{id}/measure", Gets::Nothing),
    ("post /v1/sandboxes/{id}/fork", Gets::Nothing),
    ("post /v1/sandboxes/{id}/snapshots", Gets::Nothing),
    ("get /v1/databases", Gets::Own),
    ("post /v1/databases", Gets::Own),
    ("get /v1/databases/{id}", Gets::Nothing),
    ("delete /v1/databases/{id}", Gets::Nothing),
    ("get /v1/databases/{id}/stats", Gets::Nothing),
    ("post /v1/databases/{id}/query", Gets::Nothing),
    ("post /v1/databases/{id}/password", Gets::Nothing),
    ("put /v1/databases/{id}/outside", Gets::Nothing),
    ("post /v1/databases/{id}/fork", Gets::Nothing),
    ("post /v1/databases/{id}/snapshots", Gets::Nothing),
    ("get /v1/databases/{id}/snapshots", Gets::Nothing),
    ("delete /v1/databases/{id}/snapshots/{snapshot}", Gets::Nothing),
    ("post /v1/databases/{id}/restore", Gets::Nothing),
    ("get /v1/databases/{id}/dump", Gets::Nothing),
    ("put /v1/databases/{id}/dump", Gets::Nothing),
    ("get /v1/sandboxes/{id}/databases", Gets::Nothing),
    ("put /v1/sandboxes/{id}/databases/{database}", Gets::Nothing),
    ("delete /v1/sandboxes/{id}/databases/{database}", Gets::Nothing),
    ("get /v1/secrets", Gets::Own),
    ("put /v1/secrets/{name}", Gets::Own),
    ("delete /v1/secrets/{name}", Gets::Nothing),
    ("get /v1/snapshots", Gets::Own),
    ("get /v1/snapshots/{id}", Gets::Nothing),
    ("delete /v1/snapshots/{id}", Gets::Nothing),
    ("post /v1/sandboxes/{id}/exec", Gets::Nothing),
    ("get /v1/sandboxes/{id}/processes", Gets::Nothing),
    ("post /v1/sandboxes/{id}/processes", Gets::Nothing),
    ("get /v1/sandboxes/{id}/processes/{process_id}", Gets::Nothing),
    ("get /v1/sandboxes/{id}/processes/{process_id}/events", Gets::Nothing),
    ("get /v1/sandboxes/{id}/processes/{process_id}/socket", Gets::Nothing),
    ("post /v1/sandboxes/{id}/processes/{process_id}/stdin", Gets::Nothing),
    ("post /v1/sandboxes/{id}/processes/{process_id}/signal", Gets::Nothing),
    ("post /v1/sandboxes/{id}/processes/{process_id}/resize", Gets::Nothing),
    ("get /v1/sandboxes/{id}/ports", Gets::Nothing),
    ("get /v1/sandboxes/{id}/ports/{port}", Gets::Nothing),
    ("put /v1/sandboxes/{id}/ports/{port}", Gets::Nothing),
    ("get /v1/sandboxes/{id}/policy", Gets::Nothing),
    ("put /v1/sandboxes/{id}/policy", Gets::Nothing),
    ("get /v1/sandboxes/{id}/flows", Gets::Nothing),
    ("get /v1/sandboxes/{id}/files", Gets::Nothing),
    ("put /v1/sandboxes/{id}/files", Gets::Nothing),
    ("delete /v1/sandboxes/{id}/files", Gets::Nothing),
    ("get /v1/sandboxes/{id}/files/archive", Gets::Nothing),
    ("put /v1/sandboxes/{id}/files/archive", Gets::Nothing),
    ("get /v1/sandboxes/{id}/files/list", Gets::Nothing),
    ("get /v1/sandboxes/{id}/files/stat", Gets::Nothing),
    ("get /v1/sandboxes/{id}/files/watch", Gets::Nothing),
    ("post /v1/sandboxes/{id}/files/make", Gets::Nothing),
    ("post /v1/sandboxes/{id}/files/move", Gets::Nothing),
];

/// The operations of the document, as the rows name them.
fn operations() -> Vec<(String, Method, String)> {
    let document = serde_json::to_value(api_node::openapi()).unwrap();
    let mut all = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let parsed = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            all.push((format!("{method} {path}"), parsed, path.clone()));
        }
    }
    all
}

/// A body that the operation takes, where it takes one.
fn body(operation: &str) -> Option<Value> {
    let (method, path) = operation.split_once(' ').unwrap();
    let body = match path.rsplit('/').next().unwrap() {
        "{port}" if method == "put" => json!({"public": true}),
        "policy" if method == "put" => json!({"base": "none"}),
        "{name}" if method == "put" => json!({"value": "x", "hosts": ["a.example"]}),
        "{database}" if method == "put" => json!({}),
        "outside" => json!({"outside": "off"}),
        _ if method != "post" => return None,
        "stdin" | "pause" | "resume" | "stop" | "cold-boot" | "build" => return None,
        "exec" | "processes" => json!({"argv": ["true"]}),
        "signal" => json!({"signal": 15}),
        "resize" => json!({"rows": 24, "cols": 80}),
        "timeout" => json!({"timeout_s": 60}),
        "databases" => json!({"name": "mine"}),
        "query" => json!({"sql": "select 1"}),
        "fork" if path.starts_with("/v1/databases") => json!({"name": "branch"}),
        "snapshots" if path.starts_with("/v1/databases") => json!({"name": "before"}),
        "restore" => json!({"snapshot": "before"}),
        "fork" => json!({"count": 1}),
        "make" => json!({"path": "/made"}),
        "move" => json!({"from": "/a", "to": "/b"}),
        "projects" => json!({"name": "mine"}),
        "keys" => json!({"name": "mine", "role": "admin"}),
        _ => json!({}),
    };
    Some(body)
}

fn place(path: &str, id: &str) -> String {
    let path = path.replace("{id}", id).replace("{process_id}", "1").replace("{port}", "80");
    let path = path.replace("{database}", "private-database");
    let path = path.replace("{name}", "agent").replace("{size}", "nano");
    if path.contains("/files") { format!("{path}?path=/a") } else { path }
}

struct Victim {
    key: String,
    sandbox: Sandbox,
    snapshot: Snapshot,
    database: Database,
}

impl Victim {
    /// What `{id}` in a path stands for.
    fn id_for(&self, path: &str) -> String {
        match path {
            _ if path.starts_with("/v1/snapshots") => self.snapshot.id.to_string(),
            _ if path.starts_with("/v1/databases") => self.database.id.to_string(),
            _ => self.sandbox.id.to_string(),
        }
    }
}

async fn victim(world: &World) -> Victim {
    let project = world.project("victim", Quota::default()).await;
    let key = world.key(&project).await.secret;
    let sandbox = json!({"name": "private-name", "metadata": {"a": "private-metadata"}});
    let sandbox = world.ask(Some(&key), &Method::POST, "/v1/sandboxes", Some(&sandbox)).await;
    let sandbox: Sandbox = sandbox.decoded();
    let path = format!("/v1/sandboxes/{}/snapshots", sandbox.id);
    let snapshot = json!({"name": "private-snapshot"});
    let snapshot = world.ask(Some(&key), &Method::POST, &path, Some(&snapshot)).await;
    let database = json!({"name": "private-database", "password": "private-password"});
    let database = world.ask(Some(&key), &Method::POST, "/v1/databases", Some(&database)).await;
    Victim { key, sandbox, snapshot: snapshot.decoded(), database: database.decoded() }
}

#[test]
fn every_operation_has_a_row_and_every_row_an_operation() {
    let rows: BTreeMap<&str, Gets> = ROWS.iter().copied().collect();
    assert_eq!(rows.len(), ROWS.len(), "a row is there twice");
    let operations = operations();
    for (operation, ..) in &operations {
        assert!(
            rows.contains_key(operation.as_str()),
            "`{operation}` is new: say in this table what a user of another project gets",
        );
    }
    for row in rows.keys() {
        assert!(operations.iter().any(|(operation, ..)| operation == row), "there is no `{row}`");
    }
}

#[tokio::test]
async fn another_projects_key_gets_nothing() {
    let world = World::new().await;
    let victim = victim(&world).await;
    let stranger = world.project("stranger", Quota::default()).await;
    let stranger = world.key(&stranger).await.secret;
    let rows: BTreeMap<&str, Gets> = ROWS.iter().copied().collect();
    for (operation, method, path) in operations() {
        let theirs = victim.id_for(&path);
        let never = match theirs.split_once('_') {
            Some(("snap", _)) => "snap_00000000deadbeef",
            Some(("db", _)) => "db_00000000deadbeef",
            _ => "sbx_00000000deadbeef",
        };
        let body = body(&operation);
        let ask = async |key: Option<&str>, id: &str| {
            world.ask(key, &method, &place(&path, id), body.as_ref()).await
        };
        let gets = rows[operation.as_str()];
        let said = ask(Some(&stranger), &theirs).await;
        let text = said.body.to_string();
        match gets {
            Gets::Open | Gets::Own => {
                assert!(said.status.is_success(), "{operation}: {said:?}");
                for secret in ["private-", &theirs, &victim.sandbox.id.to_string()] {
                    assert!(!text.contains(secret), "{operation} shows `{secret}`: {text}");
                }
            }
            Gets::Refused => {
                assert_eq!(said.status, StatusCode::FORBIDDEN, "{operation}: {said:?}");
                assert_eq!(said.code(), "permission_denied", "{operation}");
            }
            Gets::Nothing => {
                assert_eq!(said.status, StatusCode::NOT_FOUND, "{operation}: {said:?}");
                let unknown = ask(Some(&stranger), never).await;
                let plain = |mut body: Value, id: &str| {
                    body["request_id"] = Value::Null;
                    body.to_string().replace(id, "ID")
                };
                assert_eq!(plain(said.body, &theirs), plain(unknown.body, never), "{operation}");
            }
        }
        // Without a key there is only what is open.
        let without = ask(None, &theirs).await;
        if gets == Gets::Open {
            assert!(without.status.is_success(), "{operation}: {without:?}");
        } else {
            assert_eq!(without.status, StatusCode::UNAUTHORIZED, "{operation}: {without:?}");
            assert_eq!(without.code(), "unauthenticated", "{operation}");
        }
    }
    // All of it is still there, and its owner gets it: the refusals above were not for another reason.
    for (operation, method, path) in operations() {
        let gone = method == Method::DELETE || path == "/v1/node/stop";
        if rows[operation.as_str()] != Gets::Nothing || gone {
            continue;
        }
        let id = victim.id_for(&path);
        let body = body(&operation);
        let own = world.ask(Some(&victim.key), &method, &place(&path, &id), body.as_ref()).await;
        let message = own.body["message"].as_str().unwrap_or_default();
        assert!(!message.contains(&id), "{operation}: {own:?}");
        assert_ne!(own.status, StatusCode::FORBIDDEN, "{operation}: {own:?}");
        assert_ne!(own.status, StatusCode::UNAUTHORIZED, "{operation}: {own:?}");
    }
    // An administrator sees it too.
    let path = format!("/v1/sandboxes/{}", victim.sandbox.id);
    let seen = world.ask(Some(&world.admin), &Method::GET, &path, None).await;
    assert_eq!(seen.status, StatusCode::OK, "{seen:?}");
}

#[tokio::test]
async fn an_id_written_another_way_is_the_same_id() {
    let world = World::new().await;
    let victim = victim(&world).await;
    let stranger = world.project("stranger", Quota::default()).await;
    let stranger = world.key(&stranger).await.secret;
    let encoded = victim.sandbox.id.to_string().replace('_', "%5F");
    for (key, status) in [(&victim.key, StatusCode::OK), (&stranger, StatusCode::NOT_FOUND)] {
        let path = format!("/v1/sandboxes/{encoded}");
        let said = world.ask(Some(key), &Method::GET, &path, None).await;
        assert_eq!(said.status, status, "{said:?}");
        assert!(!said.body.to_string().contains("private-") || status == StatusCode::OK);
    }
    for odd in ["/v1/sandboxes/", "//v1/sandboxes", "/v1/sandboxes/../node", "/v1/SANDBOXES"] {
        let said = world.ask(Some(&stranger), &Method::GET, odd, None).await;
        assert!(said.status.is_client_error(), "{odd}: {said:?}");
    }
}

#[tokio::test]
async fn a_snapshot_of_another_project_makes_no_sandbox() {
    let world = World::new().await;
    let victim = victim(&world).await;
    let stranger = world.project("stranger", Quota::default()).await;
    let stranger = world.key(&stranger).await.secret;
    let ask = async |key: &str, snapshot: &str| {
        let body = json!({"snapshot": snapshot});
        world.ask(Some(key), &Method::POST, "/v1/sandboxes", Some(&body)).await
    };
    let theirs = victim.snapshot.id.to_string();
    let said = ask(&stranger, &theirs).await;
    assert_eq!(said.status, StatusCode::NOT_FOUND, "{said:?}");
    let never = ask(&stranger, "snap_00000000deadbeef").await;
    assert_eq!(
        said.body["message"].as_str().unwrap().replace(&theirs, "ID"),
        never.body["message"].as_str().unwrap().replace("snap_00000000deadbeef", "ID"),
    );
    assert_eq!(ask(&victim.key, &theirs).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_name_stands_for_a_database_of_ones_own_project_alone() {
    let world = World::new().await;
    let victim = victim(&world).await;
    let stranger = world.project("stranger", Quota::default()).await;
    let stranger = world.key(&stranger).await.secret;
    let (name, id) = (victim.database.name.clone(), victim.database.id.to_string());
    let get = async |key: &str, which: &str| {
        let path = format!("/v1/databases/{which}");
        world.ask(Some(key), &Method::GET, &path, None).await
    };
    for which in [&name, &id, &name.to_uppercase()] {
        assert_eq!(get(&victim.key, which).await.decoded::<Database>(), victim.database);
        let said = get(&stranger, which).await;
        assert_eq!(said.status, StatusCode::NOT_FOUND, "{said:?}");
    }
    // The same name in another project is another database.
    let body = json!({"name": name, "exist_ok": true});
    let said = world.ask(Some(&stranger), &Method::POST, "/v1/databases", Some(&body)).await;
    assert_eq!(said.status, StatusCode::CREATED, "{said:?}");
    assert_ne!(said.decoded::<Database>().id, victim.database.id);
    // And a sandbox is wired to none of another project.
    let sandbox =
        world.ask(Some(&stranger), &Method::POST, "/v1/sandboxes", Some(&json!({}))).await;
    let sandbox: Sandbox = sandbox.decoded();
    let path = format!("/v1/sandboxes/{}/databases/{id}", sandbox.id);
    let said = world.ask(Some(&stranger), &Method::PUT, &path, Some(&json!({}))).await;
    assert_eq!(said.status, StatusCode::NOT_FOUND, "{said:?}");
}

#[tokio::test]
async fn passwords_of_databases_are_in_no_list() {
    let world = World::new().await;
    let victim = victim(&world).await;
    for key in [&victim.key, &world.admin] {
        let said = world.ask(Some(key), &Method::GET, "/v1/databases", None).await;
        let text = said.body.to_string();
        assert!(text.contains("private-database"), "{text}");
        assert!(!text.contains("private-password"), "{text}");
    }
}
