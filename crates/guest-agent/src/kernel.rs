//! The kernel calls no safe wrapper exists for. What each does is the kernel's own word for it.

#![expect(unsafe_code, reason = "system calls without a safe wrapper")]

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

/// `_IOW('R', 0x03, int[2])`
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
/// `_IO('R', 0x07)`
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
/// LIMIT: what `RNDADDENTROPY` is given at most; the protocol's own bound.
const ENTROPY_BYTES_MAX: usize = api_guest::ENTROPY_BYTES_MAX;

fn check(returned: libc::c_int) -> Result<libc::c_int, Errno> {
    if returned < 0 { Err(last_error()) } else { Ok(returned) }
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// `struct rand_pool_info` with room for the largest amount.
#[repr(C)]
struct RandPoolInfo {
    entropy_count: libc::c_int,
    buf_size: libc::c_int,
    buf: [u8; ENTROPY_BYTES_MAX],
}

/// Mixes `entropy` into the kernel's pool, credited in full, and reseeds the generator from it now.
pub(crate) fn reseed(random: &File, entropy: &[u8]) -> Result<(), Errno> {
    let mut pool = RandPoolInfo { entropy_count: 0, buf_size: 0, buf: [0; ENTROPY_BYTES_MAX] };
    let room = pool.buf.get_mut(..entropy.len()).ok_or(Errno::INVAL)?;
    room.copy_from_slice(entropy);
    pool.buf_size = i32::try_from(entropy.len()).map_err(|_| Errno::INVAL)?;
    pool.entropy_count = pool.buf_size * 8;
    // SAFETY: the kernel reads the header and `buf_size` bytes behind it, all inside `pool`.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &raw const pool) })?;
    // SAFETY: takes no argument.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG) })?;
    Ok(())
}

/// A vsock socket listening on `port`.
pub(crate) fn vsock_listen(port: u32, backlog: i32) -> Result<OwnedFd, Errno> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: creates a descriptor, touches no memory.
    let raw = check(unsafe { libc::socket(libc::AF_VSOCK, kind, 0) })?;
    // SAFETY: `raw` was just created and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let address = vsock_address(libc::VMADDR_CID_ANY, port);
    let length = address_length();
    // SAFETY: `address` is a `sockaddr_vm` and `length` its size.
    check(unsafe { libc::bind(raw, (&raw const address).cast(), length) })?;
    // SAFETY: touches no memory.
    check(unsafe { libc::listen(raw, backlog) })?;
    Ok(socket)
}

/// Whether the other end of this vsock connection is the host.
pub(crate) fn vsock_peer_is_host(socket: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut address = vsock_address(0, 0);
    let mut length = address_length();
    // SAFETY: the kernel writes at most `length` bytes, the size of `address`.
    check(unsafe {
        libc::getpeername(socket.as_raw_fd(), (&raw mut address).cast(), &raw mut length)
    })?;
    Ok(address.svm_cid == libc::VMADDR_CID_HOST)
}

fn vsock_address(cid: u32, port: u32) -> libc::sockaddr_vm {
    libc::sockaddr_vm {
        svm_family: libc::AF_VSOCK as libc::sa_family_t,
        svm_reserved1: 0,
        svm_port: port,
        svm_cid: cid,
        svm_zero: [0; 4],
    }
}

const fn address_length() -> libc::socklen_t {
    size_of::<libc::sockaddr_vm>() as libc::socklen_t
}

/// Brings the interface `name` up.
pub(crate) fn interface_up(name: &str) -> Result<(), Errno> {
    let mut request = interface_request(name);
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    interface_ioctl(libc::SIOCSIFFLAGS, &request)
}

/// Gives the interface `name` its address.
pub(crate) fn interface_address(
    name: &str,
    address: Ipv4Addr,
    netmask: Ipv4Addr,
) -> Result<(), Errno> {
    let mut request = interface_request(name);
    request.ifr_ifru.ifru_addr = internet_address(address);
    interface_ioctl(libc::SIOCSIFADDR, &request)?;
    request.ifr_ifru.ifru_netmask = internet_address(netmask);
    interface_ioctl(libc::SIOCSIFNETMASK, &request)
}

/// Sends every packet for elsewhere to `gateway`.
pub(crate) fn default_route(gateway: Ipv4Addr) -> Result<(), Errno> {
    // SAFETY: all zero is a valid `rtentry`: addresses without a family, and no device's name.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = internet_address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = internet_address(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = internet_address(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    let socket = datagram_socket()?;
    // SAFETY: the kernel reads one `rtentry`, whose device's name is null.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT, &raw const route) }).map(drop)
}

fn interface_request(name: &str) -> libc::ifreq {
    let mut place = [0; libc::IFNAMSIZ];
    // The last byte stays zero.
    for (place, byte) in place.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    libc::ifreq { ifr_name: place, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 } }
}

fn interface_ioctl(code: libc::Ioctl, request: &libc::ifreq) -> Result<(), Errno> {
    let socket = datagram_socket()?;
    // SAFETY: the kernel reads one `ifreq`.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), code, &raw const *request) }).map(drop)
}

fn datagram_socket() -> Result<OwnedFd, Errno> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: creates a descriptor, touches no memory.
    let raw = check(unsafe { libc::socket(libc::AF_INET, kind, 0) })?;
    // SAFETY: `raw` was just created and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// `sockaddr_in` of no port, in the form of any other address.
fn internet_address(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (place, octet) in data.iter_mut().skip(size_of::<libc::in_port_t>()).zip(address.octets()) {
        *place = octet as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

/// Waits until some child has exited and names it, without taking its status: until that is done,
/// the number cannot belong to another process.
pub(crate) fn peek_exited() -> Result<i32, Errno> {
    // SAFETY: all zero is a valid `siginfo_t`.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOWAIT;
    // SAFETY: the kernel fills `info`.
    check(unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, options) })?;
    // SAFETY: a successful `waitid` fills the fields of a child's state, of which this is one.
    Ok(unsafe { info.si_pid() })
}

/// Sends a signal by number, to a process (positive) or a process group (negative).
pub(crate) fn kill(target: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: touches no memory.
    check(unsafe { libc::kill(target, signal) }).map(drop)
}

/// Duplicates a descriptor over another one, which is closed first.
pub(crate) fn duplicate_onto(from: BorrowedFd<'_>, onto: RawFd) -> Result<(), Errno> {
    // SAFETY: callers name only the standard streams, which no owned descriptor stands for.
    check(unsafe { libc::dup2(from.as_fd().as_raw_fd(), onto) }).map(drop)
}

/// Marks every descriptor beyond the standard streams to be closed when a command is executed: what
/// the agent opens itself is so anyway, and this is for what it was started with.
pub(crate) fn keep_descriptors_private() -> Result<(), Errno> {
    let (first, last) = (3_u32, u32::MAX);
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: closes nothing now and touches no memory.
    let returned = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if returned < 0 { Err(last_error()) } else { Ok(()) }
}

/// Keeps the heap small: one arena instead of one per thread, and big blocks mapped on their own.
pub(crate) fn small_heap() {
    // SAFETY: only sets parameters of the allocator.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    // SAFETY: as above.
    unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, 128 * 1024) };
}

/// Gives free heap memory back to the kernel.
pub(crate) fn trim_heap() {
    // SAFETY: only affects memory the allocator holds as free.
    unsafe { libc::malloc_trim(0) };
}
