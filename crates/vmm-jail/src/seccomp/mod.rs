//! The system calls each thread may make. Any other kills the process.
//!
//! What is allowed to whom, and why, is data: [`calls`] and [`ioctls`]. [`program`] makes a filter
//! of it, and seccompiler installs it.

mod calls;
mod ioctls;
mod program;

use std::collections::BTreeMap;
use std::fmt::Write;

use seccompiler::{BpfProgram, apply_filter};

use calls::{CALLS, When};
use ioctls::{IOCTLS, Ioctl};
use program::{Check, Fate, TooFar, assemble};

/// The kinds of thread, by the filter they live under.
///
/// A thread starts with its creator's filter, and filters stack: a call must pass all of them.
/// So [`Thread::Control`] allows what every other one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread {
    /// The control thread until the guest runs: builds the machine, creates threads, restores.
    Control,
    /// The control thread from then on: no thread, no machine and no memory slot can be made.
    Sealed,
    /// Runs one vCPU.
    Vcpu,
    /// Fills guest memory on demand.
    Fault,
}

impl Thread {
    /// Every kind there is.
    pub const ALL: [Self; 4] = [Self::Control, Self::Sealed, Self::Vcpu, Self::Fault];

    const fn set(self) -> Threads {
        Threads(1 << self as u8)
    }
}

/// A set of [`Thread`]s.
#[derive(Clone, Copy, Debug)]
struct Threads(u8);

impl Threads {
    const CONTROL: Self = Thread::Control.set();
    const SEALED: Self = Thread::Sealed.set().and(Self::CONTROL);
    const VCPU: Self = Thread::Vcpu.set().and(Self::CONTROL);
    const FAULT: Self = Thread::Fault.set().and(Self::CONTROL);
    const ALL: Self = Self::SEALED.and(Self::VCPU).and(Self::FAULT);

    const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn contains(self, thread: Thread) -> bool {
        self.0 & thread.set().0 != 0
    }
}

/// Why a thread has no filter. It must not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// The table is too long for a filter.
    #[error("the system call table of the {thread:?} thread does not fit a filter: {reason}")]
    Compile {
        /// Whose.
        thread: Thread,
        /// What does not fit.
        reason: String,
    },
    /// The kernel refused it.
    #[error("the kernel refuses the system call filter of the {thread:?} thread")]
    Install {
        /// Whose.
        thread: Thread,
        /// What it said.
        source: seccompiler::Error,
    },
}

/// Restricts the calling thread, and all it will create, to the calls of `thread`, for good.
pub fn install(thread: Thread) -> Result<(), FilterError> {
    let program = compile(thread)
        .map_err(|error| FilterError::Compile { thread, reason: error.to_string() })?;
    apply_filter(&program).map_err(|source| FilterError::Install { thread, source })
}

/// What `thread` may call and why, one line per rule, for people.
pub fn describe(thread: Thread) -> String {
    let mut text = String::new();
    for call in CALLS.iter().filter(|call| call.threads.contains(thread)) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}{}: {}", call.name, call.when, call.why);
    }
    for ioctl in IOCTLS.iter().filter(|ioctl| ioctl.threads.contains(thread)) {
        let _ = writeln!(text, "ioctl {}: {}", ioctl.name, ioctl.why);
    }
    text
}

fn compile(thread: Thread) -> Result<BpfProgram, TooFar> {
    assemble(&fates(thread))
}

/// What becomes of each call of `thread`. Calls that are not in it kill.
fn fates(thread: Thread) -> BTreeMap<u32, Fate> {
    let mut fates = BTreeMap::new();
    for call in CALLS.iter().filter(|call| call.threads.contains(thread)) {
        let fate = match call.when {
            When::Always => Fate::Allow,
            When::Masked { argument, mask, value } => {
                Fate::Check(vec![Check::Masked { argument, mask, value }])
            }
            When::OneOf { argument, values } => {
                let check = |&(value, _): &(u32, &str)| Check::Low { argument, value };
                Fate::Check(values.iter().map(check).collect())
            }
        };
        fates.insert(number(call.number), fate);
    }
    // The kernel looks at the low half of the request only, and so must the filter.
    let requests = IOCTLS.iter().filter(|ioctl| ioctl.threads.contains(thread));
    let check = |ioctl: &Ioctl| Check::Low { argument: 1, value: ioctl.request };
    fates.insert(number(libc::SYS_ioctl), Fate::Check(requests.map(check).collect()));
    // It takes its flags in memory, where no filter can see them. glibc tries it first and then
    // turns to `clone`, whose flags are an argument, when told the kernel is too old.
    fates.insert(number(libc::SYS_clone3), Fate::Missing);
    fates
}

fn number(call: libc::c_long) -> u32 {
    u32::try_from(call).expect("the numbers of x86-64 are small and not negative")
}

#[cfg(test)]
mod test;
