//! Which of a sandbox's flows have something to do: so that a turn costs by what happened, not by how
//! many flows there are.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use futures_util::task::AtomicWaker;

use crate::frame::Tuple;

/// A flow of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Tcp(Tuple),
    Udp(Tuple),
    Echo(Tuple),
}

/// Flows that were woken. One for a sandbox.
#[derive(Debug, Default)]
pub(crate) struct Woken {
    keys: Mutex<Vec<Key>>,
    task: AtomicWaker,
}

impl Woken {
    /// Wakes this task when a flow is woken.
    pub(crate) fn register(&self, task: &Waker) {
        self.task.register(task);
    }

    /// At most so many of the flows that were woken, first come first served. Whoever gets a key
    /// calls [`Signal::taken`] of its flow.
    pub(crate) fn take(&self, most: usize) -> Vec<Key> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let count = keys.len().min(most);
        keys.drain(..count).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// Wakes one flow.
#[derive(Debug)]
pub(crate) struct Signal {
    key: Key,
    queued: AtomicBool,
    woken: Arc<Woken>,
}

impl Signal {
    pub(crate) fn new(key: Key, woken: Arc<Woken>) -> Arc<Self> {
        Arc::new(Self { key, queued: AtomicBool::new(false), woken })
    }

    /// From now on it is queued again when it is woken.
    pub(crate) fn taken(&self) {
        self.queued.store(false, Ordering::Release);
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.woken.keys.lock().unwrap_or_else(PoisonError::into_inner).push(self.key);
            self.woken.task.wake();
        }
    }
}
