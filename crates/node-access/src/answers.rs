//! Creates that must not happen twice: their answers are kept for a day.
//!
//! An answer is written when the create has ended well. A node that dies between the two has made
//! something whose caller heard nothing: a sandbox or a snapshot is then found by the
//! [errand](api_node::Errand) that is remembered with it. Only a process in a guest is not: it is
//! started again.

use std::sync::Arc;

use api_node::{ANSWER_KEPT_MS, Begun, ErrorCode, Failure, Fingerprint, KeptAnswer};
use base_types::{Chain, ProjectId};
use bytes::Bytes;
use node_store::AnswerRow;

use crate::{Access, Inner};

/// LIMIT: answers kept for one project, the newest; a few KiB each.
const KEPT_MAX: u32 = 1000;
/// LIMIT: creates with a key that are under way, of all projects; each has a connection of its own
/// at the door, of which there are fewer.
const UNDER_WAY_MAX: usize = 10_000;

/// A create that is under way, until this is dropped.
pub struct Ticket {
    inner: Arc<Inner>,
    project: ProjectId,
    key: String,
    fingerprint: Fingerprint,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("project", &self.project).finish_non_exhaustive()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.inner.lock().under_way.remove(&(self.project, std::mem::take(&mut self.key)));
    }
}

impl Access {
    pub(crate) async fn begin(
        &self,
        project: ProjectId,
        key: &str,
        fingerprint: Fingerprint,
    ) -> Result<Begun<Ticket>, Failure> {
        let inner = self.inner.clone();
        {
            let mut state = inner.lock();
            if state.under_way.len() >= UNDER_WAY_MAX {
                let message = "too many creates with an idempotency key are under way";
                return Err(Failure::new(ErrorCode::NoCapacity, message));
            }
            if !state.under_way.insert((project, key.to_owned())) {
                let message = "a request with this idempotency key is still being carried out";
                return Err(Failure::new(ErrorCode::Conflict, message)
                    .with_hint("ask again when it had time to end"));
            }
        }
        let since_ms = inner.now_ms().saturating_sub(ANSWER_KEPT_MS);
        let ticket = Ticket { inner, project, key: key.to_owned(), fingerprint };
        let found = self.inner.store.answer_get(project, key.to_owned(), since_ms).await;
        match found.map_err(|error| crate::api::of_store(&error))? {
            None => Ok(Begun::Fresh(ticket)),
            Some(row) if row.fingerprint == fingerprint => {
                Ok(Begun::Kept(KeptAnswer { status: row.status, body: Bytes::from(row.body) }))
            }
            Some(_) => {
                let message = "this idempotency key was used for another request";
                Err(Failure::new(ErrorCode::Conflict, message)
                    .with_hint("use a new key for each thing to be made"))
            }
        }
    }

    /// Nobody waits for the answer to be written: whoever asks the store for it comes after it.
    pub(crate) fn keep(&self, ticket: Ticket, answer: KeptAnswer) {
        let now_ms = self.inner.now_ms();
        let row = AnswerRow {
            project: ticket.project,
            key: ticket.key.clone(),
            fingerprint: ticket.fingerprint,
            status: answer.status,
            body: answer.body.to_vec(),
            created_at_ms: now_ms,
        };
        let since_ms = now_ms.saturating_sub(ANSWER_KEPT_MS);
        let kept = self.inner.store.answer_insert(row, since_ms, KEPT_MAX);
        tokio::spawn(async move {
            if let Err(error) = kept.await {
                // It was made, which is what its caller heard.
                tracing::warn!("an answer could not be kept: {}", Chain(&error));
            }
        });
        // The ticket goes now: from here on the answer is found.
    }
}
