//! A command that runs: its streams carried to and from the host until it is over.
//!
//! One thread, one `poll`. Output is read only when all that was read before has been sent, so a slow
//! host slows the command down and nothing piles up. Input is taken from the host only while little of
//! it waits for the command.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use api_guest::{Answer, CHUNK_BYTES_MAX, Exited, HEADER_BYTES, Input, Message, Started};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionread, read};
use rustix::net::{SendFlags, send};

use crate::children::{Child, Ending};
use crate::connection::{Arrival, Connection};
use crate::failure::{Failure, Stop};
use crate::standby::Standby;

/// LIMIT: how long after a command's end its output is still waited for, when something it left in
/// the background holds the streams open. What the command itself wrote always arrives.
const GRACE: Duration = Duration::from_millis(100);

/// The agent's ends of the command's streams, none of which wait.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

#[derive(Debug)]
struct Output {
    kind: u8,
    /// `None` after its end.
    pipe: Option<OwnedFd>,
    /// Bytes the command left in the pipe at its end that were not read since.
    owed: usize,
}

/// A command between its start and its end. Dropped early, the command is killed.
#[derive(Debug)]
pub(crate) struct Running<'a> {
    connection: &'a mut Connection,
    child: Child,
    outputs: [Output; 2],
    stdin: Standby,
    /// Frames on their way to the host, and how much of them was sent.
    pending: Vec<u8>,
    sent: usize,
    deadline: Option<Instant>,
    timed_out: bool,
    /// How it ended, and until when its output is waited for.
    ended: Option<(Ending, Instant)>,
}

/// What `poll` found.
#[derive(Debug, Default)]
struct Ready {
    /// The host sent something.
    host: bool,
    /// The host is gone.
    closed: bool,
    outputs: [bool; 2],
    stdin: bool,
}

impl<'a> Running<'a> {
    pub(crate) fn new(
        connection: &'a mut Connection,
        child: Child,
        streams: Streams,
        deadline: Option<Instant>,
    ) -> Result<Self, Stop> {
        let started = Answer::Started(Started { pid: child.pid().unsigned_abs() });
        let pending = started.encode().map_err(|_| Stop::Gone)?;
        let output = |kind, pipe| Output { kind, pipe: Some(pipe), owed: 0 };
        Ok(Self {
            connection,
            child,
            outputs: [
                output(Answer::STDOUT, streams.stdout),
                output(Answer::STDERR, streams.stderr),
            ],
            stdin: Standby::new(streams.stdin),
            pending,
            sent: 0,
            deadline,
            timed_out: false,
            ended: None,
        })
    }

    /// Carries on until the command is over and told so.
    pub(crate) fn run(mut self) -> Result<(), Stop> {
        // The host may have sent input together with the request.
        self.take_input()?;
        loop {
            self.send_pending()?;
            if let Some((ending, _)) = self.ended
                && self.all_told()
            {
                return self.finish(ending);
            }
            self.enforce_limit();
            let ready = self.wait()?;
            self.notice_end();
            if ready.closed {
                return Err(Stop::Gone);
            }
            if ready.host {
                match self.connection.receive_arrived() {
                    Arrival::Bytes => self.take_input()?,
                    Arrival::NothingYet => {}
                    Arrival::Closed => return Err(Stop::Gone),
                }
            }
            if ready.stdin {
                self.stdin.flush();
            }
            if self.pending.is_empty() {
                for (output, ready) in self.outputs.iter_mut().zip(ready.outputs) {
                    if ready {
                        output.take(&mut self.pending);
                    }
                }
            }
        }
    }

    /// Whether all output the host is to get was sent.
    fn all_told(&self) -> bool {
        let Some((_, until)) = self.ended else { return false };
        let over = Instant::now() >= until;
        let told = |output: &Output| output.pipe.is_none() || (over && output.owed == 0);
        self.pending.is_empty() && self.outputs.iter().all(told)
    }

    fn finish(self, ending: Ending) -> Result<(), Stop> {
        let (code, signal) = match ending {
            Ending::Code(code) => (Some(code), None),
            Ending::Signal(signal) => (None, Some(signal)),
        };
        let exited = Answer::Exited(Exited { code, signal, timed_out: self.timed_out });
        self.connection.send(&exited)
    }

    fn enforce_limit(&mut self) {
        if self.ended.is_none() && self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
        {
            self.deadline = None;
            self.timed_out = self.child.kill_session();
        }
    }

    /// Learns that the command is over. What it wrote is in the pipes by then.
    fn notice_end(&mut self) {
        if self.ended.is_none()
            && let Some(ending) = self.child.ending()
        {
            self.ended = Some((ending, Instant::now() + GRACE));
            for output in &mut self.outputs {
                let left = output.pipe.as_ref().and_then(|pipe| ioctl_fionread(pipe).ok());
                output.owed = left.and_then(|left| usize::try_from(left).ok()).unwrap_or(0);
            }
        }
    }

    fn wants_input(&self) -> bool {
        self.ended.is_none() && self.stdin.has_room()
    }

    /// Waits until something can be done.
    fn wait(&self) -> Result<Ready, Stop> {
        let until = match self.ended {
            None => self.deadline,
            // Once over, only the host and the pipes are waited for.
            Some((_, until)) => Some(until).filter(|until| *until > Instant::now()),
        };
        let timeout = until.map(|until| {
            let left = until.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        let mut wanted = PollFlags::RDHUP;
        wanted.set(PollFlags::IN, self.wants_input());
        wanted.set(PollFlags::OUT, !self.pending.is_empty());
        let stream = self.connection.stream();
        let ended = self.child.ended();

        let mut polled = Vec::with_capacity(5);
        polled.push(PollFd::from_borrowed_fd(stream, wanted));
        if self.ended.is_none() {
            polled.push(PollFd::from_borrowed_fd(ended, PollFlags::IN));
        }
        let outputs = polled.len();
        if self.pending.is_empty() {
            let pipes = self.outputs.iter().filter_map(|output| output.pipe.as_ref());
            polled.extend(pipes.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        }
        let stdin = polled.len();
        if let Some(pipe) = self.stdin.blocked_on() {
            polled.push(PollFd::from_borrowed_fd(pipe, PollFlags::OUT));
        }
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return Err(Stop::Gone),
        }
        let seen = |index: usize| polled.get(index).map_or(PollFlags::empty(), PollFd::revents);

        let connection = seen(0);
        let mut ready = Ready::default();
        let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
        let half_gone = connection.contains(PollFlags::RDHUP) && !self.wants_input();
        ready.host = connection.contains(PollFlags::IN);
        // With input wanted, what was sent before closing is read first, and then the end.
        ready.closed = half_gone
            || (connection.intersects(gone) && !ready.host)
            || (connection.intersects(gone) && !self.wants_input());
        let mut next = outputs;
        for (output, ready) in self.outputs.iter().zip(&mut ready.outputs) {
            if self.pending.is_empty() && output.pipe.is_some() {
                *ready = !seen(next).is_empty();
                next += 1;
            }
        }
        ready.stdin = !seen(stdin).is_empty();
        Ok(ready)
    }

    /// Sends what can be sent without waiting.
    fn send_pending(&mut self) -> Result<(), Stop> {
        while let Some(rest) = self.pending.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match send(self.connection.stream(), rest, flags) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(_) => return Err(Stop::Gone),
            }
        }
        self.pending.clear();
        self.sent = 0;
        Ok(())
    }

    /// Acts on the frames that have arrived.
    fn take_input(&mut self) -> Result<(), Stop> {
        while let Some(input) = self.connection.arrived_input()? {
            match input {
                Input::Stdin(data) => self.stdin.put(data),
                Input::CloseStdin => self.stdin.close(),
                Input::Signal(signal) if (1..=64).contains(&signal.number) => self
                    .child
                    .signal(signal.number)
                    .map_err(|error| Failure::of("cannot signal the command", error))?,
                Input::Signal(signal) => {
                    let number = signal.number;
                    let message = format!("{number} is not a signal; they are numbered 1 to 64");
                    return Err(Failure::invalid(message).into());
                }
                Input::Chunk(_) | Input::End | Input::Resize(_) => return Err(Stop::Gone),
            }
        }
        Ok(())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // Without its host a command is of no use. After its end this does nothing, so what it left in
        // the background lives on.
        self.child.kill_session();
    }
}

impl Output {
    /// Appends one frame of what is in the pipe, read in place.
    fn take(&mut self, frames: &mut Vec<u8>) {
        let Some(pipe) = &self.pipe else { return };
        let start = frames.len();
        frames.resize(start + HEADER_BYTES, 0);
        frames.reserve_exact(CHUNK_BYTES_MAX);
        let count = match read(pipe, spare_capacity(frames)) {
            Ok(0) => {
                self.pipe = None;
                0
            }
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => {
                self.pipe = None;
                0
            }
        };
        self.owed = self.owed.saturating_sub(count);
        match (api_guest::raw_header(self.kind, count), frames.get_mut(start..)) {
            (Ok(header), Some(frame)) if count > 0 => {
                if let Some(place) = frame.first_chunk_mut() {
                    *place = header;
                }
            }
            _ => frames.truncate(start),
        }
    }
}
