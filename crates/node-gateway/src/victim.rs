use std::fmt;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use api_guest::network::GUEST_ADDRESS;
use api_vmm::NET_FRAME_BYTES_MAX;
use rustix::net::RecvFlags;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetFrame, IpProtocol, Ipv4Packet, Ipv4Repr, TcpPacket, TcpSeqNumber};
use tokio::runtime::Runtime;

use crate::frame::{IPV4_BYTES, Tuple};
use crate::link::{self, Link};
use crate::reply;
use crate::stack::Stack;

/// A connection for strange segments, with no far end. For fuzzing and tests only.
pub struct Victim {
    stack: Stack,
    link: Link,
    guest: OwnedFd,
    now: Instant,
    /// What it said last: its own place in the stream, and the guest's.
    said: (TcpSeqNumber, TcpSeqNumber),
    _runtime: Runtime,
}

impl fmt::Debug for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Victim").field("said", &self.said).finish_non_exhaustive()
    }
}

const TUPLE: Tuple = Tuple { guest_port: 40_000, address: Ipv4Addr::new(127, 0, 0, 1), port: 80 };
/// Small, so that its edges are met.
const BUFFER_BYTES: usize = 4096;
/// Bytes of a script that make one step.
const STEP_BYTES: usize = 12;

impl Victim {
    /// One that has heard nothing yet.
    #[expect(clippy::new_without_default, reason = "it is not made by anybody but tests")]
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        let runtime = runtime.expect("tests have descriptors");
        let (guest, ours) = link::pair().expect("tests have descriptors");
        let link = {
            let _inside = runtime.enter();
            Link::new(ours).expect("tests have descriptors")
        };
        let now = Instant::ZERO;
        let stack = Stack::new(TUPLE, BUFFER_BYTES, 7, now);
        let said = (TcpSeqNumber(0), TcpSeqNumber(0));
        Self { stack, link, guest, now, said, _runtime: runtime }
    }

    /// Sends segments as the script says, mostly near those that would be right, while the far end
    /// reads, writes and closes.
    pub fn suffer(&mut self, script: &[u8]) {
        let mut first = [0; STEP_BYTES];
        first[1] = 0b10;
        self.segment(&first);
        for step in script.chunks_exact(STEP_BYTES) {
            self.segment(step);
            let socket = self.stack.socket();
            let action = step[0];
            if action & 1 != 0 && socket.can_recv() {
                let _ = socket.recv(|data| (data.len(), ()));
            }
            if action & 2 != 0 && socket.can_send() {
                let _ = socket.send_slice(&[7; 1500]);
            }
            if action & 0xf0 == 0xf0 {
                socket.close();
            }
            let sleeps = [0, 1, 50, 3000][usize::from(action >> 2 & 3)];
            self.now += Duration::from_millis(sleeps);
            for _ in 0..64 {
                if !self.stack.send(&mut self.link, self.now) {
                    break;
                }
            }
            self.listen();
            let _ = self.stack.next(self.now);
        }
    }

    fn segment(&mut self, step: &[u8]) {
        let near = |of: TcpSeqNumber, by: [u8; 2], far: bool| {
            let by = i32::from(i16::from_be_bytes(by));
            TcpSeqNumber(of.0.wrapping_add(if far { by << 16 } else { by / 8 }))
        };
        let exact = step[0] & 8 != 0;
        let (seq, ack) = match exact {
            true => (self.said.1, self.said.0),
            false => (
                near(self.said.1, [step[2], step[3]], step[1] & 0x40 != 0),
                near(self.said.0, [step[4], step[5]], step[1] & 0x80 != 0),
            ),
        };
        let options = usize::from(step[8] % 4) * 4;
        let payload = usize::from(step[9]) * usize::from(step[10] % 32);
        let mut tcp = vec![step[11]; 20 + options + payload];
        let mut packet = TcpPacket::new_unchecked(&mut tcp);
        packet.set_src_port(TUPLE.guest_port);
        packet.set_dst_port(TUPLE.port);
        packet.set_seq_number(seq);
        packet.set_ack_number(ack);
        packet.clear_flags();
        packet.set_header_len((20 + options) as u8);
        packet.set_fin(step[1] & 1 != 0);
        packet.set_syn(step[1] & 2 != 0);
        packet.set_rst(step[1] & 0b11_0100 == 0b11_0100);
        packet.set_ack(step[1] & 0x10 != 0 || exact);
        packet.set_window_len(u16::from_be_bytes([step[6], step[7]]));
        if let Some(kind) = tcp.get_mut(20).filter(|_| options > 0) {
            // A length, a scale, selective acknowledgements, a time; or nonsense.
            *kind = [2, 3, 4, 5, 8, step[11], 1, 0][usize::from(step[10] >> 5)];
            tcp[21] = options as u8;
        }
        let repr = Ipv4Repr {
            src_addr: GUEST_ADDRESS,
            dst_addr: TUPLE.address,
            next_header: IpProtocol::Tcp,
            payload_len: tcp.len(),
            hop_limit: 64,
        };
        let mut ip = vec![0; IPV4_BYTES];
        ip.extend(tcp);
        repr.emit(&mut Ipv4Packet::new_unchecked(&mut ip), &reply::checksums());
        self.stack.feed(&ip, &mut self.link, self.now);
        self.listen();
    }

    /// Hears what it says.
    fn listen(&mut self) {
        let mut frame = [0; NET_FRAME_BYTES_MAX];
        while let Ok((_, bytes)) =
            rustix::net::recv(&self.guest, &mut frame[..], RecvFlags::DONTWAIT)
        {
            let ethernet = EthernetFrame::new_unchecked(&frame[..bytes]);
            let ip = Ipv4Packet::new_checked(ethernet.payload()).expect("it writes whole packets");
            let tcp = TcpPacket::new_checked(ip.payload()).expect("it writes whole segments");
            self.said = (tcp.seq_number() + tcp.segment_len(), tcp.ack_number());
        }
    }
}
