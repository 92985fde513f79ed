//! All connections of a machine, and whose turn it is to send.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::unix::net::UnixStream,
};

use super::{
    connection::{Connection, Fate, Wanted},
    packet::{GUEST_CID, HEADER_BYTES, HOST_CID, Operation, PacketHeader, TYPE_STREAM},
};
use crate::{Buffers, Events, GuestFault, Registrar};

/// LIMIT: connections at once. Each holds a descriptor and at most one buffer; a sandbox's node
/// uses a handful.
pub const CONNECTIONS_MAX: usize = 1024;

/// LIMIT: resets waiting for room in the guest's receive queue. A guest that provokes more and
/// takes none loses the newest.
pub(super) const RESETS_MAX: usize = 2 * CONNECTIONS_MAX;

/// First port of the host's side. Below are those a guest may have reasons to know, and the
/// tokens of queues.
pub(super) const PORT_FIRST: u32 = 1 << 30;
/// Last port of the host's side.
pub(super) const PORT_LAST: u32 = (1 << 31) - 1;

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// [`CONNECTIONS_MAX`] are open.
    #[error("{CONNECTIONS_MAX} connections to the guest are open, the most there can be")]
    TooMany,
    /// The guest broke its socket device.
    #[error("the guest's socket device is broken")]
    Broken,
    /// The stream is not usable.
    #[error("use the stream of a connection to the guest")]
    Stream(#[source] io::Error),
}

/// A reset owed to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reset {
    pub(super) guest_port: u32,
    pub(super) host_port: u32,
}

/// What the guest sent, as far as counters care.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) connected: bool,
    pub(super) refused: bool,
    pub(super) data_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Muxer {
    registrar: Registrar,
    /// By the host's port, which is also the token of its stream.
    connections: BTreeMap<u32, Connection>,
    /// Connections with something to send, each once, in turn.
    ready: VecDeque<u32>,
    /// Go out before anything else: a new connection may not overtake the end of an old one.
    resets: VecDeque<Reset>,
    next_port: u32,
}

impl Muxer {
    pub(super) fn new(registrar: Registrar, next_port: u32, resets: VecDeque<Reset>) -> Self {
        let (connections, ready) = Default::default();
        Muxer { registrar, connections, ready, resets, next_port }
    }

    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    pub(super) fn next_port(&self) -> u32 {
        self.next_port
    }

    /// What the guest has to be told is over, when everything ends here.
    pub(super) fn owed_resets(&self) -> impl Iterator<Item = Reset> {
        let live =
            self.connections.iter().filter(|(_, connection)| connection.known_to_guest()).map(
                |(&host_port, connection)| Reset { guest_port: connection.guest_port, host_port },
            );
        self.resets.iter().copied().chain(live)
    }

    /// The guest forgot everything. Connections it never heard of stay.
    pub(super) fn reset(&mut self) {
        self.resets.clear();
        self.connections.retain(|_, connection| !connection.known_to_guest());
        let connections = &self.connections;
        self.ready.retain(|port| connections.contains_key(port));
    }

    pub(super) fn clear(&mut self) {
        self.connections.clear();
        self.ready.clear();
        self.resets.clear();
    }

    pub(super) fn connect(
        &mut self,
        guest_port: u32,
        stream: UnixStream,
    ) -> Result<(), ConnectError> {
        if self.connections.len() >= CONNECTIONS_MAX {
            // One whose host side is gone only waits for the guest to notice.
            let orphan = self
                .connections
                .iter()
                .find_map(|(&port, connection)| connection.orphaned().then_some(port));
            self.end(orphan.ok_or(ConnectError::TooMany)?, Fate::Reset);
        }
        stream.set_nonblocking(true).map_err(ConnectError::Stream)?;
        let host_port = self.take_port();
        let events = Events::IN | Events::OUT | Events::READ_HANG_UP | Events::EDGE_TRIGGERED;
        self.registrar.add(&stream, events, host_port).map_err(ConnectError::Stream)?;
        self.connections.insert(host_port, Connection::new(guest_port, stream));
        self.enqueue(host_port);
        Ok(())
    }

    /// The stream with this token is ready for something.
    pub(super) fn stream_event(&mut self, host_port: u32, events: Events) {
        // A stale event of a connection that ended in the same batch finds nothing.
        if let Some(connection) = self.connections.get_mut(&host_port) {
            connection.stream_event(events);
            let fate = connection.deliver();
            self.end(host_port, fate);
            self.enqueue(host_port);
        }
    }

    /// Takes a packet of the guest's: `header`, already parsed, and exactly its data.
    pub(super) fn receive(&mut self, header: &PacketHeader, data: Buffers<'_>) -> Received {
        let mut received = Received::default();
        if header.dst_cid != HOST_CID || header.src_cid != GUEST_CID {
            // Nobody is there, not even to answer.
            return received;
        }
        let host_port = header.dst_port;
        let operation = Operation::from_code(header.operation);
        let known = self
            .connections
            .get_mut(&host_port)
            .filter(|connection| {
                connection.guest_port == header.src_port && connection.known_to_guest()
            })
            .filter(|_| header.socket_type == TYPE_STREAM);
        let (Some(connection), Some(operation)) = (known, operation) else {
            if operation != Some(Operation::Reset) {
                self.owe(Reset { guest_port: header.src_port, host_port });
            }
            return received;
        };
        connection.peer_credit_update(header.buf_alloc, header.fwd_cnt);
        let fate = if operation == Operation::Data {
            received.data_bytes = u64::from(header.len);
            connection.receive_data(data)
        } else {
            let waited = connection.awaits_answer();
            let fate = connection.receive(operation, header.flags);
            received.connected = waited && fate == Fate::Lives;
            received.refused = waited && fate != Fate::Lives;
            fate
        };
        self.end(host_port, fate);
        self.enqueue(host_port);
        received
    }

    /// Whether there may be something to send.
    pub(super) fn has_packets(&self) -> bool {
        !self.resets.is_empty() || !self.ready.is_empty()
    }

    /// Writes the next packet into `buffers`, which the guest offered for it. Says how many bytes
    /// it has, header included, or none when there was nothing to send after all.
    pub(super) fn send(&mut self, buffers: &mut Buffers<'_>) -> Result<Option<usize>, GuestFault> {
        let mut header_at = buffers.split_front(HEADER_BYTES);
        if header_at.len() != HEADER_BYTES {
            return Err(GuestFault::Request("a receive buffer has no room for a packet's header"));
        }
        if let Some(reset) = self.resets.pop_front() {
            header_at.write(&control(reset, Operation::Reset, 0, (0, 0)));
            return Ok(Some(HEADER_BYTES));
        }
        while let Some(host_port) = self.ready.pop_front() {
            let Some(connection) = self.connections.get_mut(&host_port) else { continue };
            connection.queued = false;
            let to = Reset { guest_port: connection.guest_port, host_port };
            let sent = match connection.wanted() {
                None => continue,
                Some(Wanted::Control { operation, flags }) => {
                    let credit = connection.credit();
                    header_at.write(&control(to, operation, flags, credit));
                    connection.control_sent(operation);
                    Some(HEADER_BYTES)
                }
                Some(Wanted::Data) if buffers.is_empty() => {
                    return Err(GuestFault::Request("a receive buffer has no room for data"));
                }
                Some(Wanted::Data) => match connection.fill(buffers) {
                    0 => None,
                    len => {
                        let (buf_alloc, fwd_cnt) = connection.credit();
                        let header = PacketHeader {
                            len: u32::try_from(len).unwrap_or(0),
                            buf_alloc,
                            fwd_cnt,
                            ..header(to, Operation::Data)
                        };
                        header_at.write(&header.to_bytes());
                        Some(len.saturating_add(HEADER_BYTES))
                    }
                },
            };
            // To the end of the line; the others come first.
            self.enqueue(host_port);
            if sent.is_some() {
                return Ok(sent);
            }
        }
        Ok(None)
    }

    /// Puts a connection in line, when it has something to send and is not in line.
    fn enqueue(&mut self, host_port: u32) {
        if let Some(connection) = self.connections.get_mut(&host_port)
            && !connection.queued
            && connection.wanted().is_some()
        {
            connection.queued = true;
            self.ready.push_back(host_port);
        }
    }

    fn end(&mut self, host_port: u32, fate: Fate) {
        if fate == Fate::Lives {
            return;
        }
        // Dropping the stream also takes it out of the epoll set.
        if let Some(connection) = self.connections.remove(&host_port)
            && fate == Fate::Reset
            && connection.known_to_guest()
        {
            self.owe(Reset { guest_port: connection.guest_port, host_port });
        }
    }

    fn owe(&mut self, reset: Reset) {
        if self.resets.len() < RESETS_MAX {
            self.resets.push_back(reset);
        }
    }

    /// A port no connection has; there are far more ports than connections.
    fn take_port(&mut self) -> u32 {
        loop {
            let port = self.next_port;
            self.next_port = if port < PORT_LAST { port.saturating_add(1) } else { PORT_FIRST };
            if !self.connections.contains_key(&port) {
                return port;
            }
        }
    }
}

fn header(to: Reset, operation: Operation) -> PacketHeader {
    PacketHeader {
        src_cid: HOST_CID,
        dst_cid: GUEST_CID,
        src_port: to.host_port,
        dst_port: to.guest_port,
        len: 0,
        socket_type: TYPE_STREAM,
        operation: operation.code(),
        flags: 0,
        buf_alloc: 0,
        fwd_cnt: 0,
    }
}

fn control(
    to: Reset,
    operation: Operation,
    flags: u32,
    (buf_alloc, fwd_cnt): (u32, u32),
) -> [u8; HEADER_BYTES] {
    PacketHeader { flags, buf_alloc, fwd_cnt, ..header(to, operation) }.to_bytes()
}
