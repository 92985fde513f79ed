//! Input on its way to a command, held as long as the command does not read it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, write};

/// LIMIT: input that waits for the command to read it. What the host sends behind it waits too, so
/// this is room for a signal to overtake a command that does not read.
const STDIN_BYTES_MAX: usize = 256 * 1024;

/// The writing end of a command's input, and what waits for it.
#[derive(Debug)]
pub(crate) struct Standby {
    pipe: Option<OwnedFd>,
    bytes: Vec<u8>,
    written: usize,
    close: bool,
}

impl Standby {
    /// Nothing waits for `pipe`, which must not block. `None`: input goes nowhere.
    pub(crate) const fn new(pipe: Option<OwnedFd>) -> Self {
        Self { pipe, bytes: Vec::new(), written: 0, close: false }
    }

    fn waiting(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Whether more may be put in.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting() < STDIN_BYTES_MAX
    }

    /// Whether input reaches somebody.
    pub(crate) const fn is_open(&self) -> bool {
        self.pipe.is_some() && !self.close
    }

    /// What has to become writable before more gets on, if that is so.
    pub(crate) fn blocked_on(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().filter(|_| self.waiting() > 0).map(AsFd::as_fd)
    }

    /// Ends the input after what waits.
    pub(crate) fn close(&mut self) {
        self.close = true;
        self.flush();
    }

    pub(crate) fn put(&mut self, data: Vec<u8>) {
        // Input for a command that closed its end, or was never given one, goes nowhere.
        if self.is_open() {
            self.bytes.drain(..self.written);
            self.written = 0;
            if self.bytes.is_empty() {
                self.bytes = data;
            } else {
                self.bytes.extend_from_slice(&data);
            }
            self.flush();
        }
    }

    /// Writes what the pipe takes, and closes it when that was the last.
    pub(crate) fn flush(&mut self) {
        while let Some(pipe) = &self.pipe {
            let rest = self.bytes.get(self.written..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            match write(pipe.as_fd(), rest) {
                Ok(count) => self.written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // The command closed its end.
                Err(_) => self.pipe = None,
            }
        }
        self.bytes = Vec::new();
        self.written = 0;
        if self.close {
            self.pipe = None;
        }
    }
}
