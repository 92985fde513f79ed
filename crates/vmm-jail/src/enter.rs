//! The way into the jail, step by step.

use std::io;
use std::os::fd::{OwnedFd, RawFd};

use rustix::process::{DumpableBehavior, Gid, Uid};
use rustix::thread::UnshareFlags;

use crate::inherited::{close_all_but, forget_environment, share_one_heap};
use crate::kernel_files::{KernelFiles, OwnProc, open_userfaultfd};
use crate::limits::Limits;
use crate::{privileges, root};

/// What a jailed process may be.
#[derive(Debug)]
pub struct JailSpec<'a> {
    /// User to become, its own for every machine: limits and signals are counted per user.
    /// Must not be 0.
    pub uid: u32,
    /// Group to become. Must not be 0.
    pub gid: u32,
    /// `cgroup.procs` of the cgroup to move into, open for writing. Closed by [`enter`].
    pub cgroup_procs: Option<OwnedFd>,
    /// Descriptors that stay open beside 0, 1 and 2, in any order.
    pub keep_fds: &'a [RawFd],
    /// Resource limits.
    pub limits: Limits,
    /// Whether to refuse a process that is not PID 1 of its namespace. Always `true` in
    /// production: a process cannot move itself into a new PID namespace, so its parent must have
    /// put it there. Only tests of the other steps turn it off.
    pub require_pid_one: bool,
}

/// What a process has left once it is inside.
#[derive(Debug)]
pub struct Jailed {
    /// The kernel's files a VMM needs and could not open any more.
    pub files: KernelFiles,
}

/// Why a process is not jailed. It may be jailed in part, so it must exit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JailError {
    /// The parent did not `unshare(CLONE_NEWPID)` before it started this process.
    #[error(
        "this process is not the first of its PID namespace but number {pid}; start it in a new one"
    )]
    NotFirstProcess {
        /// What it is instead.
        pid: i32,
    },
    /// Only root can build a jail.
    #[error("a jail can be entered by root only, this process is user {uid}")]
    NotRoot {
        /// Who it is instead.
        uid: u32,
    },
    /// The specification asks to stay root.
    #[error("a jailed process must not have user or group 0")]
    RootInside,
    /// A step failed.
    #[error("cannot {step} on the way into the jail")]
    Step {
        /// What was tried, as in "cannot ...".
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Names the step an error came from.
pub(crate) trait During<T> {
    /// `step` completes the sentence "cannot ... on the way into the jail".
    fn during(self, step: &'static str) -> Result<T, JailError>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, step: &'static str) -> Result<T, JailError> {
        self.map_err(|error| JailError::Step { step, source: error.into() })
    }
}

/// Jails the calling process for the rest of its life.
///
/// To be called by root, before a second thread exists, with everything the process needs already
/// open. On an error the process is in between and must exit. The order of the steps is the
/// content of this function:
///
/// 1. into the cgroup, so that all that follows is already accounted;
/// 2. strangers' descriptors and environment go, so that nothing leaks from the parent;
/// 3. what only root can open is opened (userfaultfd);
/// 4. own mount, IPC, UTS, network and cgroup namespaces, all empty;
/// 5. an empty read-only root in place of the host's;
/// 6. limits, then groups, user, capabilities, `no_new_privs`, keyring;
/// 7. what an unprivileged process should open itself, so that the kernel treats it as such
///    (`pagemap`: opened by root it would reveal physical addresses).
pub fn enter(spec: JailSpec<'_>) -> Result<Jailed, JailError> {
    let JailSpec { uid, gid, cgroup_procs, keep_fds, limits, require_pid_one } = spec;
    refuse_unfit_process(uid, gid, require_pid_one)?;

    if let Some(procs) = cgroup_procs {
        // 0 stands for the writing process, whatever its number out there is.
        rustix::io::write(&procs, b"0").during("move into the cgroup")?;
    }
    close_all_but(keep_fds).during("close inherited descriptors")?;
    forget_environment();
    share_one_heap().during("limit the allocator to one heap")?;

    let userfaultfd = open_userfaultfd().during("create a userfaultfd")?;
    let own_proc = OwnProc::open().during("open /proc/self")?;

    isolate().during("create namespaces")?;
    rustix::system::sethostname(b"machine").during("set the host name")?;
    rustix::system::setdomainname(b"").during("set the domain name")?;
    root::replace_with_nothing()?;

    limits.apply().during("set resource limits")?;
    privileges::become_user(Uid::from_raw(uid), Gid::from_raw(gid))?;
    // The change of user made the process undumpable, which gives its files in /proc to root.
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)
        .during("own its files in /proc")?;
    let (pagemap, smaps) = own_proc.open_maps().during("open its own page map")?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .during("become undumpable")?;

    Ok(Jailed { files: KernelFiles { userfaultfd, pagemap, smaps } })
}

fn refuse_unfit_process(uid: u32, gid: u32, require_pid_one: bool) -> Result<(), JailError> {
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    if require_pid_one && pid != 1 {
        return Err(JailError::NotFirstProcess { pid });
    }
    let current = rustix::process::geteuid();
    if !current.is_root() {
        return Err(JailError::NotRoot { uid: current.as_raw() });
    }
    if uid == 0 || gid == 0 {
        return Err(JailError::RootInside);
    }
    Ok(())
}

#[expect(unsafe_code, reason = "unshare can pull shared descriptors from under other threads")]
fn isolate() -> io::Result<()> {
    let flags = UnshareFlags::NEWNS
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWCGROUP;
    // SAFETY: `FILES` is not among the flags, so every descriptor stays what it is.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    Ok(())
}
