//! A guest: a stack of TCP/IP on a frame socket.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use api_guest::network::{GATEWAY_ADDRESS, GUEST_ADDRESS, PREFIX_BITS};
use api_vmm::{NET_FRAME_BYTES_MAX, NET_MAC};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, IpEndpoint};

/// Nothing takes so long, and a test that waits for longer waits for nothing.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Guest {
    card: Card,
    interface: Interface,
    pub(crate) sockets: SocketSet<'static>,
    begun: Instant,
    next_port: u16,
}

struct Card {
    frames: OwnedFd,
    /// Every frame that came, when somebody wants to see them.
    pub(crate) seen: Option<Vec<Vec<u8>>>,
}

impl Guest {
    pub(crate) fn new(frames: OwnedFd) -> Self {
        let mut card = Card { frames, seen: None };
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(NET_MAC)));
        config.random_seed = 7;
        let mut interface = Interface::new(config, &mut card, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(GUEST_ADDRESS.into(), PREFIX_BITS)).unwrap();
        });
        interface.routes_mut().add_default_ipv4_route(GATEWAY_ADDRESS).unwrap();
        let sockets = SocketSet::new(vec![]);
        Self { card, interface, sockets, begun: Instant::now(), next_port: 40_000 }
    }

    /// Runs the stack until something is so.
    #[track_caller]
    pub(crate) fn until<T>(
        &mut self,
        what: &str,
        mut found: impl FnMut(&mut Self) -> Option<T>,
    ) -> T {
        let begun = Instant::now();
        loop {
            let now = self.now();
            self.interface.poll(now, &mut self.card, &mut self.sockets);
            if let Some(found) = found(self) {
                // What that changed goes out too.
                self.interface.poll(now, &mut self.card, &mut self.sockets);
                return found;
            }
            assert!(begun.elapsed() < PATIENCE, "waited for {what} in vain");
            let delay = self.interface.poll_delay(now, &self.sockets);
            let delay = delay.map_or(20, |delay| delay.total_millis().min(20));
            self.wait(Duration::from_millis(delay));
        }
    }

    /// Runs the stack for a while.
    pub(crate) fn run_for(&mut self, time: Duration) {
        let begun = Instant::now();
        self.until("time", |_| (begun.elapsed() >= time).then_some(()));
    }

    fn wait(&self, time: Duration) {
        let mut fds = [PollFd::new(&self.card.frames, PollFlags::IN)];
        let nanoseconds = i64::from(time.subsec_nanos());
        let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: nanoseconds };
        let _ = poll(&mut fds, Some(&time));
    }

    fn now(&self) -> smoltcp::time::Instant {
        smoltcp::time::Instant::from_micros(self.begun.elapsed().as_micros() as i64)
    }

    pub(crate) fn begin(&mut self, address: Ipv4Addr, port: u16) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 128 * 1024]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_ack_delay(None);
        self.next_port += 1;
        let remote = IpEndpoint::new(address.into(), port);
        socket.connect(self.interface.context(), remote, self.next_port).unwrap();
        self.sockets.add(socket)
    }

    pub(crate) fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// A connection; `None` when it was refused.
    #[track_caller]
    pub(crate) fn connect(&mut self, address: Ipv4Addr, port: u16) -> Option<SocketHandle> {
        let handle = self.begin(address, port);
        self.until("a connection", |guest| match guest.tcp(handle).state() {
            tcp::State::Established | tcp::State::CloseWait => Some(Some(handle)),
            tcp::State::Closed => Some(None),
            _ => None,
        })
    }

    #[track_caller]
    pub(crate) fn write(&mut self, handle: SocketHandle, mut bytes: &[u8]) {
        self.until("room to write", |guest| {
            let count = guest.tcp(handle).send_slice(bytes).unwrap();
            bytes = &bytes[count..];
            bytes.is_empty().then_some(())
        });
    }

    /// Whatever comes, up to so many bytes or the end.
    #[track_caller]
    pub(crate) fn read(&mut self, handle: SocketHandle, most: usize) -> Vec<u8> {
        let mut all = Vec::new();
        self.until("bytes", |guest| {
            let socket = guest.tcp(handle);
            while all.len() < most && socket.can_recv() {
                let rest = most - all.len();
                socket
                    .recv(|data| {
                        let count = data.len().min(rest);
                        all.extend_from_slice(&data[..count]);
                        (count, ())
                    })
                    .unwrap();
            }
            (all.len() == most || !socket.may_recv()).then_some(())
        });
        all
    }

    /// A socket for datagrams.
    pub(crate) fn udp(&mut self) -> SocketHandle {
        let buffer = || {
            let meta = vec![udp::PacketMetadata::EMPTY; 64];
            udp::PacketBuffer::new(meta, vec![0; 64 * 1024])
        };
        let mut socket = udp::Socket::new(buffer(), buffer());
        self.next_port += 1;
        socket.bind(self.next_port).unwrap();
        self.sockets.add(socket)
    }

    pub(crate) fn send_to(
        &mut self,
        handle: SocketHandle,
        address: Ipv4Addr,
        port: u16,
        data: &[u8],
    ) {
        let to = IpEndpoint::new(address.into(), port);
        self.sockets.get_mut::<udp::Socket<'_>>(handle).send_slice(data, to).unwrap();
        // The first needs the gateway's address.
        self.until("a datagram to leave", |guest| {
            let socket = guest.sockets.get_mut::<udp::Socket<'_>>(handle);
            (socket.send_queue() == 0).then_some(())
        });
    }

    /// The next datagram and who sent it, if one comes within that time.
    pub(crate) fn receive(
        &mut self,
        handle: SocketHandle,
        within: Duration,
    ) -> Option<(Vec<u8>, IpEndpoint)> {
        let begun = Instant::now();
        self.until("a datagram", |guest| {
            let socket = guest.sockets.get_mut::<udp::Socket<'_>>(handle);
            match socket.recv() {
                Ok((data, from)) => Some(Some((data.to_vec(), from.endpoint))),
                Err(_) => (begun.elapsed() >= within).then_some(None),
            }
        })
    }

    /// Takes the network card of another guest, which gets this one's.
    pub(crate) fn card_of(&mut self, other: &mut Self) {
        std::mem::swap(&mut self.card, &mut other.card);
    }

    /// Sends a frame as it is.
    pub(crate) fn inject(&self, frame: &[u8]) {
        loop {
            match rustix::net::send(&self.card.frames, frame, SendFlags::NOSIGNAL) {
                Err(Errno::AGAIN) => self.wait_for_room(),
                sent => {
                    sent.unwrap();
                    return;
                }
            }
        }
    }

    fn wait_for_room(&self) {
        let mut fds = [PollFd::new(&self.card.frames, PollFlags::OUT)];
        let _ = poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }));
    }

    /// The frames that come from now on are kept, and are those that came before.
    pub(crate) fn watch(&mut self) -> Vec<Vec<u8>> {
        self.card.seen.replace(Vec::new()).unwrap_or_default()
    }

    pub(crate) fn seen(&self) -> &[Vec<u8>] {
        self.card.seen.as_deref().unwrap_or_default()
    }
}

impl Device for Card {
    type RxToken<'a> = Frame;
    type TxToken<'a> = Out<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Frame, Out<'_>)> {
        let mut frame = vec![0; NET_FRAME_BYTES_MAX + 1];
        let flags = RecvFlags::DONTWAIT;
        let (_, bytes) = rustix::net::recv(&self.frames, &mut frame[..], flags).ok()?;
        frame.truncate(bytes);
        if let Some(seen) = &mut self.seen {
            seen.push(frame.clone());
        }
        (bytes > 0).then_some((Frame(frame), Out(&self.frames)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Out<'_>> {
        let mut fds = [PollFd::new(&self.frames, PollFlags::OUT)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ready = poll(&mut fds, Some(&now)).unwrap();
        (ready > 0).then_some(Out(&self.frames))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = NET_FRAME_BYTES_MAX;
        capabilities
    }
}

pub(crate) struct Frame(Vec<u8>);

pub(crate) struct Out<'a>(&'a OwnedFd);

impl RxToken for Frame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Out<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, bytes: usize, write: F) -> R {
        let mut frame = vec![0; bytes];
        let written = write(&mut frame);
        // What does not go out is lost, and sent again.
        let _ = rustix::net::send(self.0, &frame, SendFlags::NOSIGNAL);
        written
    }
}
