//! The network of one sandbox: one task, which owns all of it.
//!
//! A turn takes in some frames, serves some of the flows that were woken, and ends; the task then lets
//! others run. So a sandbox that floods the gateway has as much of it as any other, and no more.

mod begin;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use api_guest::network::GATEWAY_ADDRESS;
use api_node::{FlowProtocol, Policy, Protocol, Verdict as Shown};
use api_vmm::NET_FRAME_BYTES_MAX;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::rustls::ClientConfig;

use crate::bucket::Bucket;
use crate::connection::{Connection, Progress, STACK_REST, Turn};
use crate::dns::Resolver;
use crate::dns::message::QUERY_BYTES_MAX;
use crate::exchange::Exchange;
use crate::frame::{self, Dropped, Packet, Segment, Tuple};
use crate::host::Host;
use crate::judge::{Reason, Verdict};
use crate::ledger::{Ledger, Note};
use crate::link::Link;
use crate::reply;
use crate::secrets::Secrets;
use crate::settings::GatewaySettings;
use crate::wake::{Key, Woken};
use crate::{Links, dns};

/// LIMIT: frames taken in in a turn: some hundred microseconds of work.
const FRAMES_PER_TURN: usize = 64;
/// LIMIT: flows served in a turn.
const FLOWS_PER_TURN: usize = 32;
/// LIMIT: bytes one connection moves in a turn; about as long as the frames take.
const BYTES_PER_FLOW: usize = 512 * 1024;
/// How often it is looked which exchanges are silent.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// The resolver's port.
const DNS_PORT: u16 = 53;

/// What a sandbox's network is made with.
pub(crate) struct Parts {
    pub(crate) settings: Arc<GatewaySettings>,
    pub(crate) host: Arc<Host>,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) links: Arc<dyn Links>,
    pub(crate) secrets: Arc<dyn Secrets>,
    /// How hosts of secrets are known to be themselves.
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) policy: watch::Receiver<Arc<Policy>>,
}

pub(crate) struct Sandbox {
    parts: Parts,
    link: Link,
    connections: HashMap<Tuple, Connection>,
    exchanges: HashMap<Key, Exchange>,
    woken: Arc<Woken>,
    /// Questions that came as datagrams, and are not answered yet.
    questions: FuturesUnordered<BoxFuture<'static, (Tuple, Option<Vec<u8>>)>>,
    /// Connections to the resolver.
    sessions: FuturesUnordered<BoxFuture<'static, ()>>,
    /// What looks into connections; each ends with its connection.
    taps: FuturesUnordered<BoxFuture<'static, ()>>,
    dropped: [u64; Dropped::COUNT],
    frames: Bucket,
    flows: Bucket,
    bytes: Option<Bucket>,
    scratch: Box<[u8]>,
    timer: Pin<Box<Sleep>>,
    epoch: Instant,
    swept: Instant,
    was_full: bool,
    next_seed: u64,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turned {
    /// There is more to do, after others.
    More,
    /// The other end of the frame socket is gone.
    Gone,
}

impl Sandbox {
    pub(crate) fn new(parts: Parts, link: Link) -> Self {
        let now = Instant::now();
        let settings = &parts.settings;
        let frames = Bucket::new(settings.frames_per_second, 0.25, now);
        let flows = Bucket::new(settings.flows_per_second, 2.0, now);
        let bytes = settings.bytes_per_second.map(|bytes| Bucket::new(bytes, 0.25, now));
        let seed = getrandom::u64().expect("the kernel's generator is up long before this program");
        Self {
            parts,
            link,
            connections: HashMap::new(),
            exchanges: HashMap::new(),
            woken: Arc::default(),
            questions: FuturesUnordered::new(),
            sessions: FuturesUnordered::new(),
            taps: FuturesUnordered::new(),
            dropped: [0; Dropped::COUNT],
            frames,
            flows,
            bytes,
            // One more, so that a frame that is too long is seen to be.
            scratch: vec![0; NET_FRAME_BYTES_MAX + 1].into(),
            timer: Box::pin(sleep_until(now)),
            epoch: now,
            swept: now,
            was_full: false,
            next_seed: seed,
        }
    }

    /// One turn. Pending when there is nothing to do.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Turned> {
        self.woken.register(cx.waker());
        if self.link.poll_flush(cx).is_ready() && std::mem::take(&mut self.was_full) {
            self.connections.values().for_each(Connection::wake);
        }
        let now = Instant::now();
        let Ok(frames_left) = self.take_frames(cx, now) else { return Poll::Ready(Turned::Gone) };
        self.wake_due(now);
        let flows_left = self.serve_flows(now);
        self.answer(cx);
        self.sweep(now);
        if self.link.poll_flush(cx).is_pending() {
            self.was_full = true;
        }
        if frames_left || flows_left {
            return Poll::Ready(Turned::More);
        }
        self.set_timer(cx, now)
    }

    /// Judges again what is under way, as the policy has changed.
    pub(crate) fn follow(&mut self) {
        let now = self.stack_time(Instant::now());
        let (parts, link) = (&self.parts, &mut self.link);
        self.connections.retain(|tuple, connection| {
            let port = Some((Protocol::Tcp, tuple.port));
            match parts.judge(tuple.address, port, &connection.names) {
                Verdict::Denied(reason) if connection.is_judged => {
                    connection.reset(link, now);
                    parts.ledger.tell(connection.flow(Some(reason.to_string())));
                    false
                }
                Verdict::Denied(_) | Verdict::Allowed(_) => true,
            }
        });
        self.exchanges.retain(|key, exchange| {
            let tuple = exchange.tuple;
            match parts.judge(tuple.address, port_of(*key), &exchange.names) {
                Verdict::Denied(reason) => {
                    parts.ledger.tell(exchange.flow(Some(reason.to_string())));
                    false
                }
                Verdict::Allowed(_) => true,
            }
        });
    }

    /// Takes in frames. Whether there may be more; an error when there is nobody to send any.
    fn take_frames(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, ()> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let most = FRAMES_PER_TURN.min(self.frames.left(now));
        let mut result = Ok(most == FRAMES_PER_TURN);
        for _ in 0..most {
            match self.link.poll_receive(cx, &mut scratch) {
                Poll::Pending => {
                    result = Ok(false);
                    break;
                }
                Poll::Ready(None) => {
                    result = Err(());
                    break;
                }
                Poll::Ready(Some(bytes)) => {
                    self.frames.spend(1);
                    let frame = scratch.get(..bytes).ok_or(Dropped::Oversized);
                    match frame.and_then(frame::read) {
                        Ok(packet) => self.take(packet, now),
                        Err(why) => self.drop_one(why),
                    }
                }
            }
        }
        self.scratch = scratch;
        result
    }

    fn take(&mut self, packet: Packet<'_>, now: Instant) {
        match packet {
            Packet::Arp => self.link.send(&reply::arp()),
            Packet::Tcp(segment) => self.take_segment(&segment, now),
            Packet::Udp(tuple, data) if is_resolver(tuple) => self.ask(tuple, data),
            Packet::Udp(tuple, data) => {
                if let Some(exchange) = self.exchange(Key::Udp(tuple), now) {
                    exchange.send(data);
                }
            }
            Packet::Echo(tuple, seq_no, data) if tuple.address == GATEWAY_ADDRESS => {
                if let Some(frame) = reply::echo(tuple, seq_no, data) {
                    self.link.send(&frame);
                }
            }
            Packet::Echo(tuple, seq_no, data) => {
                if let Some(exchange) = self.exchange(Key::Echo(tuple), now) {
                    exchange.send_echo(seq_no, data);
                }
            }
        }
    }

    fn take_segment(&mut self, segment: &Segment<'_>, now: Instant) {
        let stack_now = self.stack_time(now);
        if let Some(connection) = self.connections.get_mut(&segment.tuple) {
            let mut turn =
                Turn { link: &mut self.link, now: stack_now, bytes: 0, buffer_bytes: 0, seed: 0 };
            connection.feed(segment, &mut turn);
            return;
        }
        if segment.begins {
            // A guest sends the first segment again when it hears nothing.
            if !self.flows.take(now) {
                let reason = Reason::Limit("new flows in a second");
                self.note(Key::Tcp(segment.tuple), &[], Shown::Denied, &reason);
                return;
            }
            if self.begin(segment).is_some() {
                return;
            }
        }
        // Also whatever is of a connection from before the guest was copied.
        if let Some(frame) = reply::reset(segment) {
            self.link.send(&frame);
        }
    }

    fn ask(&mut self, tuple: Tuple, data: &[u8]) {
        if self.questions.len() >= self.parts.settings.questions_max || data.len() > QUERY_BYTES_MAX
        {
            self.note(Key::Udp(tuple), &[], Shown::Denied, &Reason::Limit("questions"));
            return;
        }
        let (resolver, question) = (self.parts.resolver.clone(), data.to_vec());
        self.questions.push(Box::pin(async move { (tuple, resolver.answer(&question).await) }));
    }

    fn answer(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some((tuple, answer))) = self.questions.poll_next_unpin(cx) {
            let answer = answer.map(dns::message::for_udp);
            if let Some(frame) = answer.and_then(|answer| reply::udp(tuple, &answer)) {
                self.link.send(&frame);
            }
        }
        while let Poll::Ready(Some(())) = self.sessions.poll_next_unpin(cx) {}
        while let Poll::Ready(Some(())) = self.taps.poll_next_unpin(cx) {}
    }

    /// Serves flows that were woken. Whether there are more.
    fn serve_flows(&mut self, now: Instant) -> bool {
        let mut left = self.bytes.as_mut().map_or(usize::MAX, |bytes| bytes.left(now));
        if left == 0 {
            return false;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        for key in self.woken.take(FLOWS_PER_TURN) {
            let used = match key {
                Key::Tcp(tuple) => self.serve_connection(tuple, now, left),
                Key::Udp(_) | Key::Echo(_) => self.serve_exchange(key, &mut scratch),
            };
            // What was woken is served, if by one byte, as it is not woken again.
            left = left.saturating_sub(used).max(1);
            if let Some(bytes) = &mut self.bytes {
                bytes.spend(used);
            }
        }
        self.scratch = scratch;
        !self.woken.is_empty()
    }

    fn serve_connection(&mut self, tuple: Tuple, now: Instant, left: usize) -> usize {
        let stack_now = self.stack_time(now);
        let is_crowded = self.connections.len() > self.parts.settings.crowded_from;
        let Some(connection) = self.connections.get_mut(&tuple) else { return 0 };
        connection.signal.taken();
        let settings = &self.parts.settings;
        self.next_seed = self.next_seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let most = BYTES_PER_FLOW.min(left);
        let mut turn = Turn {
            link: &mut self.link,
            now: stack_now,
            bytes: most,
            buffer_bytes: match is_crowded {
                true => settings.buffer_bytes_crowded,
                false => settings.buffer_bytes,
            },
            seed: self.next_seed,
        };
        let progress = connection.serve(&mut turn);
        let used = most.saturating_sub(turn.bytes);
        match progress {
            Progress::Waits => {}
            Progress::Again => connection.wake(),
            Progress::Over => {
                self.parts.ledger.tell(connection.flow(None));
                self.connections.remove(&tuple);
            }
        }
        used
    }

    fn serve_exchange(&mut self, key: Key, scratch: &mut [u8]) -> usize {
        let Some(exchange) = self.exchanges.get_mut(&key) else { return 0 };
        exchange.signal.taken();
        let (used, more) = exchange.serve(&mut self.link, scratch);
        if more {
            exchange.wake();
        }
        used
    }

    /// Wakes connections that have something to do by themselves.
    fn wake_due(&mut self, now: Instant) {
        let now = self.stack_time(now);
        for connection in self.connections.values_mut() {
            if connection.next.is_some_and(|next| next <= now) {
                connection.next = Some(now + STACK_REST);
                connection.wake();
            }
        }
    }

    /// Ends exchanges that are silent, and tells what was counted.
    fn sweep(&mut self, now: Instant) {
        if self.parts.ledger.next().is_some_and(|next| next <= now) {
            self.tell_dropped();
            self.parts.ledger.flush();
        }
        if now.saturating_duration_since(self.swept) < SWEEP_EVERY {
            return;
        }
        self.swept = now;
        let parts = &self.parts;
        self.exchanges.retain(|_, exchange| {
            let silent = now.saturating_duration_since(exchange.last);
            let is_over = silent >= parts.settings.exchange_idle;
            if is_over {
                parts.ledger.tell(exchange.flow(None));
            }
            !is_over
        });
    }

    /// Waits for the first of what happens by itself.
    fn set_timer(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Turned> {
        let stacks = self.connections.values().filter_map(|connection| connection.next).min();
        let stacks = stacks
            .map(|next| self.epoch + Duration::from_micros(next.total_micros().max(0) as u64));
        let sweep = (!self.exchanges.is_empty()).then(|| self.swept + SWEEP_EVERY);
        let frames = (self.frames.left(now) == 0).then(|| self.frames.refilled());
        let bytes = self.bytes.as_mut();
        let bytes = bytes.and_then(|it| (it.left(now) == 0).then(|| it.refilled()));
        let next = [stacks, sweep, frames, bytes, self.parts.ledger.next()];
        let Some(next) = next.into_iter().flatten().min() else { return Poll::Pending };
        if self.timer.deadline() != next {
            self.timer.as_mut().reset(next);
        }
        self.timer.as_mut().poll(cx).map(|()| Turned::More)
    }

    fn drop_one(&mut self, why: Dropped) {
        if let Some(count) = self.dropped.get_mut(why as usize) {
            *count = count.saturating_add(1);
        }
        if self.parts.ledger.next().is_none() {
            self.tell_dropped();
        }
    }

    fn tell_dropped(&mut self) {
        for (why, count) in Dropped::ALL.iter().zip(&mut self.dropped) {
            let count = std::mem::take(count);
            if count > 0 {
                let note = Note {
                    name: None,
                    address: None,
                    port: None,
                    protocol: FlowProtocol::Other,
                    verdict: Shown::Denied,
                    reason: why.to_string(),
                };
                self.parts.ledger.note_many(note, count);
            }
        }
    }

    fn stack_time(&self, now: Instant) -> smoltcp::time::Instant {
        let since = now.saturating_duration_since(self.epoch).as_micros();
        smoltcp::time::Instant::from_micros(i64::try_from(since).unwrap_or(i64::MAX))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.tell_dropped();
        for connection in self.connections.values() {
            self.parts.ledger.tell(connection.flow(None));
        }
        for exchange in self.exchanges.values() {
            self.parts.ledger.tell(exchange.flow(None));
        }
        self.parts.ledger.flush();
    }
}

fn tuple_of(key: Key) -> Tuple {
    match key {
        Key::Tcp(tuple) | Key::Udp(tuple) | Key::Echo(tuple) => tuple,
    }
}

fn port_of(key: Key) -> Option<(Protocol, u16)> {
    match key {
        Key::Tcp(tuple) => Some((Protocol::Tcp, tuple.port)),
        Key::Udp(tuple) => Some((Protocol::Udp, tuple.port)),
        Key::Echo(_) => None,
    }
}

fn is_resolver(tuple: Tuple) -> bool {
    tuple.address == GATEWAY_ADDRESS && tuple.port == DNS_PORT
}
