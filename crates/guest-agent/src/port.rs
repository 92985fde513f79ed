//! Ports of programs in the guest: a pipe between the host and a socket on loopback, or a Unix socket.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use api_guest::{Answer, Connect, ConnectUnix, FailCode};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use crate::connection::Connection;
use crate::failure::{Failure, Stop};

/// LIMIT: loopback answers at once, unless the program has let its queue of connections fill up.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// LIMIT: the kernel's own bound on the path of a Unix socket, less its zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// LIMIT: bytes on the way in one direction. Hundreds of connections together take little of the
/// smallest sandbox, and more would not be faster.
const FLOW_BYTES: usize = 32 * 1024;
/// LIMIT: pieces moved in one direction before the other has its turn.
const ROUNDS_MAX: usize = 16;
/// How often a host that there is nothing to read from is looked at: a vsock does not tell a waiting
/// thread that a half-closed connection was closed for good.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// Carries out [`Connect`]: returns when both directions have ended, or one side is gone.
pub(crate) fn connect(connection: &mut Connection, request: &Connect) -> Result<(), Stop> {
    let program = open(request.port)?;
    pipe(connection, program.as_fd())
}

/// Carries out [`ConnectUnix`]; as [`connect`].
pub(crate) fn connect_unix(connection: &mut Connection, request: &ConnectUnix) -> Result<(), Stop> {
    let program = open_unix(&request.path)?;
    pipe(connection, program.as_fd())
}

fn pipe(connection: &mut Connection, program: BorrowedFd<'_>) -> Result<(), Stop> {
    connection.send(&Answer::Done)?;
    let early = connection.take_rest();
    // Whoever broke it, both ends are closed now, which is all there is to say.
    let _ = carry(connection.stream(), program, early);
    Ok(())
}

fn open_unix(path: &str) -> Result<UnixStream, Failure> {
    if !path.starts_with('/') || path.contains('\0') || path.len() > SOCKET_PATH_BYTES_MAX {
        let message =
            format!("a socket's path is absolute and at most {SOCKET_PATH_BYTES_MAX} bytes");
        return Err(Failure::invalid(message));
    }
    UnixStream::connect(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            Failure::new(FailCode::NothingListens, format!("nothing listens on {path}"))
        }
        _ => Failure::of_io(format!("cannot connect to {path}"), &error),
    })
}

fn open(port: u16) -> Result<TcpStream, Failure> {
    if port == 0 {
        return Err(Failure::invalid("port 0 is none; ports are 1 to 65535"));
    }
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let address = SocketAddr::new(ip, port);
        match TcpStream::connect_timeout(&address, CONNECT_WITHIN) {
            // With nobody listening, a socket may happen to be connected to itself.
            Ok(stream) if stream.local_addr().is_ok_and(|own| own == address) => {}
            Ok(stream) => {
                // What is small is wanted now; without this it only comes later.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                let seconds = CONNECT_WITHIN.as_secs();
                let message =
                    format!("the program on port {port} took no connection within {seconds} s");
                return Err(Failure::new(FailCode::Busy, message));
            }
            // Refused, or a kernel without this family of addresses.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionRefused
                        | ErrorKind::AddrNotAvailable
                        | ErrorKind::NetworkUnreachable
                        | ErrorKind::Unsupported
                ) => {}
            Err(error) => {
                return Err(Failure::of_io(format!("cannot connect to port {port}"), &error));
            }
        }
    }
    Err(Failure::new(FailCode::NothingListens, format!("nothing listens on port {port}")))
}

/// Moves bytes until both directions have ended. Fails when one side broke.
fn carry(host: BorrowedFd<'_>, program: BorrowedFd<'_>, early: Vec<u8>) -> Result<(), Errno> {
    let mut up = Flow::beginning_with(early);
    let mut down = Flow::beginning_with(Vec::new());
    loop {
        up.go_on(host, program)?;
        down.go_on(program, host)?;
        // A host takes all or is gone; a program may refuse a request's end and answer all the same.
        if down.refused || (up.over && down.over) {
            return Ok(());
        }
        let mut of_host = PollFlags::empty();
        of_host.set(PollFlags::IN, up.wants());
        of_host.set(PollFlags::OUT, down.has());
        let mut of_program = PollFlags::empty();
        of_program.set(PollFlags::IN, down.wants());
        of_program.set(PollFlags::OUT, up.has());
        // Without `IN`, the end of a host is not seen; once `down` is over, it cannot be asked for.
        let look = !up.wants() && !down.over;
        if look && send(host, &[], SEND).is_err_and(|error| error != Errno::AGAIN) {
            return Ok(());
        }
        // A side that nothing is wanted from is left out: its hanging up would end every wait at once.
        let mut polled: Vec<_> = [(host, of_host), (program, of_program)]
            .into_iter()
            .filter(|(_, wanted)| !wanted.is_empty())
            .map(|(side, wanted)| PollFd::from_borrowed_fd(side, wanted))
            .collect();
        match poll(&mut polled, look.then_some(&LOOK_EVERY)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// One direction.
struct Flow {
    data: Vec<u8>,
    /// How much of it was sent.
    sent: usize,
    /// Nothing more comes.
    ended: bool,
    /// The receiver was told so, or takes nothing any more.
    over: bool,
    /// It takes nothing any more.
    refused: bool,
}

impl Flow {
    fn beginning_with(data: Vec<u8>) -> Self {
        Self { data, sent: 0, ended: false, over: false, refused: false }
    }

    fn has(&self) -> bool {
        self.sent < self.data.len()
    }

    fn wants(&self) -> bool {
        !self.ended && !self.has()
    }

    /// Moves what can be moved without waiting, up to a bound. Fails when the sender broke.
    fn go_on(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
        for _ in 0..ROUNDS_MAX {
            while let Some(rest) = self.data.get(self.sent..).filter(|rest| !rest.is_empty()) {
                match send(to, rest, SEND) {
                    Ok(count) => self.sent += count,
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return Ok(()),
                    Err(_) => {
                        let _ = shutdown(from, Shutdown::Read);
                        self.sent = self.data.len();
                        (self.ended, self.over, self.refused) = (true, true, true);
                    }
                }
            }
            if self.ended {
                if !self.over {
                    self.over = true;
                    // One that is gone needs no telling.
                    let _ = shutdown(to, Shutdown::Write);
                }
                return Ok(());
            }
            self.sent = 0;
            self.data.clear();
            self.data.reserve(FLOW_BYTES);
            match recv(from, spare_capacity(&mut self.data), RecvFlags::DONTWAIT) {
                Ok((0, _)) => self.ended = true,
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
