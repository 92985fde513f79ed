use std::io::Read;
use std::net::Ipv4Addr;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use api_node::Verdict;
use smoltcp::socket::tcp::State;

use crate::dns::ask;
use crate::world::{Has, Resolver, SITE, World, echo_server, policy, serve, settings};

#[test]
fn a_policy_says_where_a_sandbox_may_go() {
    let resolver = Resolver::new(&[
        ("site.test", Has::Addresses(vec![SITE])),
        ("other.test", Has::Addresses(vec![Ipv4Addr::new(127, 77, 0, 3)])),
    ]);
    let mut world = World::with(settings(Some(resolver.address)));
    let port = echo_server(SITE);
    let at_port = |rule: &str| rule.replace("PORT", &port.to_string());
    for (base, allow, deny, resolves, reaches) in [
        ("default", "", "", true, true),
        ("none", "", "", false, false),
        ("none", "*", "", true, true),
        ("none", "site.test", "", true, true),
        ("none", "site.test:PORT/tcp", "", true, true),
        ("none", "site.test:PORT/udp", "", true, false),
        ("none", "site.test:1", "", true, false),
        ("none", "*.test", "", true, true),
        ("none", "*.site.test", "", false, false),
        ("none", "other.test", "", false, false),
        ("none", "127.77.0.0/24:PORT", "", false, true),
        ("none", "127.77.1.0/24", "", false, false),
        ("default", "", "site.test", false, true),
        ("default", "", "site.test:PORT", true, false),
        ("default", "", "127.77.0.2", true, false),
        ("default", "site.test", "*", false, false),
        ("default", "", "*:1-2/udp", true, true),
    ] {
        let (allow, deny) = (at_port(allow), at_port(deny));
        let list = |rule: &str| if rule.is_empty() { vec![] } else { vec![rule.to_owned()] };
        let (allows, denies) = (list(&allow), list(&deny));
        let allows: Vec<&str> = allows.iter().map(String::as_str).collect();
        let denies: Vec<&str> = denies.iter().map(String::as_str).collect();
        let mut sandbox = world.sandbox(policy(base, &allows, &denies));
        let case = format!("{base} +{allow} -{deny}");
        let answer = ask(&mut sandbox, "site.test", 1);
        assert_eq!(answer.addresses == [SITE], resolves, "{case}");
        assert_eq!(sandbox.guest.connect(SITE, port).is_some(), reaches, "{case}");
    }
}

#[test]
fn a_policy_that_changes_cuts_what_is_under_way() {
    let resolver = Resolver::new(&[("site.test", Has::Addresses(vec![SITE]))]);
    let mut world = World::with(settings(Some(resolver.address)));
    let mut sandbox = world.sandbox(policy("default", &[], &[]));
    let (tx, rx) = mpsc::sync_channel(1);
    let cut = serve(SITE, move |mut stream| {
        tx.send(stream.read_to_end(&mut Vec::new()).map_err(|error| error.kind())).unwrap();
    });
    let kept = echo_server(SITE);
    ask(&mut sandbox, "site.test", 1);
    let (one, other) =
        (sandbox.guest.connect(SITE, cut).unwrap(), sandbox.guest.connect(SITE, kept).unwrap());
    sandbox.guest.write(one, b"123");
    sandbox
        .guest
        .until("an acknowledgement", |guest| (guest.tcp(one).send_queue() == 0).then_some(()));
    let rule = format!("site.test:{kept}");
    sandbox.policy.send_replace(Arc::new(policy("none", &[&rule], &[])));
    sandbox.guest.until("a reset", |it| (it.tcp(one).state() == State::Closed).then_some(()));
    assert_eq!(
        rx.recv_timeout(Duration::from_secs(10)).unwrap(),
        Err(std::io::ErrorKind::ConnectionReset)
    );
    // By its name, which it had when it began.
    sandbox.guest.write(other, b"still here");
    assert_eq!(sandbox.guest.read(other, 10), b"still here");
    assert_eq!(sandbox.guest.connect(SITE, cut), None);
    let flow = world.told.find("end", |it| it.port == Some(cut) && it.bytes_up == 3);
    assert_eq!((flow.verdict, flow.reason.as_str()), (Verdict::Denied, "base none"));
    // And back: what is set holds for the next packet.
    sandbox.policy.send_replace(Arc::new(policy("default", &[], &[])));
    assert!(sandbox.guest.connect(SITE, cut).is_some());
}

#[test]
fn a_policy_outlives_whoever_could_change_it() {
    let mut world = World::new();
    let mut sandbox = world.sandbox(policy("default", &[], &[]));
    let (gone, _) = tokio::sync::watch::channel(Arc::new(policy("none", &[], &[])));
    drop(std::mem::replace(&mut sandbox.policy, gone));
    let handle = sandbox.guest.connect(SITE, echo_server(SITE)).unwrap();
    sandbox.guest.write(handle, b"hello");
    assert_eq!(sandbox.guest.read(handle, 5), b"hello");
}
