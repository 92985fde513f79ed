//! What a hijacked process tries.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use crate::raw::{address, call, path, try_call};

/// One thing to try.
pub(crate) struct Attempt {
    pub(crate) name: &'static str,
    pub(crate) action: Box<dyn Fn() -> io::Result<()>>,
    pub(crate) refused_by: Judge,
}

/// Who decides, without a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judge {
    /// The jail, on every host alike.
    Jail,
    /// What the kernel was built with and its settings.
    Kernel,
}

impl Attempt {
    /// Has another outcome on another kernel.
    fn depends_on_kernel(self) -> Self {
        Self { refused_by: Judge::Kernel, ..self }
    }
}

fn attempt(name: &'static str, action: impl Fn() -> io::Result<()> + 'static) -> Attempt {
    Attempt { name, action: Box::new(action), refused_by: Judge::Jail }
}

/// An attempt that is one system call with plain numbers.
fn plain(name: &'static str, number: libc::c_long, arguments: &'static [usize]) -> Attempt {
    attempt(name, move || try_call(number, arguments))
}

/// An attempt to open `file` with `flags`.
fn open(name: &'static str, file: &'static CStr, flags: i32) -> Attempt {
    attempt(name, move || try_call(libc::SYS_openat, &[HERE, path(file), flags as usize, 0o600]))
}

const HERE: usize = libc::AT_FDCWD as usize;
const KVM_CREATE_VM: usize = 0xae01;
const READ_WRITE: usize = (libc::PROT_READ | libc::PROT_WRITE) as usize;
const READ_EXECUTE: usize = (libc::PROT_READ | libc::PROT_EXEC) as usize;
const PRIVATE_ANONYMOUS: usize = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
const NO_DESCRIPTOR: usize = usize::MAX;

/// Everything, in the order of the report.
pub(crate) fn all(kvm: &File) -> Vec<Attempt> {
    let mut all = files();
    all.extend(walls());
    all.extend(network());
    all.extend(processes());
    all.extend(kernel(kvm.as_raw_fd()));
    all
}

fn files() -> Vec<Attempt> {
    vec![
        open("open /", c"/", libc::O_RDONLY),
        open("open ../../..", c"../../..", libc::O_RDONLY),
        open("open /proc/self/mem", c"/proc/self/mem", libc::O_RDWR),
        open("open /sys/fs/cgroup", c"/sys/fs/cgroup", libc::O_RDONLY),
        open("open /dev/kvm", c"/dev/kvm", libc::O_RDWR),
        open("open /etc/passwd", c"/etc/passwd", libc::O_RDONLY),
        open("create a file", c"/file", libc::O_CREAT | libc::O_RDWR),
        open("create an unnamed file", c"/", libc::O_TMPFILE | libc::O_RDWR),
        attempt("make a directory", || {
            try_call(libc::SYS_mkdirat, &[HERE, path(c"/directory"), 0o700])
        }),
        attempt("make a device node", || {
            let block_device = libc::S_IFBLK as usize | 0o600;
            try_call(libc::SYS_mknodat, &[HERE, path(c"/disk"), block_device, 0x800])
        }),
        attempt("open by file handle", || {
            #[repr(C)]
            struct Handle(u32, i32, [u8; 8]);
            let handle = Handle(8, 1, [2, 0, 0, 0, 0, 0, 0, 0]);
            try_call(libc::SYS_open_by_handle_at, &[HERE, address(&handle), 0])
        }),
        attempt("make a file in memory", || try_call(libc::SYS_memfd_create, &[path(c"file"), 0])),
    ]
}

fn walls() -> Vec<Attempt> {
    vec![
        attempt("mount", || {
            try_call(libc::SYS_mount, &[path(c"none"), path(c"/"), path(c"tmpfs"), 0, 0])
        }),
        attempt("make the root writable", || {
            let flags = (libc::MS_REMOUNT | libc::MS_BIND) as usize;
            try_call(libc::SYS_mount, &[0, path(c"/"), 0, flags, 0])
        }),
        attempt("unmount the root", || {
            try_call(libc::SYS_umount2, &[path(c"/"), libc::MNT_DETACH as usize])
        }),
        attempt("pivot the root", || try_call(libc::SYS_pivot_root, &[path(c"/"), path(c"/")])),
        attempt("chroot", || try_call(libc::SYS_chroot, &[path(c"/")])),
        attempt("use the new mount calls", || try_call(libc::SYS_fsopen, &[path(c"tmpfs"), 0])),
        plain("leave the mount namespace", libc::SYS_unshare, &[libc::CLONE_NEWNS as usize]),
        plain("leave the network namespace", libc::SYS_unshare, &[libc::CLONE_NEWNET as usize]),
        plain("make a user namespace", libc::SYS_unshare, &[libc::CLONE_NEWUSER as usize])
            .depends_on_kernel(),
        attempt("enter the namespaces of process 1", || {
            let process = call(libc::SYS_pidfd_open, &[1, 0])?;
            try_call(libc::SYS_setns, &[process, libc::CLONE_NEWNET as usize])
        }),
        plain("become root", libc::SYS_setresuid, &[0, 0, 0]),
        plain("join root's group", libc::SYS_setresgid, &[0, 0, 0]),
        attempt("join groups", || try_call(libc::SYS_setgroups, &[1, address(&0_u32)])),
        attempt("regain capabilities", || {
            const VERSION_3: u32 = 0x2008_0522;
            let header = [VERSION_3, 0];
            let sets = [u32::MAX; 6];
            try_call(libc::SYS_capset, &[address(&header), address(&sets)])
        }),
        attempt("raise its limit of descriptors", || {
            let limit = [8192_u64, 8192];
            let resource = libc::RLIMIT_NOFILE as usize;
            try_call(libc::SYS_prlimit64, &[0, resource, address(&limit), 0])
        }),
        plain("become dumpable", libc::SYS_prctl, &[libc::PR_SET_DUMPABLE as usize, 1, 0, 0, 0]),
        attempt("change the host name", || try_call(libc::SYS_sethostname, &[path(c"host"), 4])),
    ]
}

fn network() -> Vec<Attempt> {
    vec![
        socket("make an internet socket", libc::AF_INET, libc::SOCK_STREAM),
        attempt("connect to 127.0.0.1", || connect_to([127, 0, 0, 1])),
        attempt("connect to 8.8.8.8", || connect_to([8, 8, 8, 8])),
        socket("make a raw packet socket", libc::AF_PACKET, libc::SOCK_RAW),
        socket("make a netlink socket", libc::AF_NETLINK, libc::SOCK_RAW),
        socket("make a vsock socket", libc::AF_VSOCK, libc::SOCK_STREAM).depends_on_kernel(),
        socket("make a kernel crypto socket", libc::AF_ALG, libc::SOCK_SEQPACKET)
            .depends_on_kernel(),
        socket("make a unix socket", libc::AF_UNIX, libc::SOCK_STREAM),
        attempt("listen where nothing was passed in", || {
            try_call(libc::SYS_listen, &[NO_DESCRIPTOR, 1])
        }),
        attempt("accept without close-on-exec", || {
            try_call(libc::SYS_accept4, &[NO_DESCRIPTOR, 0, 0, 0])
        }),
        attempt("ask for the process behind a socket", || {
            let options = [libc::SOL_SOCKET as usize, libc::SO_PEERPIDFD as usize];
            try_call(libc::SYS_getsockopt, &[NO_DESCRIPTOR, options[0], options[1], 0, 0])
        }),
        attempt("connect to a unix socket outside", || {
            let stream = libc::SOCK_STREAM as usize;
            let socket = call(libc::SYS_socket, &[libc::AF_UNIX as usize, stream, 0])?;
            // Abstract names belong to the network namespace. The test listens on this one.
            let name = b"\x01\x00\0sandflare-jail-test";
            try_call(libc::SYS_connect, &[socket, address(name), name.len()])
        }),
    ]
}

fn socket(name: &'static str, family: i32, kind: i32) -> Attempt {
    attempt(name, move || try_call(libc::SYS_socket, &[family as usize, kind as usize, 0]))
}

fn connect_to([a, b, c, d]: [u8; 4]) -> io::Result<()> {
    let datagram = libc::SOCK_DGRAM as usize;
    let socket = call(libc::SYS_socket, &[libc::AF_INET as usize, datagram, 0])?;
    let port = 53_u16.to_be_bytes();
    let family = (libc::AF_INET as u16).to_ne_bytes();
    let to = [family[0], family[1], port[0], port[1], a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0];
    try_call(libc::SYS_connect, &[socket, address(&to), to.len()])
}

fn processes() -> Vec<Attempt> {
    vec![
        attempt("signal another process", || any_other(|pid| try_call(libc::SYS_kill, &[pid, 0]))),
        attempt("signal a thread of another process", || {
            any_other(|pid| try_call(libc::SYS_tgkill, &[pid, pid, 0]))
        }),
        plain("trace another process", libc::SYS_ptrace, &[libc::PTRACE_SEIZE as usize, 2, 0, 0]),
        attempt("read another process's memory", || {
            let to = [0_u8; 8];
            let local = [address(&to), 8];
            let remote = [0x1000_usize, 8];
            let call = libc::SYS_process_vm_readv;
            try_call(call, &[2, address(&local), 1, address(&remote), 1, 0])
        }),
        plain("fork", libc::SYS_clone, &[libc::SIGCHLD as usize, 0, 0, 0, 0]),
        plain(
            "fork into a user namespace",
            libc::SYS_clone,
            &[(libc::SIGCHLD | libc::CLONE_NEWUSER) as usize, 0, 0, 0, 0],
        )
        .depends_on_kernel(),
        attempt("clone3", || {
            #[repr(C)]
            struct Arguments([u64; 8]);
            let arguments = Arguments([0, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0]);
            try_call(libc::SYS_clone3, &[address(&arguments), 64])
        }),
        attempt("start a thread", || {
            let thread = std::thread::Builder::new().spawn(|| ())?;
            thread.join().map_err(|_| io::Error::other("the thread panicked"))
        }),
        attempt("execute a program", || {
            let file = call(libc::SYS_memfd_create, &[path(c"program"), 0])?;
            let program = b"#!/";
            call(libc::SYS_write, &[file, address(program), program.len()])?;
            let nothing = [0_usize];
            let empty = libc::AT_EMPTY_PATH as usize;
            let (arguments, environment) = (address(&nothing), address(&nothing));
            let call = libc::SYS_execveat;
            try_call(call, &[file, path(c""), arguments, environment, empty])
        })
        .depends_on_kernel(),
        plain(
            "map executable memory",
            libc::SYS_mmap,
            &[0, 4096, READ_EXECUTE, PRIVATE_ANONYMOUS, NO_DESCRIPTOR, 0],
        ),
        attempt("make memory executable", || {
            let page = [0, 4096, READ_WRITE, PRIVATE_ANONYMOUS, NO_DESCRIPTOR, 0];
            let page = call(libc::SYS_mmap, &page)?;
            try_call(libc::SYS_mprotect, &[page, 4096, READ_EXECUTE])
        }),
        attempt("loosen its filter", || {
            // An empty program allows nothing more, but that it may be installed is the question.
            const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
            let program = [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: ALLOW }];
            let filter = libc::sock_fprog { len: 1, filter: program.as_ptr().cast_mut() };
            let mode = libc::SECCOMP_SET_MODE_FILTER as usize;
            try_call(libc::SYS_seccomp, &[mode, 0, address(&filter)])
        }),
    ]
}

/// Whether `action` works on any other process, or why not on the last one. Process 1 is the
/// hijacked one itself, of which this is a child for the test's sake.
fn any_other(action: impl Fn(usize) -> io::Result<()>) -> io::Result<()> {
    let own = call(libc::SYS_getpid, &[])?;
    let mut last = Ok(());
    for pid in (2..4096).filter(|&pid| pid != own) {
        last = action(pid);
        if last.is_ok() {
            break;
        }
    }
    last
}

fn kernel(kvm: RawFd) -> Vec<Attempt> {
    let own = kvm as usize;
    vec![
        attempt("create a virtual machine", move || {
            try_call(libc::SYS_ioctl, &[own, KVM_CREATE_VM, 0])
        }),
        attempt("an ioctl of a terminal", || {
            try_call(libc::SYS_ioctl, &[0, libc::TIOCSTI as usize, path(c"x")])
        }),
        plain("make a userfaultfd", libc::SYS_userfaultfd, &[libc::O_CLOEXEC as usize]),
        attempt("set up io_uring", || {
            let parameters = [0_u64; 15];
            try_call(libc::SYS_io_uring_setup, &[1, address(&parameters)])
        })
        .depends_on_kernel(),
        attempt("load a BPF program", || {
            let attributes = [0_u64; 16];
            const BPF_MAP_CREATE: usize = 0;
            try_call(libc::SYS_bpf, &[BPF_MAP_CREATE, address(&attributes), 128])
        })
        .depends_on_kernel(),
        attempt("open a performance counter", || {
            // Type 1, software events; size 112 in the second half of the first word.
            let mut attributes = [0_u64; 14];
            attributes[0] = 1 | 112 << 32;
            let itself = [address(&attributes), 0, usize::MAX, usize::MAX, 0];
            try_call(libc::SYS_perf_event_open, &itself)
        })
        .depends_on_kernel(),
        plain("load a kernel", libc::SYS_kexec_load, &[0, 0, 0, 0]).depends_on_kernel(),
        attempt("load a kernel module", || {
            try_call(libc::SYS_init_module, &[path(c"module"), 6, path(c"")])
        })
        .depends_on_kernel(),
        plain("reboot", libc::SYS_reboot, &[0xfee1_dead, 672_274_793, 0, 0]),
        plain("set the clock", libc::SYS_settimeofday, &[0, 0]),
        plain("reach ports", libc::SYS_iopl, &[3]).depends_on_kernel(),
        plain("read the kernel's log", libc::SYS_syslog, &[10, 0, 0]).depends_on_kernel(),
        attempt("add a key", || {
            const THREAD_KEYRING: usize = usize::MAX;
            let (kind, name) = (path(c"user"), path(c"key"));
            try_call(libc::SYS_add_key, &[kind, name, path(c"value"), 5, THREAD_KEYRING])
        })
        .depends_on_kernel(),
        plain("search a key of the user's", libc::SYS_keyctl, &[0, (-4_isize) as usize, 0])
            .depends_on_kernel(),
        attempt("watch files", || try_call(libc::SYS_inotify_init1, &[0])),
        attempt("swap to a file", || try_call(libc::SYS_swapon, &[path(c"/swap"), 0])),
        plain("take a higher priority", libc::SYS_setpriority, &[0, 0, (-5_isize) as usize]),
        plain("lock memory", libc::SYS_mlockall, &[libc::MCL_FUTURE as usize]),
        plain("make shared memory", libc::SYS_shmget, &[0, 4096, 0o1600]).depends_on_kernel(),
    ]
}
