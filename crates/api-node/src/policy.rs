//! What a sandbox may reach: its network policy.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::check::{Check, Refused, refuse};

/// LIMIT: rules of one policy, allowing and denying together; every new flow is held against all.
pub const POLICY_RULES_MAX: usize = 256;
/// LIMIT: bytes of one rule; the longest name DNS has, and what may stand around it.
pub const POLICY_RULE_BYTES_MAX: usize = 300;
/// LIMIT: bytes of a name without the dot at its end, and of one of its labels (RFC 1035).
const DOMAIN_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// What a sandbox may reach. Addresses that are never reached come first: of the host, loopback,
/// private, link-local, metadata, multicast and reserved ones. Then `deny`, then `allow`, then `base`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// What holds where no rule does. Default: `default`.
    #[serde(default)]
    pub base: Base,
    /// What is reached whatever `base` says: `[domain | *.domain | address | CIDR | *]`, then
    /// `[:port[-port]]`, then `[/tcp | /udp]`. `*.domain` is every name below it, but not itself.
    #[serde(default)]
    #[cfg_attr(feature = "server", schema(value_type = Vec<String>, example = json!(["pypi.org", "*.pythonhosted.org:443"])))]
    pub allow: Vec<Rule>,
    /// What is not reached whatever `allow` and `base` say, in the same form.
    #[serde(default)]
    #[cfg_attr(feature = "server", schema(value_type = Vec<String>, example = json!(["203.0.113.0/24:8000-8090/tcp"])))]
    pub deny: Vec<Rule>,
}

/// What holds where no rule does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Base {
    /// Nothing is reached.
    None,
    /// The internet is.
    #[default]
    Default,
}

impl Base {
    /// The base as it is written in a request.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Default => "default",
        }
    }
}

impl Policy {
    /// One line about it, however many rules it has: `base none, 3 allowed, 1 denied`.
    pub fn summary(&self) -> String {
        let Self { base, allow, deny } = self;
        format!("base {}, {} allowed, {} denied", base.as_str(), allow.len(), deny.len())
    }
}

impl Check for Policy {
    fn check(&self) -> Result<(), Refused> {
        let rules = self.allow.len().saturating_add(self.deny.len());
        if rules > POLICY_RULES_MAX {
            return refuse(format!(
                "`allow` and `deny` have {rules} rules; at most {POLICY_RULES_MAX} are allowed"
            ));
        }
        Ok(())
    }
}

/// One rule: where to, at which ports, how. What is not said is any.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Where to.
    pub target: Target,
    /// At which ports.
    pub ports: Option<Ports>,
    /// How.
    pub protocol: Option<Protocol>,
}

/// Where a rule points.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Anywhere.
    Any,
    /// The addresses of one name.
    Domain(DomainName),
    /// The addresses of every name below this one, but not its own.
    Below(DomainName),
    /// Addresses.
    Network(Cidr),
}

/// What carries ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Ports next to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    // INVARIANT: `1 <= first <= last`.
    first: u16,
    last: u16,
}

/// A name of DNS, in small letters, without a dot at its end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomainName(String);

/// IPv4 addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    // INVARIANT: `bits <= 32`, and no bit of `first` after them is set.
    first: Ipv4Addr,
    bits: u8,
}

/// A text that is no rule, or no part of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` {problem}", .text.escape_debug())]
pub struct ParseRuleError {
    /// The part that is wrong, cut to 64 characters.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

pub(crate) fn wrong<T>(text: &str, problem: &'static str) -> Result<T, ParseRuleError> {
    Err(ParseRuleError { text: text.chars().take(64).collect(), problem })
}

impl Ports {
    /// One port, or several next to each other. `None` for port 0, and for an end before the beginning.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (1 <= first && first <= last).then_some(Self { first, last })
    }

    /// The port, when there is one only.
    pub fn only(self) -> Option<u16> {
        (self.first == self.last).then_some(self.first)
    }

    /// Whether this port is one of them.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl DomainName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it lies below another, however deep; not when it is the other.
    pub fn is_below(&self, parent: &Self) -> bool {
        self.0.strip_suffix(&parent.0).is_some_and(|rest| rest.ends_with('.'))
    }
}

impl Cidr {
    /// The addresses whose first bits are those of `first`. `None` when there are no so many bits, or
    /// `first` is not the first of them.
    pub fn new(first: Ipv4Addr, bits: u8) -> Option<Self> {
        let rest = u32::MAX.checked_shr(bits.into()).unwrap_or(0);
        (bits <= 32 && first.to_bits() & rest == 0).then_some(Self { first, bits })
    }

    /// Whether this address is one of them.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        let rest = u32::MAX.checked_shr(self.bits.into()).unwrap_or(0);
        address.to_bits() & !rest == self.first.to_bits()
    }
}

impl FromStr for Rule {
    type Err = ParseRuleError;

    fn from_str(text: &str) -> Result<Self, ParseRuleError> {
        if text.len() > POLICY_RULE_BYTES_MAX {
            return wrong(text, "is longer than the 300 bytes a rule may have");
        }
        let (rest, protocol) = match text.rsplit_once('/') {
            Some((rest, "tcp")) => (rest, Some(Protocol::Tcp)),
            Some((rest, "udp")) => (rest, Some(Protocol::Udp)),
            _ => (text, None),
        };
        let (target, ports) = match rest.split_once(':') {
            Some((target, ports)) => (target, Some(ports.parse()?)),
            None => (rest, None),
        };
        Ok(Self { target: target.parse()?, ports, protocol })
    }
}

impl FromStr for Target {
    type Err = ParseRuleError;

    fn from_str(text: &str) -> Result<Self, ParseRuleError> {
        let numbers = |c: char| c.is_ascii_digit() || c == '.';
        if text == "*" {
            Ok(Self::Any)
        } else if let Some(parent) = text.strip_prefix("*.") {
            parent.parse().map(Self::Below)
        } else if text.contains('/') || (!text.is_empty() && text.chars().all(numbers)) {
            text.parse().map(Self::Network)
        } else {
            text.parse().map(Self::Domain)
        }
    }
}

impl FromStr for Ports {
    type Err = ParseRuleError;

    fn from_str(text: &str) -> Result<Self, ParseRuleError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let ports = number(first).zip(number(last));
        match ports.and_then(|(first, last)| Self::new(first, last)) {
            Some(ports) => Ok(ports),
            None => wrong(text, "is neither a port (1 to 65535) nor a range of them (8000-8090)"),
        }
    }
}

impl FromStr for DomainName {
    type Err = ParseRuleError;

    fn from_str(text: &str) -> Result<Self, ParseRuleError> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if !name.is_ascii() {
            return wrong(text, "is not written as DNS has it; names of other letters begin xn--");
        }
        let legal = |label: &str| {
            (1..=LABEL_BYTES_MAX).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        // What ends in a number is an address for some programs, and a name for others.
        let address =
            name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
        if name.len() > DOMAIN_BYTES_MAX || address || !name.split('.').all(legal) {
            return wrong(text, "is neither a domain, nor *.domain, an address, a CIDR or *");
        }
        Ok(Self(name.to_ascii_lowercase()))
    }
}

impl FromStr for Cidr {
    type Err = ParseRuleError;

    fn from_str(text: &str) -> Result<Self, ParseRuleError> {
        let (first, bits) = text.split_once('/').unwrap_or((text, "32"));
        let (Ok(first), Some(bits)) = (first.parse::<Ipv4Addr>(), number(bits)) else {
            return wrong(text, "is neither an IPv4 address nor a CIDR such as 203.0.113.0/24");
        };
        match u8::try_from(bits).ok().and_then(|bits| Self::new(first, bits)) {
            Some(network) => Ok(network),
            None => wrong(text, "has more bits than its CIDR keeps; write its first address"),
        }
    }
}

/// A number as it is usually written: no sign, no zeros before it.
pub(crate) fn number(digits: &str) -> Option<u16> {
    let usual = digits.bytes().all(|b| b.is_ascii_digit())
        && (digits.len() == 1 || !digits.starts_with('0'));
    if usual { digits.parse().ok() } else { None }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.target)?;
        if let Some(ports) = self.ports {
            write!(f, ":{ports}")?;
        }
        match self.protocol {
            Some(protocol) => write!(f, "/{protocol}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Domain(name) => write!(f, "{name}"),
            Self::Below(name) => write!(f, "*.{name}"),
            Self::Network(network) => write!(f, "{network}"),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { first, bits: 32 } => write!(f, "{first}"),
            Self { first, bits } => write!(f, "{first}/{bits}"),
        }
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    fn rules() -> impl Strategy<Value = Rule> {
        let name = "([a-z0-9_]([a-z0-9_-]{0,8}[a-z0-9_])?\\.){0,3}[a-z]([a-z0-9-]{0,8}[a-z])?";
        let name = name.prop_map(|name| name.parse::<DomainName>().unwrap());
        let network = (any::<u32>(), 0..=32_u8).prop_map(|(bits, kept)| {
            let mask = u32::MAX.checked_shl(32 - u32::from(kept)).unwrap_or(0);
            Cidr::new(Ipv4Addr::from_bits(bits & mask), kept).unwrap()
        });
        let target = prop_oneof![
            Just(Target::Any),
            name.clone().prop_map(Target::Domain),
            name.prop_map(Target::Below),
            network.prop_map(Target::Network),
        ];
        let ports = (1..=u16::MAX, 1..=u16::MAX);
        let ports = ports.prop_map(|(a, b)| Ports::new(a.min(b), a.max(b)).unwrap());
        let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
        (target, proptest::option::of(ports), proptest::option::of(protocol))
            .prop_map(|(target, ports, protocol)| Rule { target, ports, protocol })
    }

    proptest! {
        #[test]
        fn a_rule_survives_its_text(rule in rules()) {
            prop_assert_eq!(rule.to_string().parse(), Ok(rule.clone()));
            let json = serde_json::to_string(&rule).unwrap();
            prop_assert_eq!(serde_json::from_str::<Rule>(&json).unwrap(), rule);
        }

        #[test]
        fn what_is_taken_for_a_rule_has_one_text(text in "[*a-zA-Z0-9./:-]{0,24}(/tcp|/udp)?") {
            if let Ok(rule) = text.parse::<Rule>() {
                prop_assert_eq!(rule.to_string().parse(), Ok(rule));
            }
        }

        #[test]
        fn a_cidr_holds_what_shares_its_bits(first: u32, other: u32, bits in 0..=32_u8) {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            let network = Cidr::new(Ipv4Addr::from_bits(first & mask), bits).unwrap();
            let same = first & mask == other & mask;
            prop_assert_eq!(network.contains(Ipv4Addr::from_bits(other)), same);
        }
    }

    #[test]
    fn rules_are_written_many_ways() {
        for (text, shown) in [
            ("*", "*"),
            ("*:443/tcp", "*:443/tcp"),
            ("PyPI.org", "pypi.org"),
            ("pypi.org.", "pypi.org"),
            ("*.pythonhosted.org:443", "*.pythonhosted.org:443"),
            ("203.0.113.0/24:8000-8090", "203.0.113.0/24:8000-8090"),
            ("198.51.100.7/udp", "198.51.100.7/udp"),
            ("198.51.100.7/32:53-53", "198.51.100.7:53"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("_dmarc.example.com", "_dmarc.example.com"),
        ] {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        let long = format!("{}com", "a.".repeat(126));
        for text in [
            "",
            ":80",
            "/tcp",
            "*.",
            "*.*.com",
            "a*.com",
            ".com",
            "a..b",
            "-a.com",
            "a-.com",
            "a b.com",
            "pypi.org:0",
            "pypi.org:80-79",
            "pypi.org:65536",
            "pypi.org:",
            "pypi.org:+1",
            "pypi.org/sctp",
            "1.2.3",
            "1.2.3.4/33",
            "1.2.3.4/24",
            "1.2.3.0/024",
            "1.2.3.4.5",
            "a.1",
            "::1",
            "[::1]:80",
            "https://pypi.org",
            "bücher.example",
            &long,
        ] {
            assert!(text.parse::<Rule>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_rule_that_is_none_is_named_and_says_no_more_than_it_must() {
        let policy = r#"{"allow": ["pypi.org", "no rule\u001b"]}"#;
        let error = serde_json::from_str::<Policy>(policy).unwrap_err().to_string();
        assert!(error.starts_with("`no rule\\u{1b}` is neither"), "{error}");
    }

    #[test]
    fn a_policy_is_summed_up() {
        let policy: Policy = serde_json::from_str(r#"{"base": "none", "allow": ["*"]}"#).unwrap();
        assert_eq!(policy.summary(), "base none, 1 allowed, 0 denied");
    }

    #[test]
    fn a_name_is_below_its_parents_only() {
        let name = |text: &str| text.parse::<DomainName>().unwrap();
        assert!(name("a.b.pypi.org").is_below(&name("pypi.org")));
        assert!(!name("pypi.org").is_below(&name("pypi.org")));
        assert!(!name("notpypi.org").is_below(&name("pypi.org")));
    }

    #[test]
    fn a_policy_is_read_from_json() {
        let policy: Policy =
            serde_json::from_str(r#"{"base":"none","allow":["pypi.org"]}"#).unwrap();
        assert_eq!(policy.base, Base::None);
        assert_eq!(policy.allow, ["pypi.org".parse().unwrap()]);
        assert_eq!(serde_json::from_str::<Policy>("{}").unwrap(), Policy::default());
        assert!(serde_json::from_str::<Policy>(r#"{"alow":[]}"#).is_err());
        assert!(serde_json::from_str::<Policy>(r#"{"deny":["not a rule"]}"#).is_err());
    }

    #[test]
    fn a_policy_has_so_many_rules() {
        let rule: Rule = "*".parse().unwrap();
        let policy = |allow, deny| Policy {
            allow: vec![rule.clone(); allow],
            deny: vec![rule.clone(); deny],
            ..Policy::default()
        };
        assert_eq!(policy(POLICY_RULES_MAX - 1, 1).check(), Ok(()));
        assert!(policy(POLICY_RULES_MAX, 1).check().is_err());
    }
}
