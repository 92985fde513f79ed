//! Whether the program is started again.
//!
//! Sandboxes run on when the node daemon crashes, so a new daemon is all it takes to have them back.
//! Nothing here acts.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use portable_init::End;

/// What the number of restarts is counted over.
const MINUTE: Duration = Duration::from_secs(60);
/// LIMIT: a program that ends by itself sooner has said what is wrong with its settings or its machine, and
/// would only say it again.
const STARTED_AFTER: Duration = Duration::from_secs(10);

/// What to do after the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Start it again.
    Again,
    /// It meant to end.
    Over,
    /// It crashed as often as it may.
    GiveUp,
}

/// The crashes that count.
#[derive(Debug)]
pub(crate) struct Restarts {
    per_minute: usize,
    recent: VecDeque<Instant>,
}

impl Restarts {
    pub(crate) fn new(per_minute: u32) -> Self {
        Self {
            per_minute: usize::try_from(per_minute).unwrap_or(usize::MAX),
            recent: VecDeque::new(),
        }
    }

    /// What to do with a program that was started at `started` and ended as `end` at `now`.
    pub(crate) fn after(&mut self, end: End, started: Instant, now: Instant) -> Next {
        let crashed = match end {
            End::Exit(0) => false,
            End::Exit(_) => now.duration_since(started) >= STARTED_AFTER,
            End::Signal(_) => true,
        };
        if !crashed || self.per_minute == 0 {
            return Next::Over;
        }
        while self.recent.front().is_some_and(|first| now.duration_since(*first) >= MINUTE) {
            self.recent.pop_front();
        }
        if self.recent.len() >= self.per_minute {
            return Next::GiveUp;
        }
        self.recent.push_back(now);
        Next::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_crash_is_followed_by_a_start_and_a_wish_to_end_is_not() {
        let started = Instant::now();
        let late = started + STARTED_AFTER;
        for (end, now, next) in [
            (End::Exit(0), late, Next::Over),
            (End::Exit(1), started + SECOND, Next::Over),
            (End::Exit(101), late, Next::Again),
            (End::Signal(9), started, Next::Again),
        ] {
            assert_eq!(Restarts::new(5).after(end, started, now), next, "{end:?}");
            assert_eq!(Restarts::new(0).after(end, started, now), Next::Over, "{end:?}");
        }
    }

    #[test]
    fn crashes_are_counted_over_a_minute() {
        let begin = Instant::now();
        let mut restarts = Restarts::new(2);
        let mut crash_at = |seconds| {
            let now = begin + SECOND * seconds;
            restarts.after(End::Signal(11), now, now)
        };
        assert_eq!(crash_at(0), Next::Again);
        assert_eq!(crash_at(30), Next::Again);
        assert_eq!(crash_at(59), Next::GiveUp);
        // The first one is a minute ago.
        assert_eq!(crash_at(60), Next::Again);
        assert_eq!(crash_at(89), Next::GiveUp);
    }
}
