use std::sync::{Mutex, PoisonError};

/// LIMIT: lines about refused authentication in one minute. Whoever has no key must not be able to
/// fill the disk; what is over it is counted.
const LINES_PER_MINUTE: u32 = 60;
const MINUTE_MS: u64 = 60_000;

/// How often somebody was refused lately.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<Lately>);

#[derive(Debug, Default)]
struct Lately {
    minute: u64,
    lines: u32,
    passed_over: u64,
}

impl Refusals {
    /// Whether the refusal that happens now has a line, and how many before it had none.
    pub(crate) fn line(&self, now_ms: u64) -> Option<u64> {
        let mut lately = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let minute = now_ms / MINUTE_MS;
        if minute != lately.minute {
            (lately.minute, lately.lines) = (minute, 0);
        }
        if lately.lines == LINES_PER_MINUTE {
            lately.passed_over += 1;
            return None;
        }
        lately.lines += 1;
        Some(std::mem::take(&mut lately.passed_over))
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_flood_of_refusals_has_a_line_a_second_and_is_counted() {
        let refusals = Refusals::default();
        let lines = (0..1000).filter(|_| refusals.line(MINUTE_MS).is_some()).count();
        assert_eq!(lines, LINES_PER_MINUTE as usize);
        assert_eq!(refusals.line(2 * MINUTE_MS), Some(1000 - u64::from(LINES_PER_MINUTE)));
        assert_eq!(refusals.line(2 * MINUTE_MS), Some(0));
    }
}
