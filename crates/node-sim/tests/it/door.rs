use api_node::{CreateKey, CreatedKey, Project, Quota, Role, Sandbox, Usage};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world::World;

const CREATE: &str = "/v1/sandboxes";

#[tokio::test]
async fn a_key_works_in_either_header_until_it_is_revoked() {
    let world = World::new().await;
    let project = world.project("team", Quota::default()).await;
    let key = world.key(&project).await;
    let in_header = async |name: &str, value: &str| {
        let url = format!("{}{CREATE}", world.served.url);
        reqwest::Client::new().get(url).header(name, value).send().await.unwrap().status()
    };
    let bearer = format!("Bearer {}", key.secret);
    assert_eq!(in_header("authorization", &bearer).await, StatusCode::OK);
    assert_eq!(in_header("x-api-key", &key.secret).await, StatusCode::OK);
    assert_eq!(in_header("x-api-key", "sfk_nonsense").await, StatusCode::UNAUTHORIZED);
    assert_eq!(in_header("authorization", &key.secret).await, StatusCode::UNAUTHORIZED);
    let path = format!("/v1/keys/{}", key.facts.id);
    let revoked = world.ask(Some(&world.admin), &Method::DELETE, &path, None).await;
    assert_eq!(revoked.status, StatusCode::NO_CONTENT);
    assert_eq!(in_header("authorization", &bearer).await, StatusCode::UNAUTHORIZED);
    // Neither list nor log has the key; the list does not even have its hash.
    let list = world.ask(Some(&world.admin), &Method::GET, "/v1/keys", None).await;
    assert!(!list.body.to_string().contains("sfk_"), "{list:?}");
}

#[tokio::test]
async fn a_dump_with_nothing_in_it_is_refused() {
    let world = World::new().await;
    let made = json!({"name": "empty"});
    let made = world.ask(Some(&world.admin), &Method::POST, "/v1/databases", Some(&made)).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let said = world.ask(Some(&world.admin), &Method::PUT, "/v1/databases/empty/dump", None).await;
    assert_eq!(said.status, StatusCode::BAD_REQUEST, "{said:?}");
    assert_eq!(said.body["message"], "the body is empty", "{said:?}");
}

#[tokio::test]
async fn a_user_makes_no_keys_and_an_administrator_of_another_project_does() {
    let world = World::new().await;
    let project = world.project("team", Quota::default()).await;
    let user = world.key(&project).await;
    let body = json!({"name": "mine", "role": "admin"});
    let said = world.ask(Some(&user.secret), &Method::POST, "/v1/keys", Some(&body)).await;
    assert_eq!(said.status, StatusCode::FORBIDDEN, "{said:?}");
    let request = CreateKey {
        project: Some(project.id),
        name: "boss".into(),
        role: Role::Admin,
        expires_at_ms: None,
    };
    let boss: CreatedKey = world.make("/v1/keys", request).await;
    let said = world.ask(Some(&boss.secret), &Method::GET, "/v1/node", None).await;
    assert_eq!(said.status, StatusCode::OK, "{said:?}");
}

#[tokio::test]
async fn a_project_gets_no_more_than_its_quota_and_others_still_get_theirs() {
    let world = World::new().await;
    let quota = Quota { sandboxes: 2, ..Quota::default() };
    let small = world.key(&world.project("small", quota).await).await.secret;
    let other = world.key(&world.project("other", quota).await).await.secret;
    let create =
        async |key: &str| world.ask(Some(key), &Method::POST, CREATE, Some(&json!({}))).await;
    let first = create(&small).await;
    assert_eq!(create(&small).await.status, StatusCode::CREATED);
    let over = create(&small).await;
    assert_eq!(over.status, StatusCode::TOO_MANY_REQUESTS, "{over:?}");
    assert_eq!(over.code(), "quota_exceeded");
    let said = "the project may have 2 sandboxes; it has 2 and asked for 1 more";
    assert_eq!(over.body["message"], said);
    assert_eq!(create(&other).await.status, StatusCode::CREATED);
    let usage = world.ask(Some(&small), &Method::GET, "/v1/usage", None).await;
    let usage: Usage = usage.decoded();
    assert_eq!((usage.used.sandboxes, usage.used.vcpus, usage.used.memory_mib), (2, 2, 1024));
    assert_eq!(usage.used.creates_per_minute, 3);
    assert_eq!(usage.quota.sandboxes, 2);
    let path = format!("{CREATE}/{}", first.body["id"].as_str().unwrap());
    world.ask(Some(&small), &Method::DELETE, &path, None).await;
    assert_eq!(create(&small).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_project_keeps_no_more_snapshots_than_its_quota_says() {
    let world = World::new().await;
    let quota = Quota { snapshots: 1, ..Quota::default() };
    let key = world.key(&world.project("small", quota).await).await.secret;
    let made = world.ask(Some(&key), &Method::POST, CREATE, Some(&json!({}))).await;
    let path = format!("{CREATE}/{}/snapshots", made.body["id"].as_str().unwrap());
    let keep = async || world.ask(Some(&key), &Method::POST, &path, Some(&json!({}))).await;
    let first = keep().await;
    assert_eq!(first.status, StatusCode::CREATED, "{first:?}");
    let over = keep().await;
    assert_eq!((over.status, over.code()), (StatusCode::TOO_MANY_REQUESTS, "quota_exceeded"));
    let said = "the project may have 1 snapshots; it has 1 and asked for 1 more";
    assert_eq!(over.body["message"], said);
    let usage = world.ask(Some(&key), &Method::GET, "/v1/usage", None).await;
    assert_eq!(usage.decoded::<Usage>().used.snapshots, 1);
    let snapshot = format!("/v1/snapshots/{}", first.body["id"].as_str().unwrap());
    world.ask(Some(&key), &Method::DELETE, &snapshot, None).await;
    assert_eq!(keep().await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_quota_that_is_changed_holds_for_the_next_create() {
    let world = World::new().await;
    let project = world.project("team", Quota { sandboxes: 1, ..Quota::default() }).await;
    let key = world.key(&project).await.secret;
    let create =
        async || world.ask(Some(&key), &Method::POST, CREATE, Some(&json!({}))).await.status;
    let path = format!("/v1/projects/{}", project.id);
    let set =
        async |body: Value| world.ask(Some(&world.admin), &Method::PATCH, &path, Some(&body)).await;
    assert_eq!(
        (create().await, create().await),
        (StatusCode::CREATED, StatusCode::TOO_MANY_REQUESTS)
    );
    let said = set(json!({"quota": {"sandboxes": 2, "snapshots": 7}})).await;
    assert_eq!(said.status, StatusCode::OK, "{said:?}");
    let expected = Quota { sandboxes: 2, snapshots: 7, ..Quota::default() };
    assert_eq!(said.decoded::<Project>().quota, expected);
    assert_eq!(
        (create().await, create().await),
        (StatusCode::CREATED, StatusCode::TOO_MANY_REQUESTS)
    );
    // What is there stays when less is allowed.
    assert_eq!(set(json!({"quota": {"sandboxes": 0}})).await.status, StatusCode::OK);
    let usage = world.ask(Some(&key), &Method::GET, "/v1/usage", None).await.decoded::<Usage>();
    assert_eq!((usage.quota.sandboxes, usage.used.sandboxes), (0, 2));
    for wrong in [
        json!({}),
        json!({"quota": {}}),
        json!({"quota": {"sandboxes": -1}}),
        json!({"quota": {"sandboxes": 1_000_000_001}}),
        json!({"quota": {"sandbox": 1}}),
    ] {
        assert_eq!(set(wrong.clone()).await.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    let nobody = "/v1/projects/prj_00000000deadbeef";
    let body = json!({"quota": {"vcpus": 1}});
    let said = world.ask(Some(&world.admin), &Method::PATCH, nobody, Some(&body)).await;
    assert_eq!(said.status, StatusCode::NOT_FOUND, "{said:?}");
    let log = world.ask(Some(&world.admin), &Method::GET, "/v1/audit", None).await;
    let lines = log.body["entries"].as_array().unwrap();
    let line = lines.iter().find(|line| line["action"] == "project_change").unwrap();
    assert_eq!(line["object"], project.id.to_string(), "{line}");
    assert_eq!(line["detail"], "sandboxes 2, snapshots 7", "{line}");
}

#[tokio::test]
async fn every_long_list_comes_in_pages() {
    let world = World::new().await;
    let made: Sandbox = world.make(CREATE, json!({})).await;
    for name in ["a", "b", "c", "d", "e"] {
        let project = world.project(name, Quota::default()).await;
        world.key(&project).await;
        let _: Value = world.make(&format!("{CREATE}/{}/snapshots", made.id), json!({})).await;
    }
    let ask = async |path: &str| {
        let said = world.ask(Some(&world.admin), &Method::GET, path, None).await;
        assert_eq!(said.status, StatusCode::OK, "{path}: {said:?}");
        said.body
    };
    let ids = |page: &Value, list: &str| -> Vec<String> {
        let all = page[list].as_array().unwrap().iter();
        all.map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    };
    // With the default project and the administrator's key.
    for (list, count) in [("projects", 6), ("keys", 6), ("snapshots", 5)] {
        let whole = ask(&format!("/v1/{list}")).await;
        assert!(whole.get("next_cursor").is_none(), "{whole}");
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = ask(&format!("/v1/{list}?limit=2{cursor}")).await;
            assert!(ids(&page, list).len() <= 2, "{page}");
            seen.extend(ids(&page, list));
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!((&seen, seen.len()), (&ids(&whole, list), count), "{list}");
        for wrong in ["limit=0", "limit=101", "cursor=x", "state=running"] {
            let path = format!("/v1/{list}?{wrong}");
            let said = world.ask(Some(&world.admin), &Method::GET, &path, None).await;
            assert_eq!(said.status, StatusCode::BAD_REQUEST, "{path}: {said:?}");
        }
    }
}

#[tokio::test]
async fn a_project_with_sandboxes_or_snapshots_stays() {
    let world = World::new().await;
    let project = world.project("team", Quota::default()).await;
    let key = world.key(&project).await.secret;
    let made = world.ask(Some(&key), &Method::POST, CREATE, Some(&json!({}))).await;
    let path = format!("/v1/projects/{}", project.id);
    let delete = async || world.ask(Some(&world.admin), &Method::DELETE, &path, None).await;
    let sandbox = format!("{CREATE}/{}", made.body["id"].as_str().unwrap());
    let keep = format!("{sandbox}/snapshots");
    let kept = world.ask(Some(&key), &Method::POST, &keep, Some(&json!({}))).await;
    let snapshot = format!("/v1/snapshots/{}", kept.body["id"].as_str().unwrap());
    for (sandboxes, next) in [(1, &sandbox), (0, &snapshot)] {
        let refused = delete().await;
        assert_eq!(refused.status, StatusCode::CONFLICT, "{refused:?}");
        let said =
            format!("the project {} still has {sandboxes} sandboxes and 1 snapshots", project.id);
        assert_eq!(refused.body["message"], said);
        world.ask(Some(&key), &Method::DELETE, next, None).await;
    }
    assert_eq!(delete().await.status, StatusCode::NO_CONTENT);
    let after = world.ask(Some(&key), &Method::GET, CREATE, None).await;
    assert_eq!(after.status, StatusCode::UNAUTHORIZED, "{after:?}");
}

#[tokio::test]
async fn a_create_with_an_idempotency_key_happens_once() {
    let world = World::new().await;
    let one = world.key(&world.project("one", Quota::default()).await).await.secret;
    let two = world.key(&world.project("two", Quota::default()).await).await.secret;
    let create = async |key: &str, idempotency: &str, name: &str| {
        let body = json!({"name": name});
        world.ask_as(Some(key), &Method::POST, CREATE, Some(&body), Some(idempotency)).await
    };
    let first = create(&one, "a", "x").await;
    assert!(first.status == StatusCode::CREATED && !first.replayed, "{first:?}");
    let again = create(&one, "a", "x").await;
    assert!(again.status == StatusCode::CREATED && again.replayed, "{again:?}");
    assert_eq!(first.body, again.body);
    assert_eq!(world.node.sandbox_count(), 1);
    let other = create(&one, "a", "y").await;
    assert_eq!((other.status, other.code()), (StatusCode::CONFLICT, "conflict"), "{other:?}");
    // Keys of another project are other keys.
    let theirs = create(&two, "a", "x").await;
    assert!(theirs.status == StatusCode::CREATED && !theirs.replayed, "{theirs:?}");
    assert_ne!(theirs.body["id"], first.body["id"]);
    // What failed may be tried again.
    let full = api_node::Failure::new(api_node::ErrorCode::NoCapacity, "full");
    world.node.fail_next_create(full);
    assert_eq!(create(&one, "b", "x").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(create(&one, "b", "x").await.status, StatusCode::CREATED);
    let long = "k".repeat(256);
    assert_eq!(create(&one, &long, "x").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(world.node.sandbox_count(), 3);
}

#[tokio::test]
async fn keys_and_projects_are_made_once_and_a_key_is_shown_once() {
    let world = World::new().await;
    let ask = async |path: &str, body: &Value, idempotency: &str| {
        let key = Some(world.admin.as_str());
        world.ask_as(key, &Method::POST, path, Some(body), Some(idempotency)).await
    };
    let team = json!({"name": "team"});
    let first = ask("/v1/projects", &team, "p").await;
    let again = ask("/v1/projects", &team, "p").await;
    assert_eq!((first.status, again.status), (StatusCode::CREATED, StatusCode::CREATED));
    assert_eq!((&again.body, again.replayed, first.replayed), (&first.body, true, false));
    let ci = json!({"name": "ci"});
    let made = ask("/v1/keys", &ci, "k").await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let (secret, id) = (made.body["key"].as_str().unwrap(), made.body["id"].as_str().unwrap());
    for _ in 0..2 {
        let again = ask("/v1/keys", &ci, "k").await;
        assert_eq!((again.status, again.code()), (StatusCode::CONFLICT, "conflict"), "{again:?}");
        let text = again.body.to_string();
        assert!(again.replayed && text.contains(id) && !text.contains(secret), "{text}");
        let hint = again.body["hint"].as_str().unwrap();
        assert!(hint.contains("revoke") && hint.contains(id), "{hint}");
        assert!(again.body["request_id"].as_str().unwrap().starts_with("req_"), "{again:?}");
    }
    let other = ask("/v1/keys", &json!({"name": "other"}), "k").await;
    assert_eq!((other.status, other.code()), (StatusCode::CONFLICT, "conflict"), "{other:?}");
    let keys = world.ask(Some(&world.admin), &Method::GET, "/v1/keys", None).await;
    let named = keys.body["keys"].as_array().unwrap().iter().filter(|key| key["name"] == "ci");
    assert_eq!(named.count(), 1, "{keys:?}");
    assert_eq!(world.ask(Some(secret), &Method::GET, CREATE, None).await.status, StatusCode::OK);
}

#[tokio::test]
async fn creates_with_one_idempotency_key_at_once_make_one_sandbox() {
    let world = World::new().await;
    let body = json!({});
    let ask = || world.ask_as(Some(&world.admin), &Method::POST, CREATE, Some(&body), Some("a"));
    let all = [ask(), ask(), ask(), ask(), ask(), ask(), ask(), ask()];
    for said in futures_util::future::join_all(all).await {
        assert!(matches!(said.status, StatusCode::CREATED | StatusCode::CONFLICT), "{said:?}");
    }
    assert_eq!(world.node.sandbox_count(), 1);
}

/// Sends bytes as they are and gives what comes back.
async fn raw(world: &World, request: &[u8]) -> String {
    let address = world.served.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server that has said no may close before all is sent.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_head_that_is_too_big_is_refused_and_the_node_serves_on() {
    let world = World::new().await;
    let long = format!("GET /v1/health HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = (0..200).map(|n| format!("X{n}: x\r\n")).collect::<String>();
    let many = format!("GET /v1/health HTTP/1.1\r\nHost: a\r\n{many}\r\n");
    for request in [long, many] {
        let answer = raw(&world, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    let well = "GET /v1/health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert!(raw(&world, well.as_bytes()).await.starts_with("HTTP/1.1 200 "));
}
