//! Where the machine of a sandbox is found again: a socket in the sandbox's directory.
//!
//! The node binds it and hands it to the VMM, which listens on it from within its jail. So the kernel
//! itself vouches for who answers: whoever connects gets the process that listens and its user, and
//! nothing that a hijacked VMM says or writes enters into it.
#![expect(unsafe_code, reason = "two options of sockets have no safe wrapper that fits")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Its name in the directory.
const NAME: &str = "control.sock";

/// A connection to a machine that an earlier daemon started.
#[derive(Debug)]
pub(crate) struct Found {
    /// Control socket.
    pub(crate) socket: OwnedFd,
    /// Its VMM process.
    pub(crate) pidfd: OwnedFd,
    /// Number of the process, for people.
    pub(crate) pid: i32,
    /// User it runs as.
    pub(crate) uid: u32,
}

/// Makes the socket in `dir`, in place of an earlier one. Nobody can connect before somebody listens
/// on it, and then nobody but root.
pub(crate) fn bind(dir: &Path) -> io::Result<OwnedFd> {
    let (dir, address) = place(dir)?;
    match rustix::fs::unlinkat(&dir, NAME, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let socket = socket()?;
    rustix::net::bind(&socket, &address)?;
    rustix::fs::chmodat(&dir, NAME, Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
    Ok(socket)
}

/// Connects to the machine of `dir`. `None` when there is none any more. Does not wait for the VMM.
pub(crate) fn find(dir: &Path) -> io::Result<Option<Found>> {
    let (_dir, address) = match place(dir) {
        Ok(place) => place,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let socket = socket()?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => {}
        // Never bound; nobody listens any more.
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    }
    let nobody = libc::ucred { pid: 0, uid: 0, gid: 0 };
    // SAFETY: this option is one such structure of integers.
    let peer = unsafe { option(&socket, libc::SO_PEERCRED, nobody) }?;
    match peer_process(&socket) {
        Ok(pidfd) => Ok(Some(Found { socket, pidfd, pid: peer.pid, uid: peer.uid })),
        // It ended since, and was reaped.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// The directory, open, and the address in it. By descriptor, because an address has room for some
/// hundred bytes and a path may be longer.
fn place(dir: &Path) -> io::Result<(OwnedFd, SocketAddrUnix)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(dir, flags, Mode::empty())?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(NAME);
    Ok((dir, SocketAddrUnix::new(path)?))
}

/// What the kernel says of a socket.
///
/// # Safety
///
/// `T` is what `option` of `SOL_SOCKET` is written as, and any bytes are one.
unsafe fn option<T>(socket: &OwnedFd, option: libc::c_int, mut value: T) -> io::Result<T> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `value`, which has that many, and what it
    // wrote to `length`; both live until the call returns.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// The process that listens at the other end. Unlike its number this cannot come to mean another.
fn peer_process(socket: &OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: this option is one integer.
    let pidfd = unsafe { option::<libc::c_int>(socket, libc::SO_PEERPIDFD, -1) }?;
    // SAFETY: the kernel has just opened this descriptor for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(pidfd) })
}

#[cfg(test)]
mod test {
    use std::fs::{self, File};

    use rustix::net::listen;

    use super::*;

    #[test]
    fn who_listens_is_found_and_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        // Longer than any address.
        let dir = dir.path().join("a".repeat(120));
        assert!(find(&dir).unwrap().is_none(), "no directory");
        fs::create_dir(&dir).unwrap();
        assert!(find(&dir).unwrap().is_none(), "no socket");
        let socket = bind(&dir).unwrap();
        assert!(find(&dir).unwrap().is_none(), "nobody listens");
        listen(&socket, 1).unwrap();
        let found = find(&dir).unwrap().unwrap();
        assert_eq!(found.pid, i32::try_from(std::process::id()).unwrap());
        assert_eq!(found.uid, rustix::process::getuid().as_raw());
        drop(socket);
        assert!(find(&dir).unwrap().is_none(), "gone");
        listen(bind(&dir).unwrap(), 1).unwrap();
    }

    #[test]
    fn the_socket_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let _socket = bind(dir.path()).unwrap();
        let mode = fs::metadata(dir.path().join(NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_in_its_place_is_no_machine() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join(NAME)).unwrap();
        assert!(find(dir.path()).unwrap().is_none());
        let socket = bind(dir.path()).unwrap();
        listen(&socket, 1).unwrap();
        assert!(find(dir.path()).unwrap().is_some());
    }
}
