//! Which processes there are, and starting one.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use api_guest::{
    Answer, ENDED_KEPT_MAX, ENDED_KEPT_SECS, Exec, Exited, FailCode, ProcessBounds, PtySize,
};
use rustix::fs::{Uid, fchown};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::tcsetwinsize;

use crate::agent::Agent;
use crate::connection::Connection;
use crate::exec;
use crate::failure::{Failure, Stop};
use crate::process::ring::{Ring, What};
use crate::process::supervise::Supervisor;
use crate::process::{Bell, Facts, Process, State, now_ns, winsize};
use crate::running::Streams;
use crate::server::STACK_BYTES;
use crate::standby::Standby;

/// LIMIT: of the arguments as they are shown, so that what is known of a process fits a frame.
const ARGV_SHOWN_BYTES: usize = 16 * 1024;
/// As the protocol promises.
const ENDED_KEPT: Duration = Duration::from_secs(ENDED_KEPT_SECS);

/// All processes that are known.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    table: Mutex<Table>,
    /// Held while one is started, so that the bound holds and numbers are in order.
    starting: Mutex<()>,
}

#[derive(Debug, Default)]
struct Table {
    last_id: u32,
    processes: Vec<Arc<Process>>,
}

impl Processes {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // The table is valid between any two statements, so a panic elsewhere does not spoil it.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process of this number.
    pub(super) fn find(&self, id: u32) -> Result<Arc<Process>, Failure> {
        let mut table = self.lock();
        table.forget_old();
        table.processes.iter().find(|process| process.facts.id == id).cloned().ok_or_else(|| {
            let message = format!("there is no process {id}, or it ended too long ago");
            Failure::new(FailCode::ProcessUnknown, message)
        })
    }
}

impl Table {
    /// Forgets those that ended long ago, and the first to end where too many did.
    fn forget_old(&mut self) {
        let ended = |process: &Process| process.lock().ended.as_ref().map(|end| end.at);
        let mut ends: Vec<Instant> = self.processes.iter().filter_map(|one| ended(one)).collect();
        ends.sort_unstable();
        let surplus = ends.len().saturating_sub(ENDED_KEPT_MAX);
        let oldest_kept = ends.get(surplus).copied();
        self.processes.retain(|process| match (ended(process), oldest_kept) {
            (Some(at), Some(oldest)) => at >= oldest && at.elapsed() < ENDED_KEPT,
            _ => true,
        });
    }

    fn running(&self) -> usize {
        self.processes.iter().filter(|process| process.lock().ended.is_none()).count()
    }
}

/// Carries out the request for all of them.
pub(crate) fn list(agent: &Agent, connection: &mut Connection) -> Result<(), Stop> {
    let mut table = agent.processes.lock();
    table.forget_old();
    let all = table.processes.clone();
    drop(table);
    for process in all {
        connection.send(&Answer::Process(process.show()))?;
    }
    connection.send(&Answer::Done)
}

/// Starts what `exec` says, if `bounds` allow it.
pub(crate) fn spawn(agent: &Agent, exec: &Exec, bounds: &ProcessBounds) -> Result<Answer, Failure> {
    if !bounds.are_possible() {
        return Err(Failure::invalid("the bounds of the process are outside what an agent holds"));
    }
    let accounts = agent.accounts.get();
    let plan = exec::plan(&accounts, &agent.settings.user, exec)?;
    let user = accounts.find(exec.user.as_deref().unwrap_or(&agent.settings.user))?;
    let _starting = agent.processes.starting.lock().unwrap_or_else(PoisonError::into_inner);
    let id = {
        let mut table = agent.processes.lock();
        table.forget_old();
        let running = table.running();
        if running >= count(bounds.processes) {
            let message = format!("{running} processes run, as many as may; end one first");
            return Err(Failure::new(FailCode::Busy, message));
        }
        table.last_id + 1
    };
    let attention = Bell::new().map_err(exec::no_streams)?;
    let facts = Facts {
        id,
        argv: shown(&exec.argv),
        user: user.name,
        cwd: plan.cwd.to_string_lossy().into_owned(),
        pty: exec.pty.is_some(),
        started_ns: now_ns(),
    };
    let (ends, child_ends) = match &exec.pty {
        None => {
            let (streams, child_ends) = exec::pipes(agent, exec.stdin).map_err(exec::no_streams)?;
            let Streams { stdin, stdout, stderr } = streams;
            let outputs = vec![(Answer::STDOUT, stdout), (Answer::STDERR, stderr)];
            (Ends { stdin, outputs, terminal: None }, child_ends)
        }
        Some(size) => terminal(size, user.uid)
            .map_err(|error| Failure::of("cannot make a terminal for the process", error))?,
    };
    let launched = agent.children.launch(&plan, child_ends.each_ref().map(AsFd::as_fd));
    // As long as the agent holds them open, it would not see the process close them.
    drop(child_ends);
    let mut ring = Ring::new(count(bounds.output_kept_bytes));
    let (child, not_launched) = match launched {
        Ok(child) => {
            ring.push(facts.started_ns, What::Started(child.pid().unsigned_abs()));
            (Some(child), None)
        }
        Err(error) => (None, Some(exec::not_launched(exec, &plan, error)?)),
    };
    let Ends { stdin, outputs, terminal } = ends;
    let state = State {
        ring,
        stdin: Standby::new(stdin),
        terminal,
        ended: None,
        listeners: Vec::new(),
        listeners_made: 0,
        holding: false,
    };
    let process = Arc::new(Process { facts, child, attention, state: Mutex::new(state) });
    if let Some((code, line)) = not_launched {
        let data = line.into_bytes().into();
        process.happened(What::Output { kind: Answer::STDERR, data });
        process.over(Exited { code: Some(code), signal: None, timed_out: false });
    } else {
        let supervisor = Supervisor::new(Arc::clone(&process), outputs, exec::deadline(exec));
        let started = thread::Builder::new()
            .name(format!("process {id}"))
            .stack_size(STACK_BYTES)
            .spawn(move || supervisor.run());
        if let Err(error) = started {
            process.child.as_ref().map(crate::children::Child::kill_session);
            let failure = Failure::of_io("cannot follow the process", &error);
            return Err(Failure::new(FailCode::OutOfResources, failure.message));
        }
    }
    let answer = Answer::Process(process.show());
    let mut table = agent.processes.lock();
    table.last_id = id;
    table.processes.push(process);
    Ok(answer)
}

/// The agent's ends of a process's streams.
struct Ends {
    stdin: Option<OwnedFd>,
    /// With the kind of the frames what comes from it goes into.
    outputs: Vec<(u8, OwnedFd)>,
    terminal: Option<OwnedFd>,
}

/// Both ends of a new terminal, whose owner is the user.
fn terminal(size: &PtySize, uid: u32) -> Result<(Ends, [OwnedFd; 3]), Errno> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags)?;
    unlockpt(&ours)?;
    let theirs = ioctl_tiocgptpeer(&ours, flags)?;
    tcsetwinsize(&ours, winsize(size))?;
    fchown(&theirs, Some(Uid::from_raw(uid)), None)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    let again = |end: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(end, 3);
    let outputs = vec![(Answer::STDOUT, again(&ours)?)];
    let ends = Ends { stdin: Some(again(&ours)?), outputs, terminal: Some(ours) };
    Ok((ends, [again(&theirs)?, again(&theirs)?, theirs]))
}

fn count(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// The arguments, cut to what a frame has room for.
fn shown(argv: &[String]) -> Vec<String> {
    let mut left = ARGV_SHOWN_BYTES;
    let mut all = Vec::new();
    for argument in argv {
        let end = argument.floor_char_boundary(left);
        all.push(argument.get(..end).unwrap_or_default().to_owned());
        // What an argument costs beside its text.
        match left.checked_sub(end + 4) {
            Some(rest) if end == argument.len() => left = rest,
            _ => break,
        }
    }
    all
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn very_long_arguments_are_cut_between_characters() {
        let short = vec!["ls".to_owned(), "-l".to_owned()];
        assert_eq!(shown(&short), short);
        let long = vec!["a".to_owned(), "\u{e9}".repeat(20_000), "b".to_owned()];
        let cut = shown(&long);
        assert_eq!(cut.len(), 2);
        assert!(cut[1].len() <= ARGV_SHOWN_BYTES && long[1].starts_with(&cut[1]));
        assert!(shown(&vec![String::new(); 100_000]).len() <= ARGV_SHOWN_BYTES / 4 + 1);
    }
}
