//! Packets the gateway writes itself: what TCP sends is written by its stack.

use std::net::Ipv4Addr;

use api_guest::network::{GATEWAY_ADDRESS, GUEST_ADDRESS};
use api_vmm::{NET_GATEWAY_MAC, NET_MAC, NET_MTU};
use smoltcp::phy::{Checksum, ChecksumCapabilities};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr, Icmpv4Packet, Icmpv4Repr, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr,
    TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
};

use crate::frame::{ETHERNET_BYTES, IPV4_BYTES, Segment, Tuple};

/// LIMIT: bytes a packet of UDP or an echo carries to the guest; more would be fragments.
pub(crate) const DATAGRAM_BYTES_MAX: usize = NET_MTU as usize - IPV4_BYTES - 8;
/// Routers a packet may pass; there is none between the gateway and the guest.
const HOPS: u8 = 64;

/// Checksums are computed for what goes out; of what comes in, see `frame`.
pub(crate) fn checksums() -> ChecksumCapabilities {
    let mut checksums = ChecksumCapabilities::ignored();
    checksums.ipv4 = Checksum::Tx;
    checksums.tcp = Checksum::Tx;
    checksums.udp = Checksum::Tx;
    checksums.icmpv4 = Checksum::Tx;
    checksums
}

/// Writes the header of a frame from the gateway to the guest.
pub(crate) fn ethernet(frame: &mut [u8], ethertype: EthernetProtocol) {
    let header = EthernetRepr {
        src_addr: EthernetAddress(NET_GATEWAY_MAC),
        dst_addr: EthernetAddress(NET_MAC),
        ethertype,
    };
    header.emit(&mut EthernetFrame::new_unchecked(frame));
}

/// The gateway has its address.
pub(crate) fn arp() -> Vec<u8> {
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(NET_GATEWAY_MAC),
        source_protocol_addr: GATEWAY_ADDRESS,
        target_hardware_addr: EthernetAddress(NET_MAC),
        target_protocol_addr: GUEST_ADDRESS,
    };
    let mut frame = vec![0; ETHERNET_BYTES + reply.buffer_len()];
    ethernet(&mut frame, EthernetProtocol::Arp);
    reply.emit(&mut ArpPacket::new_unchecked(&mut frame[ETHERNET_BYTES..]));
    frame
}

/// Data of a flow's other end, as a datagram to the guest. `None` when it does not fit one.
pub(crate) fn udp(flow: Tuple, data: &[u8]) -> Option<Vec<u8>> {
    if data.len() > DATAGRAM_BYTES_MAX {
        return None;
    }
    let repr = UdpRepr { src_port: flow.port, dst_port: flow.guest_port };
    let bytes = repr.header_len() + data.len();
    Some(ipv4(flow.address, IpProtocol::Udp, bytes, |packet, from, to| {
        let mut packet = UdpPacket::new_unchecked(packet);
        let fill = |payload: &mut [u8]| payload.copy_from_slice(data);
        repr.emit(&mut packet, &from, &to, data.len(), fill, &checksums());
    }))
}

/// An echo to the guest. `None` when it does not fit a packet.
pub(crate) fn echo(flow: Tuple, seq_no: u16, data: &[u8]) -> Option<Vec<u8>> {
    if data.len() > DATAGRAM_BYTES_MAX {
        return None;
    }
    let repr = Icmpv4Repr::EchoReply { ident: flow.guest_port, seq_no, data };
    Some(ipv4(flow.address, IpProtocol::Icmp, repr.buffer_len(), |packet, _, _| {
        repr.emit(&mut Icmpv4Packet::new_unchecked(packet), &checksums());
    }))
}

/// No such connection. `None` for what is not to be answered so.
pub(crate) fn reset(segment: &Segment<'_>) -> Option<Vec<u8>> {
    let ip = Ipv4Packet::new_checked(segment.ip).ok()?;
    let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
    if tcp.rst() {
        return None;
    }
    // As RFC 9293 has it: where the other end says what it expects, that; or what it sent is acknowledged.
    let (seq_number, ack_number) = if tcp.ack() {
        (tcp.ack_number(), None)
    } else {
        (TcpSeqNumber(0), Some(tcp.seq_number() + tcp.segment_len()))
    };
    let repr = TcpRepr {
        src_port: segment.tuple.port,
        dst_port: segment.tuple.guest_port,
        control: TcpControl::Rst,
        seq_number,
        ack_number,
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let from = segment.tuple.address;
    Some(ipv4(from, IpProtocol::Tcp, repr.buffer_len(), |packet, from, to| {
        repr.emit(&mut TcpPacket::new_unchecked(packet), &from, &to, &checksums());
    }))
}

fn ipv4(
    from: Ipv4Addr,
    next_header: IpProtocol,
    payload_len: usize,
    write: impl FnOnce(&mut [u8], IpAddress, IpAddress),
) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET_BYTES + IPV4_BYTES + payload_len];
    ethernet(&mut frame, EthernetProtocol::Ipv4);
    let repr = Ipv4Repr {
        src_addr: from,
        dst_addr: GUEST_ADDRESS,
        next_header,
        payload_len,
        hop_limit: HOPS,
    };
    repr.emit(&mut Ipv4Packet::new_unchecked(&mut frame[ETHERNET_BYTES..]), &checksums());
    let payload = &mut frame[ETHERNET_BYTES + IPV4_BYTES..];
    write(payload, from.into(), GUEST_ADDRESS.into());
    frame
}
