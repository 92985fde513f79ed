//! The two interfaces, with fixed addresses: QEMU's user network always looks the same, so asking it is a waste.
#![expect(unsafe_code, reason = "interfaces are configured by ioctls that take raw C structures")]

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use portable_init::{ADDRESS, GATEWAY, RESOLVER};
use rustix::net::{AddressFamily, SocketType};

/// Read by whoever resolves names: the gateway of the sandboxes.
const RESOLV_CONF: &str = "/etc/resolv.conf";
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
const LOOPBACK_NETMASK: Ipv4Addr = Ipv4Addr::new(255, 0, 0, 0);

/// Brings up `lo`, and `eth0` if there is one.
pub(crate) fn configure() -> Result<()> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)
        .context("cannot open a socket")?;
    up(&socket, "lo", Ipv4Addr::LOCALHOST, LOOPBACK_NETMASK).context("cannot bring up lo")?;
    if std::path::Path::new("/sys/class/net/eth0").exists() {
        up(&socket, "eth0", ADDRESS, NETMASK).context("cannot bring up eth0")?;
        default_route(&socket, GATEWAY).context("cannot set the default route")?;
        let resolver = format!("nameserver {RESOLVER}\n");
        std::fs::write(RESOLV_CONF, resolver).context("cannot say who is asked for names")?;
    }
    Ok(())
}

fn up(socket: &OwnedFd, name: &str, address: Ipv4Addr, netmask: Ipv4Addr) -> std::io::Result<()> {
    let mut request = request(name);
    request.ifr_ifru.ifru_addr = socket_address(address);
    interface_ioctl(socket, libc::SIOCSIFADDR, &mut request)?;
    request.ifr_ifru.ifru_netmask = socket_address(netmask);
    interface_ioctl(socket, libc::SIOCSIFNETMASK, &mut request)?;
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(libc::c_short::MAX);
    interface_ioctl(socket, libc::SIOCSIFFLAGS, &mut request)
}

fn default_route(socket: &OwnedFd, gateway: Ipv4Addr) -> std::io::Result<()> {
    // SAFETY: `rtentry` is plain C data for which all zeros is a valid value.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = socket_address(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    // SAFETY: SIOCADDRT reads one `rtentry`, which lives on this stack; its device pointer is null, which is allowed.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT, &raw const route) })
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: `ifreq` is plain C data for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero, so the name is always terminated.
    let room = request.ifr_name.len() - 1;
    for (slot, byte) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *slot = byte.cast_signed();
    }
    request
}

fn interface_ioctl(
    socket: &OwnedFd,
    code: libc::Ioctl,
    request: &mut libc::ifreq,
) -> std::io::Result<()> {
    // SAFETY: the SIOCSIF* requests used here read one `ifreq`, which `request` points to for the whole call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), code, &raw mut *request) })
}

fn check(result: libc::c_int) -> std::io::Result<()> {
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    // Port and padding are zero; the address follows the port, in network order.
    let mut data = [0; 14];
    for (slot, octet) in data[2..6].iter_mut().zip(address.octets()) {
        *slot = octet.cast_signed();
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_lies_after_the_port_in_network_order() {
        let address = socket_address(Ipv4Addr::new(10, 0, 2, 15));
        assert_eq!(i32::from(address.sa_family), libc::AF_INET);
        assert_eq!(&address.sa_data[..7], &[0, 0, 10, 0, 2, 15, 0]);
    }

    #[test]
    fn a_long_interface_name_stays_terminated() {
        let request = request("an-interface-name-that-is-too-long");
        assert_eq!(request.ifr_name.last(), Some(&0));
    }
}
