//! What is written down of a sandbox, for the daemon after this one.

use std::sync::Arc;

use base_types::Chain;
use node_store::{LeaseRow, SandboxRow, StoredState};

use super::lease::OnTimeout;
use super::network::written;
use super::owner::Owner;

impl Owner {
    pub(super) fn row(&self) -> SandboxRow {
        let (facts, lease) = (&self.facts, self.lease_row());
        SandboxRow {
            id: facts.id,
            project: facts.project,
            name: facts.name.clone(),
            template: facts.template.clone(),
            size: facts.size,
            env: facts.env.clone(),
            metadata: facts.metadata.clone(),
            snapshot: facts.snapshot,
            lease,
            network: written(&self.network.policy()),
            secrets: serde_json::to_string(&facts.secrets).expect("grants are texts in lists"),
            state: StoredState::Creating,
            created_at_ms: facts.created_at_ms,
            reason: None,
            times: String::new(),
            errand: facts.errand.map(|errand| errand.0),
        }
    }

    pub(super) fn lease_row(&self) -> LeaseRow {
        let view = self.view.borrow();
        LeaseRow {
            timeout_s: view.lease.timeout_s,
            idle_timeout_s: view.lease.idle_timeout_s,
            pause: view.lease.on_timeout == OnTimeout::Pause,
            ends_at_ms: view.ends_at_ms,
        }
    }

    /// Remembers what was agreed about its time, as it is now.
    pub(super) async fn remember_lease(&self) {
        let stored = self.around.store.sandbox_set_lease(self.facts.id, self.lease_row()).await;
        self.complain(stored);
    }

    pub(super) async fn remember_running(&self) {
        let times = self.view.borrow().times;
        let times = serde_json::to_string(&times).unwrap_or_default();
        let (id, lease) = (self.facts.id, self.lease_row());
        let stored = self.around.store.sandbox_set_running(id, lease, times).await;
        self.complain(stored);
    }

    pub(super) async fn remember(&self, state: StoredState) {
        let reason = self.view.borrow().reason.clone();
        let stored = self.around.store.sandbox_set_state(self.facts.id, state, reason).await;
        let stored = stored.map_err(Arc::new);
        self.view.send_modify(|view| view.unsaved = stored.as_ref().err().map(Arc::clone));
        self.complain(stored);
    }

    /// A sandbox goes on when it cannot be written down; the next start removes what is left.
    pub(super) fn complain(&self, stored: Result<(), impl std::error::Error + 'static>) {
        if let Err(error) = stored {
            tracing::error!(sandbox = %self.facts.id, "{}", Chain(&error));
        }
    }
}
