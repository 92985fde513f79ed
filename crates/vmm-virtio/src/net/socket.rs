//! The socket that frames go to and come from: one Ethernet frame in each packet.

use std::{io, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};

use crate::{Events, Registrar, mmio::QUEUE_TOKENS};

/// The only token there is; an event of a socket that was replaced is a look too many at the next.
pub(super) const SOCKET_TOKEN: u32 = QUEUE_TOKENS;

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It is on its way.
    Gone,
    /// Nobody is there to take it, or it is not to be had.
    Lost,
    /// There is no room for it now. There will be an event when there is.
    Full,
}

#[derive(Debug)]
pub(super) struct FrameSocket {
    registrar: Registrar,
    /// None when the other end is closed.
    socket: Option<OwnedFd>,
    /// There may be something to read (edge triggered).
    readable: bool,
    /// There may be room for a frame. Only while there is none, room is waited for: it comes with
    /// every frame that is taken.
    writable: bool,
}

impl FrameSocket {
    pub(super) fn new(registrar: Registrar, socket: OwnedFd) -> io::Result<Self> {
        registrar.add(&socket, watched(false), SOCKET_TOKEN)?;
        Ok(FrameSocket { registrar, socket: Some(socket), readable: true, writable: true })
    }

    /// Goes on with `socket`. After an error nothing has changed.
    pub(super) fn replace(&mut self, socket: OwnedFd) -> io::Result<()> {
        self.registrar.add(&socket, watched(false), SOCKET_TOKEN)?;
        self.close();
        self.socket = Some(socket);
        (self.readable, self.writable) = (true, true);
        Ok(())
    }

    /// Whether there was no room for a frame, and nothing was heard since.
    pub(super) fn is_full(&self) -> bool {
        !self.writable
    }

    pub(super) fn event(&mut self, events: Events) {
        // An end is found by using the socket.
        let over = Events::READ_HANG_UP | Events::HANG_UP | Events::ERROR;
        self.readable |= events.intersects(Events::IN | over);
        if !self.writable && events.intersects(Events::OUT | over) {
            self.writable = true;
            self.watch(false);
        }
    }

    /// Reads the next frame into `frame`, and says how long it is: longer than `frame`, when it had no
    /// room there.
    pub(super) fn receive(&mut self, frame: &mut [u8]) -> Option<usize> {
        while let (Some(socket), true) = (&self.socket, self.readable) {
            match recv(socket, &mut *frame, RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
                // No frame is empty.
                Ok((_, 0)) => self.close(),
                Ok((_, len)) => return Some(len),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.readable = false,
                Err(_) => self.close(),
            }
        }
        None
    }

    pub(super) fn send(&mut self, frame: &[u8]) -> Sent {
        loop {
            let Some(socket) = &self.socket else { return Sent::Lost };
            match send(socket, frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(_) => return Sent::Gone,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.writable = false;
                    self.watch(true);
                    if self.socket.is_some() {
                        return Sent::Full;
                    }
                }
                // The host is short of memory, or the socket can never take as much.
                Err(Errno::NOBUFS | Errno::NOMEM | Errno::MSGSIZE) => return Sent::Lost,
                Err(_) => self.close(),
            }
        }
    }

    fn watch(&mut self, room: bool) {
        if let Some(socket) = &self.socket
            && self.registrar.modify(socket, watched(room), SOCKET_TOKEN).is_err()
        {
            // Waiting for an event that does not come would be worse.
            self.close();
        }
    }

    fn close(&mut self) {
        if let Some(socket) = self.socket.take() {
            // It may be open elsewhere too, and then closing it does not end its events.
            let _ = self.registrar.remove(&socket);
        }
        // Whatever comes now can be taken, and thrown away.
        self.writable = true;
    }
}

fn watched(room: bool) -> Events {
    let always = Events::IN | Events::READ_HANG_UP | Events::EDGE_TRIGGERED;
    if room { always | Events::OUT } else { always }
}
