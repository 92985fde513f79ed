//! What sandboxes may reach, and what they reached, over HTTP.

use api_node::{Flow, FlowList, FlowProtocol, Forked, Policy, Sandbox, Snapshot, Verdict};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::world::World;

/// A node, and one who has the key of an administrator.
struct Asker(World);

impl Asker {
    async fn new() -> Self {
        Self(World::new().await)
    }

    async fn create(&self, body: Value) -> Sandbox {
        self.0.make("/v1/sandboxes", body).await
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let said = self.0.ask(Some(&self.0.admin), &method, path, body.as_ref()).await;
        (said.status, said.body)
    }

    async fn policy(&self, sandbox: &Sandbox) -> Policy {
        let path = format!("/v1/sandboxes/{}/policy", sandbox.id);
        let (status, body) = self.ask(Method::GET, &path, None).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        serde_json::from_value(body).unwrap()
    }

    async fn set(&self, sandbox: &Sandbox, policy: Value) -> (StatusCode, Value) {
        self.ask(Method::PUT, &format!("/v1/sandboxes/{}/policy", sandbox.id), Some(policy)).await
    }

    async fn flows(&self, sandbox: &Sandbox, query: &str) -> FlowList {
        let path = format!("/v1/sandboxes/{}/flows{query}", sandbox.id);
        let (status, body) = self.ask(Method::GET, &path, None).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        serde_json::from_value(body).unwrap()
    }
}

fn policy(value: Value) -> Policy {
    serde_json::from_value(value).unwrap()
}

#[tokio::test]
async fn a_sandbox_reaches_the_internet_unless_its_create_says_otherwise() {
    let asker = Asker::new().await;
    let plain = asker.create(json!({})).await;
    assert_eq!(asker.policy(&plain).await, Policy::default());
    let narrow = json!({"base": "none", "allow": ["PyPI.org", "*.pythonhosted.org:443"]});
    let sandbox = asker.create(json!({"network": narrow})).await;
    let held = policy(json!({"base": "none", "allow": ["pypi.org", "*.pythonhosted.org:443"]}));
    assert_eq!(asker.policy(&sandbox).await, held);
    for wrong in [
        json!("none"),
        json!({"base": "all"}),
        json!({"allow": ["https://pypi.org"]}),
        json!({"allow": "pypi.org"}),
        json!({"deny": vec!["*"; 257]}),
        json!({"alow": []}),
    ] {
        let body = json!({"network": wrong});
        let (status, said) = asker.ask(Method::POST, "/v1/sandboxes", Some(body)).await;
        assert_eq!((status, &said["code"]), (StatusCode::BAD_REQUEST, &json!("invalid_request")));
    }
}

#[tokio::test]
async fn a_policy_is_replaced_as_a_whole_and_a_wrong_one_changes_nothing() {
    let asker = Asker::new().await;
    let sandbox = asker.create(json!({})).await;
    let (status, said) = asker.set(&sandbox, json!({"deny": ["203.0.113.0/24:22/tcp"]})).await;
    let whole = json!({"base": "default", "allow": [], "deny": ["203.0.113.0/24:22/tcp"]});
    assert_eq!((status, said), (StatusCode::OK, whole.clone()));
    let (status, said) = asker.set(&sandbox, json!({"allow": ["pypi.org", "pypi.org:0"]})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(said["message"].as_str().unwrap().contains("`0` is neither a port"), "{said}");
    assert_eq!(asker.policy(&sandbox).await, policy(whole));
    let (status, _) = asker.set(&sandbox, json!({})).await;
    assert_eq!((status, asker.policy(&sandbox).await), (StatusCode::OK, Policy::default()));
}

#[tokio::test]
async fn what_is_made_of_a_sandbox_reaches_what_that_may_and_nobody_elses_changes() {
    let asker = Asker::new().await;
    let none = json!({"base": "none"});
    let parent = asker.create(json!({"network": none})).await;
    let path = |rest: &str| format!("/v1/sandboxes/{}/{rest}", parent.id);
    let snapshot: Snapshot = asker.0.make(&path("snapshots"), json!({})).await;
    let forked: Forked = asker.0.make(&path("fork"), json!({"count": 1})).await;
    let child = &forked.sandboxes[0];
    assert_eq!(asker.policy(child).await, policy(none.clone()));
    // From here on each has its own.
    asker.set(&parent, json!({})).await;
    assert_eq!(asker.policy(child).await, policy(none.clone()));
    let of_snapshot = asker.create(json!({"snapshot": snapshot.id})).await;
    assert_eq!(asker.policy(&of_snapshot).await, policy(none));
    let wide = asker.create(json!({"snapshot": snapshot.id, "network": {}})).await;
    assert_eq!(asker.policy(&wide).await, Policy::default());
    // A pause keeps it, and does not stand in the way of a change.
    asker.ask(Method::POST, &format!("/v1/sandboxes/{}/pause", child.id), None).await;
    let (status, _) = asker.set(child, json!({"base": "none", "allow": ["*:443"]})).await;
    assert_eq!(status, StatusCode::OK);
    asker.ask(Method::POST, &format!("/v1/sandboxes/{}/resume", child.id), None).await;
    let held = policy(json!({"base": "none", "allow": ["*:443"]}));
    assert_eq!(asker.policy(child).await, held);
}

#[tokio::test]
async fn the_latest_flows_are_shown_and_those_after_one() {
    let asker = Asker::new().await;
    let sandbox = asker.create(json!({})).await;
    assert_eq!(asker.flows(&sandbox, "").await, FlowList::default());
    for port in 1..=5 {
        let flow = Flow {
            at_ms: 1_000,
            name: None,
            address: Some([203, 0, 113, 7].into()),
            port: Some(port),
            protocol: FlowProtocol::Udp,
            verdict: Verdict::Denied,
            reason: "base none".into(),
            bytes_up: 0,
            bytes_down: 0,
            duration_ms: 0,
            count: 2,
        };
        asker.0.node.flowed(sandbox.id, flow);
    }
    let ports = |list: FlowList| {
        (list.flows.iter().map(|e| e.flow.port.unwrap()).collect::<Vec<_>>(), list.more)
    };
    assert_eq!(ports(asker.flows(&sandbox, "?limit=2").await), (vec![4, 5], false));
    assert_eq!(ports(asker.flows(&sandbox, "?after=1&limit=2").await), (vec![3, 4], true));
    for wrong in ["?limit=0", "?limit=1001", "?after=-1", "?before=1"] {
        let path = format!("/v1/sandboxes/{}/flows{wrong}", sandbox.id);
        let (status, _) = asker.ask(Method::GET, &path, None).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}
