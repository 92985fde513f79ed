//! The thread that belongs to one process: carries its streams until its end.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use api_guest::{CHUNK_BYTES_MAX, Exited};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionread, read};

use crate::children::{Child, Ending};
use crate::process::Process;
use crate::process::ring::What;

/// LIMIT: how long after a process's end its output is still waited for, when something it left in
/// the background holds the streams open. What the process itself wrote always arrives.
const GRACE: Duration = Duration::from_millis(100);
/// LIMIT: as [`GRACE`], of a terminal, where what is under way cannot be asked for: each output moves
/// the end of the wait, up to this.
const TERMINAL_GRACE_MAX: Duration = Duration::from_secs(2);

/// One stream the process writes to.
#[derive(Debug)]
struct Output {
    kind: u8,
    /// `None` after its end.
    pipe: Option<OwnedFd>,
    /// Bytes the process left in it at its end that were not read since.
    owed: usize,
}

/// How it ended, and until when output is waited for.
#[derive(Clone, Copy, Debug)]
struct Over {
    ending: Ending,
    until: Instant,
    until_at_most: Instant,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Supervisor {
    process: Arc<Process>,
    outputs: Vec<Output>,
    deadline: Option<Instant>,
    timed_out: bool,
    over: Option<Over>,
    buffer: Vec<u8>,
}

/// What `poll` found.
#[derive(Debug, Default)]
struct Ready {
    outputs: Vec<bool>,
    stdin: bool,
}

impl Supervisor {
    pub(super) fn new(
        process: Arc<Process>,
        outputs: Vec<(u8, OwnedFd)>,
        deadline: Option<Instant>,
    ) -> Self {
        let outputs = outputs.into_iter();
        let outputs = outputs.map(|(kind, pipe)| Output { kind, pipe: Some(pipe), owed: 0 });
        let outputs = outputs.collect();
        Self { process, outputs, deadline, timed_out: false, over: None, buffer: Vec::new() }
    }

    pub(super) fn run(mut self) {
        let process = Arc::clone(&self.process);
        let Some(child) = &process.child else { return };
        loop {
            let held = process.held_up();
            if let Some(over) = self.over
                && self.all_read(over, held.is_some())
            {
                let (code, signal) = match over.ending {
                    Ending::Code(code) => (Some(code), None),
                    Ending::Signal(signal) => (None, Some(signal)),
                };
                process.over(Exited { code, signal, timed_out: self.timed_out });
                return;
            }
            self.enforce_limit(child);
            let ready = self.wait(child, held);
            process.attention.hush();
            self.notice_end(child);
            if ready.stdin {
                let mut state = process.lock();
                state.stdin.flush();
                state.tell();
            }
            for (place, ready) in ready.outputs.into_iter().enumerate() {
                if ready {
                    self.take(place);
                }
            }
        }
    }

    fn all_read(&self, over: Over, held: bool) -> bool {
        let waited = !held && Instant::now() >= over.until;
        self.outputs.iter().all(|output| output.pipe.is_none() || (waited && output.owed == 0))
    }

    fn enforce_limit(&mut self, child: &Child) {
        if self.over.is_none() && self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            self.deadline = None;
            self.timed_out = child.kill_session();
        }
    }

    /// Learns that the process is over. What it wrote is in the pipes by then.
    fn notice_end(&mut self, child: &Child) {
        if self.over.is_none()
            && let Some(ending) = child.ending()
        {
            let now = Instant::now();
            let until_at_most = now + TERMINAL_GRACE_MAX;
            self.over = Some(Over { ending, until: now + GRACE, until_at_most });
            if !self.process.facts.pty {
                for output in &mut self.outputs {
                    let left = output.pipe.as_ref().and_then(|pipe| ioctl_fionread(pipe).ok());
                    output.owed = left.and_then(|left| usize::try_from(left).ok()).unwrap_or(0);
                }
            }
        }
    }

    /// Waits until something can be done.
    fn wait(&self, child: &Child, held: Option<Instant>) -> Ready {
        let now = Instant::now();
        let patience = match self.over {
            None => self.deadline,
            Some(over) => Some(over.until).filter(|until| *until > now),
        };
        let until = [patience, held].into_iter().flatten().min();
        let timeout = until.map(|until| {
            let left = until.saturating_duration_since(now);
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        // Of its own, because a connection may close the original at any moment.
        let stdin = {
            let state = self.process.lock();
            let blocked = state.stdin.blocked_on();
            blocked.and_then(|pipe| rustix::io::fcntl_dupfd_cloexec(pipe, 3).ok())
        };
        let mut polled = Vec::with_capacity(5);
        polled.push(PollFd::from_borrowed_fd(self.process.attention.fd(), PollFlags::IN));
        if self.over.is_none() {
            polled.push(PollFd::from_borrowed_fd(child.ended(), PollFlags::IN));
        }
        let first_output = polled.len();
        let open = |output: &&Output| held.is_none() && output.pipe.is_some();
        for output in self.outputs.iter().filter(open) {
            polled.extend(output.pipe.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        }
        let stdin_place = polled.len();
        polled.extend(
            stdin.as_ref().map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::OUT)),
        );
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            // Memory is short for a moment.
            Err(_) => thread::yield_now(),
        }
        let seen = |place: usize| polled.get(place).is_some_and(|one| !one.revents().is_empty());
        let mut ready = Ready::default();
        let mut next = first_output;
        for output in &self.outputs {
            let asked = open(&output);
            ready.outputs.push(asked && seen(next));
            next += usize::from(asked);
        }
        ready.stdin = stdin.is_some() && seen(stdin_place);
        ready
    }

    /// Adds what one stream holds.
    fn take(&mut self, place: usize) {
        let Some(output) = self.outputs.get_mut(place) else { return };
        let Some(pipe) = &output.pipe else { return };
        self.buffer.clear();
        self.buffer.reserve_exact(CHUNK_BYTES_MAX);
        match read(pipe, spare_capacity(&mut self.buffer)) {
            Ok(0) => output.pipe = None,
            Ok(count) => {
                output.owed = output.owed.saturating_sub(count);
                let data = self.buffer.as_slice().into();
                self.process.happened(What::Output { kind: output.kind, data });
                if let Some(over) = &mut self.over
                    && self.process.facts.pty
                {
                    over.until = (Instant::now() + GRACE).min(over.until_at_most);
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A terminal whose other end nobody holds open any more.
            Err(_) => output.pipe = None,
        }
    }
}
