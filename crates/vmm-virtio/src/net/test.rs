use std::{
    collections::{HashMap, VecDeque},
    os::fd::OwnedFd,
};

use proptest::prelude::*;
use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair},
};

use super::{FRAME_BYTES_MIN, HEADER_BYTES, MERGED_MAX, Net, NetHost, NetSettings, ThawNetError};
use crate::{
    Freeze as _, Registrar, ThawTransportError,
    driver::{Guest, Part},
};

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

const SETTINGS: NetSettings = NetSettings { mac: [2, 3, 4, 5, 6, 7], mtu: 9000 };
const FRAME_BYTES_MAX: usize = 9014;
/// About what Linux gives the device to fill.
const BUFFER_BYTES: u32 = 1536;
const MERGE: u64 = 1 << 15;

fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
}

fn host(socket: OwnedFd) -> impl FnOnce(Registrar) -> NetHost {
    move |registrar| NetHost { settings: SETTINGS, socket, registrar }
}

/// A guest's network stack, and the other end of its wire.
struct Card {
    guest: Guest<Net>,
    wire: OwnedFd,
    buffers: HashMap<u16, (u64, u32)>,
    received: VecDeque<Vec<u8>>,
    /// Whether buffers that were filled are replaced.
    refills: bool,
}

impl Card {
    fn new() -> Self {
        let mut card = Card::cold();
        card.guest.start();
        card.refill(64, BUFFER_BYTES);
        card
    }

    fn cold() -> Self {
        let (wire, socket) = pair();
        Card {
            guest: Guest::cold(|registrar| Net::new(host(socket)(registrar)).unwrap()),
            wire,
            buffers: HashMap::new(),
            received: VecDeque::new(),
            refills: true,
        }
    }

    fn refill(&mut self, count: usize, bytes: u32) {
        for _ in 0..count {
            let at = self.guest.buffer(bytes);
            let Some(head) = self.guest.offer(RECEIVE, &[Part::In(at, bytes)]) else { break };
            self.buffers.insert(head, (at, bytes));
        }
        self.guest.notify(RECEIVE);
    }

    /// Lets the device work and collects what it gives the guest.
    fn pump(&mut self) {
        loop {
            self.guest.pump();
            let mut taken = 0;
            while let Some(bytes) = self.buffer() {
                let (header, data) = bytes.split_at(HEADER_BYTES);
                assert_eq!(header[..HEADER_BYTES - 2], [0; HEADER_BYTES - 2]);
                let mut frame = data.to_vec();
                let count = u16::from_le_bytes(header[HEADER_BYTES - 2..].try_into().unwrap());
                for _ in 1..count {
                    frame.extend(self.buffer().expect("all buffers of a frame come at once"));
                }
                self.received.push_back(frame);
                taken += usize::from(count);
            }
            while self.guest.used(TRANSMIT).is_some() {}
            if taken == 0 {
                return;
            }
            if self.refills {
                self.refill(taken, BUFFER_BYTES);
            }
        }
    }

    /// What is in the next buffer that was filled.
    fn buffer(&mut self) -> Option<Vec<u8>> {
        let (head, written) = self.guest.used(RECEIVE)?;
        let (at, bytes) = self.buffers.remove(&head).unwrap();
        assert!(written <= bytes);
        Some(self.guest.bytes(at, written as usize))
    }

    /// The guest sends a frame, its header in a buffer of its own.
    fn send(&mut self, frame: &[u8]) {
        let header = self.guest.buffer_with(&[0; HEADER_BYTES]);
        let at = self.guest.buffer_with(frame);
        let parts = [Part::Out(header, HEADER_BYTES as u32), Part::Out(at, frame.len() as u32)];
        self.guest.offer(TRANSMIT, &parts).expect("the transmit queue has room");
        self.guest.notify(TRANSMIT);
    }

    /// The other end of the wire sends a frame.
    fn arrive(&self, frame: &[u8]) {
        assert_eq!(send(&self.wire, frame, SendFlags::NOSIGNAL), Ok(frame.len()));
    }

    /// What the other end of the wire gets.
    fn sent(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 2 * FRAME_BYTES_MAX];
        match recv(&self.wire, frame.as_mut_slice(), RecvFlags::empty()) {
            // It has no other end.
            Ok((_, 0)) => None,
            Ok((len, _)) => {
                frame.truncate(len);
                Some(frame)
            }
            Err(error) => {
                assert_eq!(error, Errno::AGAIN);
                None
            }
        }
    }

    fn all_sent(&mut self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            self.pump();
            match self.sent() {
                Some(frame) => all.push(frame),
                None => return all,
            }
        }
    }

    /// Both directions work.
    #[track_caller]
    fn assert_works(&mut self) {
        self.received.clear();
        self.send(&frame(100, 77));
        assert_eq!(self.all_sent(), [frame(100, 77)]);
        self.arrive(&frame(5000, 78));
        self.pump();
        assert_eq!(self.received, [frame(5000, 78)]);
        assert_eq!(self.guest.transport.take_broken(), None);
    }

    fn clone_machine(&mut self) {
        let (wire, socket) = pair();
        self.wire = wire;
        self.guest.clone_machine(host(socket));
    }

    fn stats(&self) -> super::NetStats {
        self.guest.transport.with(|net, _| net.stats())
    }
}

/// A frame of `len` bytes that is like no other.
fn frame(len: usize, number: usize) -> Vec<u8> {
    let words = (0..).map(|word: usize| (word.wrapping_add(number << 16) as u32).to_le_bytes());
    words.flatten().take(len).collect()
}

#[test]
fn the_guest_sees_its_address_a_link_that_is_up_and_how_long_packets_are() {
    let card = Card::cold();
    let mut config = [0xff; 14];
    card.guest.transport.read(0x100, &mut config);
    assert_eq!(config, [2, 3, 4, 5, 6, 7, 1, 0, 0, 0, 0x28, 0x23, 0, 0]);
    let offered = card.guest.offered() & 0xff_ffff;
    assert_eq!(offered, 1 << 3 | 1 << 5 | 1 << 15 | 1 << 16, "and no more than this");
}

#[test]
fn frames_of_every_length_arrive_unchanged_on_both_sides() {
    let mut card = Card::new();
    for (number, len) in [14, 15, 60, 1514, 1524, 1525, 4096, 9013, 9014].into_iter().enumerate() {
        card.send(&frame(len, number));
        card.arrive(&frame(len, number + 100));
        card.pump();
        assert_eq!(card.sent(), Some(frame(len, number)));
        assert_eq!(card.received.pop_front(), Some(frame(len, number + 100)));
        assert!(card.received.is_empty());
    }
    let stats = card.stats();
    assert_eq!((stats.to_guest_frames, stats.from_guest_frames), (9, 9));
    assert_eq!((stats.to_guest_lost, stats.from_guest_lost), (0, 0));
}

#[test]
fn a_guest_is_interrupted_when_it_wants_to_know() {
    let mut card = Card::new();
    card.guest.interrupted();
    card.arrive(&frame(60, 1));
    card.guest.pump();
    assert!(card.guest.interrupted());
    // It has not looked at the last one yet.
    card.arrive(&frame(5000, 2));
    card.guest.pump();
    assert!(!card.guest.interrupted());
    card.pump();
    assert_eq!(card.received.len(), 2);
    // Its wish lies in the middle of what one frame fills.
    card.arrive(&frame(5000, 3));
    card.guest.pump();
    assert!(card.guest.interrupted());
}

#[test]
fn a_guest_without_buffers_is_not_read_for() {
    let mut card = Card::cold();
    card.guest.start();
    card.refills = false;
    for number in 0..5 {
        card.arrive(&frame(60, number));
    }
    card.pump();
    assert_eq!(card.stats(), super::NetStats::default());
    card.refill(2, BUFFER_BYTES);
    card.pump();
    assert_eq!(card.received, [frame(60, 0), frame(60, 1)]);
    card.refill(10, BUFFER_BYTES);
    card.pump();
    assert_eq!(card.received.len(), 5);
    assert_eq!(card.received[4], frame(60, 4));
}

#[test]
fn a_frame_waits_for_enough_buffers_and_no_clone_gets_part_of_it() {
    for cloned in [false, true] {
        let mut card = Card::cold();
        card.guest.start();
        card.refills = false;
        card.refill(3, BUFFER_BYTES);
        card.arrive(&frame(9014, 1));
        card.pump();
        assert!(card.received.is_empty(), "no part of it is seen");
        if cloned {
            card.clone_machine();
        }
        card.arrive(&frame(60, 2));
        card.refill(5, BUFFER_BYTES);
        card.pump();
        let wanted = if cloned { vec![frame(60, 2)] } else { vec![frame(9014, 1), frame(60, 2)] };
        assert_eq!(card.received, wanted);
        card.refill(64, BUFFER_BYTES);
        card.refills = true;
        card.assert_works();
    }
}

#[test]
fn a_guest_with_tiny_buffers_loses_what_would_take_too_many_and_no_more() {
    let mut card = Card::cold();
    card.guest.start();
    card.refills = false;
    card.refill(200, 100);
    let most = MERGED_MAX * 100 - HEADER_BYTES;
    card.arrive(&frame(most + 1, 1));
    card.arrive(&frame(most, 2));
    card.pump();
    assert_eq!(card.received, [frame(most, 2)]);
    assert_eq!(card.stats().to_guest_lost, 1);
}

#[test]
fn a_driver_that_does_not_merge_gets_what_fits_one_buffer() {
    let mut card = Card::cold();
    for status in [0, 1, 3] {
        card.guest.set(0x70, status);
    }
    card.guest.accept(card.guest.offered() & !MERGE);
    card.guest.set(0x70, 11);
    card.guest.set_up_queues();
    card.guest.set(0x70, 15);
    card.refill(8, BUFFER_BYTES);
    card.arrive(&frame(BUFFER_BYTES as usize - HEADER_BYTES + 1, 1));
    card.arrive(&frame(BUFFER_BYTES as usize - HEADER_BYTES, 2));
    card.pump();
    assert_eq!(card.received, [frame(BUFFER_BYTES as usize - HEADER_BYTES, 2)]);
    assert_eq!(card.stats().to_guest_lost, 1);
}

#[test]
fn a_full_socket_takes_no_more_until_it_has_room_and_nothing_is_lost() {
    let mut card = Card::new();
    // As long as it is full the event loop comes to rest: `pump` returns.
    for number in 0..100 {
        card.send(&frame(9000, number));
        card.pump();
    }
    let taken = card.stats().from_guest_frames;
    assert!((1..100).contains(&taken), "{taken} frames were taken");
    card.arrive(&frame(60, 500));
    card.pump();
    assert_eq!(card.received.pop_front(), Some(frame(60, 500)), "the other direction goes on");
    let wanted: Vec<_> = (0..100).map(|number| frame(9000, number)).collect();
    assert!(card.all_sent() == wanted);
    card.assert_works();
}

#[test]
fn a_clone_sends_what_its_socket_had_no_room_for() {
    let mut card = Card::new();
    for number in 0..100 {
        card.send(&frame(9000, number));
    }
    card.pump();
    let taken = card.stats().from_guest_frames as usize;
    // The device does not work meanwhile.
    let before: Vec<_> = std::iter::from_fn(|| card.sent()).collect();
    assert_eq!(before.len(), taken);
    card.clone_machine();
    let after = card.all_sent();
    let wanted: Vec<_> = (0..100).map(|number| frame(9000, number)).collect();
    assert!([before, after].concat() == wanted, "each frame once, in order");
}

#[test]
fn when_the_other_end_is_closed_the_guest_goes_on_and_what_it_sends_is_lost() {
    // Noticed by a frame, by the event of its end, and by a look at what there is to read.
    for (full, look) in [(false, false), (true, false), (true, true)] {
        let mut card = Card::new();
        let count = if full { 100 } else { 0 };
        for number in 0..count {
            card.send(&frame(9000, number));
        }
        card.pump();
        let (wire, socket) = pair();
        card.wire = wire;
        if look {
            card.guest.transport.event(RECEIVE as u32, crate::Events::IN);
        }
        card.send(&frame(60, 1000));
        card.pump();
        let stats = card.stats();
        assert_eq!(stats.from_guest_frames + stats.from_guest_lost, count as u64 + 1);
        assert!(stats.from_guest_lost > 0);
        assert_eq!(card.guest.transport.take_broken(), None);
        card.guest.transport.use_socket(socket).unwrap();
        card.assert_works();
    }
}

#[test]
fn another_socket_takes_the_place_of_one_that_is_full() {
    let mut card = Card::new();
    for number in 0..100 {
        card.send(&frame(9000, number));
    }
    card.pump();
    let taken = card.stats().from_guest_frames as usize;
    let (wire, socket) = pair();
    let old = std::mem::replace(&mut card.wire, wire);
    card.guest.transport.use_socket(socket).unwrap();
    let wanted: Vec<_> = (taken..100).map(|number| frame(9000, number)).collect();
    assert!(card.all_sent() == wanted);
    // Nobody listens to the old one.
    assert_eq!(send(&old, &frame(60, 1), SendFlags::NOSIGNAL), Err(Errno::PIPE));
    card.assert_works();
    // What is no socket changes nothing.
    let file = tempfile::tempfile().unwrap();
    assert!(card.guest.transport.use_socket(file.into()).is_err());
    card.assert_works();
}

#[test]
fn frames_of_impossible_lengths_are_lost_and_nothing_else() {
    let mut card = Card::new();
    for len in [0, 1, FRAME_BYTES_MIN - 1, FRAME_BYTES_MAX + 1, 3 * FRAME_BYTES_MAX] {
        card.send(&frame(len, 1));
        if len > 0 {
            card.arrive(&frame(len, 2));
        }
        card.pump();
        assert_eq!(card.sent(), None);
        assert!(card.received.is_empty());
    }
    assert_eq!((card.stats().from_guest_lost, card.stats().to_guest_lost), (5, 4));
    card.assert_works();
}

#[test]
fn queues_that_break_the_rules_break_the_device() {
    type Break = fn(&mut Card);
    let cases: &[(Break, &str)] = &[
        (
            |card| {
                let at = card.guest.buffer(64);
                card.guest.offer(TRANSMIT, &[Part::Out(at, HEADER_BYTES as u32 - 1)]);
            },
            "no complete header",
        ),
        (
            |card| {
                let at = card.guest.buffer(64);
                card.guest.offer(TRANSMIT, &[Part::In(at, 64)]);
            },
            "no complete header",
        ),
        (
            |card| {
                card.guest.offer(TRANSMIT, &[Part::Out(u64::MAX - 5, 100)]);
            },
            "outside guest memory",
        ),
        (
            |card| {
                card.refill(1, HEADER_BYTES as u32 - 1);
                card.arrive(&frame(60, 1));
            },
            "no room for a header",
        ),
        (
            |card| {
                card.refill(1, 100);
                card.refill(1, 5);
                card.arrive(&frame(1000, 1));
            },
            "no room for a header",
        ),
    ];
    for (make, reason) in cases {
        let mut card = Card::cold();
        card.guest.start();
        make(&mut card);
        card.guest.notify(TRANSMIT);
        card.guest.pump();
        let broken = card.guest.transport.take_broken().expect("the device is broken");
        assert!(broken.contains(reason), "{broken}");
        // It comes back with its driver.
        card.guest.set(0x70, 0);
        card.buffers.clear();
        card.guest.start();
        card.refill(64, BUFFER_BYTES);
        card.all_sent();
        card.assert_works();
    }
}

#[test]
fn a_driver_that_is_loaded_again_gets_no_frame_of_the_one_before() {
    let mut card = Card::cold();
    card.guest.start();
    card.refill(2, BUFFER_BYTES);
    card.arrive(&frame(9000, 1));
    card.pump();
    card.guest.set(0x70, 0);
    card.buffers.clear();
    card.guest.start();
    card.refill(64, BUFFER_BYTES);
    card.pump();
    assert!(card.received.is_empty());
    card.assert_works();
}

#[test]
fn edited_state_is_refused() {
    let mut card = Card::new();
    let frozen = card.guest.transport.freeze();
    let edits: [fn(&mut super::FrozenNet); 2] = [|net| net.mtu = 65000, |net| net.mac[5] ^= 1];
    for edit in edits {
        let mut edited = frozen.clone();
        edit(&mut edited.device);
        let thawed = card.guest.thaw(edited, host(pair().1));
        assert!(matches!(thawed, Err(ThawTransportError::Device(ThawNetError::OtherCard { .. }))));
    }
    let file = tempfile::tempfile().unwrap();
    let thawed = card.guest.thaw(frozen, host(file.into()));
    assert!(matches!(thawed, Err(ThawTransportError::Device(ThawNetError::Socket(_)))));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The guest sends a frame.
    Send(usize),
    /// A frame comes.
    Arrive(usize),
    /// The guest gives buffers.
    Refill(usize, u32),
    /// The other end takes what there is.
    Take,
    Clone,
    /// The other end is closed.
    Close,
    /// There is another socket.
    Replace,
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![0..20_usize, 1500..1600_usize, 8990..9100_usize];
    prop_oneof![
        4 => len.clone().prop_map(Step::Send),
        4 => len.prop_map(|len| Step::Arrive(len.max(1))),
        3 => (1..9_usize, 200..3000_u32).prop_map(|(count, bytes)| Step::Refill(count, bytes)),
        1 => Just(Step::Take),
        1 => Just(Step::Clone),
        1 => Just(Step::Close),
        1 => Just(Step::Replace),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_frames_are_whole_and_in_order_and_buffers_come_back(
        steps in proptest::collection::vec(step(), 0..80),
    ) {
        let mut card = Card::cold();
        card.guest.start();
        card.refills = false;
        let (mut numbers, mut taken, mut came) = (0, Vec::new(), Vec::new());
        let mut frames = HashMap::new();
        for step in steps {
            numbers += 1;
            match step {
                Step::Send(len) => {
                    frames.insert(frame(len, numbers), numbers);
                    card.send(&frame(len, numbers));
                }
                Step::Arrive(len) => {
                    frames.insert(frame(len, numbers), numbers);
                    // There may be nobody.
                    let _ = send(&card.wire, &frame(len, numbers), SendFlags::NOSIGNAL);
                }
                Step::Refill(count, bytes) => card.refill(count, bytes),
                Step::Take => taken.extend(card.all_sent()),
                Step::Clone => card.clone_machine(),
                Step::Close => card.wire = pair().0,
                Step::Replace => {
                    let (wire, socket) = pair();
                    card.wire = wire;
                    card.guest.transport.use_socket(socket).unwrap();
                }
            }
            card.pump();
            came.extend(card.received.drain(..));
        }
        prop_assert_eq!(card.guest.transport.take_broken(), None);
        taken.extend(card.all_sent());
        for seen in [taken, came] {
            let seen: Vec<_> = seen.iter().map(|frame| frames.get(frame).copied()).collect();
            prop_assert!(seen.iter().all(Option::is_some), "a frame nobody sent: {seen:?}");
            prop_assert!(seen.is_sorted_by(|one, next| one < next), "{seen:?}");
        }
        let (wire, socket) = pair();
        card.wire = wire;
        card.guest.transport.use_socket(socket).unwrap();
        card.refill(256, BUFFER_BYTES);
        card.refills = true;
        card.assert_works();
        while card.guest.used(TRANSMIT).is_some() {}
        prop_assert_eq!(card.guest.free(TRANSMIT), 256, "every buffer that was sent came back");
    }
}
