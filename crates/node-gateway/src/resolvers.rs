//! Resolvers of others. Whoever reaches one asks for any name, and talks through it to anybody.

use std::net::Ipv4Addr;

use api_node::{DomainName, Protocol};

/// Ports of DNS, and of DNS over TLS and QUIC.
const PORTS: [u16; 2] = [53, 853];

/// Where DNS over HTTPS is served, by well-known names and all below them.
const NAMES: &[&str] = &[
    "adblock.dns.mullvad.net",
    "adguard-dns.com",
    "base.dns.mullvad.net",
    "blitz.ahadns.com",
    "chrome.cloudflare-dns.com",
    "cleanbrowsing.org",
    "cloudflare-dns.com",
    "cloudflare-gateway.com",
    "controld.com",
    "dns.adguard.com",
    "dns.alidns.com",
    "dns.digitale-gesellschaft.ch",
    "dns.google",
    "dns.google.com",
    "dns.mullvad.net",
    "dns.nextdns.io",
    "dns.pub",
    "dns.quad9.net",
    "dns.sb",
    "dns.switch.ch",
    "dns.twnic.tw",
    "dns0.eu",
    "dns1.nextdns.io",
    "dns10.quad9.net",
    "dns11.quad9.net",
    "dns2.nextdns.io",
    "dns9.quad9.net",
    "dnsforge.de",
    "doh.360.cn",
    "doh.applied-privacy.net",
    "doh.cleanbrowsing.org",
    "doh.dns.sb",
    "doh.familyshield.opendns.com",
    "doh.libredns.gr",
    "doh.opendns.com",
    "doh.pub",
    "doh.xfinity.com",
    "dns-unfiltered.adguard.com",
    "family.cloudflare-dns.com",
    "freedns.controld.com",
    "mozilla.cloudflare-dns.com",
    "odvr.nic.cz",
    "one.one.one.one",
    "security.cloudflare-dns.com",
    "wikimedia-dns.org",
];

/// The addresses of the same, where they are known for them.
const ADDRESSES: &[Ipv4Addr] = &[
    Ipv4Addr::new(1, 0, 0, 1),
    Ipv4Addr::new(1, 0, 0, 2),
    Ipv4Addr::new(1, 0, 0, 3),
    Ipv4Addr::new(1, 1, 1, 1),
    Ipv4Addr::new(1, 1, 1, 2),
    Ipv4Addr::new(1, 1, 1, 3),
    Ipv4Addr::new(1, 12, 12, 12),
    Ipv4Addr::new(8, 8, 4, 4),
    Ipv4Addr::new(8, 8, 8, 8),
    Ipv4Addr::new(9, 9, 9, 9),
    Ipv4Addr::new(9, 9, 9, 10),
    Ipv4Addr::new(9, 9, 9, 11),
    Ipv4Addr::new(45, 90, 28, 0),
    Ipv4Addr::new(45, 90, 30, 0),
    Ipv4Addr::new(76, 76, 2, 0),
    Ipv4Addr::new(76, 76, 10, 0),
    Ipv4Addr::new(94, 140, 14, 14),
    Ipv4Addr::new(94, 140, 14, 15),
    Ipv4Addr::new(94, 140, 15, 15),
    Ipv4Addr::new(94, 140, 15, 16),
    Ipv4Addr::new(116, 202, 176, 26),
    Ipv4Addr::new(119, 29, 29, 29),
    Ipv4Addr::new(120, 53, 53, 53),
    Ipv4Addr::new(146, 112, 41, 2),
    Ipv4Addr::new(146, 112, 41, 3),
    Ipv4Addr::new(149, 112, 112, 10),
    Ipv4Addr::new(149, 112, 112, 11),
    Ipv4Addr::new(149, 112, 112, 112),
    Ipv4Addr::new(185, 222, 222, 222),
    Ipv4Addr::new(185, 228, 168, 9),
    Ipv4Addr::new(185, 228, 168, 10),
    Ipv4Addr::new(185, 228, 168, 168),
    Ipv4Addr::new(193, 110, 81, 0),
    Ipv4Addr::new(185, 253, 5, 0),
    Ipv4Addr::new(194, 242, 2, 2),
    Ipv4Addr::new(208, 67, 220, 220),
    Ipv4Addr::new(208, 67, 222, 222),
    Ipv4Addr::new(223, 5, 5, 5),
    Ipv4Addr::new(223, 6, 6, 6),
];

/// The port they serve HTTPS at.
const HTTPS: u16 = 443;

/// Whether only resolvers are found there.
pub(crate) fn is_port(port: Option<(Protocol, u16)>) -> bool {
    port.is_some_and(|(_, port)| PORTS.contains(&port))
}

/// Whether a well-known resolver is found there.
pub(crate) fn is_address(address: Ipv4Addr, port: Option<(Protocol, u16)>) -> bool {
    port.is_some_and(|(_, port)| port == HTTPS) && ADDRESSES.contains(&address)
}

/// Whether a well-known resolver has this name.
pub(crate) fn is_name(name: &DomainName) -> bool {
    NAMES.iter().any(|known| {
        let rest = name.as_str().strip_suffix(known);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}
