//! Who may connect to a database from outside.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::check::{Check, Refused, refuse};
use crate::policy::{ParseRuleError, number, wrong};

/// LIMIT: networks of one rule; every connection is held against all of them, and the rule is one line of
/// the audit log.
pub const OUTSIDE_NETWORKS_MAX: usize = 32;
const OFF: &str = "off";
const LOOPBACK: &str = "loopback";

/// Who may connect to a database by the node's listener for databases: `off` (nobody), `loopback` (programs
/// of the node's own machine, the default), or a list of 1 to 32 networks, of IPv4 or IPv6, such as
/// `203.0.113.0/24`. Loopback is in no network but its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
pub enum Outside {
    /// Nobody.
    Off,
    /// Programs of the node's own machine.
    #[default]
    Loopback,
    /// Clients whose address is in one of these.
    Networks(Vec<ClientNetwork>),
}

/// Addresses of clients that begin with the same bits, of IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientNetwork {
    // INVARIANT: no address of IPv4 that is written as one of IPv6, and no bit after the first `bits` is
    // set, of which there are as many.
    first: IpAddr,
    bits: u8,
}

/// Another rule for a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetOutside {
    /// Who may connect.
    pub outside: Outside,
}

impl Check for SetOutside {
    fn check(&self) -> Result<(), Refused> {
        self.outside.check()
    }
}

impl Outside {
    /// Whether a client of this address may connect. One of IPv4 that comes as one of IPv6 is of IPv4.
    pub fn allows(&self, client: IpAddr) -> bool {
        match self {
            Self::Off => false,
            Self::Loopback => client.to_canonical().is_loopback(),
            Self::Networks(networks) => networks.iter().any(|network| network.contains(client)),
        }
    }
}

impl Check for Outside {
    fn check(&self) -> Result<(), Refused> {
        match self {
            Self::Networks(networks) if !(1..=OUTSIDE_NETWORKS_MAX).contains(&networks.len()) => {
                refuse(format!(
                    "`outside` has {} networks; 1 to {OUTSIDE_NETWORKS_MAX} are a rule, and `off` is \
                     for none",
                    networks.len()
                ))
            }
            _ => Ok(()),
        }
    }
}

impl ClientNetwork {
    /// Whether this address is one of them.
    pub fn contains(self, client: IpAddr) -> bool {
        let (first, client, all) = match (self.first, client.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(client)) => {
                (u128::from(first.to_bits()), u128::from(client.to_bits()), 32)
            }
            (IpAddr::V6(first), IpAddr::V6(client)) => (first.to_bits(), client.to_bits(), 128),
            _ => return false,
        };
        (first ^ client).checked_shr(all - u32::from(self.bits)).unwrap_or(0) == 0
    }
}

impl FromStr for ClientNetwork {
    type Err = ParseRuleError;

    fn from_str(text: &str) -> Result<Self, ParseRuleError> {
        let (first, bits) = match text.split_once('/') {
            Some((first, bits)) => (first, Some(bits)),
            None => (text, None),
        };
        let Ok(first) = first.parse::<IpAddr>() else {
            return wrong(text, "is neither an address nor a CIDR such as 203.0.113.0/24");
        };
        if first.to_canonical() != first {
            return wrong(text, "is an IPv4 address written as one of IPv6; write it as IPv4");
        }
        let (value, all) = match first {
            IpAddr::V4(first) => (u128::from(first.to_bits()), 32),
            IpAddr::V6(first) => (first.to_bits(), 128),
        };
        let bits = bits.map_or(Some(all), number).filter(|bits| *bits <= all);
        let Some((bits, rest)) = bits.map(|bits| (bits, u32::from(all - bits))) else {
            return wrong(text, "keeps more bits than its address has");
        };
        if value & !u128::MAX.checked_shl(rest).unwrap_or(0) != 0 {
            return wrong(text, "has more bits than its CIDR keeps; write its first address");
        }
        // Not above 128.
        Ok(Self { first, bits: u8::try_from(bits).unwrap_or(u8::MAX) })
    }
}

impl fmt::Display for ClientNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, bits } = self;
        match (first, bits) {
            (IpAddr::V4(_), 32) | (IpAddr::V6(_), 128) => write!(f, "{first}"),
            _ => write!(f, "{first}/{bits}"),
        }
    }
}

/// As one text, for a command line: a word, or networks with commas between them.
impl FromStr for Outside {
    type Err = ParseRuleError;

    fn from_str(text: &str) -> Result<Self, ParseRuleError> {
        match text {
            OFF => Ok(Self::Off),
            LOOPBACK => Ok(Self::Loopback),
            networks => {
                let networks = networks.split(',').map(|network| network.trim().parse());
                networks.collect::<Result<_, _>>().map(Self::Networks)
            }
        }
    }
}

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str(OFF),
            Self::Loopback => f.write_str(LOOPBACK),
            Self::Networks(networks) => {
                for (place, network) in networks.iter().enumerate() {
                    let comma = if place > 0 { "," } else { "" };
                    write!(f, "{comma}{network}")?;
                }
                Ok(())
            }
        }
    }
}

/// A rule as it is written in JSON.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "`outside` is neither `off` nor `loopback` nor a list of networks")]
enum Form {
    Word(String),
    Networks(Vec<String>),
}

impl TryFrom<Form> for Outside {
    type Error = ParseRuleError;

    fn try_from(form: Form) -> Result<Self, ParseRuleError> {
        match form {
            Form::Word(word) => match word.as_str() {
                OFF => Ok(Self::Off),
                LOOPBACK => Ok(Self::Loopback),
                word => wrong(word, "is neither `off` nor `loopback`; networks are a list"),
            },
            Form::Networks(networks) => {
                let networks = networks.iter().map(|network| network.parse());
                networks.collect::<Result<_, _>>().map(Self::Networks)
            }
        }
    }
}

impl From<Outside> for Form {
    fn from(outside: Outside) -> Self {
        match outside {
            Outside::Off => Self::Word(OFF.to_owned()),
            Outside::Loopback => Self::Word(LOOPBACK.to_owned()),
            Outside::Networks(networks) => {
                Self::Networks(networks.iter().map(ToString::to_string).collect())
            }
        }
    }
}

#[cfg(feature = "server")]
mod schema {
    use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema};
    use utoipa::openapi::{RefOr, Type};
    use utoipa::{PartialSchema, ToSchema};

    use super::{LOOPBACK, OFF, OUTSIDE_NETWORKS_MAX, Outside};

    /// Every network is of this form, and many of this form are networks.
    const NETWORK: &str = "^((25[0-5]|2[0-4][0-9]|1?[0-9]{1,2})(\\.(25[0-5]|2[0-4][0-9]|1?[0-9]{1,2})){3}\
                           |[0-9A-Fa-f:.]{2,45}(/[0-9]{1,3})?)$";

    impl PartialSchema for Outside {
        fn schema() -> RefOr<Schema> {
            let text = || ObjectBuilder::new().schema_type(Type::String);
            let word = text().enum_values(Some([OFF, LOOPBACK]));
            let networks = ArrayBuilder::new()
                .items(text().pattern(Some(NETWORK)))
                .min_items(Some(1))
                .max_items(Some(OUTSIDE_NETWORKS_MAX));
            let meaning = "Who may connect to a database by the node's listener for databases: `off` \
                           (nobody), `loopback` (programs of the node's own machine), or a list of \
                           networks, of IPv4 or IPv6. Loopback is in no network but its own.";
            let either = OneOfBuilder::new().item(word).item(networks);
            either.description(Some(meaning)).into()
        }
    }

    impl ToSchema for Outside {}
}

#[cfg(test)]
mod test {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn rule(text: &str) -> Outside {
        text.parse().unwrap()
    }

    fn allows(text: &str, client: &str) -> bool {
        rule(text).allows(client.parse().unwrap())
    }

    #[test]
    fn a_rule_lets_in_whom_it_names() {
        for client in ["127.0.0.1", "127.9.8.7", "::1", "::ffff:127.0.0.1", "10.0.0.1"] {
            assert!(!allows("off", client), "{client}");
            assert_eq!(allows("loopback", client), client != "10.0.0.1", "{client}");
        }
        let networks = "10.0.0.0/8, 203.0.113.7,2001:db8::/32";
        for client in ["10.255.0.1", "::ffff:10.0.0.1", "203.0.113.7", "2001:db8:1::7"] {
            assert!(allows(networks, client), "{client}");
        }
        for client in ["11.0.0.1", "203.0.113.8", "127.0.0.1", "::1", "2001:db9::1", "::10.0.0.1"] {
            assert!(!allows(networks, client), "{client}");
        }
    }

    #[test]
    fn everybody_of_one_version_is_nobody_of_the_other() {
        for (text, four, six) in [("0.0.0.0/0", true, false), ("::/0", false, true)] {
            for client in ["1.2.3.4", "::ffff:1.2.3.4", "255.255.255.255"] {
                assert_eq!(allows(text, client), four, "{text} {client}");
            }
            for client in ["::", "2001:db8::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
                assert_eq!(allows(text, client), six, "{text} {client}");
            }
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            ",",
            "10.0.0.0/8,",
            "Off",
            "on",
            "localhost",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "10.0.0.0/08",
            "10.0.0.0/-1",
            "10.0.0.0/",
            "10.0.0/8",
            "::/129",
            "2001:db8::1/32",
            "fe80::1%eth0",
            "[::1]",
            "::ffff:10.0.0.0/104",
            "10.0.0.0/8/8",
        ] {
            assert!(text.parse::<Outside>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_rule_is_a_word_or_a_list_in_json() {
        for (json, text) in [
            (r#""off""#, "off"),
            (r#""loopback""#, "loopback"),
            (r#"["10.0.0.0/8","::1"]"#, "10.0.0.0/8,::1"),
        ] {
            let read: Outside = serde_json::from_str(json).unwrap();
            assert_eq!(read, rule(text));
            assert_eq!(serde_json::to_string(&read).unwrap(), json);
            assert_eq!(read.to_string(), text);
        }
        for (json, says) in [
            (r#""10.0.0.0/8""#, "networks are a list"),
            (r#"["10.0.0.0/8","x"]"#, "`x` is neither an address nor"),
            ("7", "neither `off` nor `loopback` nor a list"),
            (r#"{"off":true}"#, "neither `off` nor `loopback` nor a list"),
        ] {
            let error = serde_json::from_str::<Outside>(json).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        assert!(serde_json::from_str::<SetOutside>("{}").is_err());
    }

    #[test]
    fn a_rule_has_one_to_so_many_networks() {
        let of = |count| SetOutside {
            outside: Outside::Networks(vec!["10.0.0.0/8".parse().unwrap(); count]),
        };
        assert!(of(0).check().is_err() && of(OUTSIDE_NETWORKS_MAX + 1).check().is_err());
        assert_eq!(of(OUTSIDE_NETWORKS_MAX).check(), Ok(()));
        assert_eq!(Outside::default().check(), Ok(()));
    }

    proptest! {
        #[test]
        fn a_network_holds_what_shares_its_bits(
            first: u128, other: u128, bits in 0..=128_u32, four in any::<bool>(),
        ) {
            let all = if four { 32 } else { 128 };
            let bits = bits.min(all);
            let mask = u128::MAX.checked_shl(all - bits).unwrap_or(0);
            let address = |value: u128| -> IpAddr {
                match four {
                    true => Ipv4Addr::from_bits(value as u32).into(),
                    false => Ipv6Addr::from_bits(value).into(),
                }
            };
            let first = address(first & mask);
            prop_assume!(first.to_canonical() == first && address(other).to_canonical() == address(other));
            let network: ClientNetwork = format!("{first}/{bits}").parse().unwrap();
            prop_assert_eq!(network.to_string().parse(), Ok(network));
            let value = |address: IpAddr| match address {
                IpAddr::V4(address) => u128::from(address.to_bits()),
                IpAddr::V6(address) => address.to_bits(),
            };
            let same = (value(first) ^ value(address(other))) & mask & value(address(u128::MAX)) == 0;
            prop_assert_eq!(network.contains(address(other)), same);
        }

        #[test]
        fn what_is_taken_for_a_rule_has_one_text(text in "[0-9a-f:./,]{0,24}|off|loopback") {
            if let Ok(rule) = text.parse::<Outside>() {
                prop_assert_eq!(rule.to_string().parse(), Ok(rule));
            }
        }
    }
}
