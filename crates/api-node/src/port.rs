//! Ports of programs in sandboxes, and who may reach them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::check::{Check, Refused};

/// Header that names the sandbox a request is for, on any path of the node's own address.
pub const PORT_SANDBOX_HEADER: &str = "x-sandflare-sandbox";
/// Header that names the port such a request is for.
pub const PORT_HEADER: &str = "x-sandflare-port";
/// Header a sandbox's token may be in.
pub const PORT_TOKEN_HEADER: &str = "x-sandflare-token";
/// Parameter of a query a sandbox's token may be in, and the cookie it becomes.
pub const PORT_TOKEN_NAME: &str = "sandflare_token";
/// LIMIT: ports of one sandbox that are public; each is a door somebody has to remember.
pub const PUBLIC_PORTS_MAX: usize = 64;

/// Random bytes of a token: nobody guesses 128 bits.
const TOKEN_BYTES: usize = 16;
const TOKEN_PREFIX: &str = "sft_";

/// A port of a sandbox: where it is reached, and by whom. Something need not listen on it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Port {
    /// Its number.
    pub port: u16,
    /// Whether it is reached without a token.
    pub public: bool,
    /// Its address by host name, for browsers and whoever else finds that name's address.
    pub url: String,
    /// Its address below the node's own, for everybody else. Cookies and absolute paths do not work there.
    pub path_url: String,
    /// Lets whoever sends it to every port of this sandbox, as the header `X-Sandflare-Token` or the
    /// parameter `sandflare_token` of the query.
    pub token: String,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, public, url, .. } = self;
        f.debug_struct("Port")
            .field("port", port)
            .field("public", public)
            .field("url", url)
            .finish_non_exhaustive()
    }
}

/// Ports that anybody may reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct PortList {
    /// By number.
    pub ports: Vec<Port>,
}

/// Who is to reach a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetPort {
    /// Anybody, rather than whoever has the sandbox's token or a key that sees it.
    pub public: bool,
}

impl Check for SetPort {
    fn check(&self) -> Result<(), Refused> {
        Ok(())
    }
}

/// What lets somebody to the ports of one sandbox. Shown as `sft_` and 32 hex digits, and only by
/// [`Self::text`]. Compared in constant time.
#[derive(Clone, Copy, Eq)]
pub struct PortToken([u8; TOKEN_BYTES]);

/// A text that is no token. It does not say what the text was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a token of a sandbox; one is `sft_` and 32 digits 0-9 a-f")]
pub struct ParseTokenError;

impl PortToken {
    /// The token made of these random bytes.
    pub const fn from_bytes(bytes: [u8; TOKEN_BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; TOKEN_BYTES] {
        &self.0
    }

    /// The token as it is sent.
    pub fn text(&self) -> String {
        format!("{TOKEN_PREFIX}{:032x}", u128::from_be_bytes(self.0))
    }
}

impl PartialEq for PortToken {
    fn eq(&self, other: &Self) -> bool {
        // Hashes are compared in constant time, and tell nothing of what they were made from.
        blake3::hash(&self.0) == blake3::hash(&other.0)
    }
}

impl fmt::Debug for PortToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PortToken(..)")
    }
}

impl FromStr for PortToken {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, ParseTokenError> {
        let digits = text.strip_prefix(TOKEN_PREFIX).ok_or(ParseTokenError)?;
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if digits.len() != 2 * TOKEN_BYTES || !digits.bytes().all(hex) {
            return Err(ParseTokenError);
        }
        let bits = u128::from_str_radix(digits, 16).map_err(|_| ParseTokenError)?;
        Ok(Self(bits.to_be_bytes()))
    }
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_survives_its_text_and_equals_only_itself(one: [u8; 16], other: [u8; 16]) {
            let token = PortToken::from_bytes(one);
            prop_assert_eq!(token.text().parse(), Ok(token));
            prop_assert_eq!(PortToken::from_bytes(other) == token, one == other);
        }

        #[test]
        fn nothing_else_is_a_token(text in "(sft_)?[+0-9a-fA-Fg]{0,34}") {
            let token = text.parse::<PortToken>();
            prop_assert_eq!(token.map(|token| token.text() == text).unwrap_or(false), token.is_ok());
        }
    }

    #[test]
    fn a_token_is_not_shown_by_accident() {
        let token = PortToken::from_bytes([0xab; 16]);
        let port = Port {
            port: 8000,
            public: false,
            url: "http://8000-0123456789abcdef.localhost:7878".into(),
            path_url: "http://127.0.0.1:7878/v1/sandboxes/sbx_0123456789abcdef/ports/8000/".into(),
            token: token.text(),
        };
        assert!(!format!("{token:?} {port:?}").contains("abab"));
    }
}
