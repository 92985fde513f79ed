//! System calls allowed, with who needs them and for what. `ioctl` has a table of its own.

use std::fmt;

use super::Threads;

/// A call some threads may make.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) name: &'static str,
    pub(super) number: libc::c_long,
    pub(super) threads: Threads,
    pub(super) when: When,
    /// Who needs it.
    pub(super) why: &'static str,
}

/// With which arguments it is allowed.
#[derive(Clone, Copy, Debug)]
pub(super) enum When {
    Always,
    /// Where `mask` is set, the argument equals `value`.
    Masked {
        argument: u8,
        mask: u64,
        value: u64,
    },
    /// The low 32 bits of the argument are one of these.
    OneOf {
        argument: u8,
        values: &'static [(u32, &'static str)],
    },
}

/// Pages that can be written or not, but never executed.
const NOT_EXECUTABLE: When = When::Masked { argument: 2, mask: libc::PROT_EXEC as u64, value: 0 };
/// By descriptor, not by path; what else the path could name is an empty directory.
const OF_DESCRIPTOR_3: When = of_descriptor(3);
const OF_DESCRIPTOR_2: When = of_descriptor(2);
/// A thread of this process as the C library makes it: shares everything, no new namespace.
const THREAD_CREATION: When = {
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM
        | libc::CLONE_SETTLS
        | libc::CLONE_PARENT_SETTID
        | libc::CLONE_CHILD_CLEARTID;
    When::Masked { argument: 0, mask: u64::MAX, value: flags as u64 }
};
const CLOSED_ON_EXEC: When =
    When::OneOf { argument: 3, values: &[(libc::SOCK_CLOEXEC as u32, "SOCK_CLOEXEC")] };
const PEER: When =
    When::OneOf { argument: 2, values: &[(libc::SO_PEERCRED as u32, "SO_PEERCRED")] };
const THREAD_PRCTL: When = When::OneOf {
    argument: 0,
    values: &[
        (libc::PR_SET_NAME as u32, "PR_SET_NAME"),
        (libc::PR_SET_NO_NEW_PRIVS as u32, "PR_SET_NO_NEW_PRIVS"),
    ],
};
const DESCRIPTOR_FLAGS: When = When::OneOf {
    argument: 1,
    values: &[
        (libc::F_GETFD as u32, "F_GETFD"),
        (libc::F_SETFD as u32, "F_SETFD"),
        (libc::F_GETFL as u32, "F_GETFL"),
        (libc::F_SETFL as u32, "F_SETFL"),
        (libc::F_DUPFD_CLOEXEC as u32, "F_DUPFD_CLOEXEC"),
        (libc::F_GET_SEALS as u32, "F_GET_SEALS"),
    ],
};
const ADVICE: When = When::OneOf {
    argument: 2,
    values: &[
        (libc::MADV_DONTNEED as u32, "MADV_DONTNEED"),
        (libc::MADV_FREE as u32, "MADV_FREE"),
        (libc::MADV_HUGEPAGE as u32, "MADV_HUGEPAGE"),
        (libc::MADV_NOHUGEPAGE as u32, "MADV_NOHUGEPAGE"),
        (libc::MADV_DONTFORK as u32, "MADV_DONTFORK"),
        (libc::MADV_DONTDUMP as u32, "MADV_DONTDUMP"),
        (libc::MADV_POPULATE_READ as u32, "MADV_POPULATE_READ"),
        (libc::MADV_POPULATE_WRITE as u32, "MADV_POPULATE_WRITE"),
    ],
};

const fn of_descriptor(argument: u8) -> When {
    let empty_path = libc::AT_EMPTY_PATH as u64;
    When::Masked { argument, mask: empty_path, value: empty_path }
}

const fn call(
    threads: Threads,
    number: libc::c_long,
    name: &'static str,
    why: &'static str,
) -> Call {
    Call { name, number, threads, when: When::Always, why }
}

impl Call {
    const fn when(self, when: When) -> Self {
        Self { when, ..self }
    }
}

use Threads as T;

const MAIN: Threads = T::SEALED;
const SETUP: Threads = T::CONTROL;

/// Sorted by what they are for.
#[rustfmt::skip] // A table reads by column.
pub(super) const CALLS: &[Call] = &[
    // Memory, by the allocator and for guest memory.
    call(T::ALL, libc::SYS_brk, "brk", "the allocator grows its heap"),
    call(T::ALL, libc::SYS_mmap, "mmap", "the allocator, and the clone's memory over the shell's reservation").when(NOT_EXECUTABLE),
    call(T::ALL, libc::SYS_munmap, "munmap", "the allocator, and stacks of threads that ended"),
    call(T::ALL, libc::SYS_mremap, "mremap", "the allocator moves large blocks"),
    call(T::ALL, libc::SYS_mprotect, "mprotect", "the allocator's per-thread heaps, and guard pages of stacks").when(NOT_EXECUTABLE),
    call(T::ALL, libc::SYS_madvise, "madvise", "the allocator returns memory; guest memory is prefaulted").when(ADVICE),

    // Threads, and the end of one.
    call(T::ALL, libc::SYS_futex, "futex", "locks, channels, and waiting for threads"),
    call(T::ALL, libc::SYS_sched_yield, "sched_yield", "contended locks of the standard library"),
    call(T::ALL, libc::SYS_rt_sigprocmask, "rt_sigprocmask", "kicks are blocked outside of KVM_RUN; abort and thread exit"),
    call(T::ALL, libc::SYS_rt_sigreturn, "rt_sigreturn", "the kick's handler returns"),
    call(T::ALL, libc::SYS_rt_sigaction, "rt_sigaction", "abort restores the default action"),
    call(T::ALL, libc::SYS_sigaltstack, "sigaltstack", "the standard library's stack overflow handler, as a thread starts and ends"),
    call(T::ALL, libc::SYS_tgkill, "tgkill", "kicks a vCPU out of KVM_RUN; abort"),
    call(T::ALL, libc::SYS_getpid, "getpid", "tgkill names the process; there is no other one to see"),
    call(T::ALL, libc::SYS_gettid, "gettid", "tgkill names the thread"),
    call(T::ALL, libc::SYS_exit, "exit", "a thread ends"),
    call(T::ALL, libc::SYS_exit_group, "exit_group", "the process ends"),
    call(T::ALL, libc::SYS_restart_syscall, "restart_syscall", "the kernel continues an interrupted wait"),
    call(SETUP, libc::SYS_clone, "clone", "creates vCPU and fault handler threads").when(THREAD_CREATION),
    call(SETUP, libc::SYS_set_robust_list, "set_robust_list", "the C library, as a thread starts"),
    call(SETUP, libc::SYS_rseq, "rseq", "the C library, as a thread starts"),
    call(SETUP, libc::SYS_sched_getaffinity, "sched_getaffinity", "the C library looks up a new thread's attributes"),
    call(SETUP, libc::SYS_prctl, "prctl", "a new thread gets its name and its filter").when(THREAD_PRCTL),
    call(SETUP, libc::SYS_seccomp, "seccomp", "a thread gets its own, stricter filter"),

    // Time and chance.
    call(T::ALL, libc::SYS_clock_gettime, "clock_gettime", "times, where the clock source has no fast path"),
    call(T::ALL, libc::SYS_getrandom, "getrandom", "hash table seeds, and the guest's random device"),

    // Descriptors.
    call(T::ALL, libc::SYS_read, "read", "eventfds, userfaultfd events, streams"),
    call(T::ALL, libc::SYS_write, "write", "eventfds, the guest's console, messages on standard error"),
    call(T::ALL, libc::SYS_close, "close", "whatever was received is closed after use"),
    call(T::ALL, libc::SYS_poll, "poll", "waits for one descriptor"),
    call(T::ALL, libc::SYS_ppoll, "ppoll", "waits for one descriptor"),
    call(MAIN, libc::SYS_readv, "readv", "vsock data into guest buffers"),
    call(MAIN, libc::SYS_writev, "writev", "vsock data out of guest buffers"),
    call(T::ALL, libc::SYS_fcntl, "fcntl", "open mode of a disk image, seals of a template's memory; debug builds look before they close").when(DESCRIPTOR_FLAGS),
    call(MAIN, libc::SYS_epoll_create1, "epoll_create1", "the event loop"),
    call(T::VCPU.and(MAIN), libc::SYS_epoll_ctl, "epoll_ctl", "vsock and frame sockets come and go; a guest's reset of the device ends them all"),
    call(MAIN, libc::SYS_epoll_wait, "epoll_wait", "the event loop"),
    call(MAIN, libc::SYS_epoll_pwait, "epoll_pwait", "the event loop"),
    call(MAIN, libc::SYS_epoll_pwait2, "epoll_pwait2", "the event loop"),
    call(SETUP, libc::SYS_eventfd2, "eventfd2", "queue notifications and interrupts of devices"),

    // Sockets that were passed in; none can be made.
    call(MAIN, libc::SYS_recvmsg, "recvmsg", "control requests and the descriptors with them"),
    call(MAIN, libc::SYS_sendmsg, "sendmsg", "control replies"),
    call(MAIN, libc::SYS_recvfrom, "recvfrom", "vsock streams and frames of the network card"),
    call(MAIN, libc::SYS_sendto, "sendto", "vsock streams, frames of the network card and control replies"),
    call(T::VCPU.and(MAIN), libc::SYS_shutdown, "shutdown", "one direction of a vsock stream ends; a guest's reset of the device ends both"),
    call(MAIN, libc::SYS_listen, "listen", "a machine that is kept waits for its next node at the socket passed in"),
    call(MAIN, libc::SYS_accept4, "accept4", "the next node of a machine that is kept").when(CLOSED_ON_EXEC),
    call(MAIN, libc::SYS_getsockopt, "getsockopt", "which user a node is").when(PEER),

    // Files that were passed in; none can be opened.
    call(T::ALL, libc::SYS_pread64, "pread64", "snapshots, memory layers, disk images, the console log that is cut in half"),
    call(T::FAULT.and(MAIN), libc::SYS_preadv, "preadv", "memory layers and disk images"),
    call(T::VCPU.and(MAIN), libc::SYS_pwrite64, "pwrite64", "console log, snapshots, disk overlay"),
    call(MAIN, libc::SYS_pwritev, "pwritev", "snapshots and the disk overlay"),
    call(T::FAULT.and(MAIN), libc::SYS_lseek, "lseek", "file sizes, and holes in layers"),
    call(MAIN, libc::SYS_fsync, "fsync", "a guest's flush and a snapshot reach stable storage"),
    call(MAIN, libc::SYS_fdatasync, "fdatasync", "a guest's flush and a snapshot reach stable storage"),
    call(MAIN, libc::SYS_fallocate, "fallocate", "the guest's discards; room for overlay clusters"),
    call(T::VCPU.and(MAIN), libc::SYS_ftruncate, "ftruncate", "a console log cut in half, growth of an overlay, size of a snapshot"),
    call(MAIN, libc::SYS_fstatfs, "fstatfs", "how a disk image wants its input and output aligned"),
    call(MAIN, libc::SYS_fstat, "fstat", "sizes of files passed in"),
    call(MAIN, libc::SYS_newfstatat, "newfstatat", "sizes of files passed in").when(OF_DESCRIPTOR_3),
    call(MAIN, libc::SYS_statx, "statx", "sizes of files passed in").when(OF_DESCRIPTOR_2),
];

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Always => Ok(()),
            Self::Masked { argument, mask: u64::MAX, value } => {
                write!(f, "(argument {argument} = {value:#x})")
            }
            Self::Masked { argument, mask, value } => {
                write!(f, "(argument {argument} & {mask:#x} = {value:#x})")
            }
            Self::OneOf { argument, values } => {
                write!(f, "(argument {argument} =")?;
                for (index, (_, name)) in values.iter().enumerate() {
                    write!(f, "{} {name}", if index == 0 { "" } else { " |" })?;
                }
                write!(f, ")")
            }
        }
    }
}
