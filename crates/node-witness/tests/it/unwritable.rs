//! A log that cannot be written.

use std::fs;
use std::net::Ipv4Addr;

use axum::Router;
use axum::routing::{get, post};
use base_audit::segment_name;
use node_audit::AuditLog;
use node_witness::Witness;
use tokio::net::TcpListener;

use crate::{ask, logged};

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_down_is_not_done_but_kills_are() {
    logged();
    let dir = tempfile::tempdir().unwrap();
    let log = AuditLog::open_with(dir.path(), 1, 600).unwrap();
    let witness = Witness::new(log, || 1);
    let answer = || async { "done" };
    let router = Router::new()
        .route("/v1/sandboxes", post(answer).get(answer))
        .route("/v1/sandboxes/{id}", get(answer).delete(answer));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = witness.watch(router);
    tokio::spawn(axum::serve(listener, router).into_future());

    let create = || ask(&url, "POST", "/v1/sandboxes", &[], b"");
    assert_eq!(create().status, 200);
    // Names of the files to come are taken by directories, as when the disk refuses.
    let blocked: Vec<_> = (2..20).map(|first| dir.path().join(segment_name(first))).collect();
    blocked.iter().for_each(|path| fs::create_dir(path).unwrap());
    // One create finds out; what is done is done, and every one after it is refused.
    assert_eq!(create().status, 200);
    let refused = create();
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert_eq!(refused.json()["code"], "no_capacity");
    assert_eq!(refused.json()["request_id"], refused.request_id());
    // Reads and what frees something are served.
    assert_eq!(ask(&url, "GET", "/v1/sandboxes", &[], b"").status, 200);
    assert_eq!(ask(&url, "DELETE", "/v1/sandboxes/sbx_1", &[], b"").status, 200);

    blocked.iter().for_each(|path| fs::remove_dir(path).unwrap());
    assert_eq!(create().status, 200);
    let page = witness.log().page(None, 100).unwrap();
    let gap = page.entries.iter().find(|record| record.event.action == "audit_gap").unwrap();
    assert!(gap.event.detail.as_deref().unwrap().starts_with("2 entries"), "{gap:?}");
}
