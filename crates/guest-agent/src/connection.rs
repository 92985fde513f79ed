//! One connection to the host: frames in, frames out, bounded memory.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use api_guest::{Answer, CHUNK_BYTES_MAX, Decoder, HEADER_BYTES, Input, Message, Request};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::failure::{Failure, Stop};

/// LIMIT: bytes read from the connection at once.
const READ_BYTES: usize = 64 * 1024;
/// LIMIT: how long a host that was told of a failure may go on sending before it is cut off.
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// A connection; closing it is dropping it.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: OwnedFd,
    decoder: Decoder,
    /// For what is read from the stream and for data on its way out.
    buffer: Vec<u8>,
}

/// What a read that does not wait found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    Bytes,
    NothingYet,
    Closed,
}

impl Connection {
    /// Takes over a stream nothing was read from yet.
    pub(crate) const fn new(stream: OwnedFd) -> Self {
        Self { stream, decoder: Decoder::new(), buffer: Vec::new() }
    }

    pub(crate) fn stream(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// The request, waited for.
    pub(crate) fn request(&mut self) -> Result<Request, Stop> {
        self.wait_for()
    }

    /// The next frame after the request, waited for.
    pub(crate) fn input(&mut self) -> Result<Input, Stop> {
        self.wait_for()
    }

    /// The next frame after the request if it has arrived already.
    pub(crate) fn arrived_input(&mut self) -> Result<Option<Input>, Stop> {
        self.decoder.take().map_err(|_| Stop::Gone)
    }

    fn wait_for<M: Message>(&mut self) -> Result<M, Stop> {
        loop {
            // A stream that is not the protocol is closed: there is nothing to say to it.
            if let Some(message) = self.decoder.take().map_err(|_| Stop::Gone)? {
                return Ok(message);
            }
            if self.receive(RecvFlags::empty()) != Arrival::Bytes {
                return Err(Stop::Gone);
            }
        }
    }

    /// Reads what has arrived, without waiting.
    pub(crate) fn receive_arrived(&mut self) -> Arrival {
        self.receive(RecvFlags::DONTWAIT)
    }

    fn receive(&mut self, flags: RecvFlags) -> Arrival {
        // Not zeroed first: pages of it that nothing arrives in are never touched.
        self.buffer.clear();
        self.buffer.reserve(READ_BYTES);
        loop {
            return match recv(&self.stream, spare_capacity(&mut self.buffer), flags) {
                Ok((0, _)) => Arrival::Closed,
                Ok(_) if self.decoder.push(&self.buffer).is_ok() => Arrival::Bytes,
                Ok(_) => Arrival::Closed,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Arrival::NothingYet,
                Err(_) => Arrival::Closed,
            };
        }
    }

    /// Sends an answer, waiting until the stream took it.
    pub(crate) fn send(&mut self, answer: &Answer) -> Result<(), Stop> {
        let frame = answer.encode().map_err(|_| Stop::Gone)?;
        self.send_all(&frame)
    }

    fn send_all(&self, mut rest: &[u8]) -> Result<(), Stop> {
        while !rest.is_empty() {
            match send(&self.stream, rest, SendFlags::NOSIGNAL) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(_) => return Err(Stop::Gone),
            }
        }
        Ok(())
    }

    /// Sends one frame of bulk data that `read` puts in place, without copying it. Returns how many
    /// bytes that were; with none, nothing is sent.
    pub(crate) fn send_data(
        &mut self,
        kind: u8,
        most: usize,
        read: impl FnOnce(&mut [u8]) -> Result<usize, Failure>,
    ) -> Result<usize, Stop> {
        self.buffer.resize(HEADER_BYTES + CHUNK_BYTES_MAX, 0);
        let (header, room) = self.buffer.split_at_mut(HEADER_BYTES);
        let end = most.min(room.len());
        let count = read(&mut room[..end])?;
        if count > 0 {
            header.copy_from_slice(&api_guest::raw_header(kind, count).map_err(|_| Stop::Gone)?);
            let frame = self.buffer.get(..HEADER_BYTES + count).unwrap_or_default();
            self.send_all(frame)?;
        }
        Ok(count)
    }

    /// What was read after the last frame, for a stream that is no frames from here on. The buffers
    /// are given back.
    pub(crate) fn take_rest(&mut self) -> Vec<u8> {
        self.buffer = Vec::new();
        std::mem::take(&mut self.decoder).into_rest()
    }

    /// What became of an upload. The host learns of a failure now, and may still be sending.
    pub(crate) fn taken(&mut self, outcome: Result<(), Stop>) -> Result<(), Stop> {
        if let Err(Stop::Failed(failure)) = outcome {
            self.send(&failure.answer())?;
            self.discard_input();
            return Err(Stop::Gone);
        }
        outcome
    }

    /// Reads on until the host has sent what it had to send, so that it gets to read a failure sent
    /// before: closing with data unread would throw that away.
    pub(crate) fn discard_input(&mut self) {
        if set_socket_timeout(&self.stream, Timeout::Recv, Some(DISCARD_TIME)).is_ok() {
            while !matches!(self.input(), Ok(Input::End) | Err(_)) {}
        }
    }
}
