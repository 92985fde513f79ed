use api_node::{ErrorCode, Port, SetPort};
use base_types::SandboxId;

use crate::operations::{node, sandbox};

#[tokio::test]
async fn a_port_is_made_public_and_private_again() {
    let (_node, _served, client) = node().await;
    let id = sandbox(&client).await.id;
    let private = client.port_get(id, 8000).await.unwrap();
    assert!(!private.public && private.url.contains("//8000-"), "{private:?}");
    assert_eq!(private.path_url, format!("{}/v1/sandboxes/{id}/ports/8000/", client.url()));
    let public = client.port_set(id, 8000, SetPort { public: true }).await.unwrap();
    assert_eq!(public, Port { public: true, ..private.clone() });
    assert_eq!(client.port_list(id).await.unwrap().ports, [public]);
    assert_eq!(client.port_set(id, 8000, SetPort { public: false }).await.unwrap(), private);
    assert!(client.port_list(id).await.unwrap().ports.is_empty());
    let error = client.port_get(id, 0).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::InvalidRequest));
    let error = client.port_get(SandboxId::from_bits(99), 1).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::NotFound));
}
