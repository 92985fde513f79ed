//! TCP towards the guest. Each connection has a stack of its own, with one socket, whose address is
//! the one the guest connects to: so a segment is found its connection by a table, a connection costs
//! only when something happens in it, and no connection can be mistaken for another.

use api_vmm::NET_MTU;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{HardwareAddress, IpCidr, IpListenEndpoint};

use crate::frame::Tuple;
use crate::link::Link;

/// How long a guest may leave data unacknowledged. Guests stand still while they are saved.
const GUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a guest may be silent until it is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(40);

pub(crate) struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
}

impl Stack {
    /// One that waits for the first segment of a connection, which is for `tuple`.
    ///
    /// `tuple` has a unicast address, and a port.
    pub(crate) fn new(tuple: Tuple, buffer_bytes: usize, seed: u64, now: Instant) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut Wire { incoming: None, link: None }, now);
        interface.update_ip_addrs(|addresses| {
            // There is room for two.
            let _ = addresses.push(IpCidr::new(tuple.address.into(), 32));
        });
        let buffer = || SocketBuffer::new(vec![0; buffer_bytes]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        socket.set_timeout(Some(GUEST_TIMEOUT));
        // The timeout counts from the last word of the guest, whether it owes one or not. Asked so often, a
        // guest that is there is never silent for that long.
        socket.set_keep_alive(Some(KEEP_ALIVE));
        let endpoint = IpListenEndpoint { addr: Some(tuple.address.into()), port: tuple.port };
        socket.listen(endpoint).expect("a new socket listens at any port but 0");
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self { interface, sockets, handle }
    }

    /// Takes in a packet the guest sent for this connection.
    pub(crate) fn feed(&mut self, ip: &[u8], link: &mut Link, now: Instant) {
        let mut wire = Wire { incoming: Some(ip), link: Some(link) };
        self.interface.poll_ingress_single(now, &mut wire, &mut self.sockets);
    }

    /// Sends one segment, if there is one to send and the link has room. Whether it did.
    pub(crate) fn send(&mut self, link: &mut Link, now: Instant) -> bool {
        let mut wire = Wire { incoming: None, link: Some(link) };
        let result = self.interface.poll_egress(now, &mut wire, &mut self.sockets);
        result == smoltcp::iface::PollResult::SocketStateChanged
    }

    /// When [`Self::send`] has something to do by itself.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Instant> {
        self.interface.poll_at(now, &self.sockets)
    }

    pub(crate) fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Whether the guest has sent all it will, and all of that was read.
    pub(crate) fn guest_is_done(&mut self) -> bool {
        let socket = self.socket();
        let over = matches!(
            socket.state(),
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait
        );
        over && socket.recv_queue() == 0
    }

    /// Whether nothing more will come of it: it was reset, or both ends are done.
    pub(crate) fn is_over(&mut self) -> bool {
        matches!(self.socket().state(), State::Closed | State::TimeWait | State::Listen)
    }

    /// Whether it was ended by a reset, or by silence.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.socket().state() == State::Closed
    }
}

/// One packet in, any number out, as far as the link has room.
struct Wire<'a> {
    incoming: Option<&'a [u8]>,
    link: Option<&'a mut Link>,
}

struct Incoming<'a>(&'a [u8]);

struct Outgoing<'a>(&'a mut Link);

impl Device for Wire<'_> {
    type RxToken<'a>
        = Incoming<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Outgoing<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Incoming<'_>, Outgoing<'_>)> {
        let link = self.link.as_deref_mut()?;
        self.incoming.take().map(|packet| (Incoming(packet), Outgoing(link)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outgoing<'_>> {
        self.link.as_deref_mut().filter(|link| link.has_room()).map(Outgoing)
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = NET_MTU.into();
        capabilities.checksum = crate::reply::checksums();
        capabilities
    }
}

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(self.0)
    }
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, bytes: usize, write: F) -> R {
        self.0.send_ip(bytes, write)
    }
}
