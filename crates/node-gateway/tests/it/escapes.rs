//! Ways out that are none. Each is tried by a sandbox that may go anywhere, if not said otherwise, and
//! has a server at its end that must not hear of it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use api_guest::network::{GATEWAY_ADDRESS, GUEST_ADDRESS};
use api_node::{Policy, Verdict};
use api_vmm::NET_FRAME_BYTES_MAX;

use crate::dns::ask;
use crate::hostile::{Crafted, echo_request};
use crate::world::{
    Has, Resolver, SITE, Sandbox, World, both, echo_server, policy, serve, settings,
};

/// A way out.
struct Escape {
    name: &'static str,
    policy: Policy,
    attempt: fn(&mut Attempt<'_>),
    /// What is told of it.
    reason: &'static str,
}

struct Attempt<'a> {
    sandbox: &'a mut Sandbox,
    resolver: &'a Resolver,
    /// A server on the host that is not vouched for, of TCP and UDP.
    secret: (Ipv4Addr, u16),
    /// One that is.
    site: u16,
}

impl Attempt<'_> {
    #[track_caller]
    fn refused(&mut self, address: Ipv4Addr, port: u16) {
        assert_eq!(self.sandbox.guest.connect(address, port), None);
    }

    #[track_caller]
    fn no_name(&mut self, name: &str, kind: u16) {
        assert!(ask(self.sandbox, name, kind).is_nx_domain(), "{name}");
        assert_eq!(self.resolver.asked(), Vec::<String>::new());
    }

    /// A first segment the guest's own stack would not send, which is answered by a reset.
    #[track_caller]
    fn reset(&mut self, address: Ipv4Addr, port: u16) {
        self.sandbox.guest.watch();
        self.sandbox.guest.inject(&Crafted::syn(address, port).frame());
        self.sandbox.guest.until("a reset", |guest| {
            let is_reset = |frame: &Vec<u8>| frame[23] == 6 && frame[26..30] == address.octets();
            let answer = guest.seen().iter().find(|frame| is_reset(frame))?;
            assert_eq!(answer[47], 0x14, "RST and ACK");
            Some(())
        });
    }

    /// A datagram that nobody hears.
    #[track_caller]
    fn unheard(&mut self, address: Ipv4Addr, port: u16) {
        let handle = self.sandbox.guest.udp();
        self.sandbox.guest.send_to(handle, address, port, b"hello");
        assert_eq!(self.sandbox.guest.receive(handle, Duration::from_millis(50)), None);
    }

    /// A frame that nobody answers.
    #[track_caller]
    fn unanswered(&mut self, frame: &[u8]) {
        self.sandbox.guest.watch();
        self.sandbox.guest.inject(frame);
        // What comes next is answered, so that what came before was not.
        self.sandbox.guest.inject(&echo_request(GATEWAY_ADDRESS, b"answer"));
        self.sandbox.guest.until("an answer", |guest| {
            guest.seen().iter().any(|frame| frame.ends_with(b"answer")).then_some(())
        });
        assert_eq!(self.sandbox.guest.seen().len(), 1);
    }
}

fn anywhere() -> Policy {
    policy("default", &["*", "0.0.0.0/0", "127.0.0.1", "169.254.169.254", "*.test"], &[])
}

fn one_site() -> Policy {
    policy("none", &["site.test"], &[])
}

fn escapes() -> Vec<Escape> {
    let escape = |name, attempt, reason| Escape { name, policy: anywhere(), attempt, reason };
    let strict = |name, attempt, reason| Escape { name, policy: one_site(), attempt, reason };
    vec![
        escape("another sandbox", |it| it.refused(Ipv4Addr::new(10, 107, 0, 6), 80), "a private"),
        escape("itself by way of the host", |it| it.reset(GUEST_ADDRESS, 22), "a private"),
        escape("the host's loopback", |it| it.refused(it.secret.0, it.secret.1), "a loopback"),
        escape("the node's API", |it| it.refused(Ipv4Addr::LOCALHOST, 7878), "a loopback"),
        escape("the host by the gateway", |it| it.refused(GATEWAY_ADDRESS, 7878), "gateway:"),
        escape("the host by UDP", |it| it.unheard(it.secret.0, it.secret.1), "a loopback"),
        escape(
            "the host by 0.0.0.0",
            |it| {
                it.unanswered(&Crafted::udp(Ipv4Addr::UNSPECIFIED, it.secret.1, b"x").frame());
            },
            "no address of a host",
        ),
        escape("metadata", |it| it.refused(Ipv4Addr::new(169, 254, 169, 254), 80), "metadata"),
        escape("metadata of another", |it| it.refused([168, 63, 129, 16].into(), 80), "metadata"),
        escape("a private network", |it| it.refused([192, 168, 0, 1].into(), 80), "a private"),
        escape("a provider's network", |it| it.refused([100, 64, 0, 1].into(), 80), "provider"),
        escape("multicast", |it| it.unheard([239, 255, 255, 250].into(), 1900), "to nobody"),
        escape(
            "multicast by way of the gateway",
            |it| {
                it.unanswered(&Crafted::udp([239, 255, 255, 250].into(), 1900, b"x").frame());
            },
            "multicast",
        ),
        escape(
            "broadcast",
            |it| {
                it.unanswered(&Crafted::udp(Ipv4Addr::BROADCAST, 67, b"x").frame());
            },
            "a reserved",
        ),
        escape(
            "an echo to the host",
            |it| {
                it.unanswered(&echo_request(Ipv4Addr::LOCALHOST, b"x"));
            },
            "a loopback",
        ),
        strict("a raw address around a domain rule", |it| it.refused(SITE, it.site), "base none"),
        strict("a name outside of the policy", |it| it.no_name("secret.evil.test", 1), "base none"),
        strict(
            "long labels of such a name",
            |it| {
                it.no_name(&format!("{0}.{0}.{0}.evil.test", "a".repeat(60)), 1);
            },
            "base none",
        ),
        strict("text records of such a name", |it| it.no_name("x.evil.test", 16), "base none"),
        strict("a name below the one allowed", |it| it.no_name("x.site.test", 1), "base none"),
        escape(
            "an answer that points inside",
            |it| {
                let answer = ask(it.sandbox, "rebind.test", 1);
                assert_eq!(answer.addresses, [SITE], "the rest of it stays");
                it.refused(Ipv4Addr::new(10, 0, 0, 1), 80);
            },
            "a private",
        ),
        escape(
            "an answer that points at the host",
            |it| {
                assert!(ask(it.sandbox, "loop.test", 1).is_empty());
            },
            "a loopback",
        ),
        escape("another resolver by UDP", |it| it.unheard(SITE, 53), "another resolver"),
        escape("another resolver by TCP", |it| it.refused(SITE, 53), "another resolver"),
        escape("a resolver over TLS", |it| it.refused(SITE, 853), "another resolver"),
        escape("a resolver over HTTPS", |it| it.refused([1, 1, 1, 1].into(), 443), "another"),
        escape("a resolver over QUIC", |it| it.unheard([8, 8, 8, 8].into(), 443), "another"),
        escape("the name of one", |it| it.no_name("dns.google", 1), "another resolver"),
        escape("a name below one", |it| it.no_name("x.dns.nextdns.io", 1), "another resolver"),
        escape(
            "a source that is somebody else's",
            |it| {
                let mut syn = Crafted::syn(SITE, it.site);
                syn.from = Ipv4Addr::new(10, 107, 0, 3);
                it.unanswered(&syn.frame());
            },
            "not the sandbox's",
        ),
        escape(
            "a card that is somebody else's",
            |it| {
                let mut syn = Crafted::syn(SITE, it.site);
                syn.from_mac[5] ^= 1;
                it.unanswered(&syn.frame());
            },
            "not the sandbox's",
        ),
        escape(
            "a frame for somebody else",
            |it| {
                let mut syn = Crafted::syn(SITE, it.site);
                syn.to_mac = [0xff; 6];
                it.unanswered(&syn.frame());
            },
            "to nobody on this link",
        ),
        escape(
            "IPv6",
            |it| {
                let mut syn = Crafted::syn(SITE, it.site);
                syn.ethertype = 0x86dd;
                it.unanswered(&syn.frame());
            },
            "not IPv4",
        ),
        escape(
            "IPv6 in IPv4",
            |it| {
                it.unanswered(&Crafted::new(SITE, 41, vec![0x60; 40]).frame());
            },
            "neither TCP",
        ),
        escape(
            "a frame in a frame",
            |it| {
                let mut syn = Crafted::syn(SITE, it.site);
                syn.ethertype = 0x8100;
                it.unanswered(&syn.frame());
            },
            "not IPv4",
        ),
        escape(
            "a fragment",
            |it| {
                let mut syn = Crafted::syn(SITE, it.site);
                syn.fragment = 0x2000;
                it.unanswered(&syn.frame());
            },
            "a fragment",
        ),
        escape(
            "a frame that is too long",
            |it| {
                it.unanswered(&vec![0; NET_FRAME_BYTES_MAX + 1]);
            },
            "too long",
        ),
        escape(
            "a frame that is cut",
            |it| {
                it.unanswered(&Crafted::syn(SITE, it.site).frame()[..40]);
            },
            "malformed",
        ),
    ]
}

#[test]
fn there_is_no_way_out_but_the_policys() {
    let (secret, secret_udp) = both(Ipv4Addr::LOCALHOST);
    secret.set_nonblocking(true).unwrap();
    let secret_at = secret.local_addr().unwrap();
    secret_udp.set_nonblocking(true).unwrap();
    let (heard, hears) = std::sync::mpsc::channel();
    let site = serve(SITE, move |_| heard.send(()).unwrap());
    let inside = vec![Ipv4Addr::new(10, 0, 0, 1), SITE, Ipv4Addr::new(169, 254, 169, 254)];
    for escape in escapes() {
        let resolver = Resolver::new(&[
            ("site.test", Has::Addresses(vec![SITE])),
            ("rebind.test", Has::Addresses(inside.clone())),
            ("loop.test", Has::Addresses(vec![Ipv4Addr::LOCALHOST])),
            ("secret.evil.test", Has::Addresses(vec![SITE])),
        ]);
        let mut world = World::with(settings(Some(resolver.address)));
        let mut sandbox = world.sandbox(escape.policy);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            (escape.attempt)(&mut Attempt {
                sandbox: &mut sandbox,
                resolver: &resolver,
                secret: (Ipv4Addr::LOCALHOST, secret_at.port()),
                site,
            });
        }));
        assert!(caught.is_ok(), "{} is a way out, or fails otherwise", escape.name);
        let flow = world.told.denied(escape.reason);
        assert_eq!((flow.verdict, flow.bytes_up), (Verdict::Denied, 0), "{}", escape.name);
        assert!(hears.try_recv().is_err(), "{} reached the site", escape.name);
        assert!(secret.accept().is_err(), "{} reached the host", escape.name);
        assert!(secret_udp.recv(&mut [0; 16]).is_err(), "{} reached the host", escape.name);
    }
}

#[test]
fn a_denial_is_heard_at_once_and_told_once() {
    let mut world = World::new();
    let mut sandbox = world.sandbox(policy("none", &[], &[]));
    for _ in 0..20 {
        assert_eq!(sandbox.guest.connect(SITE, 80), None);
    }
    drop(sandbox);
    let flow = world.told.denied("base none");
    assert_eq!((flow.address, flow.port), (Some(SITE), Some(80)));
    let told: Vec<_> = world.told.all();
    assert_eq!(told.iter().map(|flow| flow.count).sum::<u64>(), 20);
    assert!(told.len() < 10, "{told:?}");
}

#[test]
fn flows_have_a_rate() {
    let mut slow = settings(None);
    slow.flows_per_second = 5;
    let mut world = World::with(slow);
    let mut sandbox = world.sandbox(policy("default", &[], &[]));
    let port = echo_server(SITE);
    let handle = sandbox.guest.udp();
    for port in 1..200 {
        sandbox.guest.send_to(handle, SITE, port, b"scan");
    }
    let flow = world.told.denied("limit: new flows in a second");
    assert!(flow.count >= 1);
    // It is late, but it comes.
    let handle = sandbox.guest.connect(SITE, port).unwrap();
    sandbox.guest.write(handle, b"hello");
    assert_eq!(sandbox.guest.read(handle, 5), b"hello");
}

#[test]
fn a_flood_does_not_stop_a_neighbour() {
    let mut world = World::new();
    let mut quiet = world.sandbox(policy("default", &[], &[]));
    let port = echo_server(SITE);
    let handle = quiet.guest.connect(SITE, port).unwrap();
    // More of them than the runtime has threads, so that each has to give way.
    let over = Arc::new(AtomicBool::new(false));
    let floods: Vec<_> = (0..4)
        .map(|kind| {
            let sandbox = world.sandbox(policy("none", &[], &[]));
            let (over, sent) = (over.clone(), Arc::new(AtomicU64::new(0)));
            let count = sent.clone();
            let thread = thread::spawn(move || {
                // All of it, or its network would end here.
                let sandbox = sandbox;
                let frame = match kind {
                    0 => Crafted::syn(SITE, 80).frame(),
                    1 => Crafted::udp(GATEWAY_ADDRESS, 53, &[0; 30]).frame(),
                    2 => echo_request(GATEWAY_ADDRESS, &[0; 8000]),
                    _ => vec![0xff; 1000],
                };
                while !over.load(Ordering::Relaxed) {
                    sandbox.guest.inject(&frame);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
            (thread, sent)
        })
        .collect();
    // While all of them flood, this one makes its round trips.
    let mut rounds = 0_u32;
    while rounds < 200 || floods.iter().any(|(_, sent)| sent.load(Ordering::Relaxed) < 5000) {
        quiet.guest.write(handle, &rounds.to_be_bytes());
        assert_eq!(quiet.guest.read(handle, 4), rounds.to_be_bytes());
        rounds += 1;
    }
    over.store(true, Ordering::Relaxed);
    for (flood, _) in floods {
        flood.join().unwrap();
    }
}
