//! How long a sandbox lives without being asked for: a decision, made of times alone.

use std::time::Duration;

/// What happens to a sandbox whose time is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnTimeout {
    /// It is destroyed.
    #[default]
    Kill,
    /// It is paused.
    Pause,
}

/// What was agreed about the time of a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Seconds from its making, or the last resume, to its end; 0 is never.
    pub timeout_s: u32,
    /// Seconds without use to its end; 0 is never.
    pub idle_timeout_s: u32,
    /// What happens then.
    pub on_timeout: OnTimeout,
}

impl Lease {
    /// When a lifetime that begins at `now_ms` is over.
    pub(crate) fn end_after(self, now_ms: u64) -> Option<u64> {
        (self.timeout_s > 0).then(|| now_ms.saturating_add(u64::from(self.timeout_s) * 1000))
    }
}

/// Which of its times is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// Its lifetime.
    Lifetime,
    /// Nobody used it.
    Idle,
}

/// When a sandbox's time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Never, unless something changes.
    Never,
    /// After this, unless something changes.
    After(Duration),
    /// Now.
    Now(Over),
}

/// When the time of a sandbox is over that must end at `ends_at_ms` and was last used at
/// `idle_since_ms`; that is `None` while it is in use.
pub(crate) fn due(
    now_ms: u64,
    ends_at_ms: Option<u64>,
    idle_timeout_s: u32,
    idle_since_ms: Option<u64>,
) -> Due {
    let idle_end = idle_since_ms
        .filter(|_| idle_timeout_s > 0)
        .map(|since| since.saturating_add(u64::from(idle_timeout_s) * 1000));
    match (ends_at_ms, idle_end) {
        (Some(end), _) if end <= now_ms => Due::Now(Over::Lifetime),
        (_, Some(end)) if end <= now_ms => Due::Now(Over::Idle),
        (None, None) => Due::Never,
        (end, idle_end) => {
            let next = end.into_iter().chain(idle_end).min().unwrap_or(now_ms);
            Due::After(Duration::from_millis(next - now_ms))
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_lease_without_times_never_ends() {
        assert_eq!(due(5, None, 0, Some(0)), Due::Never);
        assert_eq!(Lease::default().end_after(5), None);
    }

    #[test]
    fn what_is_in_use_is_not_idle_but_its_lifetime_ends_all_the_same() {
        assert_eq!(due(u64::MAX, None, 1, None), Due::Never);
        assert_eq!(due(2000, Some(2000), 1, None), Due::Now(Over::Lifetime));
    }

    #[test]
    fn the_nearer_end_counts() {
        let after = |ms| Due::After(Duration::from_millis(ms));
        assert_eq!(due(1000, Some(9000), 3, Some(1000)), after(3000));
        assert_eq!(due(1000, Some(2500), 3, Some(1000)), after(1500));
        assert_eq!(due(4000, Some(9000), 3, Some(1000)), Due::Now(Over::Idle));
        assert_eq!(due(3999, None, 3, Some(1000)), after(1));
    }

    #[test]
    fn a_clock_that_went_back_ends_nothing_early() {
        assert_eq!(due(500, None, 3, Some(1000)), Due::After(Duration::from_millis(3500)));
    }
}
