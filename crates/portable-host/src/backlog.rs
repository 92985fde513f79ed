//! How many connections may wait for QEMU to take them.
//!
//! QEMU listens for a forwarded port with a backlog of one, so that of thirty clients that connect at once most are
//! put off by the kernel, for seconds. `listen` on a socket that listens already only changes its backlog, and
//! whoever may trace a process may have a copy of its descriptors: this asks for the listening socket of the QEMU
//! that was just started, and listens again.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::{fs, io};

use rustix::io::Errno;
use rustix::net::sockopt::socket_acceptconn;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// LIMIT: more than a node lets in at once; the kernel cuts it at its own limit.
const BACKLOG: i32 = 4096;

/// Lets up to [`BACKLOG`] connections to `port` on 127.0.0.1 wait for process `pid`, which listens there.
pub(crate) fn deepen(pid: i32, port: u16) -> io::Result<()> {
    let process = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
    let process = pidfd_open(process, PidfdFlags::empty())?;
    let wanted = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // One that was closed meanwhile is not the one that is looked for.
        let Ok(socket) = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) else { continue };
        if listens_at(&socket, wanted) {
            return Ok(rustix::net::listen(&socket, BACKLOG)?);
        }
    }
    Err(Errno::NOTCONN.into())
}

fn listens_at(socket: &OwnedFd, wanted: SocketAddr) -> bool {
    let address = rustix::net::getsockname(socket.as_fd());
    matches!(socket_acceptconn(socket), Ok(true))
        && address.is_ok_and(|address| SocketAddr::try_from(address) == Ok(wanted))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use rustix::net::{AddressFamily, SocketType};

    use super::*;

    /// More than any backlog that is as small as QEMU's.
    const CLIENTS: usize = 40;

    fn connected(address: SocketAddr) -> Vec<TcpStream> {
        let connect = |_| TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok();
        (0..CLIENTS).map_while(connect).collect()
    }

    #[test]
    fn a_burst_of_clients_waits_where_one_did_before() {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
        rustix::net::listen(&socket, 1).unwrap();
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        let few = connected(address).len();
        assert!(few < CLIENTS, "{few} of {CLIENTS} clients waited in a backlog of one");

        let pid = rustix::process::getpid().as_raw_nonzero().get();
        deepen(pid, address.port()).unwrap();
        let clients = connected(address);
        assert_eq!(clients.len(), CLIENTS);
    }

    #[test]
    fn a_process_that_does_not_listen_there_is_an_error() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        assert!(deepen(pid, free).is_err());
        assert!(deepen(0, free).is_err());
    }
}
