//! Who serves: threads that all wait in `accept` on one socket.
//!
//! The kernel hands a new connection to exactly one of them, so the first request after a restore
//! costs one wake-up, and no thread is made for it. When the last idle worker gets busy it makes
//! another; those made above the number that always waits end when they are not needed.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::Context;
use api_guest::{FailCode, MakeDir, ProcessBounds, Request, Unpack, WriteFile};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use crate::agent::Agent;
use crate::connection::Connection;
use crate::failure::{Failure, Stop};
use crate::{archive, console, exec, files, kernel, port, process, rights, settle, tree, watch};

/// LIMIT: workers that wait at all times. Their stacks are in every snapshot.
const WORKERS_MIN: usize = 4;
/// LIMIT: requests served at once. The last worker takes only short ones, so that health is always
/// answered.
const WORKERS_MAX: usize = 256;
/// LIMIT: nothing here recurses, and buffers are on the heap.
pub(crate) const STACK_BYTES: usize = 256 * 1024;

/// The workers of one listening socket.
#[derive(Debug)]
pub(crate) struct Server {
    agent: Arc<Agent>,
    socket: OwnedFd,
    /// Workers there are, and those of them that wait.
    workers: AtomicUsize,
    idle: AtomicUsize,
}

impl Server {
    /// Serves for ever; returns only when it cannot.
    pub(crate) fn run(agent: Arc<Agent>, socket: OwnedFd) -> anyhow::Result<()> {
        let children = Arc::clone(&agent.children);
        thread::Builder::new()
            .name("reaper".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || children.reap())
            .context("cannot start the reaper")?;
        let server = Arc::new(Self {
            agent,
            socket,
            workers: AtomicUsize::new(1),
            idle: AtomicUsize::new(1),
        });
        for _ in 1..WORKERS_MIN {
            server.add_worker().context("cannot start a worker")?;
        }
        console::say("serving");
        server.work(true);
        anyhow::bail!("no connection can be accepted any more")
    }

    fn add_worker(self: &Arc<Self>) -> std::io::Result<()> {
        self.workers.fetch_add(1, Ordering::AcqRel);
        self.idle.fetch_add(1, Ordering::AcqRel);
        let server = Arc::clone(self);
        let started = thread::Builder::new()
            .name("worker".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || server.work(false));
        if started.is_err() {
            self.workers.fetch_sub(1, Ordering::AcqRel);
            self.idle.fetch_sub(1, Ordering::AcqRel);
        }
        started.map(drop)
    }

    /// One worker's life. It is counted idle when this starts.
    fn work(self: &Arc<Self>, permanent: bool) {
        loop {
            let stream = match accept_with(&self.socket, SocketFlags::CLOEXEC) {
                Ok(stream) => stream,
                // The connection was gone before it was taken, or memory is short for a moment.
                Err(
                    Errno::INTR
                    | Errno::CONNABORTED
                    | Errno::PROTO
                    | Errno::NOMEM
                    | Errno::NOBUFS
                    | Errno::MFILE
                    | Errno::NFILE,
                ) => {
                    thread::yield_now();
                    continue;
                }
                Err(error) => {
                    console::say(&format!("a worker ends, accept failed: {error}"));
                    break;
                }
            };
            let was_last_idle = self.idle.fetch_sub(1, Ordering::AcqRel) == 1;
            // Only the last idle worker makes another, so the bound holds without a lock.
            let full = was_last_idle
                && (self.workers.load(Ordering::Acquire) >= WORKERS_MAX
                    || self.add_worker().is_err());
            self.serve(stream, full);
            if !permanent && self.idle.load(Ordering::Acquire) >= WORKERS_MIN {
                self.workers.fetch_sub(1, Ordering::AcqRel);
                return;
            }
            self.idle.fetch_add(1, Ordering::AcqRel);
        }
        self.workers.fetch_sub(1, Ordering::AcqRel);
        self.idle.fetch_sub(1, Ordering::AcqRel);
    }

    fn serve(&self, stream: OwnedFd, full: bool) {
        // A process inside the guest may reach the port too, and must not be served as root.
        if self.agent.settings.owns_machine
            && !kernel::vsock_peer_is_host(stream.as_fd()).unwrap_or(false)
        {
            return;
        }
        let mut connection = Connection::new(stream);
        if let Err(Stop::Failed(failure)) = answer(&self.agent, &mut connection, full) {
            // If the host is gone by now, there is nobody to tell.
            let _ = connection.send(&failure.answer());
        }
    }
}

/// Reads the request of a connection and carries it out.
fn answer(agent: &Agent, connection: &mut Connection, full: bool) -> Result<(), Stop> {
    let (user, mut request) = match connection.request()? {
        Request::As(user) => (Some(user.user), connection.request()?),
        request => (None, request),
    };
    let long = matches!(
        request,
        Request::Exec(_)
            | Request::ReadFile(_)
            | Request::WriteFile(_)
            | Request::Attach(_)
            | Request::Control(_)
            | Request::Connect(_)
            | Request::ConnectUnix(_)
            | Request::Pack(_)
            | Request::Unpack(_)
            | Request::Watch(_)
    );
    if full && long {
        let message = format!("the sandbox is busy with {WORKERS_MAX} requests; try again later");
        return Err(Failure::new(FailCode::Busy, message).into());
    }
    let Some(user) = user else { return carry_out(agent, connection, &request) };
    match &mut request {
        Request::ReadFile(_)
        | Request::List(_)
        | Request::Stat(_)
        | Request::Pack(_)
        | Request::Watch(_)
        | Request::Move(_)
        | Request::Remove(_) => {}
        // What a user makes is the user's.
        Request::WriteFile(WriteFile { user: owner, .. })
        | Request::MakeDir(MakeDir { user: owner, .. })
        | Request::Unpack(Unpack { user: owner, .. }) => {
            owner.get_or_insert_with(|| user.clone());
        }
        _ => {
            let message = "only what is done to files is done with a user's rights";
            return Err(Failure::new(FailCode::Unsupported, message).into());
        }
    }
    let takes = matches!(request, Request::WriteFile(_) | Request::Unpack(_));
    let outcome = rights::with_those_of(agent, &user, || carry_out(agent, connection, &request));
    // The host may be sending already.
    if takes { connection.taken(outcome) } else { outcome }
}

fn carry_out(agent: &Agent, connection: &mut Connection, request: &Request) -> Result<(), Stop> {
    let answer = match request {
        Request::Exec(request) => return exec::exec(agent, connection, request),
        Request::ReadFile(request) => return files::read(agent, connection, request),
        Request::WriteFile(request) => return files::write(agent, connection, request),
        Request::List(request) => return tree::list(agent, connection, request),
        Request::Processes => return process::list(agent, connection),
        Request::Attach(request) => return process::attach(agent, connection, request),
        Request::Control(request) => return process::control(agent, connection, request),
        Request::Connect(request) => return port::connect(connection, request),
        Request::ConnectUnix(request) => return port::connect_unix(connection, request),
        Request::Pack(request) => return archive::pack(agent, connection, request),
        Request::Unpack(request) => return archive::unpack(agent, connection, request),
        Request::Watch(request) => return watch::watch(agent, connection, request),
        Request::As(_) => return Err(Failure::invalid("one user's rights at a time").into()),
        Request::Spawn(request) => process::spawn(agent, &request.exec, &ProcessBounds::PROTOCOL)?,
        Request::SpawnWithin(request) => process::spawn(agent, &request.exec, &request.bounds)?,
        Request::Health => agent.identity.health(),
        Request::Identify(request) => agent.identity.renew(request)?,
        Request::SetClock(request) => agent.identity.adjust(request)?,
        Request::Stat(request) => tree::stat(agent, request)?,
        Request::MakeDir(request) => tree::make(agent, request)?,
        Request::Move(request) => tree::relocate(agent, request)?,
        Request::Remove(request) => tree::remove(agent, request)?,
        Request::Settle(request) => settle::settle(agent, request)?,
    };
    connection.send(&answer)
}
