//! Starting a process, fast and without a moment in which it is unknown.
//!
//! The child borrows the agent's memory until it executes its program (`CLONE_VM | CLONE_VFORK`), so
//! starting costs no copy of page tables, and why it failed comes back through plain memory. Its
//! process id is written by the kernel before the child can run, so whoever reaps it can tell at once
//! whose it is.
//!
//! Between `clone` and `execve` the child makes system calls and nothing else: no allocation, no
//! lock, no panic. Credentials are set by raw system calls, because the C library's wrappers would
//! change those of all the agent's threads.
//!
//! The agent does not lower its `oom_score_adj`, which the child would inherit and have to undo: the
//! kernel never picks PID 1.

#![expect(unsafe_code, reason = "a child between clone and execve is outside what Rust can check")]

use std::ffi::{CString, c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::io::Errno;

/// LIMIT: the child calls a dozen system calls and needs a few hundred bytes.
const STACK_BYTES: usize = 32 * 1024;

/// Everything a child needs, made before it exists.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Files to try in turn, at least one.
    pub(crate) programs: Vec<CString>,
    pub(crate) argv: Vec<CString>,
    pub(crate) env: Vec<CString>,
    pub(crate) cwd: CString,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// Whether the standard streams are a terminal, which then becomes that of its session.
    pub(crate) terminal: bool,
}

/// Why no program runs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LaunchError {
    /// No process could be made.
    Clone(Errno),
    /// The process could not be made the user's.
    User(Errno),
    /// The working directory could not be entered.
    Directory(Errno),
    /// None of the programs could be executed.
    Program(Errno),
}

/// The kernel's own `struct sigaction`: the C library's calls hide the signals it uses itself.
#[repr(C)]
#[derive(Default)]
struct KernelAction {
    handler: usize,
    flags: libc::c_ulong,
    restorer: usize,
    mask: u64,
}

/// Bytes of a set of signals, as the kernel has it.
const MASK_BYTES: usize = size_of::<u64>();
/// The last signal there is.
const SIGNAL_LAST: c_int = 64;

/// Signals the agent ignores: SIGPIPE, which the Rust runtime does, and whatever it was started with,
/// as under `nohup`. It never changes one later.
static IGNORED: OnceLock<Vec<c_int>> = OnceLock::new();

fn ignored_signals() -> Vec<c_int> {
    let is_ignored = |signal: &c_int| {
        let mut action = KernelAction::default();
        let nothing = ptr::null::<KernelAction>();
        // SAFETY: changes nothing; the kernel writes one action with a mask of the size given.
        let returned = unsafe {
            libc::syscall(libc::SYS_rt_sigaction, *signal, nothing, &raw mut action, MASK_BYTES)
        };
        returned == 0 && action.handler == libc::SIG_IGN
    };
    (1..=SIGNAL_LAST).filter(is_ignored).collect()
}

const STEP_SESSION: c_int = 1;
const STEP_USER: c_int = 2;
const STEP_DIRECTORY: c_int = 3;
const STEP_PROGRAM: c_int = 4;

/// What the child sees: pointers into the plan, which its parent, suspended, keeps alive.
struct Shared<'a> {
    programs: &'a [*const c_char],
    argv: *const *const c_char,
    env: *const *const c_char,
    plan: &'a Plan,
    streams: [c_int; 3],
    ignored: &'a [c_int],
    failed_step: AtomicI32,
    error: AtomicI32,
}

/// Starts `plan` as the leader of a new session with these standard streams. The kernel writes its
/// process id to `pid` before it runs; after an error that is reported by the child itself, a process
/// of that id is still to be reaped.
pub(crate) fn launch(
    plan: &Plan,
    streams: [BorrowedFd<'_>; 3],
    pid: &AtomicI32,
) -> Result<(), LaunchError> {
    let programs: Vec<*const c_char> = plan.programs.iter().map(|text| text.as_ptr()).collect();
    let argv = null_terminated(&plan.argv);
    let env = null_terminated(&plan.env);
    let shared = Shared {
        programs: &programs,
        argv: argv.as_ptr(),
        env: env.as_ptr(),
        plan,
        streams: streams.map(|stream| stream.as_raw_fd()),
        ignored: IGNORED.get_or_init(ignored_signals),
        failed_step: AtomicI32::new(0),
        error: AtomicI32::new(0),
    };
    let mut stack: Vec<MaybeUninit<u128>> = Vec::with_capacity(STACK_BYTES / size_of::<u128>());
    // SAFETY: the end of the allocation, aligned to 16 bytes as the ABI wants.
    let top = unsafe { stack.as_mut_ptr().add(stack.capacity()) };
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PARENT_SETTID | libc::SIGCHLD;

    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: fills the set.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // A signal handler of the agent must not run in the child, which shares its memory.
    // SAFETY: `all` was filled, `before` is written.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    // SAFETY: `child` runs on a stack of its own while this thread is suspended, so `shared` and
    // `stack` outlive it; it only makes system calls; `pid` is valid for the kernel's write.
    let cloned = unsafe {
        libc::clone(
            child,
            top.cast(),
            flags,
            (&raw const shared).cast_mut().cast::<c_void>(),
            pid.as_ptr(),
        )
    };
    let clone_error = io::Error::last_os_error();
    // SAFETY: `before` was filled above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };

    if cloned < 0 {
        return Err(LaunchError::Clone(Errno::from_io_error(&clone_error).unwrap_or(Errno::AGAIN)));
    }
    let step = shared.failed_step.load(Ordering::Relaxed);
    if step == 0 {
        return Ok(());
    }
    let error = Errno::from_raw_os_error(shared.error.load(Ordering::Relaxed));
    Err(match step {
        STEP_SESSION => LaunchError::Clone(error),
        STEP_USER => LaunchError::User(error),
        STEP_DIRECTORY => LaunchError::Directory(error),
        _ => LaunchError::Program(error),
    })
}

fn null_terminated(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
}

fn last_error() -> c_int {
    // SAFETY: the address of this thread's errno is always valid.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { *place }
}

/// The life of the child until it is another program.
extern "C" fn child(argument: *mut c_void) -> c_int {
    // SAFETY: `launch` passes a `Shared` that lives until the child is gone or another program.
    let shared = unsafe { &*argument.cast::<Shared<'_>>() };
    let (step, error) = become_program(shared);
    shared.error.store(error, Ordering::Relaxed);
    shared.failed_step.store(step, Ordering::Relaxed);
    // SAFETY: ends the child without running anything of the agent's.
    unsafe { libc::_exit(127) }
}

/// Returns only when it failed: at which step, and the error number.
fn become_program(shared: &Shared<'_>) -> (c_int, c_int) {
    // SAFETY: touches no memory.
    if unsafe { libc::setsid() } < 0 {
        return (STEP_SESSION, last_error());
    }
    for (onto, from) in (0..).zip(shared.streams) {
        // SAFETY: touches no memory; the child's descriptor table is its own.
        if unsafe { libc::dup2(from, onto) } < 0 {
            return (STEP_SESSION, last_error());
        }
    }
    let plan = shared.plan;
    // SAFETY: the descriptor was put there above; the request takes a number, not memory.
    if plan.terminal && unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } < 0 {
        return (STEP_SESSION, last_error());
    }
    // SAFETY: the kernel reads `groups.len()` ids.
    let set =
        unsafe { libc::syscall(libc::SYS_setgroups, plan.groups.len(), plan.groups.as_ptr()) };
    if set < 0 {
        return (STEP_USER, last_error());
    }
    // SAFETY: touches no memory.
    if unsafe { libc::syscall(libc::SYS_setresgid, plan.gid, plan.gid, plan.gid) } < 0 {
        return (STEP_USER, last_error());
    }
    // SAFETY: touches no memory.
    if unsafe { libc::syscall(libc::SYS_setresuid, plan.uid, plan.uid, plan.uid) } < 0 {
        return (STEP_USER, last_error());
    }
    // After the user is set: whether the directory may be entered is the user's question.
    // SAFETY: a null-terminated path.
    if unsafe { libc::chdir(plan.cwd.as_ptr()) } < 0 {
        return (STEP_DIRECTORY, last_error());
    }
    // What is ignored stays so in the program; what has a handler does not.
    for &signal in shared.ignored {
        let default = KernelAction::default();
        let nothing = ptr::null_mut::<KernelAction>();
        // SAFETY: sets a disposition of the child, not the agent's: they do not share handlers. The
        // kernel reads one action and a mask of the size given.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, &raw const default, nothing, MASK_BYTES)
        };
    }
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: fills the set.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: `none` was filled.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut()) };

    let mut worst = libc::ENOENT;
    for &program in shared.programs {
        // SAFETY: all three are null-terminated, and live as long as `shared`.
        unsafe { libc::execve(program, shared.argv, shared.env) };
        match last_error() {
            // A name further down the PATH may do, as in every shell.
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => worst = libc::EACCES,
            other => return (STEP_PROGRAM, other),
        }
    }
    (STEP_PROGRAM, worst)
}
