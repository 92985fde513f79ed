//! Room for connections, and who leaves when there is none.
//!
//! ```text
//!   accepted ─▶ waiting ──a request was let in──▶ serving
//!                  ▲  │                              │
//!                  │  └─ the oldest leaves when a    │
//!                  │     newcomer finds no room      │
//!                  └────────── its answer ended ─────┘
//! ```
//!
//! So connections that say nothing, or nothing that is let in, keep nobody out; those that serve are
//! bounded for each project by [`super::shares`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The places of a listener.
#[derive(Clone, Debug)]
pub(crate) struct Seats {
    free: Arc<Semaphore>,
    waiting: Arc<Waiting>,
}

/// The seats that wait, oldest first.
#[derive(Debug, Default)]
struct Waiting {
    queue: Mutex<Queue>,
    /// Another seat began to wait.
    joined: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    by_age: BTreeMap<u64, Arc<Notify>>,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, leave: Arc<Notify>) -> u64 {
        let number = {
            let mut queue = self.lock();
            let number = queue.next;
            queue.next += 1;
            queue.by_age.insert(number, leave);
            number
        };
        self.joined.notify_one();
        number
    }
}

impl Seats {
    pub(crate) fn new(count: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(count)), waiting: Arc::default() }
    }

    /// Asks the one that waits longest to leave; false when none waits.
    pub(crate) fn make_room(&self) -> bool {
        let oldest = self.waiting.lock().by_age.pop_first();
        oldest.map(|(_, leave)| leave.notify_one()).is_some()
    }

    /// A place for a connection, for which one that waits leaves when there is none; when none waits
    /// either, the first that does.
    pub(crate) async fn take(&self) -> Arc<Seat> {
        loop {
            if let Ok(permit) = self.free.clone().try_acquire_owned() {
                let leave = Arc::new(Notify::new());
                let number = self.waiting.join(leave.clone());
                let waits = Mutex::new(Waits { number, serving: 0 });
                let waiting = self.waiting.clone();
                return Arc::new(Seat { waits, leave, waiting, _permit: permit });
            }
            if self.make_room() {
                // Whoever was asked to leave does so at once; this only waits for it.
                drop(self.free.acquire().await);
            } else {
                tokio::select! {
                    permit = self.free.acquire() => drop(permit),
                    () = self.waiting.joined.notified() => {}
                }
            }
        }
    }
}

/// A connection's place, free again when nothing holds it.
#[derive(Debug)]
pub(crate) struct Seat {
    waits: Mutex<Waits>,
    leave: Arc<Notify>,
    waiting: Arc<Waiting>,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Waits {
    /// In the queue, while it serves nothing.
    number: u64,
    /// Requests under way: one, or two while the end of an answer overlaps with the next request.
    serving: usize,
}

impl Seat {
    /// Returns when the connection has to make room.
    pub(crate) async fn asked_to_leave(&self) {
        self.leave.notified().await;
    }

    /// From now on it does not have to, until what this returns is dropped.
    pub(crate) fn serve(self: &Arc<Self>) -> Serving {
        let mut waits = self.lock();
        waits.serving += 1;
        if waits.serving == 1 {
            self.waiting.lock().by_age.remove(&waits.number);
        }
        drop(waits);
        Serving(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let number = self.lock().number;
        self.waiting.lock().by_age.remove(&number);
    }
}

/// That a connection serves a request; also one that became another protocol.
#[derive(Debug)]
pub(crate) struct Serving(Arc<Seat>);

impl Drop for Serving {
    fn drop(&mut self) {
        let mut waits = self.0.lock();
        waits.serving -= 1;
        if waits.serving == 0 {
            waits.number = self.0.waiting.join(self.0.leave.clone());
        }
    }
}

#[cfg(test)]
mod test {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn the_one_that_waits_longest_makes_room_and_one_that_serves_stays() {
        let seats = Seats::new(2);
        let first = seats.take().await;
        let second = seats.take().await;
        let serving = first.serve();
        let mut third = Box::pin(seats.take());
        assert!(third.as_mut().now_or_never().is_none());
        assert!(second.asked_to_leave().now_or_never().is_some());
        assert!(first.asked_to_leave().now_or_never().is_none());
        drop(second);
        let third = third.await;
        let also_serving = third.serve();
        // Nobody waits now: the next comes in when one begins to.
        let mut fourth = Box::pin(seats.take());
        assert!(fourth.as_mut().now_or_never().is_none());
        drop(serving);
        assert!(fourth.as_mut().now_or_never().is_none());
        assert!(first.asked_to_leave().now_or_never().is_some());
        drop(first);
        drop(fourth.await);
        drop((third, also_serving));
        assert_eq!(seats.free.available_permits(), 2);
        assert!(seats.waiting.lock().by_age.is_empty());
    }

    #[tokio::test]
    async fn where_the_system_has_no_room_the_one_that_waits_longest_makes_some() {
        let seats = Seats::new(9);
        assert!(!seats.make_room());
        let first = seats.take().await;
        let second = seats.take().await;
        assert!(seats.make_room());
        assert!(first.asked_to_leave().now_or_never().is_some());
        assert!(second.asked_to_leave().now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_connection_that_became_another_protocol_keeps_its_seat() {
        let seats = Seats::new(1);
        let seat = seats.take().await;
        let serving = seat.serve();
        drop(seat);
        let mut next = Box::pin(seats.take());
        assert!(next.as_mut().now_or_never().is_none());
        drop(serving);
        assert!(next.as_mut().now_or_never().is_some());
    }
}
