//! Whether a sandbox is in use: by a request, or by a stream that is still open.

use std::sync::Arc;

use tokio::sync::watch;

use crate::machine::wall_clock_ns;

/// Uses that go on now, and when the last one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Uses {
    open: usize,
    last_ms: u64,
}

/// Counts the uses of one sandbox. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Activity {
    uses: Arc<watch::Sender<Uses>>,
}

/// Uses that begin or end.
#[derive(Debug)]
pub(crate) struct Changes {
    uses: watch::Receiver<Uses>,
}

impl Changes {
    /// Returns when one did since the last call.
    pub(crate) async fn next(&mut self) {
        if self.uses.changed().await.is_err() {
            // Nobody is left who could use it.
            std::future::pending::<()>().await;
        }
    }
}

/// One use of a sandbox, until it is dropped.
#[derive(Debug)]
pub struct Use {
    uses: Arc<watch::Sender<Uses>>,
}

impl Drop for Use {
    fn drop(&mut self) {
        let last_ms = now_ms();
        self.uses.send_modify(|uses| {
            uses.open -= 1;
            uses.last_ms = last_ms;
        });
    }
}

impl Activity {
    /// Of a sandbox that was used just now.
    pub(crate) fn new() -> Self {
        let uses = watch::Sender::new(Uses { open: 0, last_ms: now_ms() });
        Self { uses: Arc::new(uses) }
    }

    /// Begins a use.
    pub(crate) fn begin(&self) -> Use {
        self.uses.send_modify(|uses| uses.open += 1);
        Use { uses: Arc::clone(&self.uses) }
    }

    /// Since when nobody uses it, in milliseconds since 1970 UTC; `None` while somebody does.
    pub(crate) fn idle_since_ms(&self) -> Option<u64> {
        let uses = *self.uses.borrow();
        (uses.open == 0).then_some(uses.last_ms)
    }

    /// Tells of every use that begins or ends from now on.
    pub(crate) fn watch(&self) -> Changes {
        Changes { uses: self.uses.subscribe() }
    }
}

/// Milliseconds since 1970 UTC.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(wall_clock_ns() / 1_000_000).unwrap_or_default()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_sandbox_is_idle_when_its_last_use_has_ended() {
        let activity = Activity::new();
        let begun = activity.idle_since_ms().unwrap();
        let (one, two) = (activity.begin(), activity.clone().begin());
        assert_eq!(activity.idle_since_ms(), None);
        drop(one);
        assert_eq!(activity.idle_since_ms(), None);
        drop(two);
        assert!(activity.idle_since_ms().unwrap() >= begun);
    }
}
