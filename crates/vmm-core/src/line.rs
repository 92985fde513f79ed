//! The line to the node: one connection and, once the machine is kept, the place where the next one
//! comes in.
//!
//! ```text
//!              end of file, not kept
//!   Connected ─────────────────────────▶ over: the process ends
//!      │  ▲
//!      │  │ accepted, of the node's user
//!      ▼  │
//!   Listening        end of file, kept
//! ```
//!
//! The listening socket is watched only while nobody is connected, so there is never more than one
//! node. What is said while nobody listens is lost, as it would be with the node that died; what the
//! next node must know, [`crate::control`] tells it.

#![expect(unsafe_code, reason = "rustix has no form for a peer whose process is out of sight")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use api_vmm::Message;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, listen};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::packet::{ControlError, Packet, deliver, receive};

/// Names the connection among the event loop's sources.
pub(crate) const CONTROL_TOKEN: u64 = u64::MAX;
/// Names the listening socket.
pub(crate) const KEEPER_TOKEN: u64 = u64::MAX - 2;
/// LIMIT: one node at a time; the second one in a queue would find the first one's place taken.
const BACKLOG: i32 = 1;

/// What came over the line.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Nothing now.
    Nothing,
    /// A request.
    Packet(Packet),
    /// The node is gone, and with it the reason for this process.
    Over,
}

/// The line to the node.
#[derive(Debug)]
pub(crate) struct Line {
    epoll: Arc<Epoll>,
    socket: Option<OwnedFd>,
    keeper: Option<OwnedFd>,
    /// Who started this process; nobody else may take its place.
    node: u32,
}

impl Line {
    /// The line over `socket`, which is watched from now on.
    pub(crate) fn new(socket: OwnedFd, epoll: Arc<Epoll>) -> io::Result<Self> {
        let node = peer_uid(&socket)?;
        watch(&epoll, &socket, CONTROL_TOKEN)?;
        Ok(Self { epoll, socket: Some(socket), keeper: None, node })
    }

    /// Outlives the connection from now on: the next one comes in through `keeper`.
    pub(crate) fn keep(&mut self, keeper: OwnedFd) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&keeper, true)?;
        listen(&keeper, BACKLOG)?;
        self.keeper = Some(keeper);
        Ok(())
    }

    /// What there is to hear now.
    pub(crate) fn hear(&mut self) -> Result<Heard, ControlError> {
        let Some(socket) = &self.socket else { return Ok(Heard::Nothing) };
        match receive(socket.as_fd()) {
            Ok(None) => Ok(Heard::Nothing),
            Ok(Some(packet)) if !packet.bytes.is_empty() => Ok(Heard::Packet(packet)),
            Ok(Some(_)) if self.keeper.is_none() => Ok(Heard::Over),
            // A node that dies with unread packets resets the connection rather than ending it.
            Ok(Some(_)) => self.lose().map(|()| Heard::Nothing),
            Err(ControlError::Socket { .. }) if self.keeper.is_some() => {
                self.lose().map(|()| Heard::Nothing)
            }
            Err(error) => Err(error),
        }
    }

    /// Says `message`, waiting for room; to nobody while the node is away.
    pub(crate) fn say(&mut self, message: &Message) -> Result<(), ControlError> {
        let Some(socket) = &self.socket else { return Ok(()) };
        match deliver(socket.as_fd(), message) {
            Err(ControlError::Socket { .. }) if self.keeper.is_some() => self.lose(),
            other => other,
        }
    }

    /// Takes the connection that waits, if the node's user made it. Says whether there is one.
    pub(crate) fn take_next(&mut self) -> Result<bool, ControlError> {
        let failed = |call| move |source| ControlError::Socket { call, source };
        let (Some(keeper), None) = (&self.keeper, &self.socket) else { return Ok(false) };
        let socket = match accept_with(keeper, SocketFlags::CLOEXEC) {
            Ok(socket) => socket,
            // Whoever it was has left.
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(false),
            Err(error) => return Err(failed("accept4")(error.into())),
        };
        if peer_uid(&socket).map_err(failed("getsockopt"))? != self.node {
            return Ok(false);
        }
        watch(&self.epoll, &socket, CONTROL_TOKEN).map_err(failed("epoll_ctl"))?;
        unwatch(&self.epoll, keeper).map_err(failed("epoll_ctl"))?;
        self.socket = Some(socket);
        Ok(true)
    }

    /// Waits for the next node.
    fn lose(&mut self) -> Result<(), ControlError> {
        let failed = |source| ControlError::Socket { call: "epoll_ctl", source };
        if let Some(socket) = self.socket.take() {
            unwatch(&self.epoll, &socket).map_err(failed)?;
        }
        if let Some(keeper) = &self.keeper {
            watch(&self.epoll, keeper, KEEPER_TOKEN).map_err(failed)?;
        }
        Ok(())
    }
}

fn watch(epoll: &Epoll, file: &OwnedFd, token: u64) -> io::Result<()> {
    epoll.ctl(ControlOperation::Add, file.as_raw_fd(), EpollEvent::new(EventSet::IN, token))
}

fn unwatch(epoll: &Epoll, file: &OwnedFd) -> io::Result<()> {
    epoll.ctl(ControlOperation::Delete, file.as_raw_fd(), EpollEvent::default())
}

/// The user who made or connected the other end.
fn peer_uid(socket: &OwnedFd) -> io::Result<u32> {
    // The number of its process is 0: it is outside of this one's namespace.
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `peer`, which has that many, and what it
    // wrote to `length`; both live until the call returns.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(peer.uid) } else { Err(io::Error::last_os_error()) }
}
