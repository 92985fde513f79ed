use api_node::{ErrorCode, Flow, FlowProtocol, FlowQuery, Policy, Verdict};
use base_types::SandboxId;

use crate::operations::{node, sandbox};

#[tokio::test]
async fn a_policy_is_read_and_replaced() {
    let (_node, _served, client) = node().await;
    let id = sandbox(&client).await.id;
    assert_eq!(client.policy_get(id).await.unwrap(), Policy::default());
    let policy = Policy { deny: vec!["*:25".parse().unwrap()], ..Policy::default() };
    assert_eq!(client.policy_set(id, &policy).await.unwrap(), policy);
    assert_eq!(client.policy_get(id).await.unwrap(), policy);
    let error = client.policy_get(SandboxId::from_bits(99)).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::NotFound));
}

#[tokio::test]
async fn flows_are_listed_from_where_somebody_was() {
    let (node, _served, client) = node().await;
    let id = sandbox(&client).await.id;
    let flow = Flow {
        at_ms: 1,
        name: Some("pypi.org".into()),
        address: None,
        port: None,
        protocol: FlowProtocol::Dns,
        verdict: Verdict::Allowed,
        reason: "base default".into(),
        bytes_up: 30,
        bytes_down: 90,
        duration_ms: 4,
        count: 1,
    };
    for _ in 0..3 {
        node.flowed(id, flow.clone());
    }
    let query = FlowQuery { after: Some(1), limit: None };
    let list = client.flow_list(id, &query).await.unwrap();
    assert_eq!((list.flows.len(), list.flows[0].index), (1, 2));
    assert_eq!(list.flows[0].flow, flow);
}
