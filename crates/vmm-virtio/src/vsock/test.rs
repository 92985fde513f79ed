use std::{
    collections::VecDeque,
    io::{ErrorKind, Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
};

use proptest::prelude::*;

use super::{
    BUFFER_BYTES, CONNECTIONS_MAX, ConnectError, GUEST_CID, HEADER_BYTES, HOST_CID, Operation,
    PacketHeader, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM, ThawVsockError,
};
use crate::{
    ThawTransportError, Vsock,
    driver::{Guest, Part},
};

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

const PORT: u32 = 1024;
/// What Linux gives the device to fill, header included.
const RECEIVE_BYTES: u32 = 4096;

/// A guest's socket layer: keeps the receive queue full and takes packets from it.
struct Sockets {
    guest: Guest<Vsock>,
    buffers: std::collections::HashMap<u16, u64>,
    received: VecDeque<(PacketHeader, Vec<u8>)>,
    /// What the guest tells of its own room.
    buf_alloc: u32,
    fwd_cnt: u32,
    /// Whether buffers that were filled are replaced.
    refills: bool,
}

impl Sockets {
    fn new() -> Self {
        let mut sockets = Sockets::cold();
        sockets.guest.start();
        sockets.refill(64);
        sockets
    }

    fn cold() -> Self {
        Sockets {
            guest: Guest::cold(Vsock::new),
            buffers: Default::default(),
            received: VecDeque::new(),
            buf_alloc: 256 * 1024,
            fwd_cnt: 0,
            refills: true,
        }
    }

    fn refill(&mut self, count: usize) {
        for _ in 0..count {
            let at = self.guest.buffer(RECEIVE_BYTES);
            let Some(head) = self.guest.offer(RECEIVE, &[Part::In(at, RECEIVE_BYTES)]) else {
                break;
            };
            self.buffers.insert(head, at);
        }
        self.guest.notify(RECEIVE);
    }

    /// Lets the device work and collects what it sends.
    fn pump(&mut self) {
        loop {
            self.guest.pump();
            let mut taken = 0;
            while let Some((head, len)) = self.guest.used(RECEIVE) {
                let at = self.buffers.remove(&head).unwrap();
                let bytes = self.guest.bytes(at, len as usize);
                let header = PacketHeader::parse(&bytes).unwrap();
                let data = bytes[HEADER_BYTES..].to_vec();
                assert_eq!(header.len as usize, data.len());
                assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, GUEST_CID));
                self.received.push_back((header, data));
                taken += 1;
            }
            while self.guest.used(TRANSMIT).is_some() {}
            if taken == 0 {
                return;
            }
            if self.refills {
                self.refill(taken);
            }
        }
    }

    /// The next packet, which is an `operation`.
    #[track_caller]
    fn expect(&mut self, operation: Operation) -> PacketHeader {
        self.pump();
        let (header, _) = self.received.pop_front().expect("a packet comes");
        assert_eq!(Operation::from_code(header.operation), Some(operation), "{header:?}");
        header
    }

    #[track_caller]
    fn expect_nothing(&mut self) {
        self.pump();
        assert_eq!(self.received.front(), None);
    }

    /// A packet in answer to `to`, which came from the host.
    fn header(&self, to: &PacketHeader, operation: Operation) -> PacketHeader {
        PacketHeader {
            src_cid: GUEST_CID,
            dst_cid: HOST_CID,
            src_port: to.dst_port,
            dst_port: to.src_port,
            len: 0,
            socket_type: TYPE_STREAM,
            operation: operation.code(),
            flags: 0,
            buf_alloc: self.buf_alloc,
            fwd_cnt: self.fwd_cnt,
        }
    }

    fn send(&mut self, header: PacketHeader, data: &[u8]) {
        let header_at = self.guest.buffer_with(&header.to_bytes());
        let mut parts = vec![Part::Out(header_at, HEADER_BYTES as u32)];
        if !data.is_empty() {
            let at = self.guest.buffer_with(data);
            parts.push(Part::Out(at, data.len() as u32));
        }
        self.guest.offer(TRANSMIT, &parts).expect("the transmit queue has room");
        self.guest.notify(TRANSMIT);
    }

    fn reply(&mut self, to: &PacketHeader, operation: Operation) {
        self.send(self.header(to, operation), &[]);
    }

    fn reply_shutdown(&mut self, to: &PacketHeader, flags: u32) {
        self.send(PacketHeader { flags, ..self.header(to, Operation::Shutdown) }, &[]);
    }

    fn reply_data(&mut self, to: &PacketHeader, data: &[u8]) {
        let len = data.len() as u32;
        self.send(PacketHeader { len, ..self.header(to, Operation::Data) }, data);
    }

    /// Opens a connection that the guest accepts; the host's end, and a packet to reply to.
    fn open(&mut self) -> (UnixStream, PacketHeader) {
        let host = self.connect();
        let request = self.expect(Operation::Request);
        assert_eq!(request.dst_port, PORT);
        self.reply(&request, Operation::Response);
        self.pump();
        (host, request)
    }

    fn connect(&mut self) -> UnixStream {
        let (host, stream) = UnixStream::pair().unwrap();
        host.set_nonblocking(true).unwrap();
        self.guest.transport.connect(PORT, stream).unwrap();
        host
    }

    fn connections(&self) -> u64 {
        self.guest.transport.with(|vsock, _| vsock.stats().connections)
    }
}

fn is_closed(mut stream: &UnixStream) -> bool {
    matches!(stream.read(&mut [0]), Ok(0))
}

fn would_block(mut stream: &UnixStream) -> bool {
    stream.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32)
        .flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes())
        .take(len)
        .collect()
}

#[test]
fn a_connection_with_nothing_to_say_leaves_the_buffer_to_the_next() {
    let mut sockets = Sockets::new();
    let _quiet = sockets.connect();
    let mut lively = sockets.connect();
    lively.write_all(b"hello").unwrap();
    let requests = [sockets.expect(Operation::Request), sockets.expect(Operation::Request)];
    // Answered in one turn, both wait in line to send.
    requests.iter().for_each(|request| sockets.reply(request, Operation::Response));
    sockets.pump();
    let (header, data) = sockets.received.pop_front().expect("the second one's data");
    assert_eq!((header.src_port, data.as_slice()), (requests[1].src_port, b"hello".as_slice()));
    assert_eq!(sockets.guest.transport.take_broken(), None);
}

#[test]
fn a_mebibyte_goes_both_ways_through_small_windows() {
    let mut sockets = Sockets::new();
    sockets.buf_alloc = 20_000;
    let (mut host, peer) = sockets.open();
    let whole = pattern(1 << 20);
    let mut to_guest = whole.as_slice();
    let mut at_guest = Vec::new();
    let mut unsent = VecDeque::new();
    let mut at_host = Vec::new();
    // The guest's view of the host's window.
    let (mut room, mut sent) = (BUFFER_BYTES, 0_u32);
    while at_host.len() < whole.len() {
        if let Ok(count) = host.write(&to_guest[..to_guest.len().min(100_000)]) {
            to_guest = &to_guest[count..];
        }
        sockets.pump();
        while let Some((header, data)) = sockets.received.pop_front() {
            room = header.buf_alloc - sent.wrapping_sub(header.fwd_cnt);
            match Operation::from_code(header.operation).unwrap() {
                Operation::Data => {
                    assert!(data.len() as u32 <= sockets.buf_alloc);
                    sockets.fwd_cnt = sockets.fwd_cnt.wrapping_add(header.len);
                    at_guest.extend_from_slice(&data);
                    unsent.extend(data);
                }
                Operation::CreditUpdate => (),
                Operation::CreditRequest => sockets.reply(&peer, Operation::CreditUpdate),
                other => panic!("unexpected {other:?}"),
            }
        }
        let count = unsent.len().min(room as usize).min(30_000);
        if count > 0 {
            let data: Vec<u8> = unsent.drain(..count).collect();
            sockets.reply_data(&peer, &data);
            sent = sent.wrapping_add(count as u32);
            room -= count as u32;
        } else {
            sockets.reply(&peer, Operation::CreditUpdate);
        }
        sockets.pump();
        let mut bytes = [0; 70_000];
        while let Ok(count @ 1..) = host.read(&mut bytes) {
            at_host.extend_from_slice(&bytes[..count]);
        }
        sockets.pump();
    }
    assert!(at_guest == whole);
    assert!(at_host == whole);
    let stats = sockets.guest.transport.with(|vsock, _| vsock.stats());
    assert_eq!((stats.to_guest_bytes, stats.from_guest_bytes), (1 << 20, 1 << 20));
}

#[test]
fn packets_to_the_guest_fill_its_buffers() {
    let mut sockets = Sockets::new();
    let (mut host, _) = sockets.open();
    host.write_all(&pattern(40_000)).unwrap();
    sockets.pump();
    let lens: Vec<u32> = sockets.received.iter().map(|(header, _)| header.len).collect();
    let full = RECEIVE_BYTES - HEADER_BYTES as u32;
    assert!(lens[..lens.len() - 1].iter().all(|&len| len == full), "{lens:?}");
    assert_eq!(lens.iter().sum::<u32>(), 40_000);
}

#[test]
fn a_refused_connection_is_closed() {
    let mut sockets = Sockets::new();
    let host = sockets.connect();
    let request = sockets.expect(Operation::Request);
    assert!(would_block(&host));
    sockets.reply(&request, Operation::Reset);
    sockets.expect_nothing();
    assert!(is_closed(&host));
    let stats = sockets.guest.transport.with(|vsock, _| vsock.stats());
    assert_eq!((stats.refused, stats.connections), (1, 0));
}

#[test]
fn a_connection_opened_before_the_guest_runs_is_asked_for_when_it_does() {
    let mut sockets = Sockets::cold();
    let mut host = sockets.connect();
    host.write_all(b"early").unwrap();
    sockets.guest.pump();
    sockets.guest.start();
    assert!(would_block(&host));
    sockets.refill(4);
    let request = sockets.expect(Operation::Request);
    sockets.reply(&request, Operation::Response);
    sockets.pump();
    assert_eq!(sockets.received.pop_front().unwrap().1, b"early");
}

#[test]
fn a_guest_may_not_open_connections() {
    let mut sockets = Sockets::new();
    let request = PacketHeader {
        src_cid: GUEST_CID,
        dst_cid: HOST_CID,
        src_port: 5000,
        dst_port: 80,
        len: 0,
        socket_type: TYPE_STREAM,
        operation: Operation::Request.code(),
        flags: 0,
        buf_alloc: 1000,
        fwd_cnt: 0,
    };
    sockets.send(request, &[]);
    let reset = sockets.expect(Operation::Reset);
    assert_eq!((reset.src_port, reset.dst_port), (80, 5000));
    // Another kind of socket is answered likewise, a wrong address not at all.
    sockets.send(PacketHeader { socket_type: 2, ..request }, &[]);
    sockets.expect(Operation::Reset);
    sockets.send(PacketHeader { dst_cid: 9, ..request }, &[]);
    sockets.send(PacketHeader { src_cid: 4, ..request }, &[]);
    sockets.send(PacketHeader { operation: Operation::Reset.code(), ..request }, &[]);
    sockets.expect_nothing();
    sockets.send(PacketHeader { operation: 77, ..request }, &[]);
    sockets.expect(Operation::Reset);
}

#[test]
fn the_host_may_finish_sending_and_still_receive() {
    let mut sockets = Sockets::new();
    let (mut host, peer) = sockets.open();
    host.write_all(b"question").unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    assert_eq!(sockets.expect(Operation::Data).len, 8);
    let shutdown = sockets.expect(Operation::Shutdown);
    assert_eq!(shutdown.flags, SHUTDOWN_SEND);
    sockets.reply_data(&peer, b"answer");
    sockets.reply_shutdown(&peer, SHUTDOWN_BOTH);
    sockets.expect(Operation::Reset);
    let mut answer = Vec::new();
    host.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"answer");
    assert_eq!(sockets.connections(), 0);
}

#[test]
fn the_guest_may_finish_sending_and_still_receive() {
    let mut sockets = Sockets::new();
    let (mut host, peer) = sockets.open();
    sockets.reply_data(&peer, b"bye");
    sockets.reply_shutdown(&peer, SHUTDOWN_SEND);
    sockets.pump();
    let mut said = Vec::new();
    host.read_to_end(&mut said).unwrap();
    assert_eq!(said, b"bye");
    host.write_all(b"still here").unwrap();
    assert_eq!(sockets.expect(Operation::Data).len, 10);
    sockets.reply_data(&peer, b"more after the end");
    sockets.expect(Operation::Reset);
    assert_eq!(sockets.connections(), 0);
}

#[test]
fn a_guest_that_stops_receiving_is_not_sent_to() {
    let mut sockets = Sockets::new();
    let (mut host, peer) = sockets.open();
    sockets.reply_shutdown(&peer, SHUTDOWN_RECEIVE);
    sockets.pump();
    assert_eq!(host.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    sockets.reply_data(&peer, b"but I talk");
    sockets.expect_nothing();
    let mut bytes = [0; 32];
    assert_eq!(host.read(&mut bytes).unwrap(), 10);
}

#[test]
fn a_host_that_hangs_up_is_told_to_the_guest_after_its_last_data() {
    let mut sockets = Sockets::new();
    let (mut host, peer) = sockets.open();
    host.write_all(b"last words").unwrap();
    drop(host);
    assert_eq!(sockets.expect(Operation::Data).len, 10);
    assert_eq!(sockets.expect(Operation::Shutdown).flags, SHUTDOWN_BOTH);
    // What the guest still sends is dropped, and its answer ends the connection.
    sockets.reply_data(&peer, &[0; 1000]);
    sockets.expect_nothing();
    sockets.reply(&peer, Operation::Reset);
    sockets.expect_nothing();
    assert_eq!(sockets.connections(), 0);
}

#[test]
fn data_sent_before_a_close_reaches_a_slow_reader() {
    let mut sockets = Sockets::new();
    let (mut host, peer) = sockets.open();
    let whole = pattern(BUFFER_BYTES as usize);
    for piece in whole.chunks(16 << 10) {
        sockets.reply_data(&peer, piece);
    }
    // Fills the stream's own buffer until ours is in use.
    let mut sent = whole.len();
    sockets.pump();
    while let Some((header, _)) = sockets.received.pop_front() {
        assert_eq!(header.operation, Operation::CreditUpdate.code());
        let room = BUFFER_BYTES - (sent as u32).wrapping_sub(header.fwd_cnt);
        for piece in pattern(room as usize).chunks(16 << 10) {
            sockets.reply_data(&peer, piece);
        }
        sent += room as usize;
        sockets.pump();
    }
    sockets.reply_shutdown(&peer, SHUTDOWN_BOTH);
    // Impatient, as Linux is after 8 seconds.
    sockets.reply(&peer, Operation::Reset);
    sockets.expect_nothing();
    assert_eq!(sockets.connections(), 1, "it still has data to deliver");
    let mut got = 0;
    let mut bytes = vec![0; 50_000];
    loop {
        match host.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        sockets.pump();
    }
    assert_eq!(got, sent);
    assert_eq!(sockets.connections(), 0);
}

#[test]
fn a_guest_that_sends_more_than_there_is_room_for_is_reset() {
    let mut sockets = Sockets::new();
    let (host, peer) = sockets.open();
    let data = vec![0; 60_000];
    let mut packets = 0;
    while sockets.received.is_empty() || sockets.connections() == 1 {
        sockets.received.clear();
        sockets.reply_data(&peer, &data);
        sockets.pump();
        packets += 1;
        assert!(packets < 100, "what is held for a reader is bounded");
    }
    assert_eq!(sockets.received.pop_back().unwrap().0.operation, Operation::Reset.code());
    drop(host);
}

#[test]
fn a_guest_without_room_is_asked_for_it_once_and_not_sent_to() {
    let mut sockets = Sockets::new();
    sockets.buf_alloc = 100;
    let (mut host, peer) = sockets.open();
    host.write_all(&[1; 300]).unwrap();
    assert_eq!(sockets.expect(Operation::Data).len, 100);
    sockets.expect(Operation::CreditRequest);
    sockets.expect_nothing();
    sockets.fwd_cnt = 100;
    sockets.reply(&peer, Operation::CreditUpdate);
    assert_eq!(sockets.expect(Operation::Data).len, 100);
    // Credit that makes no sense is no credit.
    sockets.fwd_cnt = 5000;
    sockets.reply(&peer, Operation::CreditUpdate);
    sockets.expect(Operation::CreditRequest);
    sockets.expect_nothing();
}

#[test]
fn a_request_for_credit_is_answered() {
    let mut sockets = Sockets::new();
    let (_host, peer) = sockets.open();
    sockets.reply(&peer, Operation::CreditRequest);
    let update = sockets.expect(Operation::CreditUpdate);
    assert_eq!((update.buf_alloc, update.fwd_cnt), (BUFFER_BYTES, 0));
}

#[test]
fn connections_take_turns() {
    let mut sockets = Sockets::cold();
    sockets.guest.start();
    // Two buffers: enough for both requests, so that data has to wait.
    sockets.refills = false;
    sockets.refill(2);
    let (mut first, _) = sockets.open();
    let (mut second, _) = sockets.open();
    first.write_all(&pattern(60_000)).unwrap();
    second.write_all(&pattern(60_000)).unwrap();
    sockets.expect_nothing();
    sockets.refill(20);
    sockets.pump();
    let ports: Vec<u32> = sockets.received.iter().map(|(header, _)| header.src_port).collect();
    assert_eq!(ports.len(), 20);
    assert!(ports.windows(2).all(|pair| pair[0] != pair[1]), "{ports:?}");
}

#[test]
fn connections_are_limited_and_abandoned_ones_give_way() {
    let mut sockets = Sockets::new();
    let mut hosts: Vec<UnixStream> = (0..CONNECTIONS_MAX).map(|_| sockets.connect()).collect();
    sockets.pump();
    let requests: Vec<_> = std::mem::take(&mut sockets.received).into();
    assert_eq!(requests.len(), CONNECTIONS_MAX);
    let (_, stream) = UnixStream::pair().unwrap();
    assert!(matches!(sockets.guest.transport.connect(PORT, stream), Err(ConnectError::TooMany)));
    drop(hosts.pop());
    sockets.pump();
    let host = sockets.connect();
    sockets.expect(Operation::Reset);
    sockets.expect(Operation::Request);
    assert!(would_block(&host));
}

#[test]
fn a_clone_is_told_that_old_connections_are_over_before_new_ones_begin() {
    let mut sockets = Sockets::new();
    let (host, peer) = sockets.open();
    let (other_host, other_peer) = sockets.open();
    let unheard_of = sockets.connect();
    sockets.guest.transport.drain();
    let frozen = crate::Freeze::freeze(&sockets.guest.transport);
    sockets.guest.thaw(frozen, |registrar| registrar).unwrap();
    let new = sockets.connect();
    sockets.guest.transport.kick();
    sockets.pump();
    assert!(is_closed(&host) && is_closed(&other_host) && is_closed(&unheard_of));
    assert!(would_block(&new));
    let operations: Vec<_> = sockets
        .received
        .iter()
        .map(|(header, _)| (header.src_port, Operation::from_code(header.operation).unwrap()))
        .collect();
    let fresh = operations.last().unwrap().0;
    assert!(operations[..operations.len() - 1].contains(&(peer.src_port, Operation::Reset)));
    assert!(operations.contains(&(other_peer.src_port, Operation::Reset)));
    assert_eq!(operations.last().unwrap().1, Operation::Request);
    assert!(fresh > other_peer.src_port, "ports are not used again");
}

#[test]
fn a_driver_that_is_loaded_again_knows_no_connections() {
    let mut sockets = Sockets::new();
    let (host, peer) = sockets.open();
    sockets.guest.set(0x70, 0);
    sockets.buffers.clear();
    assert!(is_closed(&host));
    sockets.guest.start();
    sockets.refill(8);
    sockets.reply_data(&peer, b"are you there");
    sockets.expect(Operation::Reset);
    sockets.open();
}

#[test]
fn malformed_packets_break_the_device_and_close_its_connections() {
    type Break = fn(&mut Sockets, &PacketHeader);
    let cases: &[(Break, &str)] = &[
        (
            |sockets, _| {
                let at = sockets.guest.buffer(8);
                sockets.guest.offer(TRANSMIT, &[Part::Out(at, 43)]);
            },
            "complete header",
        ),
        (
            |sockets, peer| {
                let header = PacketHeader { len: 5, ..sockets.header(peer, Operation::Data) };
                sockets.send(header, b"four");
            },
            "longer than its buffers",
        ),
        (
            |sockets, peer| {
                let header =
                    PacketHeader { len: u32::MAX, ..sockets.header(peer, Operation::Data) };
                sockets.send(header, b"");
            },
            "longer than its buffers",
        ),
    ];
    for (make, reason) in cases {
        let mut sockets = Sockets::new();
        let (host, peer) = sockets.open();
        make(&mut sockets, &peer);
        sockets.guest.notify(TRANSMIT);
        sockets.guest.pump();
        let broken = sockets.guest.transport.take_broken().expect("the device is broken");
        assert!(broken.contains(reason), "{broken}");
        assert!(is_closed(&host));
        let (_, stream) = UnixStream::pair().unwrap();
        let refused = sockets.guest.transport.connect(PORT, stream);
        assert!(matches!(refused, Err(ConnectError::Broken)));
    }
}

#[test]
fn receive_buffers_without_room_break_the_device() {
    let mut guest = Guest::new(Vsock::new);
    let at = guest.buffer(64);
    guest.offer(RECEIVE, &[Part::In(at, 43)]);
    let (_host, stream) = UnixStream::pair().unwrap();
    assert!(matches!(guest.transport.connect(PORT, stream), Err(ConnectError::Broken)));
    assert!(guest.transport.take_broken().unwrap().contains("no room"));
}

#[test]
fn the_guest_sees_its_address() {
    let guest = Guest::new(Vsock::new);
    let mut cid = [0; 8];
    guest.transport.read(0x100, &mut cid);
    assert_eq!(u64::from_le_bytes(cid), GUEST_CID);
}

#[test]
fn edited_state_is_refused() {
    let mut sockets = Sockets::new();
    let frozen = crate::Freeze::freeze(&sockets.guest.transport);
    let mut many = frozen.clone();
    many.device.connections = vec![(1, 2); 5000];
    assert!(matches!(
        sockets.guest.thaw(many, |registrar| registrar),
        Err(ThawTransportError::Device(ThawVsockError::TooMany(5000)))
    ));
    let mut port = frozen;
    port.device.next_port = 3;
    assert!(matches!(
        sockets.guest.thaw(port, |registrar| registrar),
        Err(ThawTransportError::Device(ThawVsockError::Port(3)))
    ));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_header_survives_its_bytes(bytes in any::<[u8; HEADER_BYTES]>()) {
        let header = PacketHeader::parse(&bytes).unwrap();
        prop_assert_eq!(header.to_bytes(), bytes);
        prop_assert_eq!(PacketHeader::parse(&bytes[1..]), None);
    }

    #[test]
    fn no_packets_of_a_guest_do_more_than_end_its_connections(
        packets in proptest::collection::vec(
            (0..9_u16, 0..4_u32, prop_oneof![Just(0_u32), 0..5000_u32], any::<(u32, u32)>(), 0..3_u8),
            0..60,
        ),
        clone_at in 0..60_usize,
    ) {
        let mut sockets = Sockets::new();
        let (_host, peer) = sockets.open();
        for (index, (operation, flags, len, (buf_alloc, fwd_cnt), who)) in
            packets.into_iter().enumerate()
        {
            let header = PacketHeader {
                operation,
                flags,
                len,
                buf_alloc,
                fwd_cnt,
                socket_type: if who == 2 { 2 } else { TYPE_STREAM },
                dst_port: if who == 1 { 99 } else { peer.src_port },
                ..sockets.header(&peer, Operation::Data)
            };
            sockets.send(header, &vec![0x77; len as usize]);
            sockets.pump();
            if index == clone_at {
                sockets.guest.clone_machine(|registrar| registrar);
                sockets.pump();
            }
        }
        prop_assert_eq!(sockets.guest.transport.take_broken(), None);
        prop_assert!(sockets.connections() <= 1);
        // A new connection works whatever happened.
        sockets.received.clear();
        let (mut host, peer) = sockets.open();
        sockets.reply_data(&peer, b"fine");
        sockets.pump();
        let mut bytes = [0; 4];
        host.read_exact(&mut bytes).unwrap();
        prop_assert_eq!(&bytes, b"fine");
    }
}
