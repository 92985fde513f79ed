use std::net::Ipv4Addr;
use std::time::Duration;

use api_guest::network::GATEWAY_ADDRESS;
use api_node::{FlowProtocol, Verdict};

use crate::world::{Has, Resolver, SITE, Sandbox, World, echo_server, policy, question, settings};

const SOON: Duration = Duration::from_secs(20);

/// An answer, as far as tests look.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) rcode: u8,
    pub(crate) truncated: bool,
    pub(crate) records: u16,
    pub(crate) addresses: Vec<Ipv4Addr>,
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    pub(crate) fn read(bytes: Vec<u8>, name: &str) -> Self {
        assert_eq!(bytes[..2], [0x12, 0x34]);
        let name = name.parse();
        let addresses = name
            .ok()
            .and_then(|name| node_gateway::addresses_of(&name, &bytes))
            .unwrap_or_default();
        Self {
            rcode: bytes[3] & 15,
            truncated: bytes[2] & 2 != 0,
            records: u16::from_be_bytes([bytes[6], bytes[7]]),
            addresses: addresses.into_iter().map(|(address, _)| address).collect(),
            bytes,
        }
    }

    pub(crate) fn is_nx_domain(&self) -> bool {
        self.rcode == 3 && self.records == 0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rcode == 0 && self.records == 0
    }
}

/// Asks the gateway by UDP.
#[track_caller]
pub(crate) fn ask(sandbox: &mut Sandbox, name: &str, kind: u16) -> Answer {
    let handle = sandbox.guest.udp();
    sandbox.guest.send_to(handle, GATEWAY_ADDRESS, 53, &question(name, kind));
    let (data, from) = sandbox.guest.receive(handle, SOON).expect("no answer");
    assert_eq!(from, (GATEWAY_ADDRESS, 53).into());
    Answer::read(data, name)
}

/// The same by TCP.
pub(crate) fn ask_tcp(sandbox: &mut Sandbox, name: &str, kind: u16) -> Answer {
    let guest = &mut sandbox.guest;
    let handle = guest.connect(GATEWAY_ADDRESS, 53).unwrap();
    let question = question(name, kind);
    guest.write(handle, &(question.len() as u16).to_be_bytes());
    guest.write(handle, &question);
    let length = guest.read(handle, 2);
    let answer = guest.read(handle, u16::from_be_bytes([length[0], length[1]]).into());
    guest.tcp(handle).close();
    Answer::read(answer, name)
}

fn names() -> Resolver {
    Resolver::new(&[
        ("site.test", Has::Addresses(vec![SITE])),
        ("www.site.test", Has::Alias("site.test", SITE)),
        ("many.test", Has::Addresses((1..=200).map(|n| [127, 77, 1, n].into()).collect())),
        ("text.test", Has::Text("v=1".into())),
        ("much.test", Has::Much(200)),
    ])
}

#[test]
fn names_are_resolved_and_what_they_gave_is_reached() {
    let resolver = names();
    let mut world = World::with(settings(Some(resolver.address)));
    let mut sandbox = world.sandbox(policy("none", &["*.site.test", "site.test"], &[]));
    let port = echo_server(SITE);
    assert_eq!(sandbox.guest.connect(SITE, port), None, "before anybody asked");
    assert_eq!(ask(&mut sandbox, "WWW.site.test", 1).addresses, [SITE]);
    let handle = sandbox.guest.connect(SITE, port).unwrap();
    sandbox.guest.write(handle, b"hello");
    assert_eq!(sandbox.guest.read(handle, 5), b"hello");
    drop(sandbox);
    let flow = world.told.find("flow", |it| it.port == Some(port) && it.bytes_up == 5);
    assert_eq!(flow.name.as_deref(), Some("www.site.test"));
    assert_eq!(flow.reason, "allow *.site.test");
    let asked = world.told.find("question", |it| it.protocol == FlowProtocol::Dns);
    assert_eq!((asked.name.as_deref(), asked.verdict), (Some("www.site.test"), Verdict::Allowed));
}

#[test]
fn there_is_no_ipv6_to_be_found() {
    let resolver = names();
    let mut world = World::with(settings(Some(resolver.address)));
    let mut sandbox = world.sandbox(policy("default", &[], &[]));
    assert!(ask(&mut sandbox, "site.test", 28).is_empty());
    assert!(ask(&mut sandbox, "site.test", 65).is_empty());
    assert_eq!(resolver.asked(), Vec::<String>::new());
    assert!(ask(&mut sandbox, "missing.test", 1).is_nx_domain());
}

#[test]
fn other_records_are_handed_on() {
    let resolver = names();
    let mut world = World::with(settings(Some(resolver.address)));
    let mut sandbox = world.sandbox(policy("default", &[], &[]));
    let answer = ask(&mut sandbox, "text.test", 16);
    assert_eq!((answer.rcode, answer.records), (0, 1));
    assert!(answer.bytes.ends_with(b"\x03v=1"));
    // ANY, a zone's transfer, and what nobody knows.
    for kind in [255, 252, 10] {
        assert_eq!(ask(&mut sandbox, "text.test", kind).rcode, 5);
    }
}

#[test]
fn what_is_too_long_for_a_datagram_comes_by_tcp() {
    let resolver = names();
    let mut world = World::with(settings(Some(resolver.address)));
    let mut sandbox = world.sandbox(policy("default", &[], &[]));
    let cut = ask(&mut sandbox, "much.test", 16);
    assert!(cut.truncated && cut.records == 0, "{cut:?}");
    assert_eq!(ask_tcp(&mut sandbox, "much.test", 16).records, 200);
    // Addresses are so few that they always fit.
    assert_eq!(ask(&mut sandbox, "many.test", 1).addresses.len(), 16);
    assert_eq!(ask_tcp(&mut sandbox, "many.test", 1).addresses.len(), 16);
}

#[test]
fn names_of_this_node_are_asked_of_nobody() {
    let resolver = names();
    let mut world = World::with(settings(Some(resolver.address)));
    let mut sandbox = world.sandbox(policy("default", &["*"], &[]));
    for name in ["localhost", "db", "x.internal", "metadata.google.internal", "printer.local"] {
        assert!(ask(&mut sandbox, name, 1).is_nx_domain(), "{name}");
    }
    assert!(ask(&mut sandbox, "1.0.0.10.in-addr.arpa", 12).is_nx_domain());
    assert_eq!(resolver.asked(), Vec::<String>::new());
}

#[test]
fn a_resolver_that_is_silent_is_a_failure() {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut world = World::with(settings(Some(socket.local_addr().unwrap())));
    let mut sandbox = world.sandbox(policy("default", &[], &[]));
    assert_eq!(ask(&mut sandbox, "site.test", 1).rcode, 2);
}
