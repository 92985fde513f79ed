//! Databases whose machine has ended: each is booted again from its disk, where everything is that was
//! committed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use node_host::Phase;
use node_store::DatabaseRow;
use tokio::time::sleep;

use super::Databases;

/// LIMIT: machines that are booted again at once; after a power cut it may be all of them.
pub(super) const RESTARTS_MAX: usize = 2;
/// How long after a try the next one comes at first, and at most.
const AGAIN_AFTER: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// A machine that lasted this long does not end because of how it began.
const LASTED: Duration = Duration::from_secs(60);

impl Databases {
    /// Boots a database's machine again whenever it ends, until the database is deleted or the node
    /// stops. One that is used meanwhile is booted at once.
    pub(super) fn keep_up(&self, row: &DatabaseRow) {
        let Some(machine) = self.0.host.sandbox(row.sandbox) else { return };
        let (weak, stop, id) = (Arc::downgrade(&self.0), self.0.stop.clone(), row.id);
        let [first, longest] = AGAIN_AFTER;
        let keeping = async move {
            let mut after = first;
            loop {
                let begun = Instant::now();
                machine.ended().await;
                let Some(shared) = weak.upgrade() else { return };
                if machine.view().phase != Phase::Failed {
                    return;
                }
                if begun.elapsed() > LASTED {
                    after = first;
                }
                {
                    let _place = shared.restarts.acquire().await;
                    match machine.restart().await {
                        Ok(()) => tracing::info!(database = %id, "booted again from its disk"),
                        Err(error) => tracing::error!(database = %id, "cannot be booted: {error}"),
                    }
                }
                drop(shared);
                sleep(after).await;
                after = longest.min(after * 2);
            }
        };
        tokio::spawn(async move { stop.run_until_cancelled(keeping).await });
    }
}
