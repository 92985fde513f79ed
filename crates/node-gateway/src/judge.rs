//! What a policy says. Pure: what is asked is all there is, and the same question has the same answer.
//!
//! ```text
//!   other resolvers ─▶ never, unless allowed for by the operator ─▶ deny ─▶ allow ─▶ base
//! ```
//! The first that speaks decides. So no policy opens what is never reached.

use std::fmt;
use std::net::Ipv4Addr;

use api_node::{Base, Cidr, DomainName, Policy, Protocol, Rule, Target};

use crate::resolvers;

/// Where a flow goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The address.
    pub address: Ipv4Addr,
    /// How and at which port; `None` is an echo request.
    pub port: Option<(Protocol, u16)>,
    /// Whether the address is one of the host's own.
    pub is_host: bool,
}

/// Whether something is let out, and because of what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Allowed(Reason),
    /// It is not.
    Denied(Reason),
}

/// What decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// An address that is never reached, and what it is.
    Never(&'static str),
    /// Names are the gateway's to resolve.
    Resolver,
    /// A rule that denies.
    Deny(Rule),
    /// A rule that allows.
    Allow(Rule),
    /// What holds where no rule does.
    Base(Base),
    /// The gateway itself, or what it put there for this sandbox.
    Gateway(&'static str),
    /// A limit of the sandbox, by its name.
    Limit(&'static str),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never(what) => write!(f, "never: {what}"),
            Self::Resolver => f.write_str("never: another resolver"),
            Self::Deny(rule) => write!(f, "deny {rule}"),
            Self::Allow(rule) => write!(f, "allow {rule}"),
            Self::Base(Base::None) => f.write_str("base none"),
            Self::Base(Base::Default) => f.write_str("base default"),
            Self::Gateway(what) => write!(f, "gateway: {what}"),
            Self::Limit(what) => write!(f, "limit: {what}"),
        }
    }
}

impl Verdict {
    /// Whether it is let out.
    pub const fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }
}

/// Judges a flow. `names` are those whose answers gave the address.
pub fn judge(
    policy: &Policy,
    allowance: &[Cidr],
    to: &Destination,
    names: &[DomainName],
) -> Verdict {
    if resolvers::is_port(to.port) || resolvers::is_address(to.address, to.port) {
        return Verdict::Denied(Reason::Resolver);
    }
    if names.iter().any(resolvers::is_name) {
        return Verdict::Denied(Reason::Resolver);
    }
    if let Some(what) = never(to.address, to.is_host)
        && !allowance.iter().any(|network| network.contains(to.address))
    {
        return Verdict::Denied(Reason::Never(what));
    }
    let applies = |rule: &&Rule| {
        let there = match &rule.target {
            Target::Any => true,
            Target::Network(network) => network.contains(to.address),
            Target::Domain(_) | Target::Below(_) => names.iter().any(|name| points_at(rule, name)),
        };
        there
            && match to.port {
                Some((protocol, port)) => {
                    rule.protocol.is_none_or(|it| it == protocol)
                        && rule.ports.is_none_or(|ports| ports.contains(port))
                }
                None => rule.protocol.is_none() && rule.ports.is_none(),
            }
    };
    by_rules(policy, applies, applies)
}

/// Judges a question for a name. It is answered if anything of the name may be reached.
pub fn judge_name(policy: &Policy, name: &DomainName) -> Verdict {
    if resolvers::is_name(name) {
        return Verdict::Denied(Reason::Resolver);
    }
    let whole = |rule: &&Rule| rule.ports.is_none() && rule.protocol.is_none();
    by_rules(policy, |rule| whole(rule) && points_at(rule, name), |rule| points_at(rule, name))
}

fn by_rules(
    policy: &Policy,
    denies: impl Fn(&&Rule) -> bool,
    allows: impl Fn(&&Rule) -> bool,
) -> Verdict {
    if let Some(rule) = policy.deny.iter().find(denies) {
        return Verdict::Denied(Reason::Deny(rule.clone()));
    }
    if let Some(rule) = policy.allow.iter().find(allows) {
        return Verdict::Allowed(Reason::Allow(rule.clone()));
    }
    match policy.base {
        Base::None => Verdict::Denied(Reason::Base(Base::None)),
        Base::Default => Verdict::Allowed(Reason::Base(Base::Default)),
    }
}

fn points_at(rule: &Rule, name: &DomainName) -> bool {
    match &rule.target {
        Target::Any => true,
        Target::Domain(domain) => domain == name,
        Target::Below(parent) => name.is_below(parent),
        Target::Network(_) => false,
    }
}

/// Networks nobody behind the gateway has business with: those of this host and its neighbours, and
/// those no host on the internet has (IANA's special-purpose addresses).
const NEVER: &[(Ipv4Addr, u32, &str)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8, "no address of a host"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "a private address"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "an address of a provider's own network"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "a loopback address"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "a link-local or metadata address"),
    (Ipv4Addr::new(168, 63, 129, 16), 32, "a metadata address"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "a private address"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "a reserved address"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "a reserved address"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "a reserved address"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "a private address"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "a reserved address"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "a reserved address"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "a reserved address"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "a multicast address"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "a reserved address"),
];

/// What an address is, if it is never reached.
pub fn never(address: Ipv4Addr, is_host: bool) -> Option<&'static str> {
    let within = |(first, bits, _): &&(Ipv4Addr, u32, &str)| {
        let rest = 32_u32.saturating_sub(*bits);
        address.to_bits().checked_shr(rest) == first.to_bits().checked_shr(rest)
    };
    let network = NEVER.iter().find(within).map(|(_, _, what)| *what);
    network.or(is_host.then_some("an address of the host"))
}

#[cfg(test)]
mod test;
