//! A panic of one sandbox's network ends that network and nothing else.
//!
//! What a guest sends goes through a TCP stack of others, which says "cannot be" by a panic. Should a
//! guest find a way to one, it has broken its own network. A panic anywhere else in the daemon is our
//! mistake, and ends it: whoever installs the panic hook asks [`contains_panics`] which it is.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is in a network whose panic ends only that network.
pub fn contains_panics() -> bool {
    INSIDE.get()
}

/// A network that is over when it panics.
pub(crate) struct Contained<F>(Pin<Box<F>>);

impl<F> Contained<F> {
    pub(crate) fn new(network: F) -> Self {
        Self(Box::pin(network))
    }
}

impl<F: Future<Output = ()>> Future for Contained<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        INSIDE.set(true);
        // Not polled again after a panic: only dropped, in whatever state it is.
        let polled = catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(cx)));
        INSIDE.set(false);
        polled.unwrap_or(Poll::Ready(()))
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[tokio::test]
    async fn a_network_that_panics_is_over_and_its_thread_goes_on() {
        let seen = Cell::new(false);
        Contained::new(async {
            seen.set(contains_panics());
            panic!("a network of this test panics, as it should");
        })
        .await;
        assert!(seen.get());
        assert!(!contains_panics(), "what comes after is not in it");
        Contained::new(async {}).await;
    }
}
