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

use api_node::{
    AuditEntry, AuditList, AuditQuery, AuditVerified, AuditVerifyQuery, ErrorCode, Failure,
};
use axum::Router;
use axum::middleware::from_fn_with_state;
use base_audit::{Event, Link, Record, VerifyError};
use base_types::Chain;
use node_audit::AuditLog;
use tokio::sync::Mutex;

pub use metrics::{Gauges, Metrics};

use crate::operations::Operations;
use crate::refusals::Refusals;

/// Who is named on a node without keys.
const LOCAL_ACTOR: &str = "local";
/// Who is named when nobody was let in.
const UNKNOWN_ACTOR: &str = "unknown";
/// What came of it when somebody was not let in, but by the API.
const DENIED: &str = "denied";

/// What sees the requests of a node.
#[derive(Debug)]
pub struct Witness {
    log: AuditLog,
    metrics: Metrics,
    operations: Operations,
    refusals: Refusals,
    denials: Refusals,
    /// LIMIT: one verification at once; each reads all of the log, and others wait for it.
    verifying: Arc<Mutex<()>>,
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
            denials: Refusals::default(),
            verifying: Arc::default(),
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
                .with_hint("`sandflare audit verify` says what is wrong with it")
        })?;
        Ok(AuditList { entries: page.entries.into_iter().map(entry).collect(), more: page.more })
    }

    /// What every line of the log says, from the first on.
    ///
    /// # Errors
    ///
    /// When its files cannot be read. That they were changed is an answer.
    pub async fn audit_verify(&self, query: AuditVerifyQuery) -> Result<AuditVerified, Failure> {
        let noted =
            query.head.map(|head| head.parse::<Link>()).transpose().map_err(|error| {
                Failure::new(ErrorCode::InvalidRequest, format!("`head`: {error}"))
            })?;
        // The lock goes with the work: that goes on when whoever asked has left.
        let (log, alone) = (self.log.clone(), self.verifying.clone().lock_owned().await);
        let verified = tokio::task::spawn_blocking(move || {
            let _alone = alone;
            log.verify(noted)
        });
        let verified = verified.await.map_err(|error| {
            Failure::because(ErrorCode::Internal, "the audit log could not be read", &error)
        })?;
        match verified {
            Ok(found) => Ok(AuditVerified {
                whole: true,
                entries: found.entries,
                first: found.last.map(|_| 0),
                last: found.last.map(|link| link.index),
                head: found.last.map(|link| link.to_string()),
                torn_bytes: found.torn_bytes,
                fault: None,
            }),
            Err(error @ VerifyError::Read { .. }) => {
                let message = "the audit log could not be read";
                Err(Failure::because(ErrorCode::Internal, message, &error))
            }
            Err(error) => {
                let entries = error.entries_before();
                Ok(AuditVerified {
                    whole: false,
                    entries,
                    first: (entries > 0).then_some(0),
                    last: entries.checked_sub(1),
                    head: None,
                    torn_bytes: 0,
                    fault: Some(Chain(&error).to_string()),
                })
            }
        }
    }

    /// Writes down that somebody at `source`, who came not by the API, was not let in to `object`; not one line
    /// for each when there are many.
    pub fn node_denied(&self, action: &str, object: String, source: String, detail: String) {
        let time_ms = (self.now_ms)();
        let Some(passed_over) = self.denials.line(time_ms) else { return };
        let detail = match passed_over {
            0 => detail,
            _ => format!("{detail}; {passed_over} denials before this one have no line"),
        };
        self.log.note(Event {
            time_ms,
            actor: UNKNOWN_ACTOR.into(),
            source: Some(source),
            action: action.into(),
            object: Some(object),
            result: DENIED.into(),
            detail: Some(detail),
            ..Event::default()
        });
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

#[cfg(test)]
mod test {
    use node_audit::Durability;

    use super::*;

    #[tokio::test]
    async fn a_flood_of_denials_has_few_lines_which_say_who_came() {
        let dir = tempfile::tempdir().unwrap();
        let witness = Witness::new(AuditLog::open(dir.path(), 7).unwrap(), || 7);
        for _ in 0..100 {
            let (object, source) = ("db_1".to_owned(), "10.0.0.1:5".to_owned());
            witness.node_denied("database.denied", object, source, "it is open to off".to_owned());
        }
        // Written when all before it are.
        let last = Event { action: "last".to_owned(), ..Event::default() };
        witness.log().append(last, Durability::Written).await.unwrap();
        let query = AuditQuery { after: None, limit: Some(1000) };
        let entries = witness.audit_list(query).await.unwrap().entries;
        let denied = entries.iter().filter(|entry| entry.action == "database.denied");
        let denied: Vec<_> = denied.collect();
        assert_eq!(denied.len(), 60);
        let first = denied[0];
        assert_eq!((first.actor.as_str(), first.result.as_str()), ("unknown", "denied"));
        assert_eq!(first.source.as_deref(), Some("10.0.0.1:5"));
        assert_eq!(first.detail.as_deref(), Some("it is open to off"));
    }
}
