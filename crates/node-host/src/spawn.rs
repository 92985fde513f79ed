//! Starts VMM processes: each is process 1 of a pid namespace of its own and gets exactly the
//! descriptors it was promised.
//!
//! `posix_spawn` rather than `Command` with a `pre_exec` hook: the hook makes the standard library
//! fork, which copies the page tables of the whole daemon for every machine. The namespace comes
//! from `unshare`, which is a property of the calling thread, so one thread does nothing else.
#![expect(unsafe_code, reason = "posix_spawn and unshare have no safe wrapper")]

use std::ffi::{CString, NulError};
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::mpsc;
use std::{io, mem, ptr, thread};

use rustix::process::{Pid, PidfdFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use tokio::sync::oneshot;

/// Source descriptors are moved above every number they may have to land on.
const PARKED_FD_MIN: RawFd = 32;

/// LIMIT: when memory is short on the whole machine, the kernel ends the process that takes most of it, and
/// takes this one for one with half of all memory more than it has: a machine goes before the daemon and
/// whatever else runs there, and the largest of them first.
const OOM_SCORE_ADJ: &str = "500";

/// A child that runs, held by descriptor so that its number can never mean another process.
#[derive(Debug)]
pub(crate) struct Spawned {
    /// Number of the process, for people.
    pub(crate) pid: i32,
    /// The process itself: polls readable when it is over.
    pub(crate) pidfd: OwnedFd,
}

/// What to start.
#[derive(Debug)]
pub(crate) struct Program {
    /// Path of the executable, then its arguments.
    argv: Vec<CString>,
    /// Descriptors of the child: source, and the number it gets. Everything else is closed.
    files: Vec<(OwnedFd, RawFd)>,
}

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A path or argument cannot be passed on.
    #[error("an argument of the program contains a zero byte")]
    Argument(#[from] NulError),
    /// No fresh pid namespace: the daemon is not root, or the kernel's limit is reached.
    #[error("make a pid namespace; the node must run as root")]
    Namespace(#[source] io::Error),
    /// The file is missing, not executable, or there is no memory for a process.
    #[error("start `{program}`")]
    Start {
        /// The executable.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The child's descriptors could not be prepared.
    #[error("pass file descriptors to a new process")]
    Files(#[source] io::Error),
    /// The thread that starts processes has ended, which happens only at shutdown.
    #[error("the node is shutting down")]
    Closed,
}

impl Program {
    /// `program` with `arguments`; `files` become the numbers beside them, each at most
    /// `PARKED_FD_MIN`. Descriptors 0 and 1 should be among them.
    pub(crate) fn new(
        program: &Path,
        arguments: &[String],
        files: Vec<(OwnedFd, RawFd)>,
    ) -> Result<Self, SpawnError> {
        let mut argv = vec![CString::new(program.as_os_str().as_bytes())?];
        for argument in arguments {
            argv.push(CString::new(argument.as_bytes())?);
        }
        let files = files
            .into_iter()
            .map(|(file, number)| {
                debug_assert!(number < PARKED_FD_MIN);
                rustix::io::fcntl_dupfd_cloexec(&file, PARKED_FD_MIN).map(|parked| (parked, number))
            })
            .collect::<Result<_, _>>()
            .map_err(|errno| SpawnError::Files(errno.into()))?;
        Ok(Self { argv, files })
    }
}

/// One request to the spawning thread.
type Order = (Program, oneshot::Sender<Result<Spawned, SpawnError>>);

/// Asks the spawning thread. The thread ends with the last clone.
#[derive(Clone, Debug)]
pub(crate) struct Spawner {
    orders: mpsc::Sender<Order>,
}

impl Spawner {
    /// Starts the thread.
    pub(crate) fn start() -> io::Result<Self> {
        let (orders, received) = mpsc::channel::<Order>();
        let own_namespace = File::open("/proc/self/ns/pid")?;
        thread::Builder::new().name("spawner".into()).spawn(move || {
            for (program, answer) in received {
                // Whoever asked may be gone; then the process ends with its control socket.
                let _ = answer.send(spawn(&program, &own_namespace));
            }
        })?;
        Ok(Self { orders })
    }

    /// Starts `program` as process 1 of a fresh pid namespace.
    pub(crate) async fn spawn(&self, program: Program) -> Result<Spawned, SpawnError> {
        let (answer, answered) = oneshot::channel();
        self.orders.send((program, answer)).map_err(|_| SpawnError::Closed)?;
        answered.await.map_err(|_| SpawnError::Closed)?
    }
}

fn spawn(program: &Program, own_namespace: &File) -> Result<Spawned, SpawnError> {
    // A thread that already made a namespace for its children must return before it may make the
    // next one.
    rustix::thread::move_into_link_name_space(
        own_namespace.as_fd(),
        Some(LinkNameSpaceType::ProcessID),
    )
    .map_err(|errno| SpawnError::Namespace(errno.into()))?;
    // SAFETY: NEWPID changes only where this thread's next children live; no descriptor table or
    // memory is unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWPID) }
        .map_err(|errno| SpawnError::Namespace(errno.into()))?;

    let start = |source| SpawnError::Start {
        program: program.argv.first().map_or_else(String::new, |p| p.to_string_lossy().into()),
        source,
    };
    let pid = posix_spawn(program).map_err(start)?;
    let child = Pid::from_raw(pid).ok_or_else(|| start(io::Error::other("no process number")))?;
    // The child cannot be reaped by anybody but us, so its number still means it.
    let pidfd = rustix::process::pidfd_open(child, PidfdFlags::NONBLOCK)
        .map_err(|errno| start(errno.into()))?;
    if let Err(error) = fs::write(format!("/proc/{pid}/oom_score_adj"), OOM_SCORE_ADJ) {
        // One that ended at once, or no `/proc`.
        tracing::debug!(pid, "cannot have the kernel end it before the node: {error}");
    }
    Ok(Spawned { pid, pidfd })
}

fn check(code: libc::c_int) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}

/// The descriptors a child starts with.
struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new(files: &[(OwnedFd, RawFd)]) -> io::Result<Self> {
        let mut raw = mem::MaybeUninit::uninit();
        // SAFETY: `raw` is writable memory for one such object.
        check(unsafe { libc::posix_spawn_file_actions_init(raw.as_mut_ptr()) })?;
        // SAFETY: the call above succeeded, so the object is initialised.
        let mut actions = Self(unsafe { raw.assume_init() });
        let mut first_free = 3;
        for (file, number) in files {
            let (from, to) = (file.as_raw_fd(), *number);
            // SAFETY: the object is initialised; the numbers are plain data looked at later.
            check(unsafe { libc::posix_spawn_file_actions_adddup2(&mut actions.0, from, to) })?;
            first_free = first_free.max(to + 1);
        }
        // SAFETY: the object is initialised.
        check(unsafe {
            libc::posix_spawn_file_actions_addclosefrom_np(&mut actions.0, first_free)
        })?;
        Ok(actions)
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: the object was initialised and is not used again. Cannot fail in glibc.
        let _ = unsafe { libc::posix_spawn_file_actions_destroy(&mut self.0) };
    }
}

/// Signal mask and dispositions a child starts with: nothing blocked, `SIGPIPE` as by default.
struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new() -> io::Result<Self> {
        let mut raw = mem::MaybeUninit::uninit();
        // SAFETY: `raw` is writable memory for one such object.
        check(unsafe { libc::posix_spawnattr_init(raw.as_mut_ptr()) })?;
        // SAFETY: the call above succeeded, so the object is initialised.
        let mut attributes = Self(unsafe { raw.assume_init() });

        let mut set = mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `set` is writable memory for one signal set.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: `sigemptyset` initialised it.
        let mut set = unsafe { set.assume_init() };
        // SAFETY: both objects are initialised.
        check(unsafe { libc::posix_spawnattr_setsigmask(&mut attributes.0, &set) })?;
        // SAFETY: the set is initialised and the signal number is valid.
        unsafe { libc::sigaddset(&mut set, libc::SIGPIPE) };
        // SAFETY: both objects are initialised.
        check(unsafe { libc::posix_spawnattr_setsigdefault(&mut attributes.0, &set) })?;
        let flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
        let flags = libc::c_short::try_from(flags).unwrap_or_default();
        // SAFETY: the object is initialised.
        check(unsafe { libc::posix_spawnattr_setflags(&mut attributes.0, flags) })?;
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: the object was initialised and is not used again. Cannot fail in glibc.
        let _ = unsafe { libc::posix_spawnattr_destroy(&mut self.0) };
    }
}

fn posix_spawn(program: &Program) -> io::Result<libc::pid_t> {
    let actions = Actions::new(&program.files)?;
    let attributes = Attributes::new()?;
    let mut argv: Vec<*mut libc::c_char> =
        program.argv.iter().map(|text| text.as_ptr().cast_mut()).collect();
    argv.push(ptr::null_mut());
    let [path, ..] = argv.as_slice() else { return Err(io::ErrorKind::InvalidInput.into()) };
    // The environment is empty: what a machine may know comes over its control socket.
    let environment: [*mut libc::c_char; 1] = [ptr::null_mut()];
    let mut pid = 0;
    // SAFETY: the strings are zero-terminated, the arrays end in null, the two objects are
    // initialised, and all of them live until the call returns.
    check(unsafe {
        libc::posix_spawn(
            &mut pid,
            *path,
            &actions.0,
            &attributes.0,
            argv.as_ptr(),
            environment.as_ptr(),
        )
    })?;
    Ok(pid)
}

#[cfg(test)]
mod test {
    use std::io::Read;

    use rustix::pipe::PipeFlags;
    use rustix::process::{WaitId, WaitIdOptions};

    use super::*;

    async fn output_of(script: &str) -> String {
        let spawner = Spawner::start().unwrap();
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
        let null = OwnedFd::from(File::open("/dev/null").unwrap());
        let program = Program::new(
            Path::new("/bin/sh"),
            &["-c".to_owned(), script.to_owned()],
            vec![(null, 0), (writer, 1)],
        )
        .unwrap();
        let child = spawner.spawn(program).await.unwrap();
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).unwrap();
        rustix::process::waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED).ok();
        text
    }

    #[tokio::test]
    async fn a_child_is_process_one_of_its_own_namespace_and_the_next_one_too() {
        assert_eq!(output_of("echo $$").await, "1\n");
        assert_eq!(output_of("echo $$").await, "1\n");
    }

    #[tokio::test]
    async fn a_child_holds_only_what_it_was_given() {
        // A descriptor without CLOEXEC, as a careless dependency might leave open.
        let null = File::open("/dev/null").unwrap();
        let leak = rustix::io::fcntl_dupfd_cloexec(&null, 40).unwrap();
        rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
        let seen = output_of("for n in /proc/self/fd/*; do echo ${n##*/}; done").await;
        assert!(!seen.lines().any(|n| n == leak.as_raw_fd().to_string()), "{seen}");
    }

    #[tokio::test]
    async fn the_kernel_ends_a_child_before_the_node() {
        // It may run before it is marked.
        let script =
            "until read mark </proc/self/oom_score_adj && [ $mark = 500 ]; do :; done; echo marked";
        assert_eq!(output_of(script).await, "marked\n");
        let own: i32 =
            fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
        assert!(own < 500);
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let spawner = Spawner::start().unwrap();
        let program = Program::new(Path::new("/no/such/vmm"), &[], Vec::new()).unwrap();
        let error = spawner.spawn(program).await.unwrap_err();
        assert_eq!(
            base_types::Chain(&error).to_string(),
            "start `/no/such/vmm`: No such file or directory (os error 2)"
        );
    }
}
