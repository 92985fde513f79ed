//! The system calls each thread may make. Any other kills the process.
//!
//! What is allowed to whom, and why, is data: [`calls`] and [`ioctls`]. This module compiles it.

mod calls;
mod ioctls;

use std::collections::BTreeMap;
use std::fmt::Write;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter, sock_filter,
};

use calls::{CALLS, When};
use ioctls::IOCTLS;

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
    /// The table does not make a filter.
    #[error("the system call table of the {thread:?} thread does not compile")]
    Compile {
        /// Whose.
        thread: Thread,
        /// What is wrong with it.
        source: BackendError,
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
    let program = compile(thread).map_err(|source| FilterError::Compile { thread, source })?;
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

fn compile(thread: Thread) -> Result<BpfProgram, BackendError> {
    // A call with no rule in its list is allowed whatever its arguments.
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in CALLS.iter().filter(|call| call.threads.contains(thread)) {
        let alternatives = rules.entry(call.number).or_default();
        match call.when {
            When::Always => {}
            When::Masked { argument, mask, value } => alternatives.push(rule(
                argument,
                SeccompCmpArgLen::Qword,
                SeccompCmpOp::MaskedEq(mask),
                value,
            )?),
            When::OneOf { argument, values } => {
                for &(value, _) in values {
                    let value = u64::from(value);
                    let eq = SeccompCmpOp::Eq;
                    alternatives.push(rule(argument, SeccompCmpArgLen::Dword, eq, value)?);
                }
            }
        }
    }
    let requests = rules.entry(libc::SYS_ioctl).or_default();
    for ioctl in IOCTLS.iter().filter(|ioctl| ioctl.threads.contains(thread)) {
        // The kernel looks at the low half of the request only, and so must the filter.
        let request = u64::from(ioctl.request);
        requests.push(rule(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, request)?);
    }

    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?;
    let mut program = BpfProgram::from(NO_CLONE3);
    program.append(&mut filter.try_into()?);
    Ok(program)
}

fn rule(
    argument: u8,
    length: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, length, operator, value)?])
}

/// Put before every filter: `clone3` does not exist.
///
/// It takes its flags in memory, where no filter can see them. glibc tries it first and then turns
/// to `clone`, whose flags are an argument, when told the kernel is too old.
const NO_CLONE3: [sock_filter; 3] = {
    const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const CALL_NUMBER: u32 = 0; // offset in struct seccomp_data
    [
        sock_filter { code: LOAD_WORD, jt: 0, jf: 0, k: CALL_NUMBER },
        sock_filter { code: JUMP_IF_EQUAL, jt: 0, jf: 1, k: libc::SYS_clone3 as u32 },
        sock_filter {
            code: RETURN,
            jt: 0,
            jf: 0,
            k: libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
        },
    ]
};

#[cfg(test)]
mod test;
