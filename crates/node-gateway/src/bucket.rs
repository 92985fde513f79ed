use std::time::Duration;

use tokio::time::Instant;

/// What may be used at once, and comes back by the second.
#[derive(Debug)]
pub(crate) struct Bucket {
    per_second: f64,
    most: f64,
    left: f64,
    filled: Instant,
}

impl Bucket {
    /// One that is full, and holds what comes back within `seconds`.
    pub(crate) fn new(per_second: u32, seconds: f64, now: Instant) -> Self {
        let per_second = f64::from(per_second);
        let most = (per_second * seconds).max(1.0);
        Self { per_second, most, left: most, filled: now }
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let there = self.left(now) > 0;
        if there {
            self.spend(1);
        }
        there
    }

    /// How much is there now.
    pub(crate) fn left(&mut self, now: Instant) -> usize {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.left = (self.left + since * self.per_second).min(self.most);
        self.filled = now;
        if self.left >= 1.0 { self.left as usize } else { 0 }
    }

    /// Takes what was used, even if it was more than was there.
    pub(crate) fn spend(&mut self, used: usize) {
        self.left -= used as f64;
    }

    /// When there is enough again to go on with.
    pub(crate) fn refilled(&self) -> Instant {
        let missing = (self.most / 16.0).max(1.0) - self.left;
        let seconds = (missing / self.per_second.max(1.0)).clamp(0.001, 60.0);
        self.filled + Duration::from_secs_f64(seconds)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn what_was_used_comes_back_by_the_second() {
        let begin = Instant::now();
        let mut bucket = Bucket::new(10, 2.0, begin);
        assert_eq!((0..100).filter(|_| bucket.take(begin)).count(), 20);
        assert!(bucket.refilled() > begin);
        let later = begin + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| bucket.take(later)).count(), 10);
        assert_eq!(bucket.left(later + Duration::from_secs(1000)), 20);
    }

    #[test]
    fn what_was_overdrawn_is_paid_back_first() {
        let begin = Instant::now();
        let mut bucket = Bucket::new(10, 1.0, begin);
        bucket.spend(25);
        assert_eq!(bucket.left(begin + Duration::from_secs(1)), 0);
        assert_eq!(bucket.left(begin + Duration::from_secs(2)), 5);
    }
}
