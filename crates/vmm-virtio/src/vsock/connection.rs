//! One connection: a host stream, what waits to be written to it, and both sides' credit.
//!
//! ```text
//!            RESPONSE                 both directions shut, all delivered
//! Requested ──────────▶ Established ───────────────────────────────────────▶ gone (RST sent)
//!     │                     │  ▲
//!     │ RST                 │  │ the host's stream closed: SHUTDOWN sent, what still comes is dropped
//!     ▼                     ▼  │
//!   gone                  Orphaned ──▶ gone when the guest answers
//! ```
//!
//! Nothing here knows queues: [`Connection`] says which packet it wants to send next and takes
//! packets apart that came; the muxer moves them.

use std::{
    collections::VecDeque,
    io::{self, Write as _},
    net::Shutdown,
    num::Wrapping,
    os::unix::net::UnixStream,
};

use vm_memory::{ReadVolatile as _, VolatileMemoryError};

use super::packet::{Operation, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use crate::{Buffers, Events};

/// LIMIT: bytes from the guest one connection holds while the host does not read. The guest is
/// told, and one that sends more is reset. Large enough that a reader on the same machine is
/// never waited for, small enough that every connection at once is bearable.
pub const BUFFER_BYTES: u32 = 64 * 1024;

/// Room freed before the guest is told unasked: half a buffer.
const UPDATE_BYTES: u32 = BUFFER_BYTES / 2;

/// LIMIT: data in one packet to the guest; its buffers are usually smaller.
const PACKET_BYTES_MAX: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The guest has not answered; `sent` says whether it was asked.
    Requested { sent: bool },
    /// Data flows.
    Established,
}

/// What a connection wants sent to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A packet without data.
    Control { operation: Operation, flags: u32 },
    /// Whatever the host's stream has.
    Data,
}

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes on.
    Lives,
    /// It is over and the guest is to be told.
    Reset,
    /// It is over and the guest knows.
    Gone,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) guest_port: u32,
    phase: Phase,
    /// None once the host's side is closed or broken.
    stream: Option<UnixStream>,
    /// The stream may have something to read (edge triggered).
    readable: bool,
    /// The stream may take something (edge triggered).
    writable: bool,
    /// From the guest, not yet taken by the stream.
    buffered: VecDeque<u8>,
    /// Bytes passed on to the stream: our `fwd_cnt`.
    forwarded: Wrapping<u32>,
    /// `forwarded` as the guest last heard it.
    forwarded_told: Wrapping<u32>,
    /// Bytes received from the guest.
    received: Wrapping<u32>,
    /// Bytes sent to the guest.
    sent: Wrapping<u32>,
    peer_buf_alloc: u32,
    peer_fwd_cnt: Wrapping<u32>,
    update_wanted: bool,
    request_credit: CreditRequest,
    /// The host's stream ended: nothing more to send.
    host_done: bool,
    /// Directions shut towards the guest, and those it was told of.
    shut: u32,
    shut_told: u32,
    /// Directions the guest has shut.
    peer_shut: u32,
    /// The stream was told that the guest has finished sending. Telling it is an event of the
    /// stream too, so doing it on every event would never end.
    write_ended: bool,
    /// The guest has forgotten the connection; only buffered data is left to deliver.
    draining: bool,
    /// The stream's other end is closed in both directions.
    hung_up: bool,
    /// In the muxer's list of those with something to send.
    pub(super) queued: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CreditRequest {
    Unneeded,
    Due,
    Sent,
}

impl Connection {
    /// A connection to `guest_port` that was not asked for yet; `stream` does not block.
    pub(super) fn new(guest_port: u32, stream: UnixStream) -> Self {
        Connection {
            guest_port,
            phase: Phase::Requested { sent: false },
            stream: Some(stream),
            readable: true,
            writable: true,
            buffered: VecDeque::new(),
            forwarded: Wrapping(0),
            forwarded_told: Wrapping(0),
            received: Wrapping(0),
            sent: Wrapping(0),
            peer_buf_alloc: 0,
            peer_fwd_cnt: Wrapping(0),
            update_wanted: false,
            request_credit: CreditRequest::Unneeded,
            host_done: false,
            shut: 0,
            shut_told: 0,
            peer_shut: 0,
            write_ended: false,
            draining: false,
            hung_up: false,
            queued: false,
        }
    }

    /// Whether the guest may know of this connection.
    pub(super) fn known_to_guest(&self) -> bool {
        !self.draining && self.phase != Phase::Requested { sent: false }
    }

    /// Whether the guest was asked and has not answered.
    pub(super) fn awaits_answer(&self) -> bool {
        self.phase == Phase::Requested { sent: true }
    }

    /// Whether nobody on the host waits for this connection any more.
    pub(super) fn orphaned(&self) -> bool {
        self.stream.is_none() || self.hung_up
    }

    /// Our side's credit as it goes into every header: `buf_alloc`, `fwd_cnt`.
    pub(super) fn credit(&mut self) -> (u32, u32) {
        self.forwarded_told = self.forwarded;
        self.update_wanted = false;
        (BUFFER_BYTES, self.forwarded.0)
    }

    /// What to send next, if anything.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        let control = |operation, flags| Some(Wanted::Control { operation, flags });
        if self.draining {
            return None;
        }
        match self.phase {
            Phase::Requested { sent: false } => return control(Operation::Request, 0),
            Phase::Requested { sent: true } => return None,
            Phase::Established => (),
        }
        if self.shut & !self.shut_told != 0 {
            return control(Operation::Shutdown, self.shut);
        }
        if self.update_wanted {
            return control(Operation::CreditUpdate, 0);
        }
        if self.has_data() {
            if self.peer_credit() > 0 {
                return Some(Wanted::Data);
            }
            if self.request_credit == CreditRequest::Due {
                return control(Operation::CreditRequest, 0);
            }
        }
        None
    }

    /// The packet [`wanted`](Self::wanted) named was put on the queue.
    pub(super) fn control_sent(&mut self, operation: Operation) {
        match operation {
            Operation::Request => self.phase = Phase::Requested { sent: true },
            Operation::Shutdown => self.shut_told = self.shut,
            Operation::CreditRequest => self.request_credit = CreditRequest::Sent,
            // Told by the credit in every header.
            Operation::CreditUpdate | Operation::Response | Operation::Reset | Operation::Data => {}
        }
    }

    /// Moves what the host's stream has into `data`, as much as the guest can take. 0 when there
    /// is nothing after all, and then `data` is as it was: another connection may have something.
    pub(super) fn fill(&mut self, data: &mut Buffers<'_>) -> usize {
        let limit = PACKET_BYTES_MAX
            .min(data.len())
            .min(usize::try_from(self.peer_credit()).unwrap_or(usize::MAX));
        let mut room = data.split_front(limit);
        let mut total = 0_usize;
        while let (Some(stream), Some(slice)) = (&mut self.stream, room.front()) {
            let mut slice = *slice;
            let asked = slice.len();
            match stream.read_volatile(&mut slice) {
                Ok(0) => {
                    self.end_of_host_data();
                    break;
                }
                Ok(count) => {
                    room.skip(count);
                    total = total.saturating_add(count);
                    if count < asked {
                        // Drained, most likely; the next read finds out at the price of one call.
                        break;
                    }
                }
                Err(error) => match io_error(error).kind() {
                    io::ErrorKind::Interrupted => (),
                    io::ErrorKind::WouldBlock => {
                        self.readable = false;
                        break;
                    }
                    _ => {
                        self.close_stream();
                        break;
                    }
                },
            }
        }
        if total == 0 {
            data.put_back(room);
        }
        self.sent += Wrapping(u32::try_from(total).unwrap_or(0));
        if self.has_data()
            && self.peer_credit() == 0
            && self.request_credit == CreditRequest::Unneeded
        {
            self.request_credit = CreditRequest::Due;
        }
        total
    }

    /// The stream is ready for something.
    pub(super) fn stream_event(&mut self, events: Events) {
        if events.intersects(Events::IN | Events::READ_HANG_UP | Events::HANG_UP | Events::ERROR) {
            self.readable = true;
        }
        if events.intersects(Events::OUT | Events::HANG_UP | Events::ERROR) {
            self.writable = true;
        }
        if events.intersects(Events::HANG_UP | Events::ERROR) {
            self.hung_up = true;
            if self.host_done {
                self.close_stream();
            }
        }
    }

    /// The peer's credit came with a packet.
    pub(super) fn peer_credit_update(&mut self, buf_alloc: u32, fwd_cnt: u32) {
        self.peer_buf_alloc = buf_alloc;
        self.peer_fwd_cnt = Wrapping(fwd_cnt);
        if self.peer_credit() > 0 {
            self.request_credit = CreditRequest::Unneeded;
        }
    }

    /// A packet of the guest's, other than data.
    pub(super) fn receive(&mut self, operation: Operation, flags: u32) -> Fate {
        match (operation, self.phase) {
            (Operation::Reset, _) => {
                // The guest's kernel resets a closed socket in the end even while its last data is
                // still on the way to a slow reader here.
                if self.peer_shut & SHUTDOWN_SEND != 0 && !self.buffered.is_empty() {
                    self.draining = true;
                    return self.deliver();
                }
                Fate::Gone
            }
            (Operation::Response, Phase::Requested { sent: true }) => {
                self.phase = Phase::Established;
                Fate::Lives
            }
            (Operation::Shutdown, Phase::Established) => {
                let new = flags & SHUTDOWN_BOTH & !self.peer_shut;
                self.peer_shut |= new;
                if new & SHUTDOWN_RECEIVE != 0 {
                    // Nothing the host sends can arrive; let it know.
                    self.host_done = true;
                    if let Some(stream) = &self.stream {
                        // Fails when the peer is gone already.
                        let _ = stream.shutdown(Shutdown::Read);
                    }
                }
                self.deliver()
            }
            (Operation::CreditRequest, Phase::Established) => {
                self.update_wanted = true;
                Fate::Lives
            }
            (Operation::CreditUpdate, Phase::Established) => Fate::Lives,
            (
                Operation::Response
                | Operation::Shutdown
                | Operation::CreditRequest
                | Operation::CreditUpdate
                | Operation::Request
                | Operation::Data,
                _,
            ) => Fate::Reset,
        }
    }

    /// Data of the guest's.
    pub(super) fn receive_data(&mut self, mut data: Buffers<'_>) -> Fate {
        let Ok(len) = u32::try_from(data.len()) else { return Fate::Reset };
        let held = (self.received - self.forwarded).0;
        if self.phase != Phase::Established
            || self.peer_shut & SHUTDOWN_SEND != 0
            || held.checked_add(len).is_none_or(|held| held > BUFFER_BYTES)
        {
            return Fate::Reset;
        }
        self.received += Wrapping(len);
        if self.stream.is_none() {
            self.forward(len);
            return Fate::Lives;
        }
        // Straight from guest memory while the stream takes it; the rest is kept.
        while self.buffered.is_empty() && self.writable {
            let (Some(stream), Some(slice)) = (&mut self.stream, data.front()) else { break };
            match vm_memory::WriteVolatile::write_volatile(stream, slice) {
                Ok(count) => {
                    data.skip(count);
                    self.forward(u32::try_from(count).unwrap_or(0));
                }
                Err(error) => self.write_failed(io_error(error)),
            }
        }
        if self.stream.is_none() {
            self.forward(u32::try_from(data.len()).unwrap_or(0));
            return Fate::Lives;
        }
        while let Some(slice) = data.front() {
            let mut piece = [0; 1024];
            let count = slice.len().min(piece.len());
            let Some(part) = piece.get_mut(..count) else { break };
            data.read(part);
            self.buffered.extend(&*part);
        }
        Fate::Lives
    }

    /// Writes what is buffered to the stream, as far as it goes.
    pub(super) fn deliver(&mut self) -> Fate {
        while self.writable && !self.buffered.is_empty() {
            let Some(stream) = &mut self.stream else { break };
            let (front, _) = self.buffered.as_slices();
            match stream.write(front) {
                Ok(count) => {
                    self.buffered.drain(..count);
                    self.forward(u32::try_from(count).unwrap_or(0));
                }
                Err(error) => self.write_failed(error),
            }
        }
        if !self.buffered.is_empty() && self.stream.is_some() {
            return Fate::Lives;
        }
        if self.buffered.capacity() > 0 {
            // Idle connections hold no memory.
            self.buffered = VecDeque::new();
        }
        if self.draining {
            return Fate::Gone;
        }
        if self.peer_shut & SHUTDOWN_BOTH == SHUTDOWN_BOTH {
            return Fate::Reset;
        }
        if self.peer_shut & SHUTDOWN_SEND != 0
            && !self.write_ended
            && let Some(stream) = &self.stream
        {
            self.write_ended = true;
            // Fails when the peer is gone already.
            let _ = stream.shutdown(Shutdown::Write);
        }
        Fate::Lives
    }

    fn has_data(&self) -> bool {
        self.readable && !self.host_done && self.stream.is_some()
    }

    fn peer_credit(&self) -> u32 {
        self.peer_buf_alloc.saturating_sub((self.sent - self.peer_fwd_cnt).0)
    }

    fn forward(&mut self, count: u32) {
        self.forwarded += Wrapping(count);
        if (self.forwarded - self.forwarded_told).0 >= UPDATE_BYTES {
            self.update_wanted = true;
        }
    }

    fn write_failed(&mut self, error: io::Error) {
        match error.kind() {
            io::ErrorKind::Interrupted => (),
            io::ErrorKind::WouldBlock => self.writable = false,
            // Nobody reads any more: what was buffered is lost, as with any closed socket.
            _ => self.close_stream(),
        }
    }

    fn end_of_host_data(&mut self) {
        if self.hung_up {
            return self.close_stream();
        }
        self.readable = false;
        self.host_done = true;
        self.shut |= SHUTDOWN_SEND;
    }

    /// The host's side is closed: there is nothing to send and nobody to deliver to.
    fn close_stream(&mut self) {
        self.stream = None;
        self.host_done = true;
        self.shut = SHUTDOWN_BOTH;
        let lost = u32::try_from(self.buffered.len()).unwrap_or(0);
        self.buffered = VecDeque::new();
        self.forward(lost);
    }
}

fn io_error(error: VolatileMemoryError) -> io::Error {
    match error {
        VolatileMemoryError::IOError(error) => error,
        other => io::Error::other(other),
    }
}
