//! What a client that means harm, or is merely wrong, gets from the router.

use api_node::{CreateSandbox, ErrorCode, Failure, JSON_BYTES_MAX, STDIN_BYTES_MAX};
use node_sim::SimNode;
use reqwest::{Client, Method, RequestBuilder};

async fn failure(ask: RequestBuilder) -> (u16, Failure) {
    let response = ask.send().await.unwrap();
    let status = response.status().as_u16();
    let id = response.headers()[api_node::REQUEST_ID_HEADER].to_str().unwrap().to_owned();
    let failure: Failure = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    assert_eq!(failure.request_id, id);
    // A method that a path does not take has a status of its own.
    let expected = if status == 405 { ErrorCode::Unsupported.status() } else { status };
    assert_eq!(failure.code.status(), expected);
    (status, failure)
}

/// The id of a sandbox that is there.
async fn sandbox(url: &str) -> String {
    let client = client::Client::new(url).unwrap();
    client.sandbox_create(&CreateSandbox::default()).await.unwrap().id.to_string()
}

#[tokio::test]
async fn every_wrong_body_gets_one_sentence() {
    let node = SimNode::new();
    let served = node.serve().await;
    let http = Client::new();
    let create = || http.post(format!("{}/v1/sandboxes", served.url));
    let json =
        |body: &str| create().header("content-type", "application/json").body(body.to_owned());
    for (body, expected) in [
        ("", "not a JSON object"),
        ("[]", "not a JSON object"),
        ("{", "EOF"),
        ("{\"size\":\"huge\"}", "unknown variant `huge`"),
        ("{\"template\":\"../etc\"}", "is not a template name"),
        ("{\"memory\":1}", "unknown field `memory`"),
        ("{\"env\":{\"A=B\":\"x\"}}", "which no process can have"),
        ("{\"name\":\"\"}", "`name` must be"),
    ] {
        let (status, failure) = failure(json(body)).await;
        assert_eq!((status, failure.code), (400, ErrorCode::InvalidRequest), "{body}");
        assert!(failure.message.contains(expected), "{body}: {}", failure.message);
        assert!(!failure.message.contains('\n'));
    }
    let deep = "[".repeat(100_000);
    assert_eq!(failure(json(&deep)).await.0, 400);
    let long = format!("{{\"name\":\"{}\"}}", "x".repeat(JSON_BYTES_MAX));
    assert_eq!(failure(json(&long)).await.1.code, ErrorCode::BodyTooLarge);
    let (_, refused) = failure(create().header("content-type", "text/plain").body("{}")).await;
    assert_eq!(refused.code, ErrorCode::Unsupported);
    assert_eq!(node.sandbox_count(), 0);
}

#[tokio::test]
async fn every_wrong_address_gets_one_sentence() {
    let served = SimNode::new().serve().await;
    let http = Client::new();
    let sandbox = &sandbox(&served.url).await;
    let none = "sbx_00000000deadbeef";
    for (method, path, code) in [
        (Method::GET, "/nothing".into(), ErrorCode::NotFound),
        (Method::GET, "/v2/health".into(), ErrorCode::NotFound),
        (Method::PATCH, "/v1/sandboxes".into(), ErrorCode::Unsupported),
        (Method::GET, "/v1/sandboxes/7".into(), ErrorCode::InvalidRequest),
        (Method::GET, "/v1/sandboxes/%2e%2e%2fx".into(), ErrorCode::InvalidRequest),
        (Method::GET, "/v1/sandboxes/%ff".into(), ErrorCode::InvalidRequest),
        (Method::GET, format!("/v1/sandboxes/{none}"), ErrorCode::NotFound),
        (Method::GET, format!("/v1/sandboxes/{none}/files"), ErrorCode::NotFound),
        (Method::GET, format!("/v1/sandboxes/{sandbox}/files"), ErrorCode::InvalidRequest),
        (Method::GET, format!("/v1/sandboxes/{sandbox}/files?path=x"), ErrorCode::InvalidRequest),
        (Method::GET, format!("/v1/sandboxes/{sandbox}/files?path=/x"), ErrorCode::PathNotFound),
        (
            Method::PUT,
            format!("/v1/sandboxes/{sandbox}/files?path=/x&mode=99999"),
            ErrorCode::InvalidRequest,
        ),
        (
            Method::POST,
            format!("/v1/sandboxes/{sandbox}/processes/x/stdin"),
            ErrorCode::InvalidRequest,
        ),
        (
            Method::POST,
            format!("/v1/sandboxes/{sandbox}/processes/1/stdin?close=perhaps"),
            ErrorCode::InvalidRequest,
        ),
        (Method::GET, "/v1/templates/agent/huge".into(), ErrorCode::InvalidRequest),
        (Method::GET, "/v1/templates/none/nano".into(), ErrorCode::TemplateUnknown),
        (Method::GET, "/v1/node/floor?runs=1000000".into(), ErrorCode::InvalidRequest),
    ] {
        let (_, failure) = failure(http.request(method, format!("{}{path}", served.url))).await;
        assert_eq!(failure.code, code, "{path}: {}", failure.message);
        assert!(!failure.message.is_empty() && !failure.message.contains('\n'));
    }
}

#[tokio::test]
async fn standard_input_is_bounded() {
    let node = SimNode::new();
    let served = node.serve().await;
    let path = format!("/v1/sandboxes/{}/processes/1/stdin", sandbox(&served.url).await);
    let ask =
        Client::new().post(format!("{}{path}", served.url)).body(vec![0_u8; STDIN_BYTES_MAX + 1]);
    assert_eq!(failure(ask).await.1.code, ErrorCode::BodyTooLarge);
}

#[tokio::test]
async fn a_web_page_of_another_origin_is_not_served() {
    let node = SimNode::new();
    let served = node.serve().await;
    let http = Client::new();
    let stop = format!("{}/v1/node/stop", served.url);
    let (status, _) = failure(http.post(&stop).header("origin", "https://evil.example")).await;
    assert_eq!(status, 403);
    let (status, _) = failure(http.post(&stop).header("origin", "null")).await;
    assert_eq!(status, 403);
    let health = format!("{}/v1/health", served.url);
    let (status, _) = failure(http.get(&health).header("host", "evil.example:7878")).await;
    assert_eq!(status, 403);
    let local = http.get(&health).header("origin", "http://localhost:3000").send().await.unwrap();
    assert!(local.status().is_success());
}
