use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is not an id of the kind asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not the id of a {}; one looks like `{expected}_0123456789abcdef`",
    kind(expected)
)]
pub struct ParseIdError {
    /// The prefix ids of the wanted kind carry.
    pub expected: &'static str,
    /// What was found instead, cut to 64 characters.
    pub text: String,
}

/// What things with such ids are called.
fn kind(prefix: &str) -> &str {
    match prefix {
        "sbx" => "sandbox",
        "snap" => "snapshot",
        "prj" => "project",
        "db" => "database",
        other => other,
    }
}

/// An id: a prefix that tells its kind, and 16 hex digits.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            const PREFIX: &'static str = $prefix;

            /// The id made of these random bits.
            pub const fn from_bits(bits: u64) -> Self {
                Self(bits)
            }

            /// The bits of this id.
            pub const fn bits(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}_{:016x}", Self::PREFIX, self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse(text, Self::PREFIX).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id! {
    /// One sandbox, for as long as anything of it exists. Shown as `sbx_` and 16 hex digits.
    SandboxId, "sbx"
}

id! {
    /// One snapshot of a sandbox. Shown as `snap_` and 16 hex digits.
    SnapshotId, "snap"
}

id! {
    /// One project: what sandboxes, snapshots and keys belong to. Shown as `prj_` and 16 hex digits.
    ProjectId, "prj"
}

id! {
    /// One API key, which is not the key itself. Shown as `key_` and 16 hex digits.
    KeyId, "key"
}

id! {
    /// One database, for as long as anything of it exists. Shown as `db_` and 16 hex digits.
    DatabaseId, "db"
}

impl ProjectId {
    /// The project every node has from its first start.
    pub const DEFAULT: Self = Self(0);
    /// What the node makes ahead belongs to it. No key is of it, and there is no such project.
    pub const NODE: Self = Self(u64::MAX);
}

fn parse(text: &str, expected: &'static str) -> Result<u64, ParseIdError> {
    let digits = text.strip_prefix(expected).and_then(|rest| rest.strip_prefix('_'));
    digits
        .filter(|digits| {
            digits.len() == 16
                && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        })
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or_else(|| ParseIdError { expected, text: text.chars().take(64).collect() })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn an_id_survives_its_own_text() {
        let id = SandboxId::from_bits(0x7);
        assert_eq!(id.to_string(), "sbx_0000000000000007");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn only_the_canonical_text_is_an_id() {
        for text in [
            "",
            "sbx_",
            "sbx_7",
            "SBX_0000000000000007",
            "sbx_000000000000000G",
            "sbx_+00000000000007f",
        ] {
            assert!(text.parse::<SandboxId>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_id_of_one_kind_is_none_of_another() {
        let text = SandboxId::from_bits(7).to_string();
        let error = text.parse::<SnapshotId>().unwrap_err();
        let said = "`sbx_0000000000000007` is not the id of a snapshot; one looks like \
                    `snap_0123456789abcdef`";
        assert_eq!(error.to_string(), said);
        assert_eq!((error.expected, error.text), ("snap", text));
    }
}
