//! What has no connections: UDP, and echo requests. A socket of the host for each exchange, which only
//! hears from where the guest sent to.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket as HostSocket};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use api_node::{DomainName, Flow, FlowProtocol, Verdict};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto};
use smoltcp::wire::{Icmpv4Message, Icmpv4Packet};
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use crate::frame::Tuple;
use crate::ledger::now_ms;
use crate::link::Link;
use crate::reply;
use crate::wake::{Key, Signal, Woken};

/// LIMIT: datagrams of one exchange that go to the guest in one turn, so that others get theirs.
const DATAGRAMS_PER_TURN: usize = 64;
/// Bytes of the header of an echo request.
const ECHO_BYTES: usize = 8;

pub(crate) struct Exchange {
    pub(crate) key: Key,
    pub(crate) tuple: Tuple,
    /// The names that gave the address when it began.
    pub(crate) names: Vec<DomainName>,
    pub(crate) signal: Arc<Signal>,
    /// When the last packet went either way.
    pub(crate) last: Instant,
    socket: UdpSocket,
    waker: Waker,
    reason: String,
    began: Instant,
    at_ms: u64,
    up: u64,
    down: u64,
}

impl Exchange {
    /// # Errors
    ///
    /// When the host does not let this happen; an echo needs a group that may.
    pub(crate) fn new(
        key: Key,
        names: Vec<DomainName>,
        reason: String,
        woken: &Arc<Woken>,
    ) -> io::Result<Self> {
        let (tuple, socket) = match key {
            Key::Tcp(tuple) | Key::Udp(tuple) => {
                (tuple, HostSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?)
            }
            Key::Echo(tuple) => {
                let flags = SocketFlags::CLOEXEC;
                let (family, kind) = (AddressFamily::INET, SocketType::DGRAM);
                let socket = rustix::net::socket_with(family, kind, flags, Some(ipproto::ICMP))?;
                (tuple, HostSocket::from(socket))
            }
        };
        socket.set_nonblocking(true)?;
        rustix::net::connect(&socket, &SocketAddrV4::new(tuple.address, tuple.port))?;
        let signal = Signal::new(key, woken.clone());
        let waker = Waker::from(signal.clone());
        // So that it is waited for what it hears.
        waker.wake_by_ref();
        Ok(Self {
            key,
            tuple,
            names,
            signal,
            last: Instant::now(),
            socket: UdpSocket::from_std(socket)?,
            waker,
            reason,
            began: Instant::now(),
            at_ms: now_ms(),
            up: 0,
            down: 0,
        })
    }

    /// Sends what the guest sent. What the host does not take is lost, as on any way.
    pub(crate) fn send(&mut self, data: &[u8]) {
        self.last = Instant::now();
        if rustix::net::send(&self.socket, data, SendFlags::NOSIGNAL).is_ok() {
            self.up = self.up.saturating_add(data.len() as u64);
        }
    }

    /// Sends an echo request. The host puts its own identifier in, and a checksum.
    pub(crate) fn send_echo(&mut self, seq_no: u16, data: &[u8]) {
        let mut message = vec![0; ECHO_BYTES];
        message.extend_from_slice(data);
        let mut packet = Icmpv4Packet::new_unchecked(&mut message);
        packet.set_msg_type(Icmpv4Message::EchoRequest);
        packet.set_echo_seq_no(seq_no);
        self.send(&message);
    }

    /// Hands what it heard to the guest. Bytes that were handed on, and whether there may be more.
    pub(crate) fn serve(&mut self, link: &mut Link, scratch: &mut [u8]) -> (usize, bool) {
        let waker = self.waker.clone();
        let mut cx = Context::from_waker(&waker);
        let mut bytes = 0;
        for _ in 0..DATAGRAMS_PER_TURN {
            let mut buffer = ReadBuf::new(scratch);
            match self.socket.poll_recv(&mut cx, &mut buffer) {
                Poll::Pending => return (bytes, false),
                // Nobody is there, it was said. Somebody may be there later.
                Poll::Ready(Err(_)) => continue,
                Poll::Ready(Ok(())) => {}
            }
            let data = buffer.filled();
            self.last = Instant::now();
            bytes += data.len();
            self.down = self.down.saturating_add(data.len() as u64);
            if let Some(frame) = self.frame(data) {
                link.send(&frame);
            }
        }
        (bytes, true)
    }

    fn frame(&self, data: &[u8]) -> Option<Vec<u8>> {
        match self.key {
            Key::Tcp(_) | Key::Udp(_) => reply::udp(self.tuple, data),
            Key::Echo(_) => {
                let packet = Icmpv4Packet::new_checked(data).ok()?;
                if packet.msg_type() != Icmpv4Message::EchoReply {
                    return None;
                }
                reply::echo(self.tuple, packet.echo_seq_no(), packet.data())
            }
        }
    }

    pub(crate) fn wake(&self) {
        self.waker.wake_by_ref();
    }

    /// What is told of it when it is over. `denied` is what ended it, if a policy did.
    pub(crate) fn flow(&self, denied: Option<String>) -> Flow {
        let verdict = if denied.is_some() { Verdict::Denied } else { Verdict::Allowed };
        let is_echo = matches!(self.key, Key::Echo(_));
        Flow {
            at_ms: self.at_ms,
            name: self.names.first().map(|name| name.as_str().to_owned()),
            address: Some(self.tuple.address),
            port: (!is_echo).then_some(self.tuple.port),
            protocol: if is_echo { FlowProtocol::Icmp } else { FlowProtocol::Udp },
            verdict,
            reason: denied.unwrap_or_else(|| self.reason.clone()),
            bytes_up: self.up,
            bytes_down: self.down,
            duration_ms: self.began.elapsed().as_millis().try_into().unwrap_or(u64::MAX),
            count: 1,
        }
    }
}
