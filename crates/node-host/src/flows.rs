//! What sandboxes reached, and what they were denied.
//!
//! The newest flows of each sandbox are kept in memory, for whoever asks. All of them go to the journal,
//! and so to the audit log: one line each, or, of a sandbox that makes more than anybody reads, one line
//! with the sum of those that have none.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api_node::{Flow, FlowEntry, FlowList, FlowQuery, Verdict};
use base_types::SandboxId;

use crate::journal::{Deed, Journal};

/// LIMIT: flows of one sandbox that are kept; some hundred KiB, and more than anybody scrolls through.
const FLOWS_KEPT_MAX: usize = 1000;
/// LIMIT: lines in the audit log for flows of one sandbox at once; an install of many packages has
/// some hundred.
const LINES_AT_ONCE: u64 = 600;
/// LIMIT: the same, each second for ever: some 200 MB a day. One sandbox must not fill the node's disk
/// with lines about itself, nor keep those of others from being written.
const LINES_PER_SECOND: u64 = 10;

/// What is known of the flows of all sandboxes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FlowLog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    kept: Mutex<BTreeMap<SandboxId, Kept>>,
    journal: Journal,
}

/// The flows of one sandbox.
#[derive(Debug, Default)]
struct Kept {
    next: u64,
    newest: VecDeque<FlowEntry>,
    lines: Lines,
}

impl FlowLog {
    pub(crate) fn new(journal: Journal) -> Self {
        Self(Arc::new(Shared { kept: Mutex::default(), journal }))
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<SandboxId, Kept>> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps flows of a sandbox until what is returned is dropped.
    pub(crate) fn open(&self, id: SandboxId) -> OpenFlows {
        self.kept().entry(id).or_default();
        OpenFlows { log: self.clone(), id }
    }

    /// Takes down a flow that is over, or was denied. Does not block. Of a sandbox that is gone only the
    /// journal is told.
    pub fn push(&self, id: SandboxId, flow: Flow) {
        let deed = deed(flow.verdict);
        let line = match self.kept().get_mut(&id) {
            Some(kept) => kept.push(flow),
            None => Some(told(&flow)),
        };
        if let Some(line) = line {
            self.0.journal.tell(id, deed, &line);
        }
    }

    /// The flows of a sandbox that `query` asks for; none when it is gone.
    pub(crate) fn page(&self, id: SandboxId, query: &FlowQuery) -> FlowList {
        let kept = self.kept();
        kept.get(&id).map(|kept| FlowList::page(kept.newest.iter(), query)).unwrap_or_default()
    }
}

/// That flows of a sandbox are kept.
#[derive(Debug)]
pub(crate) struct OpenFlows {
    log: FlowLog,
    id: SandboxId,
}

impl Drop for OpenFlows {
    fn drop(&mut self) {
        let kept = self.log.kept().remove(&self.id);
        if let Some(rest) = kept.and_then(|kept| kept.lines.rest()) {
            self.log.0.journal.tell(self.id, Deed::NetworkFlow, &rest);
        }
    }
}

impl Kept {
    /// Keeps a flow, and returns its line for the journal, if it has one of its own.
    fn push(&mut self, flow: Flow) -> Option<String> {
        let line = self.lines.line(&flow);
        if self.newest.len() == FLOWS_KEPT_MAX {
            self.newest.pop_front();
        }
        self.newest.push_back(FlowEntry { index: self.next, flow });
        self.next += 1;
        line
    }
}

/// Which flows of a sandbox have a line of their own. The time is that at which flows ended.
#[derive(Debug, Default)]
struct Lines {
    /// Lines that were written, less those that so much time allowed since.
    taken: u64,
    /// Until when `taken` was counted.
    second: u64,
    passed: Passed,
}

/// The sum of those that have none.
#[derive(Debug, Default)]
struct Passed {
    flows: u64,
    denials: u64,
    bytes_up: u64,
    bytes_down: u64,
}

impl Lines {
    fn line(&mut self, flow: &Flow) -> Option<String> {
        let now = flow.at_ms.saturating_add(flow.duration_ms) / 1000;
        let allowed = now.saturating_sub(self.second).saturating_mul(LINES_PER_SECOND);
        self.taken = self.taken.saturating_sub(allowed);
        // Not back: a clock that is set back gives no lines twice.
        self.second = self.second.max(now);
        if self.taken >= LINES_AT_ONCE {
            self.passed.add(flow);
            return None;
        }
        self.taken += 1;
        let mut line = told(flow);
        if let Some(rest) = std::mem::take(&mut self.passed).told() {
            let _ = write!(line, "; {rest}");
        }
        Some(line)
    }

    /// The line of those that have none yet.
    fn rest(self) -> Option<String> {
        self.passed.told()
    }
}

impl Passed {
    fn add(&mut self, flow: &Flow) {
        match flow.verdict {
            Verdict::Allowed => self.flows = self.flows.saturating_add(flow.count),
            Verdict::Denied => self.denials = self.denials.saturating_add(flow.count),
        }
        self.bytes_up = self.bytes_up.saturating_add(flow.bytes_up);
        self.bytes_down = self.bytes_down.saturating_add(flow.bytes_down);
    }

    fn told(self) -> Option<String> {
        let Self { flows, denials, bytes_up, bytes_down } = self;
        ((flows, denials) != (0, 0)).then(|| {
            format!(
                "{flows} flows ({bytes_up} bytes up, {bytes_down} down) and {denials} denials before \
                 have no line"
            )
        })
    }
}

const fn deed(verdict: Verdict) -> Deed {
    match verdict {
        Verdict::Allowed => Deed::NetworkFlow,
        Verdict::Denied => Deed::NetworkDenied,
    }
}

/// A flow in one line: `tcp pypi.org 203.0.113.7:443, allow pypi.org, 10 bytes up, 20 down, 30 ms`.
fn told(flow: &Flow) -> String {
    let Flow { name, address, port, protocol, verdict, reason, count, .. } = flow;
    let mut line = protocol.as_str().to_owned();
    // Writing to a string does not fail.
    let _ = name.iter().try_for_each(|name| write!(line, " {name}"));
    let _ = address.iter().try_for_each(|address| write!(line, " {address}"));
    let _ = port.iter().try_for_each(|port| write!(line, ":{port}"));
    let _ = write!(line, ", {reason}");
    if *verdict == Verdict::Allowed {
        let Flow { bytes_up, bytes_down, duration_ms, .. } = flow;
        let _ = write!(line, ", {bytes_up} bytes up, {bytes_down} down, {duration_ms} ms");
    }
    if *count != 1 {
        let _ = write!(line, ", {count} times");
    }
    line
}

#[cfg(test)]
mod test {
    use api_node::FlowProtocol;

    use super::*;

    fn flow(at_ms: u64, verdict: Verdict) -> Flow {
        Flow {
            at_ms,
            name: Some("pypi.org".into()),
            address: Some([203, 0, 113, 7].into()),
            port: Some(443),
            protocol: FlowProtocol::Tcp,
            verdict,
            reason: "allow pypi.org".into(),
            bytes_up: 10,
            bytes_down: 20,
            duration_ms: 30,
            count: 1,
        }
    }

    type Told = Arc<Mutex<Vec<(SandboxId, Deed, String)>>>;

    /// A log, and what its journal is told.
    fn log() -> (FlowLog, Told) {
        let (journal, told) = (Journal::default(), Arc::new(Mutex::new(Vec::new())));
        let keeping = told.clone();
        journal.keep(Box::new(move |id, deed, why| {
            keeping.lock().unwrap().push((id, deed, why.to_owned()));
        }));
        (FlowLog::new(journal), told)
    }

    #[test]
    fn a_flow_is_kept_and_told_and_goes_with_its_sandbox() {
        let (log, told) = log();
        let (one, other) = (SandboxId::from_bits(1), SandboxId::from_bits(2));
        let open = log.open(one);
        let _other = log.open(other);
        log.push(one, flow(1_000, Verdict::Allowed));
        let mut question = flow(2_000, Verdict::Denied);
        (question.address, question.port, question.count) = (None, None, 3);
        (question.protocol, question.reason) = (FlowProtocol::Dns, "base none".into());
        log.push(one, question);
        let shown = log.page(one, &FlowQuery::default());
        let seen: Vec<_> = shown.flows.iter().map(|e| (e.index, e.flow.verdict)).collect();
        assert_eq!(seen, [(0, Verdict::Allowed), (1, Verdict::Denied)]);
        assert_eq!(log.page(other, &FlowQuery::default()), FlowList::default());
        let lines = [
            "tcp pypi.org 203.0.113.7:443, allow pypi.org, 10 bytes up, 20 down, 30 ms",
            "dns pypi.org, base none, 3 times",
        ];
        let expected = [(one, Deed::NetworkFlow), (one, Deed::NetworkDenied)];
        let expected =
            expected.iter().zip(lines).map(|((id, deed), line)| (*id, *deed, line.into()));
        assert_eq!(*told.lock().unwrap(), expected.collect::<Vec<_>>());

        drop(open);
        assert_eq!(log.page(one, &FlowQuery::default()), FlowList::default());
        // The last words of a connection may come after it.
        log.push(one, flow(3_000, Verdict::Allowed));
        assert_eq!(told.lock().unwrap().len(), 3);
    }

    #[test]
    fn the_newest_flows_are_kept() {
        let (log, _) = log();
        let id = SandboxId::from_bits(1);
        let _open = log.open(id);
        let all = FLOWS_KEPT_MAX as u64 + 7;
        for at_ms in 0..all {
            log.push(id, flow(at_ms, Verdict::Allowed));
        }
        let shown = log.page(id, &FlowQuery { after: Some(0), limit: Some(1000) });
        assert_eq!((shown.flows.len(), shown.more), (FLOWS_KEPT_MAX, false));
        assert_eq!(shown.flows[0].index, 7);
        assert_eq!(shown.flows.last().unwrap().index, all - 1);
    }

    #[test]
    fn a_sandbox_gets_so_many_lines_and_the_rest_are_summed_up() {
        let (log, told) = log();
        let id = SandboxId::from_bits(1);
        let open = log.open(id);
        let lines = || told.lock().unwrap().len() as u64;
        for _ in 0..LINES_AT_ONCE + 5 {
            log.push(id, flow(1_000, Verdict::Allowed));
        }
        log.push(id, flow(1_000, Verdict::Denied));
        assert_eq!(lines(), LINES_AT_ONCE);
        // A clock that was set back allows none.
        log.push(id, flow(0, Verdict::Denied));
        assert_eq!(lines(), LINES_AT_ONCE);
        log.push(id, flow(2_000, Verdict::Denied));
        let last = || told.lock().unwrap().last().unwrap().2.clone();
        let rest = "; 5 flows (70 bytes up, 140 down) and 2 denials before have no line";
        assert!(last().ends_with(rest), "{}", last());
        for _ in 1..LINES_PER_SECOND + 3 {
            log.push(id, flow(2_000, Verdict::Allowed));
        }
        assert_eq!(lines(), LINES_AT_ONCE + LINES_PER_SECOND);
        drop(open);
        assert!(last().starts_with("3 flows (30 bytes up, 60 down)"), "{}", last());
    }
}
