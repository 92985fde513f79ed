//! The gateway's end of a frame socket.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net;
use std::task::{Context, Poll};

use api_vmm::NET_FRAME_BYTES_MAX;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sockopt};
use smoltcp::wire::EthernetProtocol;
use tokio::io::ReadBuf;
use tokio::net::UnixDatagram;

use crate::frame::ETHERNET_BYTES;
use crate::reply;

/// LIMIT: frames that wait for a guest which does not take them. TCP makes none while one waits; what
/// else comes is lost beyond, as on any link.
const WAITING_MAX: usize = 64;
/// Bytes of frames the host keeps under way in one direction: those of a few windows.
const SOCKET_BYTES: usize = 1024 * 1024;

/// A connected pair of frame sockets: the VMM's end, and the gateway's.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (theirs, ours) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    for socket in [&theirs, &ours] {
        // As much as the host lets us; it goes slower with less.
        let _ = sockopt::set_socket_send_buffer_size_force(socket, SOCKET_BYTES)
            .or_else(|_| sockopt::set_socket_send_buffer_size(socket, SOCKET_BYTES));
    }
    Ok((theirs, ours))
}

#[derive(Debug)]
pub(crate) struct Link {
    /// Of packets in order, whose end is seen; its calls are those of datagrams.
    socket: UnixDatagram,
    /// Frames that are being written or read lie here, so that none is allocated.
    outgoing: Box<[u8]>,
    waiting: VecDeque<Vec<u8>>,
}

impl Link {
    /// Needs a tokio runtime.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: UnixDatagram::from_std(net::UnixDatagram::from(socket))?,
            outgoing: vec![0; NET_FRAME_BYTES_MAX].into(),
            waiting: VecDeque::new(),
        })
    }

    /// The bytes of the next frame, which is cut to `buffer`. `None` when the other end is gone.
    pub(crate) fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<Option<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        self.socket.poll_recv(cx, &mut buffer).map(|received| {
            let bytes = buffer.filled().len();
            (received.is_ok() && bytes > 0).then_some(bytes)
        })
    }

    /// Whether a frame can go out without waiting.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Sends a packet of IP that `write` writes.
    pub(crate) fn send_ip<R>(&mut self, bytes: usize, write: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut frame = std::mem::take(&mut self.outgoing);
        let end = (ETHERNET_BYTES + bytes).min(frame.len());
        reply::ethernet(&mut frame, EthernetProtocol::Ipv4);
        let written = write(&mut frame[ETHERNET_BYTES..end]);
        self.send(&frame[..end]);
        self.outgoing = frame;
        written
    }

    /// Sends a frame, now or when there is room.
    pub(crate) fn send(&mut self, frame: &[u8]) {
        if self.waiting.is_empty() && self.try_send(frame) {
            return;
        }
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(frame.to_vec());
        }
    }

    /// Sends what waits. Ready when nothing does.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(frame) = self.waiting.front() {
            match self.socket.try_send(frame) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match self.socket.poll_send_ready(cx) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Ok(())) => continue,
                        Poll::Ready(Err(_)) => {}
                    }
                }
                // That the other end is gone is found by the side that reads.
                Ok(_) | Err(_) => {}
            }
            self.waiting.pop_front();
        }
        Poll::Ready(())
    }

    /// False when it has to wait.
    fn try_send(&self, frame: &[u8]) -> bool {
        loop {
            match rustix::net::send(&self.socket, frame, SendFlags::NOSIGNAL) {
                Err(Errno::AGAIN) => return false,
                Err(Errno::INTR) => {}
                // That the other end is gone is found by the side that reads.
                Ok(_) | Err(_) => return true,
            }
        }
    }
}
