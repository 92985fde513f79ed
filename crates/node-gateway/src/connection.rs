//! One TCP connection of a guest.
//!
//! ```text
//!   first segment ─▶ connecting ─▶ open ─▶ over
//!                        │          └─ reset by either end, or by a policy
//!                        └─ refused: reset
//! ```
//! The far end is connected first, so that the guest hears the truth about it.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use api_node::{DomainName, Flow, FlowProtocol, Verdict};
use tokio::time::Instant;

use crate::far::{Connecting, Far};
use crate::frame::{Segment, Tuple};
use crate::ledger::now_ms;
use crate::link::Link;
use crate::reply;
use crate::stack::Stack;
use crate::wake::{Key, Signal, Woken};

/// How long after a stack wanted to be served at once it is served again, if nothing happens before.
pub(crate) const STACK_REST: smoltcp::time::Duration = smoltcp::time::Duration::from_millis(1);
/// LIMIT: segments of one connection in a turn. Of full ones the bytes of a turn are fewer; a guest that
/// wants tiny ones gets them in many turns, and others theirs in between.
const SEGMENTS_MAX: u32 = 64;

/// What a connection works with in one turn.
pub(crate) struct Turn<'a> {
    pub(crate) link: &'a mut Link,
    pub(crate) now: smoltcp::time::Instant,
    /// Bytes it may still move in this turn, so that others get theirs.
    pub(crate) bytes: usize,
    /// Of a stack that is begun now.
    pub(crate) buffer_bytes: usize,
    pub(crate) seed: u64,
}

/// What became of a connection in a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It waits to be woken.
    Waits,
    /// It used up its turn.
    Again,
    /// It is over.
    Over,
}

pub(crate) struct Connection {
    pub(crate) tuple: Tuple,
    /// The names that gave the address when it began.
    pub(crate) names: Vec<DomainName>,
    /// Whether the policy decided, and not the gateway.
    pub(crate) is_judged: bool,
    pub(crate) signal: Arc<Signal>,
    /// When it has something to do by itself.
    pub(crate) next: Option<smoltcp::time::Instant>,
    waker: Waker,
    reason: String,
    began: Instant,
    at_ms: u64,
    up: u64,
    down: u64,
    state: State,
}

enum State {
    Connecting { far: Connecting, first: Vec<u8> },
    Open(Box<Open>),
    Over,
}

struct Open {
    stack: Stack,
    far: Far,
    /// The far end has sent all it will.
    far_is_done: bool,
    /// The far end was told that the guest has sent all it will.
    told_done: bool,
    unflushed: bool,
}

impl Connection {
    pub(crate) fn new(
        first: &Segment<'_>,
        far: Connecting,
        names: Vec<DomainName>,
        reason: String,
        is_judged: bool,
        woken: &Arc<Woken>,
    ) -> Self {
        let signal = Signal::new(Key::Tcp(first.tuple), woken.clone());
        Self {
            tuple: first.tuple,
            names,
            is_judged,
            waker: Waker::from(signal.clone()),
            signal,
            next: None,
            reason,
            began: Instant::now(),
            at_ms: now_ms(),
            up: 0,
            down: 0,
            state: State::Connecting { far, first: first.ip.to_vec() },
        }
    }

    pub(crate) fn is_connecting(&self) -> bool {
        matches!(self.state, State::Connecting { .. })
    }

    /// Wakes it, as if something had happened.
    pub(crate) fn wake(&self) {
        self.waker.wake_by_ref();
    }

    /// Takes in a segment of the guest's.
    pub(crate) fn feed(&mut self, segment: &Segment<'_>, turn: &mut Turn<'_>) {
        match &mut self.state {
            // It sends its first segment again until it hears something.
            State::Connecting { .. } if !segment.resets => {}
            State::Connecting { .. } => self.state = State::Over,
            State::Open(open) => open.stack.feed(segment.ip, turn.link, turn.now),
            State::Over => {}
        }
        self.wake();
    }

    /// Does what there is to do, within the turn.
    pub(crate) fn serve(&mut self, turn: &mut Turn<'_>) -> Progress {
        let waker = self.waker.clone();
        let mut cx = Context::from_waker(&waker);
        if let State::Connecting { far, first } = &mut self.state {
            match far.as_mut().poll(&mut cx) {
                Poll::Pending => return Progress::Waits,
                Poll::Ready(Err(_)) => {
                    refuse(self.tuple, first, turn.link);
                    self.state = State::Over;
                }
                Poll::Ready(Ok(far)) => {
                    let mut stack = Stack::new(self.tuple, turn.buffer_bytes, turn.seed, turn.now);
                    stack.feed(first, turn.link, turn.now);
                    self.state = State::Open(Box::new(Open {
                        stack,
                        far,
                        far_is_done: false,
                        told_done: false,
                        unflushed: false,
                    }));
                }
            }
        }
        let State::Open(open) = &mut self.state else { return Progress::Over };
        let spliced = open.splice(&mut cx, turn, &mut self.up, &mut self.down);
        let (went_well, more) = (spliced.is_ok(), spliced.unwrap_or(false));
        if !went_well {
            open.stack.socket().abort();
            open.stack.send(turn.link, turn.now);
        }
        if open.stack.is_over() {
            let all_done = open.far_is_done && open.told_done;
            let was_reset = !went_well || (open.stack.is_closed() && !all_done);
            self.end(was_reset);
            return Progress::Over;
        }
        // What the link had no room for is due now, and waits for room rather than going round and round.
        self.next = open.stack.next(turn.now).map(|next| next.max(turn.now + STACK_REST));
        if turn.bytes == 0 || more { Progress::Again } else { Progress::Waits }
    }

    /// Resets both ends.
    pub(crate) fn reset(&mut self, link: &mut Link, now: smoltcp::time::Instant) {
        match &mut self.state {
            State::Connecting { first, .. } => refuse(self.tuple, first, link),
            State::Open(open) => {
                open.stack.socket().abort();
                open.stack.send(link, now);
            }
            State::Over => {}
        }
        self.end(true);
    }

    fn end(&mut self, was_reset: bool) {
        if let State::Open(open) = std::mem::replace(&mut self.state, State::Over)
            && was_reset
        {
            open.far.reset();
        }
    }

    /// What is told of it when it is over. `denied` is what ended it, if a policy did.
    pub(crate) fn flow(&self, denied: Option<String>) -> Flow {
        let verdict = if denied.is_some() { Verdict::Denied } else { Verdict::Allowed };
        Flow {
            at_ms: self.at_ms,
            name: self.names.first().map(|name| name.as_str().to_owned()),
            address: Some(self.tuple.address),
            port: Some(self.tuple.port),
            protocol: FlowProtocol::Tcp,
            verdict,
            reason: denied.unwrap_or_else(|| self.reason.clone()),
            bytes_up: self.up,
            bytes_down: self.down,
            duration_ms: self.began.elapsed().as_millis().try_into().unwrap_or(u64::MAX),
            count: 1,
        }
    }
}

fn refuse(tuple: Tuple, first: &[u8], link: &mut Link) {
    let segment = Segment { tuple, begins: true, resets: false, ip: first };
    if let Some(frame) = reply::reset(&segment) {
        link.send(&frame);
    }
}

impl Open {
    /// Moves bytes both ways until nothing moves, or it had its share of segments; says whether there is
    /// more. An error is the far end's.
    fn splice(
        &mut self,
        cx: &mut Context<'_>,
        turn: &mut Turn<'_>,
        up: &mut u64,
        down: &mut u64,
    ) -> std::io::Result<bool> {
        let mut segments = SEGMENTS_MAX;
        loop {
            let before = turn.bytes;
            self.up(cx, turn)?;
            *up = up.saturating_add((before - turn.bytes) as u64);
            let between = turn.bytes;
            self.down(cx, turn)?;
            *down = down.saturating_add((between - turn.bytes) as u64);
            let mut sent = false;
            while segments > 0 && self.stack.send(turn.link, turn.now) {
                segments -= 1;
                sent = true;
            }
            if segments == 0 {
                return Ok(true);
            }
            if turn.bytes == 0 || (turn.bytes == before && !sent) {
                return Ok(false);
            }
        }
    }

    /// From the guest to the far end.
    fn up(&mut self, cx: &mut Context<'_>, turn: &mut Turn<'_>) -> std::io::Result<()> {
        let far = &mut self.far;
        while turn.bytes > 0 && self.stack.socket().can_recv() {
            let written = self.stack.socket().recv(|data| {
                let most = data.len().min(turn.bytes);
                let result = far.poll_write(cx, data.get(..most).unwrap_or_default());
                let count = if let Poll::Ready(Ok(count)) = result { count.min(most) } else { 0 };
                (count, result.map_ok(|_| count))
            });
            match written {
                Ok(Poll::Ready(count)) => {
                    turn.bytes -= count?;
                    self.unflushed = true;
                }
                Ok(Poll::Pending) | Err(_) => break,
            }
        }
        if self.unflushed
            && let Poll::Ready(flushed) = far.poll_flush(cx)
        {
            flushed?;
            self.unflushed = false;
        }
        if !self.told_done
            && !self.unflushed
            && self.stack.guest_is_done()
            && let Poll::Ready(told) = far.poll_shutdown(cx)
        {
            // Whoever closed already need not be told.
            self.told_done = told.is_ok() || self.far_is_done;
            if !self.told_done {
                return told;
            }
        }
        Ok(())
    }

    /// From the far end to the guest.
    fn down(&mut self, cx: &mut Context<'_>, turn: &mut Turn<'_>) -> std::io::Result<()> {
        let far = &mut self.far;
        while turn.bytes > 0 && !self.far_is_done && self.stack.socket().can_send() {
            let read = self.stack.socket().send(|room| {
                let most = room.len().min(turn.bytes);
                let result = far.poll_read(cx, room.get_mut(..most).unwrap_or_default());
                let count = if let Poll::Ready(Ok(count)) = result { count.min(most) } else { 0 };
                (count, result)
            });
            match read {
                Ok(Poll::Ready(count)) => {
                    let count = count?;
                    turn.bytes -= count;
                    if count == 0 {
                        self.far_is_done = true;
                        self.stack.socket().close();
                    }
                }
                Ok(Poll::Pending) | Err(_) => break,
            }
        }
        Ok(())
    }
}
