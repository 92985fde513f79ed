//! Roles that log in.

use std::fmt;
use std::str::FromStr;

/// Bytes of a role's name: a letter and twelve hex digits.
pub const ROLE_BYTES: usize = 13;

/// What a role may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// All that the owner may.
    ReadWrite,
    /// Read every table there is and will be.
    ReadOnly,
}

/// The name of a role that logs in: `u` and twelve hex digits, made at random, so that no two of a node
/// are the same and none needs quoting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoginRole(u64);

/// A text that is no such name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no user of a database here; one is `u` and twelve digits 0-9 a-f")]
pub struct ParseRoleError;

impl LoginRole {
    /// The role made of these random bits.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & 0xffff_ffff_ffff)
    }
}

impl fmt::Display for LoginRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "u{:012x}", self.0)
    }
}

impl FromStr for LoginRole {
    type Err = ParseRoleError;

    fn from_str(text: &str) -> Result<Self, ParseRoleError> {
        let digits = text.strip_prefix('u').filter(|_| text.len() == ROLE_BYTES);
        let digits = digits.filter(|digits| {
            digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        });
        let bits = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        bits.map(Self).ok_or(ParseRoleError)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_role_survives_its_own_text_and_nothing_else_is_one() {
        let role = LoginRole::from_bits(0xabcd_0123_4567_89ab);
        assert_eq!(role.to_string(), "u0123456789ab");
        assert_eq!(role.to_string().parse(), Ok(role));
        for text in ["", "u", "u0123456789a", "u0123456789abc", "U0123456789ab", "u+123456789ab"] {
            assert_eq!(text.parse::<LoginRole>(), Err(ParseRoleError), "{text}");
        }
    }
}
