//! Passwords, and what a server checks them with.

use std::fmt;

use postgres_protocol::password::scram_sha_256;

/// Letters of a made password: nothing that needs encoding in an address.
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// What a server keeps in place of a password. Made here, so that the password itself is in no message
/// and no log of the server's.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier(String);

impl Verifier {
    /// Of `password`, with a salt of its own.
    pub fn of(password: &str) -> Self {
        Self(scram_sha_256(password.as_bytes()))
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Who has it can pretend to be the server.
        f.write_str("Verifier(..)")
    }
}

/// A password made of these random bytes: 24 letters, 144 bits.
pub fn password(random: [u8; 24]) -> String {
    random.iter().map(|byte| char::from(LETTERS[usize::from(byte & 63)])).collect()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_verifier_tells_nothing_and_is_another_one_each_time() {
        let (one, other) = (Verifier::of("Secret#42"), Verifier::of("Secret#42"));
        assert_ne!(one, other);
        assert!(one.text().starts_with("SCRAM-SHA-256$4096:"), "{}", one.text());
        assert!(!one.text().contains("Secret"));
        assert_eq!(format!("{one:?}"), "Verifier(..)");
    }

    #[test]
    fn a_made_password_needs_no_encoding() {
        let made = password(std::array::from_fn(|at| (at * 11) as u8));
        assert_eq!(made.len(), 24);
        assert_eq!(crate::encode(&made), made);
    }
}
