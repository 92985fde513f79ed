//! What is kept of a process's events: the newest, up to a bound.

use std::collections::VecDeque;
use std::sync::Arc;

use api_guest::Exited;

/// LIMIT: what an event counts for beside its data, so that many small ones are bounded too.
const EVENT_BYTES: usize = 64;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// It runs, with this process id.
    Started(u32),
    /// It wrote this; the kind is that of the frame it goes into.
    Output { kind: u8, data: Arc<[u8]> },
    /// It is over.
    Exited(Exited),
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) seq: u64,
    /// Nanoseconds since 1970 UTC.
    pub(crate) at_ns: i64,
    pub(crate) what: What,
}

/// What a reader is to be told next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing happened since.
    Nothing,
    /// So many events are not kept any more; the last of them has this number.
    Dropped {
        events: u64,
        last_seq: u64,
        at_ns: i64,
    },
    Event(Event),
}

/// Events in the order of their numbers, without gaps.
#[derive(Debug)]
pub(crate) struct Ring {
    /// What they may count for; the newest one is kept whatever it counts for.
    bytes_max: usize,
    events: VecDeque<Event>,
    /// What they count for, all together.
    bytes: usize,
    /// Number of the next event.
    next_seq: u64,
}

impl Event {
    fn bytes(&self) -> usize {
        match &self.what {
            What::Output { data, .. } => EVENT_BYTES + data.len(),
            What::Started(_) | What::Exited(_) => EVENT_BYTES,
        }
    }
}

impl Ring {
    /// No events yet, and never more than `bytes_max` of them.
    pub(crate) const fn new(bytes_max: usize) -> Self {
        Self { bytes_max, events: VecDeque::new(), bytes: 0, next_seq: 0 }
    }

    /// Number of the next event.
    pub(crate) const fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Adds an event; the oldest make room for it.
    pub(crate) fn push(&mut self, at_ns: i64, what: What) {
        let event = Event { seq: self.next_seq, at_ns, what };
        self.next_seq += 1;
        self.bytes += event.bytes();
        self.events.push_back(event);
        while self.bytes > self.bytes_max && self.events.len() > 1 {
            let oldest = self.events.pop_front();
            self.bytes -= oldest.map_or(0, |oldest| oldest.bytes());
        }
    }

    /// Number of the oldest event that stays when one with `bytes` of data is added.
    pub(crate) fn kept_after(&self, bytes: usize) -> u64 {
        let mut total = self.bytes.saturating_add(EVENT_BYTES + bytes);
        for event in &self.events {
            if total <= self.bytes_max {
                return event.seq;
            }
            total -= event.bytes();
        }
        self.next_seq
    }

    /// What to tell a reader that is to get event `seq` next.
    pub(crate) fn at(&self, seq: u64) -> Next {
        let Some(first) = self.events.front() else { return Next::Nothing };
        if let Some(missing) = first.seq.checked_sub(seq).filter(|missing| *missing > 0) {
            let (last_seq, at_ns) = (first.seq - 1, first.at_ns);
            return Next::Dropped { events: missing, last_seq, at_ns };
        }
        let event = usize::try_from(seq - first.seq).ok().and_then(|place| self.events.get(place));
        event.map_or(Next::Nothing, |event| Next::Event(event.clone()))
    }
}

#[cfg(test)]
mod test {
    use api_guest::Answer;

    use super::*;

    const BYTES_MAX: usize = 1 << 20;

    fn output(bytes: usize) -> What {
        What::Output { kind: Answer::STDOUT, data: vec![7; bytes].into() }
    }

    #[test]
    fn a_reader_gets_every_event_in_turn_and_then_nothing() {
        let mut ring = Ring::new(BYTES_MAX);
        assert_eq!(ring.at(0), Next::Nothing);
        ring.push(5, What::Started(9));
        ring.push(6, output(3));
        let started = Event { seq: 0, at_ns: 5, what: What::Started(9) };
        assert_eq!(ring.at(0), Next::Event(started));
        assert!(matches!(ring.at(1), Next::Event(Event { seq: 1, .. })));
        assert_eq!(ring.at(2), Next::Nothing);
        assert_eq!(ring.at(u64::MAX), Next::Nothing);
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_is_missing_is_counted() {
        let mut ring = Ring::new(BYTES_MAX);
        let piece = 64 * 1024;
        for at_ns in 0..40 {
            let kept = ring.kept_after(piece);
            ring.push(at_ns, output(piece));
            assert!(ring.bytes <= BYTES_MAX);
            assert_eq!(ring.events.front().unwrap().seq, kept, "foretold");
        }
        let first = ring.events.front().unwrap().seq;
        assert_eq!(first, 40 - 15);
        let gap = Next::Dropped { events: first - 3, last_seq: first - 1, at_ns: 25 };
        assert_eq!(ring.at(3), gap);
        assert!(matches!(ring.at(first), Next::Event(_)));
    }

    #[test]
    fn many_empty_looking_events_are_bounded_too() {
        let mut ring = Ring::new(BYTES_MAX);
        for _ in 0..100_000 {
            ring.push(0, output(1));
        }
        assert!(ring.events.len() <= BYTES_MAX / EVENT_BYTES);
        assert_eq!(ring.next_seq(), 100_000);
    }
}
