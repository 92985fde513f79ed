//! Processes that live on their own: started by one connection, followed by any.
//!
//! ```text
//!   Spawn ──▶ Processes ──▶ Process ◀── supervisor thread: pipes or terminal, end, time limit
//!                              │ ring of events
//!              Attach ─────────┤ listener: woken when something changed
//!              Control ────────┘ input, signals, size
//! ```
//!
//! The supervisor never waits for a connection, except a bounded time for a reader that is attached
//! and reads: see [`Process::held_up`]. All of it is memory of the guest, so a snapshot has it and a
//! restored guest goes on with it.

mod attach;
mod ring;
mod supervise;
mod table;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use api_guest::{CHUNK_BYTES_MAX, Exited, PtySize, READER_WAIT_SECS};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::termios::{Winsize, tcsetwinsize};

use crate::children::Child;
use crate::process::ring::{Next, Ring, What};
use crate::standby::Standby;

pub(crate) use attach::{attach, control};
pub(crate) use table::{Processes, list, spawn};

/// LIMIT: what a supervisor adds before it looks at its readers again: a piece from each stream.
const ROUND_BYTES: usize = 2 * (CHUNK_BYTES_MAX + 64);
/// As the protocol promises.
const READER_WAIT: Duration = Duration::from_secs(READER_WAIT_SECS);

/// Something to wait for in `poll`: readable once it was rung.
#[derive(Debug)]
pub(crate) struct Bell(OwnedFd);

impl Bell {
    fn new() -> Result<Self, Errno> {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Self)
    }

    fn ring(&self) {
        // Fails only when it was rung 2^64 times; then it is readable.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Makes it unreadable until it is rung again. What it stands for is looked at after this.
    fn hush(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.0, &mut count);
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What never changes about a process.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) id: u32,
    pub(crate) argv: Vec<String>,
    pub(crate) user: String,
    pub(crate) cwd: String,
    pub(crate) pty: bool,
    pub(crate) started_ns: i64,
}

/// A process, from its start until it is forgotten.
#[derive(Debug)]
pub(crate) struct Process {
    facts: Facts,
    /// `None` when it could not be started.
    child: Option<Child>,
    /// For its supervisor: input came, or a reader that was waited for got on.
    attention: Bell,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    ring: Ring,
    stdin: Standby,
    /// Its terminal, where it has one, until it is over: what it left in the background is hung up.
    terminal: Option<OwnedFd>,
    /// How and when it ended, once all its output is in the ring.
    ended: Option<End>,
    listeners: Vec<Listener>,
    listeners_made: u64,
    /// Whether output waits for a reader now.
    holding: bool,
}

#[derive(Clone, Debug)]
struct End {
    exited: Exited,
    at: Instant,
    at_ns: i64,
}

/// A connection that has to do with the process.
#[derive(Debug)]
struct Listener {
    id: u64,
    bell: Arc<Bell>,
    /// Of one that reads.
    reading: Option<Reading>,
}

#[derive(Debug)]
struct Reading {
    next_seq: u64,
    /// When it last took something, or had nothing left to take.
    moved: Instant,
    /// Whether output waits for it. Given up when it takes nothing, until it has caught up.
    awaited: bool,
}

/// A listener's place, left when dropped.
#[derive(Debug)]
struct Place {
    process: Arc<Process>,
    id: u64,
    bell: Arc<Bell>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.process.lock();
        state.listeners.retain(|listener| listener.id != self.id);
        if state.holding {
            self.process.attention.ring();
        }
    }
}

impl Process {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is valid between any two statements, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event and tells everybody.
    fn happened(&self, what: What) {
        let mut state = self.lock();
        state.ring.push(now_ns(), what);
        state.tell();
    }

    /// Adds the end, the last event there is.
    fn over(&self, exited: Exited) {
        let mut state = self.lock();
        let at_ns = now_ns();
        state.ring.push(at_ns, What::Exited(exited.clone()));
        state.ended = Some(End { exited, at: Instant::now(), at_ns });
        // Nobody reads it any more.
        state.stdin = Standby::new(None);
        state.terminal = None;
        state.tell();
    }

    /// Until when output has to wait for a reader that would miss some, if there is such a reader.
    /// One that has taken nothing for too long is not waited for any more.
    fn held_up(&self) -> Option<Instant> {
        let mut state = self.lock();
        let kept = state.ring.kept_after(ROUND_BYTES);
        let now = Instant::now();
        let mut held = None;
        for listener in &mut state.listeners {
            let Some(reading) = &mut listener.reading else { continue };
            if reading.awaited && reading.next_seq < kept {
                let until = reading.moved + READER_WAIT;
                reading.awaited = until > now;
                held = held.max(Some(until).filter(|until| *until > now));
            }
        }
        state.holding = held.is_some();
        held
    }

    /// Registers a connection; one that reads says which event it is to get first.
    fn listen(self: &Arc<Self>, next_seq: Option<u64>) -> Result<Place, Errno> {
        let bell = Arc::new(Bell::new()?);
        let mut state = self.lock();
        state.listeners_made += 1;
        let id = state.listeners_made;
        let last = state.ring.next_seq();
        let reading = next_seq.map(|next| {
            // The end is told to everybody.
            let most = if state.ended.is_some() { last.saturating_sub(1) } else { last };
            Reading { next_seq: next.min(most), moved: Instant::now(), awaited: true }
        });
        state.listeners.push(Listener { id, bell: Arc::clone(&bell), reading });
        drop(state);
        Ok(Place { process: Arc::clone(self), id, bell })
    }

    /// Gives its terminal another size. Without a terminal there is nothing to do.
    fn resize(&self, size: &PtySize) -> Result<(), Errno> {
        let state = self.lock();
        state.terminal.as_ref().map_or(Ok(()), |terminal| tcsetwinsize(terminal, winsize(size)))
    }

    fn show(&self) -> api_guest::Process {
        let state = self.lock();
        let (facts, ended) = (&self.facts, state.ended.as_ref());
        api_guest::Process {
            id: facts.id,
            pid: self.child.as_ref().map(|child| child.pid().unsigned_abs()),
            argv: facts.argv.clone(),
            user: facts.user.clone(),
            cwd: facts.cwd.clone(),
            pty: facts.pty,
            started_ns: facts.started_ns,
            ended_ns: ended.map(|end| end.at_ns),
            exited: ended.map(|end| end.exited.clone()),
            last_seq: state.ring.next_seq().saturating_sub(1),
        }
    }
}

impl State {
    fn tell(&self) {
        for listener in &self.listeners {
            listener.bell.ring();
        }
    }
}

impl Place {
    /// What this reader is to be told next. What is returned counts as told.
    fn next(&self) -> Next {
        let mut state = self.process.lock();
        let State { ring, listeners, .. } = &mut *state;
        let mine = listeners.iter_mut().find(|listener| listener.id == self.id);
        let Some(reading) = mine.and_then(|listener| listener.reading.as_mut()) else {
            return Next::Nothing;
        };
        let next = ring.at(reading.next_seq);
        reading.moved = Instant::now();
        match &next {
            Next::Nothing => reading.awaited = true,
            Next::Dropped { last_seq, .. } => reading.next_seq = last_seq + 1,
            Next::Event(event) => reading.next_seq = event.seq + 1,
        }
        if state.holding {
            self.process.attention.ring();
        }
        next
    }
}

/// A terminal's size, as the kernel has it.
fn winsize(size: &PtySize) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Nanoseconds since 1970 UTC.
fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
