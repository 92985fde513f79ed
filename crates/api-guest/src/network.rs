//! The network a guest sees. It is the same in every guest, so nothing is set up when a clone begins.
//!
//! One link, with the guest at one end and the node's gateway at the other. What is behind the gateway
//! is the node's to decide. There is IPv4 only.

use std::net::Ipv4Addr;

/// Of the guest's only interface but loopback.
pub const GUEST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 107, 0, 2);
/// Bits of [`GUEST_ADDRESS`] and [`GATEWAY_ADDRESS`] that name their network.
pub const PREFIX_BITS: u8 = 30;
/// Where every packet goes that leaves the guest, and who resolves names, on port 53 of UDP and TCP.
pub const GATEWAY_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 107, 0, 1);
/// First of the addresses by which a guest reaches the databases that are wired to it.
pub const DATABASES: Ipv4Addr = Ipv4Addr::new(10, 107, 1, 0);
/// Bits of [`DATABASES`] that all of these addresses have in common.
pub const DATABASES_PREFIX_BITS: u8 = 24;

/// What stands for `bits` in the notation of interfaces.
pub const fn netmask(bits: u8) -> Ipv4Addr {
    let hosts = u32::MAX.checked_shr(bits as u32);
    Ipv4Addr::from_bits(match hosts {
        Some(hosts) => !hosts,
        None => u32::MAX,
    })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn guest_and_gateway_are_neighbours_and_databases_are_behind_the_gateway() {
        let network = |address: Ipv4Addr| address.to_bits() & netmask(PREFIX_BITS).to_bits();
        assert_eq!(network(GUEST_ADDRESS), network(GATEWAY_ADDRESS));
        assert_ne!(network(GUEST_ADDRESS), network(DATABASES));
    }

    #[test]
    fn a_netmask_has_as_many_ones_as_it_has_bits() {
        for bits in 0..=32 {
            let mask = netmask(bits).to_bits();
            assert_eq!((mask.leading_ones(), mask.count_ones()), (bits.into(), bits.into()));
        }
    }
}
