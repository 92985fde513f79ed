use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use api_node::Cidr;

use crate::judge::never;

/// What the host says of addresses.
#[derive(Debug)]
pub(crate) struct Host {
    allowance: Vec<Cidr>,
}

impl Host {
    /// # Errors
    ///
    /// When the host takes any address for its own, so that it cannot be told from others.
    pub(crate) fn new(allowance: Vec<Cidr>) -> io::Result<Self> {
        let host = Self { allowance };
        // No host has this one: it is for documents.
        if host.has(Ipv4Addr::new(192, 0, 2, 123)) {
            let problem = "net.ipv4.ip_nonlocal_bind is on, so that no address can be told to be \
                           another host's; turn it off";
            return Err(io::Error::other(problem));
        }
        Ok(host)
    }

    /// Whether this is an address of the host itself, at this moment, of whatever interface. Only a clear
    /// "not mine" is a no: a host without a free port or descriptor must not look like another one.
    pub(crate) fn has(&self, address: Ipv4Addr) -> bool {
        let bound = UdpSocket::bind(SocketAddrV4::new(address, 0));
        !matches!(bound, Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable)
    }

    pub(crate) fn allowance(&self) -> &[Cidr] {
        &self.allowance
    }

    /// What an address is, if it is never reached and the operator does not vouch for it.
    pub(crate) fn never(&self, address: Ipv4Addr) -> Option<&'static str> {
        let vouched_for = self.allowance.iter().any(|network| network.contains(address));
        if vouched_for { None } else { never(address, self.has(address)) }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_host_knows_its_own_addresses() {
        let host = Host::new(vec!["127.0.0.0/8".parse().unwrap()]).unwrap();
        assert!(host.has(Ipv4Addr::LOCALHOST));
        assert!(!host.has(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(host.never(Ipv4Addr::LOCALHOST), None);
        assert!(host.never(Ipv4Addr::new(192, 0, 2, 1)).is_some());
    }
}
