//! Sees every request of the API: one line in the audit log for each that changes something, figures
//! of all of them, and a span that gives every line of the node's log its request.
//!
//! It stands outside the router and knows operations by their names in the OpenAPI document, so one
//! that is new is seen without a word here. It reads no bodies and no headers: what it writes comes
//! from the path, from who the door found the caller to be, and from what a handler noted on purpose.
#![warn(missing_docs)]

mod metrics;
mod operations;
mod output;
mod refusals;
mod see;

use std::sync::Arc;

use api_node::{AuditEntry, AuditList, AuditQuery, ErrorCode, Failure};
use axum::Router;
use axum::middleware::from_fn_with_state;
use base_audit::{Event, Record};
use node_audit::AuditLog;

pub use metrics::{Gauges, Metrics};

use crate::operations::Operations;
use crate::refusals::Refusals;

/// Who is named on a node without keys.
const LOCAL_ACTOR: &str = "local";
/// Who is named when nobody was let in.
const UNKNOWN_ACTOR: &str = "unknown";

/// What sees the requests of a node.
#[derive(Debug)]
pub struct Witness {
    log: AuditLog,
    metrics: Metrics,
    operations: Operations,
    refusals: Refusals,
    now_ms: fn() -> u64,
}

impl Witness {
    /// One that writes to `log`. `now_ms` tells the time, in milliseconds since the Unix epoch.
    pub fn new(log: AuditLog, now_ms: fn() -> u64) -> Arc<Self> {
        Arc::new(Self {
            log,
            metrics: Metrics::new(),
            operations: Operations::of(&api_node::openapi()),
            refusals: Refusals::default(),
            now_ms,
        })
    }

    /// `router`, with everything that passes it seen.
    pub fn watch(self: &Arc<Self>, router: Router) -> Router {
        router.layer(from_fn_with_state(self.clone(), see::see))
    }

    /// The figures.
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The log.
    pub const fn log(&self) -> &AuditLog {
        &self.log
    }

    /// Entries of the log, as the API shows them.
    ///
    /// # Errors
    ///
    /// When its files cannot be read, or are not as they were written.
    pub async fn audit_list(&self, query: AuditQuery) -> Result<AuditList, Failure> {
        let log = self.log.clone();
        let page = tokio::task::spawn_blocking(move || log.page(query.after, query.limit())).await;
        let page = page.map_err(|error| {
            Failure::because(ErrorCode::Internal, "the audit log could not be read", &error)
        })?;
        let page = page.map_err(|error| {
            Failure::because(ErrorCode::Internal, "the audit log could not be read", &error)
                .with_hint("`sandflare audit verify` on the node says what is wrong with it")
        })?;
        Ok(AuditList { entries: page.entries.into_iter().map(entry).collect(), more: page.more })
    }

    /// Writes down what the node did to `object` by itself.
    pub fn node_did(&self, action: &str, object: String, result: &str, detail: Option<String>) {
        self.log.note(Event {
            time_ms: (self.now_ms)(),
            actor: node_audit::NODE_ACTOR.into(),
            action: action.into(),
            object: Some(object),
            result: result.into(),
            detail,
            ..Event::default()
        });
    }
}

fn entry(record: Record) -> AuditEntry {
    let Record { index, event, previous, hash } = record;
    let Event { time_ms, actor, project, source, request, action, object, result, detail } = event;
    let (previous, hash) = (previous.to_string(), hash.to_string());
    AuditEntry {
        index,
        time_ms,
        actor,
        project,
        source,
        request,
        action,
        object,
        result,
        detail,
        previous,
        hash,
    }
}
