//! Frames no guest's kernel would send.

use std::net::Ipv4Addr;

use api_guest::network::GUEST_ADDRESS;
use api_vmm::{NET_FRAME_BYTES_MAX, NET_GATEWAY_MAC, NET_MAC};
use node_gateway::{Dropped, Packet, Victim, read};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use crate::world::{SITE, World, echo_server, policy};

/// A packet of IP and all that is said of it.
#[derive(Clone)]
pub(crate) struct Crafted {
    pub(crate) from_mac: [u8; 6],
    pub(crate) to_mac: [u8; 6],
    pub(crate) ethertype: u16,
    pub(crate) from: Ipv4Addr,
    pub(crate) to: Ipv4Addr,
    pub(crate) protocol: u8,
    /// Flags and offset of a fragment.
    pub(crate) fragment: u16,
    pub(crate) payload: Vec<u8>,
}

impl Crafted {
    pub(crate) fn new(to: Ipv4Addr, protocol: u8, payload: Vec<u8>) -> Self {
        Self {
            from_mac: NET_MAC,
            to_mac: NET_GATEWAY_MAC,
            ethertype: 0x0800,
            from: GUEST_ADDRESS,
            to,
            protocol,
            fragment: 0,
            payload,
        }
    }

    pub(crate) fn syn(to: Ipv4Addr, port: u16) -> Self {
        let mut tcp = vec![0x9c, 0x40];
        tcp.extend_from_slice(&port.to_be_bytes());
        tcp.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
        Self::new(to, 6, tcp)
    }

    pub(crate) fn udp(to: Ipv4Addr, port: u16, data: &[u8]) -> Self {
        let mut udp = vec![0x9c, 0x41];
        udp.extend_from_slice(&port.to_be_bytes());
        udp.extend_from_slice(&(data.len() as u16 + 8).to_be_bytes());
        udp.extend_from_slice(&[0, 0]);
        udp.extend_from_slice(data);
        Self::new(to, 17, udp)
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut frame = [&self.to_mac[..], &self.from_mac, &self.ethertype.to_be_bytes()].concat();
        let bytes = (20 + self.payload.len()) as u16;
        let mut ip = vec![0x45, 0];
        ip.extend_from_slice(&bytes.to_be_bytes());
        ip.extend_from_slice(&[0, 1]);
        ip.extend_from_slice(&self.fragment.to_be_bytes());
        ip.extend_from_slice(&[64, self.protocol, 0, 0]);
        ip.extend_from_slice(&self.from.octets());
        ip.extend_from_slice(&self.to.octets());
        let sum: u32 =
            ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend(ip);
        frame.extend_from_slice(&self.payload);
        frame
    }
}

pub(crate) fn echo_request(to: Ipv4Addr, data: &[u8]) -> Vec<u8> {
    let payload = [&[8, 0, 0, 0, 0, 1, 0, 1], data].concat();
    Crafted::new(to, 1, payload).frame()
}

#[test]
fn only_what_is_whole_and_the_guests_own_is_read() {
    let good = Crafted::syn(SITE, 80);
    assert!(matches!(read(&good.frame()), Ok(Packet::Tcp(segment)) if segment.begins));
    let mut padded = good.frame();
    padded.extend_from_slice(&[0; 20]);
    assert!(matches!(read(&padded), Ok(Packet::Tcp(segment)) if segment.ip.len() == 40));
    let with = |change: fn(&mut Crafted)| {
        let mut crafted = good.clone();
        change(&mut crafted);
        read(&crafted.frame()).unwrap_err()
    };
    assert_eq!(with(|it| it.from_mac = [2; 6]), Dropped::Spoofed);
    assert_eq!(with(|it| it.from = Ipv4Addr::new(10, 107, 0, 3)), Dropped::Spoofed);
    assert_eq!(with(|it| it.to_mac = [0xff; 6]), Dropped::Misdirected);
    assert_eq!(with(|it| it.fragment = 0x2000), Dropped::Fragment);
    assert_eq!(with(|it| it.fragment = 1), Dropped::Fragment);
    assert_eq!(with(|it| it.ethertype = 0x86dd), Dropped::NotIpv4);
    assert_eq!(with(|it| it.ethertype = 0x8100), Dropped::NotIpv4);
    assert_eq!(with(|it| it.protocol = 41), Dropped::Protocol);
    assert_eq!(with(|it| it.protocol = 132), Dropped::Protocol);
    assert_eq!(with(|it| it.payload.truncate(19)), Dropped::Malformed);
    assert_eq!(with(|it| it.payload[12] = 0xf0), Dropped::Malformed);
    assert_eq!(with(|it| it.payload[2..4].fill(0)), Dropped::Malformed);
    let changed = |at: usize, to: u8| {
        let mut frame = good.frame();
        frame[at] = to;
        read(&frame).unwrap_err()
    };
    assert_eq!(changed(14, 0x46), Dropped::Malformed, "options");
    assert_eq!(changed(14, 0x65), Dropped::Malformed, "version");
    assert_eq!(changed(24, 0xaa), Dropped::Malformed, "checksum");
    assert_eq!(changed(17, 0xff), Dropped::Malformed, "longer than the frame");
    assert_eq!(read(&vec![0; NET_FRAME_BYTES_MAX + 1]), Err(Dropped::Oversized));
    assert_eq!(read(&[0; 13]), Err(Dropped::Malformed));
    assert_eq!(read(&[]), Err(Dropped::Malformed));
}

proptest! {
    #[test]
    fn no_frame_is_too_strange_to_be_read(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        good in any::<bool>(),
        place in 12..60_usize,
    ) {
        let mut frame = bytes.clone();
        if good {
            frame = Crafted::udp(SITE, 53, &bytes).frame();
            let place = place.min(frame.len() - 1);
            frame[place] ^= bytes.first().copied().unwrap_or(1);
        }
        if let Ok(Packet::Tcp(segment)) = read(&frame) {
            prop_assert_eq!(&segment.ip[12..16], GUEST_ADDRESS.octets());
        }
    }

    #[test]
    fn no_segment_is_too_strange_for_a_connection(
        script in proptest::collection::vec(any::<u8>(), 0..2000),
    ) {
        Victim::new().suffer(&script);
    }
}

#[test]
fn a_network_survives_whatever_its_guest_sends() {
    let mut world = World::new();
    let mut sandbox = world.sandbox(policy("default", &[], &[]));
    let port = echo_server(SITE);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let frames = (proptest::collection::vec(any::<u8>(), 1..120), any::<bool>(), any::<u8>());
    for _ in 0..2000 {
        let (bytes, whole, protocol) = frames.new_tree(&mut runner).unwrap().current();
        if whole {
            let protocol = [6, 17, 1, protocol][usize::from(protocol % 4)];
            sandbox.guest.inject(&Crafted::new(SITE, protocol, bytes).frame());
        } else {
            sandbox.guest.inject(&bytes);
        }
    }
    world.told.denied("frame: malformed");
    let handle = loop {
        // So many flows begin with those that this one may have to wait.
        if let Some(handle) = sandbox.guest.connect(SITE, port) {
            break handle;
        }
    };
    sandbox.guest.write(handle, b"still here");
    assert_eq!(sandbox.guest.read(handle, 10), b"still here");
}
