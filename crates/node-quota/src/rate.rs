use crate::QuotaExceeded;

/// A window of this many seconds, and the one that has begun, holds every minute whole.
const SECONDS: usize = 61;

/// How often something happened lately, to a second. As big for one event as for a million.
#[derive(Clone, Debug)]
pub struct Rate {
    counts: [u64; SECONDS],
    /// The newest second counted, since whatever the caller's clock began.
    newest_s: u64,
}

impl Default for Rate {
    fn default() -> Self {
        Self { counts: [0; SECONDS], newest_s: 0 }
    }
}

impl Rate {
    /// Counts `wanted` events at `now_ms`, of at most `limit` within any minute. A clock that goes back
    /// stands still; one that goes back further than what is counted takes that along.
    ///
    /// # Errors
    ///
    /// When they would be more; then none is counted.
    pub fn admit(&mut self, now_ms: u64, wanted: u64, limit: u64) -> Result<(), QuotaExceeded> {
        let used = self.within_a_minute(now_ms);
        let refused = QuotaExceeded { what: "new sandboxes a minute", limit, used, wanted };
        if used.checked_add(wanted).is_none_or(|sum| sum > limit) {
            return Err(refused);
        }
        let slot = slot(self.newest_s);
        if let Some(count) = self.counts.get_mut(slot) {
            *count = count.saturating_add(wanted);
        }
        Ok(())
    }

    /// Counts one event that happened at `at_ms`, whatever the limit. Those of the past come oldest
    /// first.
    pub fn recall(&mut self, at_ms: u64) {
        // Nothing is over the highest limit there is.
        let _ = self.admit(at_ms, 1, u64::MAX);
    }

    /// How many were counted within the minute before `now_ms`.
    pub fn within_a_minute(&mut self, now_ms: u64) -> u64 {
        let now_s = now_ms / 1000;
        if self.newest_s.saturating_sub(now_s) >= SECONDS as u64 {
            // It was set back, and may not come to that second again for years.
            let all = self.counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
            *self = Self { newest_s: now_s, ..Self::default() };
            if let Some(count) = self.counts.get_mut(slot(now_s)) {
                *count = all;
            }
        }
        if now_s > self.newest_s {
            if now_s - self.newest_s >= SECONDS as u64 {
                self.counts = [0; SECONDS];
            } else {
                for second in self.newest_s + 1..=now_s {
                    if let Some(count) = self.counts.get_mut(slot(second)) {
                        *count = 0;
                    }
                }
            }
            self.newest_s = now_s;
        }
        self.counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count))
    }
}

fn slot(second: u64) -> usize {
    usize::try_from(second % SECONDS as u64).unwrap_or_default()
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_minute_has_more_than_the_limit(
            limit in 0..20u64,
            asks in prop::collection::vec((0..20_000u64, 1..5u64), 0..200),
        ) {
            let mut rate = Rate::default();
            let mut now = 1_750_000_000_000;
            let mut admitted: Vec<(u64, u64)> = Vec::new();
            for (later, wanted) in asks {
                now += later;
                let lately = |over: u64, admitted: &[(u64, u64)]| -> u64 {
                    admitted.iter().filter(|(at, _)| now - at <= over).map(|(_, n)| n).sum()
                };
                let result = rate.admit(now, wanted, limit);
                // Refused only when the last 61 seconds, at most, are full.
                if result.is_err() {
                    prop_assert!(lately(61_000, &admitted) + wanted > limit);
                } else {
                    admitted.push((now, wanted));
                }
                prop_assert!(lately(60_000, &admitted) <= limit);
            }
        }
    }

    #[test]
    fn a_clock_that_goes_back_opens_nothing() {
        let mut rate = Rate::default();
        assert!(rate.admit(100_000, 5, 5).is_ok());
        assert!(rate.admit(50_000, 1, 5).is_err());
        assert!(rate.admit(161_000, 1, 5).is_ok());
    }

    #[test]
    fn a_clock_that_was_set_back_closes_nothing_for_longer_than_a_minute() {
        let mut rate = Rate::default();
        assert!(rate.admit(9_000_000, 5, 5).is_ok());
        assert!(rate.admit(100_000, 1, 5).is_err());
        assert!(rate.admit(160_000, 1, 5).is_err());
        assert!(rate.admit(161_000, 5, 5).is_ok());
    }
}
