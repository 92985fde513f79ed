use std::net::Ipv4Addr;

use api_node::{Base, Cidr, DomainName, Policy, Ports, Protocol, Rule, Target};
use proptest::prelude::*;

use super::*;

fn rules(texts: &[&str]) -> Vec<Rule> {
    texts.iter().filter(|text| !text.is_empty()).map(|text| text.parse().unwrap()).collect()
}

/// What is said of `[name=]address[:port[/udp]]`; without a port it is an echo request.
fn said(base: Base, allow: &str, deny: &str, to: &str) -> String {
    let (name, to) = match to.split_once('=') {
        Some((name, to)) => (Some(name.parse().unwrap()), to),
        None => (None, to),
    };
    let (to, protocol) = match to.strip_suffix("/udp") {
        Some(to) => (to, Protocol::Udp),
        None => (to, Protocol::Tcp),
    };
    let (address, port) = match to.split_once(':') {
        Some((address, port)) => (address, Some((protocol, port.parse().unwrap()))),
        None => (to, None),
    };
    let policy = Policy { base, allow: rules(&[allow]), deny: rules(&[deny]) };
    let address = address.parse().unwrap();
    let is_host = address == Ipv4Addr::new(8, 0, 0, 1);
    let names: Vec<DomainName> = name.into_iter().collect();
    match judge(&policy, &[], &Destination { address, port, is_host }, &names) {
        Verdict::Allowed(reason) => format!("yes, {reason}"),
        Verdict::Denied(reason) => format!("no, {reason}"),
    }
}

#[test]
fn the_first_that_speaks_decides() {
    use Base::{Default, None};
    for (base, allow, deny, to, verdict) in [
        (Default, "", "", "93.184.1.1:80", "yes, base default"),
        (None, "", "", "93.184.1.1:80", "no, base none"),
        (None, "*", "", "93.184.1.1:80", "yes, allow *"),
        (None, "*:80", "", "93.184.1.1:80", "yes, allow *:80"),
        (None, "*:80", "", "93.184.1.1:81", "no, base none"),
        (None, "*:80", "", "93.184.1.1", "no, base none"),
        (None, "*/udp", "", "93.184.1.1:80", "no, base none"),
        (None, "*/udp", "", "93.184.1.1:80/udp", "yes, allow */udp"),
        (None, "93.184.0.0/16", "", "93.184.1.1:1", "yes, allow 93.184.0.0/16"),
        (None, "93.184.0.0/16", "", "93.184.1.1", "yes, allow 93.184.0.0/16"),
        (None, "93.184.0.0/16", "", "93.185.1.1:1", "no, base none"),
        (None, "a.b", "", "93.184.1.1:1", "no, base none"),
        (None, "a.b", "", "a.b=93.184.1.1:1", "yes, allow a.b"),
        (None, "a.b", "", "x.a.b=93.184.1.1:1", "no, base none"),
        (None, "*.a.b", "", "x.a.b=93.184.1.1:1", "yes, allow *.a.b"),
        (None, "*.a.b", "", "a.b=93.184.1.1:1", "no, base none"),
        (Default, "*", "*:25", "93.184.1.1:25", "no, deny *:25"),
        (Default, "a.b", "93.184.1.1", "a.b=93.184.1.1:1", "no, deny 93.184.1.1"),
        (Default, "", "a.b:80", "a.b=93.184.1.1:80", "no, deny a.b:80"),
        (Default, "", "a.b:80", "a.b=93.184.1.1:81", "yes, base default"),
        (Default, "*", "", "127.0.0.1:80", "no, never: a loopback address"),
        (Default, "10.1.2.3", "", "10.1.2.3:80", "no, never: a private address"),
        (Default, "*", "", "172.31.255.255:1", "no, never: a private address"),
        (Default, "*", "", "172.32.0.0:1", "yes, allow *"),
        (Default, "*", "", "169.254.169.254:80", "no, never: a link-local or metadata address"),
        (Default, "*", "", "100.127.0.1:1", "no, never: an address of a provider's own network"),
        (Default, "*", "", "100.128.0.1:1", "yes, allow *"),
        (Default, "*", "", "223.255.255.255:1", "yes, allow *"),
        (Default, "*", "", "224.0.0.1:1", "no, never: a multicast address"),
        (Default, "*", "", "255.255.255.255:1/udp", "no, never: a reserved address"),
        (Default, "*", "", "0.0.0.0:1", "no, never: no address of a host"),
        (Default, "*", "", "8.0.0.1:1", "no, never: an address of the host"),
        (Default, "*", "", "93.184.1.1:53", "no, never: another resolver"),
        (Default, "*", "", "93.184.1.1:53/udp", "no, never: another resolver"),
        (Default, "*", "", "93.184.1.1:853", "no, never: another resolver"),
        (Default, "*", "", "8.8.8.8:443", "no, never: another resolver"),
        (Default, "*", "", "8.8.8.8:80", "yes, allow *"),
        (Default, "*", "", "dns.google=93.184.1.1:443", "no, never: another resolver"),
        (Default, "*", "", "mydns.google=93.184.1.1:443", "yes, allow *"),
    ] {
        assert_eq!(said(base, allow, deny, to), verdict, "{base:?} +{allow} -{deny} {to}");
    }
}

#[test]
fn a_name_is_answered_if_anything_of_it_may_be_reached() {
    for (base, allow, deny, name, answered) in [
        (Base::Default, "", "", "a.b", true),
        (Base::None, "", "", "a.b", false),
        (Base::None, "a.b:443", "", "a.b", true),
        (Base::None, "*", "", "a.b", true),
        (Base::None, "93.184.1.1", "", "a.b", false),
        (Base::Default, "", "a.b", "a.b", false),
        (Base::Default, "", "a.b:25", "a.b", true),
        (Base::Default, "", "*.b", "a.b", false),
        (Base::Default, "a.b", "*", "a.b", false),
        (Base::Default, "*", "", "cloudflare-dns.com", false),
    ] {
        let policy = Policy { base, allow: rules(&[allow]), deny: rules(&[deny]) };
        let verdict = judge_name(&policy, &name.parse().unwrap());
        assert_eq!(verdict.is_allowed(), answered, "{base:?} +{allow} -{deny} {name}");
    }
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let cidr = (any::<u32>(), 0..=32_u8).prop_map(|(first, bits)| {
        let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
        Cidr::new(Ipv4Addr::from_bits(first & mask), bits).unwrap()
    });
    let name = prop_oneof![Just("a.b"), Just("b"), Just("x.a.b")];
    let name = name.prop_map(|name| name.parse::<DomainName>().unwrap());
    let target = prop_oneof![
        Just(Target::Any),
        name.clone().prop_map(Target::Domain),
        name.prop_map(Target::Below),
        cidr.prop_map(Target::Network),
    ];
    let ports = proptest::option::of((1..=u16::MAX).prop_map(|port| Ports::new(port, u16::MAX)));
    let protocol = prop_oneof![Just(None), Just(Some(Protocol::Tcp)), Just(Some(Protocol::Udp))];
    let rule = (target, ports.prop_map(Option::flatten), protocol)
        .prop_map(|(target, ports, protocol)| Rule { target, ports, protocol });
    let list = proptest::collection::vec(rule, 0..6);
    let base = prop_oneof![Just(Base::None), Just(Base::Default)];
    (base, list.clone(), list).prop_map(|(base, allow, deny)| Policy { base, allow, deny })
}

fn any_destination() -> impl Strategy<Value = (Destination, Vec<DomainName>)> {
    let never = NEVER.iter().map(|(first, bits, _)| (first.to_bits(), *bits)).collect::<Vec<_>>();
    let inside = (proptest::sample::select(never), any::<u32>())
        .prop_map(|((first, bits), rest)| first | rest.checked_shr(bits).unwrap_or(0));
    let address = prop_oneof![inside, any::<u32>()].prop_map(Ipv4Addr::from_bits);
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    let port = proptest::option::of((protocol, 1..=u16::MAX));
    let names = proptest::sample::subsequence(vec!["a.b", "b", "x.a.b"], 0..=3);
    (address, port, any::<bool>(), names).prop_map(|(address, port, is_host, names)| {
        let names = names.into_iter().map(|name| name.parse().unwrap()).collect();
        (Destination { address, port, is_host }, names)
    })
}

proptest! {
    #[test]
    fn no_policy_reaches_what_is_never_reached(
        policy in any_policy(),
        (to, names) in any_destination(),
        vouched in any::<u32>(),
    ) {
        let vouched = Cidr::new(Ipv4Addr::from_bits(vouched & 0xffff_0000), 16).unwrap();
        let verdict = judge(&policy, &[vouched], &to, &names);
        if never(to.address, to.is_host).is_some() && !vouched.contains(to.address) {
            prop_assert!(!verdict.is_allowed());
        }
        if to.port.is_some_and(|(_, port)| port == 53) {
            prop_assert_eq!(verdict, Verdict::Denied(Reason::Resolver));
        }
    }

    #[test]
    fn vouching_opens_only_what_the_policy_does(
        policy in any_policy(),
        (to, names) in any_destination(),
    ) {
        let all = Cidr::new(Ipv4Addr::UNSPECIFIED, 0).unwrap();
        let outside = Destination { address: Ipv4Addr::new(93, 184, 1, 1), is_host: false, ..to };
        let plain = Policy {
            allow: policy.allow.iter().filter(|it| !matches!(it.target, Target::Network(_))).cloned().collect(),
            deny: policy.deny.iter().filter(|it| !matches!(it.target, Target::Network(_))).cloned().collect(),
            ..policy
        };
        // Where no rule speaks of addresses, one that is vouched for is like any other.
        prop_assume!(!resolvers::is_address(to.address, to.port));
        prop_assert_eq!(judge(&plain, &[all], &to, &names), judge(&plain, &[], &outside, &names));
    }

    #[test]
    fn a_denial_beats_whatever_is_allowed(
        policy in any_policy(),
        more in any_policy(),
        (to, names) in any_destination(),
    ) {
        let denied = |policy: &Policy| !judge(policy, &[], &to, &names).is_allowed();
        let mut stricter = policy.clone();
        stricter.deny.extend(more.deny.clone());
        prop_assert!(!denied(&policy) || denied(&stricter));
        let by_rule = |policy: &Policy| {
            matches!(judge(policy, &[], &to, &names), Verdict::Denied(Reason::Deny(_)))
        };
        let mut wider = policy.clone();
        wider.allow.extend(more.allow);
        wider.base = Base::Default;
        prop_assert!(!by_rule(&policy) || by_rule(&wider));
    }
}
