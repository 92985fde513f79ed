//! Who waits for whom.
//!
//! PID 1 gets every orphan, so one thread waits for all processes there are. It looks at an exited
//! process without taking its status, finds the launch it belongs to, and only then reaps it and hands
//! the status over; one that belongs to nobody is an orphan and just reaped.
//!
//! INVARIANT: a process is reaped only with the table locked, and signals to a process group are sent
//! only with the table locked and its leader not reaped, so they never reach a stranger.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};

use crate::kernel;
use crate::launch::{LaunchError, Plan, launch};

/// LIMIT: how often the session is searched for processes that appeared while it was being killed.
const KILL_ROUNDS_MAX: usize = 8;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Code(i32),
    Signal(i32),
}

/// All launched processes not yet given up by their owners.
#[derive(Debug, Default)]
pub(crate) struct Children {
    table: Mutex<Table>,
    launched: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    slots: Vec<Arc<Slot>>,
    /// Completed launches, so that the reaper can sleep while there is no child at all.
    launches: u64,
}

#[derive(Debug)]
struct Slot {
    /// Zero until the kernel wrote it.
    pid: AtomicI32,
    ending: OnceLock<Ending>,
    /// Readable once `ending` is set.
    ended: OwnedFd,
}

/// A launched process and the right to signal it.
#[derive(Debug)]
pub(crate) struct Child {
    slot: Arc<Slot>,
    children: Arc<Children>,
}

impl Children {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // The table is valid between any two statements, so a panic elsewhere does not spoil it.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a process. See [`launch`].
    pub(crate) fn launch(
        self: &Arc<Self>,
        plan: &Plan,
        streams: [BorrowedFd<'_>; 3],
    ) -> Result<Child, LaunchError> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let ended = eventfd(0, flags).map_err(LaunchError::Clone)?;
        let slot = Arc::new(Slot { pid: AtomicI32::new(0), ending: OnceLock::new(), ended });
        self.lock().slots.push(Arc::clone(&slot));
        let child = Child { slot, children: Arc::clone(self) };
        let launched = launch(plan, streams, &child.slot.pid);
        self.lock().launches += 1;
        self.launched.notify_one();
        launched.map(|()| child)
    }

    /// Reaps for ever. Runs in one thread.
    pub(crate) fn reap(&self) {
        loop {
            let seen = self.lock().launches;
            match kernel::peek_exited() {
                Ok(pid) => self.hand_over(pid),
                Err(Errno::CHILD) => {
                    let wait = |table: &mut Table| table.launches == seen;
                    let woken = self.launched.wait_while(self.lock(), wait);
                    drop(woken.unwrap_or_else(PoisonError::into_inner));
                }
                // Interrupted; nothing else is possible.
                Err(_) => {}
            }
        }
    }

    fn hand_over(&self, pid: i32) {
        let table = self.lock();
        let Ok(Some((_, status))) = waitpid(Pid::from_raw(pid), WaitOptions::NOHANG) else {
            return;
        };
        let ending = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Ending::Code(code),
            (None, Some(signal)) => Ending::Signal(signal),
            (None, None) => return,
        };
        let mine = |slot: &&Arc<Slot>| {
            slot.pid.load(Ordering::Acquire) == pid && slot.ending.get().is_none()
        };
        if let Some(slot) = table.slots.iter().find(mine) {
            let _ = slot.ending.set(ending);
            // Cannot fail: the counter is far from its end.
            let _ = rustix::io::write(&slot.ended, &1_u64.to_ne_bytes());
        }
    }
}

impl Child {
    /// The process id, also that of its group and session.
    pub(crate) fn pid(&self) -> i32 {
        self.slot.pid.load(Ordering::Acquire)
    }

    /// How it ended, if it has.
    pub(crate) fn ending(&self) -> Option<Ending> {
        self.slot.ending.get().copied()
    }

    /// Readable once it ended.
    pub(crate) fn ended(&self) -> BorrowedFd<'_> {
        self.slot.ended.as_fd()
    }

    /// Sends a signal to the process group, unless the leader is over.
    pub(crate) fn signal(&self, signal: i32) -> Result<(), Errno> {
        let _reaping_waits = self.children.lock();
        if self.ending().is_some() { Ok(()) } else { kernel::kill(-self.pid(), signal) }
    }

    /// Kills the process group and every process of the session, unless the leader is over. Says
    /// whether it did.
    pub(crate) fn kill_session(&self) -> bool {
        let _reaping_waits = self.children.lock();
        if self.ending().is_some() {
            return false;
        }
        let leader = self.pid();
        // The group has its leader still, so this reaches at least a zombie.
        let _ = kernel::kill(-leader, libc::SIGKILL);
        for _ in 0..KILL_ROUNDS_MAX {
            let mut found = false;
            for pid in session_members(leader).filter(|pid| *pid != leader) {
                found = true;
                // It may be over since it was listed.
                let _ = kernel::kill(pid, libc::SIGKILL);
            }
            if !found {
                break;
            }
        }
        true
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.children.lock().slots.retain(|slot| !Arc::ptr_eq(slot, &self.slot));
    }
}

/// Processes of a session that run: neither zombies nor already killed.
fn session_members(session: i32) -> impl Iterator<Item = i32> {
    let listing = fs::read_dir("/proc").into_iter().flatten().flatten();
    listing.filter_map(move |entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read(entry.path().join("stat")).ok()?;
        (session_of(&stat)? == session).then_some(pid)
    })
}

/// The session in a `/proc/PID/stat` line, unless that process is a zombie.
fn session_of(stat: &[u8]) -> Option<i32> {
    // The command's name may hold anything, so the fields start after the last parenthesis.
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    // Parent, group, session.
    let session = fields.nth(2)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(session)
}

#[cfg(test)]
mod test {
    use super::session_of;

    #[test]
    fn a_session_is_found_behind_any_name() {
        assert_eq!(session_of(b"12 (a) b (c)) S 1 5 7 0 -1"), Some(7));
        assert_eq!(session_of(b"12 (a) Z 1 5 7 0 -1"), None);
        assert_eq!(session_of(b"12 (a) S 1"), None);
        assert_eq!(session_of(b""), None);
    }
}
