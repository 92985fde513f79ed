//! The text of a key, and the hash that a node keeps of it.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::str::FromStr;

/// Random bytes of a key.
pub const SECRET_BYTES: usize = 32;

const PREFIX: &str = "sfk_";

/// A text that is no key. It does not say what the text was: it may be a key with a typing error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not an API key; one is `sfk_` and 64 digits 0-9 a-f")]
pub struct ParseSecretError;

/// An API key. Shown as `sfk_` and 64 hex digits, and only by [`Self::text`]; dropped, it stays in
/// memory until something else is written there.
#[derive(Clone)]
pub struct Secret([u8; SECRET_BYTES]);

/// What a node keeps of a key. A key is 32 random bytes, so that nothing slower than a plain hash is
/// needed to make it useless to whoever reads it. Compared in constant time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecretHash(blake3::Hash);

impl Secret {
    /// The key made of these random bytes.
    pub const fn from_random(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(bytes)
    }

    /// The key as its owner writes it.
    pub fn text(&self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(PREFIX.to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// Puts it into the file `path`, whole or not at all, for its owner alone to read.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let partial = path.with_extension("part");
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&partial)?;
        writeln!(file, "{}", self.text())?;
        file.sync_all()?;
        fs::rename(&partial, path)
    }

    /// What is kept of it.
    pub fn hash(&self) -> SecretHash {
        SecretHash(blake3::hash(&self.0))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl FromStr for Secret {
    type Err = ParseSecretError;

    fn from_str(text: &str) -> Result<Self, ParseSecretError> {
        let digits = text.strip_prefix(PREFIX).ok_or(ParseSecretError)?.as_bytes();
        let mut bytes = [0; SECRET_BYTES];
        if digits.len() != 2 * SECRET_BYTES {
            return Err(ParseSecretError);
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |at: usize| match pair.get(at).copied() {
                Some(digit @ b'0'..=b'9') => Ok(digit - b'0'),
                Some(digit @ b'a'..=b'f') => Ok(digit - b'a' + 10),
                _ => Err(ParseSecretError),
            };
            *byte = digit(0)? << 4 | digit(1)?;
        }
        Ok(Self(bytes))
    }
}

impl SecretHash {
    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The hash with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(blake3::Hash::from_bytes(bytes))
    }
}

impl fmt::Display for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for SecretHash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        blake3::Hash::from_hex(text)
            .map(Self)
            .map_err(|_| "this is not the hash of a key; one is 64 digits 0-9 a-f".to_owned())
    }
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_key_survives_its_text(bytes: [u8; 32]) {
            let secret = Secret::from_random(bytes);
            let again: Secret = secret.text().parse().unwrap();
            prop_assert_eq!(again.text(), secret.text());
            prop_assert_eq!(again.hash(), secret.hash());
            let hash = secret.hash();
            prop_assert_eq!(hash.to_string().parse(), Ok(hash));
        }

        #[test]
        fn nothing_else_is_a_key(text in "(sfk_)?[0-9a-fA-Fg]{0,70}") {
            prop_assert_eq!(
                text.parse::<Secret>().is_ok(),
                text.len() == 68
                    && text.starts_with("sfk_")
                    && text[4..].bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            );
        }
    }

    #[test]
    fn a_key_is_not_shown_by_accident() {
        let secret = Secret::from_random([0xab; 32]);
        assert!(!format!("{secret:?}").contains("ab"));
        let error = "sfk_hunter2".parse::<Secret>().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
