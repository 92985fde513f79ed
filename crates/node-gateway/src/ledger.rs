use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api_node::{Flow, FlowProtocol, Verdict};
use base_types::SandboxId;
use tokio::time::Instant;

use crate::Flows;

/// How long the same is told once.
const TOLD_EVERY: Duration = Duration::from_secs(1);
/// LIMIT: different things that are told of one sandbox in that time. Beyond, they are counted as one.
const NOTES_MAX: usize = 256;

/// What has no length and may happen often: a denial, or a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) name: Option<String>,
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) port: Option<u16>,
    pub(crate) protocol: FlowProtocol,
    pub(crate) verdict: Verdict,
    pub(crate) reason: String,
}

/// What is told of one sandbox. A flood makes few lines.
pub(crate) struct Ledger {
    sandbox: SandboxId,
    flows: Arc<dyn Flows>,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    since: Option<Instant>,
    /// With when it was seen first, and how often. Few flows begin in a second, so this is short, or
    /// seldom looked at.
    seen: Vec<(Note, u64, u64)>,
}

impl Ledger {
    pub(crate) fn new(sandbox: SandboxId, flows: Arc<dyn Flows>) -> Self {
        Self { sandbox, flows, notes: Mutex::default() }
    }

    /// Tells of a flow's end.
    pub(crate) fn tell(&self, flow: Flow) {
        self.flows.flow(self.sandbox, flow);
    }

    /// Counts what is told within a second.
    pub(crate) fn note(&self, note: Note) {
        self.note_many(note, 1);
    }

    /// The same for what happened often.
    pub(crate) fn note_many(&self, note: Note, times: u64) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.since.get_or_insert_with(Instant::now);
        let full = notes.seen.len() >= NOTES_MAX;
        let mut find = |note: &Note| {
            let known = notes.seen.iter_mut().find(|(known, ..)| known == note);
            known.map(|(_, _, count)| *count = count.saturating_add(times))
        };
        if find(&note).is_some() {
            return;
        }
        let reason = "many more, each of its own".to_owned();
        let others = Note { name: None, address: None, port: None, reason, ..note.clone() };
        if full && find(&others).is_some() {
            return;
        }
        notes.seen.push((if full { others } else { note }, now_ms(), times));
    }

    /// When [`Self::flush`] has something to tell.
    pub(crate) fn next(&self) -> Option<Instant> {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.since.map(|since| since + TOLD_EVERY)
    }

    /// Tells what was counted.
    pub(crate) fn flush(&self) {
        let notes = std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner));
        for (note, at_ms, count) in notes.seen {
            let Note { name, address, port, protocol, verdict, reason } = note;
            self.tell(Flow {
                at_ms,
                name,
                address,
                port,
                protocol,
                verdict,
                reason,
                bytes_up: 0,
                bytes_down: 0,
                duration_ms: 0,
                count,
            });
        }
    }
}

/// The wall clock, for people who read what is told.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod test {
    use super::*;

    #[derive(Default)]
    struct Told(Mutex<Vec<Flow>>);

    impl Flows for Told {
        fn flow(&self, _: SandboxId, flow: Flow) {
            self.0.lock().unwrap().push(flow);
        }
    }

    fn denied(port: u16) -> Note {
        Note {
            name: None,
            address: Some(Ipv4Addr::LOCALHOST),
            port: Some(port),
            protocol: FlowProtocol::Tcp,
            verdict: Verdict::Denied,
            reason: "never: a loopback address".into(),
        }
    }

    #[test]
    fn a_flood_makes_few_lines_and_none_is_forgotten() {
        let told = Arc::new(Told::default());
        let ledger = Ledger::new(SandboxId::from_bits(1), told.clone());
        assert_eq!(ledger.next(), None);
        for _ in 0..1000 {
            ledger.note(denied(7878));
        }
        assert!(ledger.next().is_some());
        ledger.flush();
        let flows = std::mem::take(&mut *told.0.lock().unwrap());
        assert_eq!((flows.len(), flows[0].count, flows[0].port), (1, 1000, Some(7878)));
        for port in 1..=5000 {
            ledger.note(denied(port));
        }
        ledger.flush();
        let flows = std::mem::take(&mut *told.0.lock().unwrap());
        assert_eq!(flows.len(), NOTES_MAX + 1);
        assert_eq!(flows.iter().map(|flow| flow.count).sum::<u64>(), 5000);
        assert_eq!(ledger.next(), None);
    }
}
