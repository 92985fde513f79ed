//! Frames of a guest, which are hostile. What comes out is whole, from the guest's own addresses, and
//! of a kind the gateway knows; everything else is a reason to drop it.
//!
//! Checksums of what IP carries are not verified: a socket of the host changes nothing on the way, so
//! a wrong one is the guest's own doing, and harms nobody but the guest.

use std::fmt;
use std::net::Ipv4Addr;

use api_guest::network::{GATEWAY_ADDRESS, GUEST_ADDRESS};
use api_vmm::{NET_FRAME_BYTES_MAX, NET_GATEWAY_MAC, NET_MAC};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    Icmpv4Message, Icmpv4Packet, IpProtocol, Ipv4Packet, TcpPacket, UdpPacket,
};

/// Bytes of the header of an Ethernet frame.
pub(crate) const ETHERNET_BYTES: usize = 14;
/// Bytes of an IPv4 header without options; with options none is taken.
pub(crate) const IPV4_BYTES: usize = 20;

/// The guest's end of a flow, and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// The guest's port; of an echo request, its identifier.
    pub guest_port: u16,
    /// Where to.
    pub address: Ipv4Addr,
    /// At which port; 0 of an echo request.
    pub port: u16,
}

/// What a frame asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Who has the gateway's address.
    Arp,
    /// A segment of TCP.
    Tcp(Segment<'a>),
    /// A datagram of UDP.
    Udp(Tuple, &'a [u8]),
    /// An echo request: its sequence number and data.
    Echo(Tuple, u16, &'a [u8]),
}

/// A segment of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Its flow.
    pub tuple: Tuple,
    /// Whether it begins a connection.
    pub begins: bool,
    /// Whether it resets one.
    pub resets: bool,
    /// The packet of IP it is in.
    pub ip: &'a [u8],
}

/// Why a frame is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Dropped {
    /// Longer than any frame.
    Oversized,
    /// Cut, or with lengths that contradict each other.
    Malformed,
    /// From another address than the guest's, of Ethernet or IP.
    Spoofed,
    /// To somebody else on a link where nobody else is.
    Misdirected,
    /// Part of a packet.
    Fragment,
    /// Neither ARP nor IPv4, such as IPv6.
    NotIpv4,
    /// Of a protocol that does not leave the sandbox.
    Protocol,
}

impl Dropped {
    /// How many reasons there are.
    pub const COUNT: usize = 7;
    /// All of them, in order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Oversized,
        Self::Malformed,
        Self::Spoofed,
        Self::Misdirected,
        Self::Fragment,
        Self::NotIpv4,
        Self::Protocol,
    ];
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Oversized => "frame: too long",
            Self::Malformed => "frame: malformed",
            Self::Spoofed => "frame: from an address that is not the sandbox's",
            Self::Misdirected => "frame: to nobody on this link",
            Self::Fragment => "frame: a fragment",
            Self::NotIpv4 => "frame: not IPv4",
            Self::Protocol => "frame: neither TCP, UDP nor an echo request",
        })
    }
}

/// What the guest says with a frame.
///
/// # Errors
///
/// Why it is to be dropped.
pub fn read(frame: &[u8]) -> Result<Packet<'_>, Dropped> {
    if frame.len() > NET_FRAME_BYTES_MAX {
        return Err(Dropped::Oversized);
    }
    let ethernet = EthernetFrame::new_checked(frame).map_err(malformed)?;
    if ethernet.src_addr() != EthernetAddress(NET_MAC) {
        return Err(Dropped::Spoofed);
    }
    let to_gateway = ethernet.dst_addr() == EthernetAddress(NET_GATEWAY_MAC);
    match ethernet.ethertype() {
        EthernetProtocol::Arp if to_gateway || ethernet.dst_addr().is_broadcast() => {
            arp(ethernet.payload())
        }
        EthernetProtocol::Ipv4 if to_gateway => ipv4(ethernet.payload()),
        EthernetProtocol::Arp | EthernetProtocol::Ipv4 => Err(Dropped::Misdirected),
        _ => Err(Dropped::NotIpv4),
    }
}

fn malformed(_: smoltcp::wire::Error) -> Dropped {
    Dropped::Malformed
}

fn arp(packet: &[u8]) -> Result<Packet<'_>, Dropped> {
    let packet = ArpPacket::new_checked(packet).map_err(malformed)?;
    let ArpRepr::EthernetIpv4 { operation, source_hardware_addr, target_protocol_addr, .. } =
        ArpRepr::parse(&packet).map_err(malformed)?
    else {
        return Err(Dropped::Malformed);
    };
    if source_hardware_addr != EthernetAddress(NET_MAC) {
        return Err(Dropped::Spoofed);
    }
    if operation != ArpOperation::Request || target_protocol_addr != GATEWAY_ADDRESS {
        return Err(Dropped::Misdirected);
    }
    Ok(Packet::Arp)
}

fn ipv4(packet: &[u8]) -> Result<Packet<'_>, Dropped> {
    let ip = Ipv4Packet::new_checked(packet).map_err(malformed)?;
    // Options would say by which way a packet goes. Nobody sends them.
    if ip.version() != 4 || usize::from(ip.header_len()) != IPV4_BYTES || !ip.verify_checksum() {
        return Err(Dropped::Malformed);
    }
    if ip.src_addr() != GUEST_ADDRESS {
        return Err(Dropped::Spoofed);
    }
    if ip.more_frags() || ip.frag_offset() != 0 {
        return Err(Dropped::Fragment);
    }
    let address = ip.dst_addr();
    let payload = ip.payload();
    let whole = packet.get(..ip.total_len().into()).ok_or(Dropped::Malformed)?;
    match ip.next_header() {
        IpProtocol::Tcp => tcp(address, payload, whole),
        IpProtocol::Udp => udp(address, payload),
        IpProtocol::Icmp => icmp(address, payload),
        _ => Err(Dropped::Protocol),
    }
}

fn tcp<'a>(address: Ipv4Addr, segment: &'a [u8], ip: &'a [u8]) -> Result<Packet<'a>, Dropped> {
    let tcp = TcpPacket::new_checked(segment).map_err(malformed)?;
    if tcp.src_port() == 0 || tcp.dst_port() == 0 {
        return Err(Dropped::Malformed);
    }
    let tuple = Tuple { guest_port: tcp.src_port(), address, port: tcp.dst_port() };
    let begins = tcp.syn() && !tcp.ack() && !tcp.rst() && !tcp.fin();
    Ok(Packet::Tcp(Segment { tuple, begins, resets: tcp.rst(), ip }))
}

fn udp(address: Ipv4Addr, datagram: &[u8]) -> Result<Packet<'_>, Dropped> {
    let udp = UdpPacket::new_checked(datagram).map_err(malformed)?;
    if udp.src_port() == 0 || udp.dst_port() == 0 {
        return Err(Dropped::Malformed);
    }
    let tuple = Tuple { guest_port: udp.src_port(), address, port: udp.dst_port() };
    Ok(Packet::Udp(tuple, udp.payload()))
}

fn icmp(address: Ipv4Addr, message: &[u8]) -> Result<Packet<'_>, Dropped> {
    let icmp = Icmpv4Packet::new_checked(message).map_err(malformed)?;
    if icmp.msg_type() != Icmpv4Message::EchoRequest || icmp.msg_code() != 0 {
        return Err(Dropped::Protocol);
    }
    let tuple = Tuple { guest_port: icmp.echo_ident(), address, port: 0 };
    Ok(Packet::Echo(tuple, icmp.echo_seq_no(), icmp.data()))
}
