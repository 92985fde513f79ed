use std::fmt;
use std::sync::{Arc, OnceLock};

use base_types::SandboxId;

/// What the node does to a sandbox, or learns of it, without having been asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Its time was over, and it is destroyed.
    TimeoutKill,
    /// Its time was over, and it is paused.
    TimeoutPause,
    /// Its machine is over by itself.
    Failed,
    /// It was booted again from its disk.
    Restarted,
    /// It reached something outside, and that is over.
    NetworkFlow,
    /// It was not let out.
    NetworkDenied,
}

impl Deed {
    /// Its name, as accounts are kept under it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TimeoutKill => "timeout_kill",
            Self::TimeoutPause => "timeout_pause",
            Self::Failed => "sandbox_failed",
            Self::Restarted => "sandbox_restarted",
            Self::NetworkFlow => "network.flow",
            Self::NetworkDenied => "network.denied",
        }
    }
}

type Keeper = dyn Fn(SandboxId, Deed, &str) + Send + Sync;

/// Tells whoever keeps account what the node does by itself.
#[derive(Clone, Default)]
pub(crate) struct Journal(Arc<OnceLock<Box<Keeper>>>);

impl Journal {
    /// From now on, `keeper` is told: of which sandbox, what, and why. It must not block. Only the
    /// first one counts.
    pub(crate) fn keep(&self, keeper: Box<Keeper>) {
        // A second keeper would be a mistake of the program that starts the node, and harms nothing.
        let _ = self.0.set(keeper);
    }

    pub(crate) fn tell(&self, id: SandboxId, deed: Deed, why: &str) {
        if let Some(keeper) = self.0.get() {
            keeper(id, deed, why);
        }
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("kept", &self.0.get().is_some()).finish()
    }
}

#[cfg(test)]
mod test {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_journal_is_kept_by_the_first_who_offers() {
        let journal = Journal::default();
        let told = Arc::new(Mutex::new(Vec::new()));
        journal.tell(SandboxId::from_bits(1), Deed::Failed, "nobody keeps it yet");
        let keeping = told.clone();
        journal.keep(Box::new(move |id, deed, why| {
            keeping.lock().unwrap().push((id, deed.name(), why.to_owned()));
        }));
        journal.keep(Box::new(|_, _, _| panic!("the second one is told nothing")));
        journal.clone().tell(SandboxId::from_bits(2), Deed::TimeoutKill, "its time was over");
        let expected = (SandboxId::from_bits(2), "timeout_kill", "its time was over".to_owned());
        assert_eq!(*told.lock().unwrap(), [expected]);
    }
}
