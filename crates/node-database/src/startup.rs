//! What a client says first, before it is known to be anybody: for whom it comes.
//!
//! ```text
//!   length (4)  code (4)  …
//!     8         TLS?                                ─▶ answered `S`, and TLS begins; or `N`, and the client goes on
//!     8         GSSAPI?                             ─▶ answered `N`
//!     16        cancel: a process and its key       ─▶ closed: whose it is, it does not say
//!     9 and up  3.x, then (name 0 value 0)* 0       ─▶ the database of its user
//! ```

use crate::role::LoginRole;

/// LIMIT: Postgres's own bound on a first packet.
pub const STARTUP_BYTES_MAX: usize = 10_000;
/// LIMIT: packets before one that says for whom; a client asks for each kind of encryption once.
pub const ASKS_MAX: usize = 2;
/// The answer to whoever asks for encryption: there is none.
pub const NO_ENCRYPTION: &[u8] = b"N";
/// The answer to whoever asks for TLS: it may begin.
pub const TLS_BEGINS: &[u8] = b"S";
/// What a client says first that begins TLS without asking: the kind of record a handshake is. No packet
/// of Postgres is so long that it begins like this.
pub const TLS_FIRST_BYTE: u8 = 22;
/// How Postgres is called in a handshake of TLS.
pub const TLS_PROTOCOL: &[u8] = b"postgresql";
/// What a user's name ends in that goes around the pool.
const DIRECT_MARK: &str = ".direct";

const TLS: u32 = 80_877_103;
const GSSAPI: u32 = 80_877_104;
const CANCEL: u32 = 80_877_102;
const PROTOCOL: u32 = 3;

/// A first packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// May it be encrypted by TLS?
    Tls,
    /// By GSSAPI?
    Gssapi,
    /// Something is to be cancelled.
    Cancel,
    /// A session is to begin.
    Startup(Startup),
}

/// Whose session begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startup {
    /// The role.
    pub role: LoginRole,
    /// Whether it goes around the pool.
    pub direct: bool,
    /// The packet as the server is to get it.
    pub packet: Vec<u8>,
}

/// Bytes that no client of Postgres says first, or a user nobody here is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not how a session of Postgres begins here")]
pub struct StartupError;

/// Takes the first packet off `bytes`, if all of it is there: it, and how many bytes it is.
pub fn opening(bytes: &[u8]) -> Result<Option<(Opening, usize)>, StartupError> {
    let Some((length, rest)) = bytes.split_first_chunk() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| StartupError)?;
    if !(8..=STARTUP_BYTES_MAX).contains(&length) {
        return Err(StartupError);
    }
    let Some(packet) = rest.get(..length - 4) else { return Ok(None) };
    let (code, rest) = packet.split_first_chunk().ok_or(StartupError)?;
    let code = u32::from_be_bytes(*code);
    let opening = match code {
        TLS if rest.is_empty() => Opening::Tls,
        GSSAPI if rest.is_empty() => Opening::Gssapi,
        CANCEL => Opening::Cancel,
        _ if code >> 16 == PROTOCOL => Opening::Startup(startup(code, rest)?),
        _ => return Err(StartupError),
    };
    Ok(Some((opening, length)))
}

fn startup(code: u32, parameters: &[u8]) -> Result<Startup, StartupError> {
    let parameters = parameters.strip_suffix(b"\0\0").ok_or(StartupError)?;
    let mut texts = parameters.split(|byte| *byte == 0);
    let mut pairs = Vec::new();
    while let Some(name) = texts.next() {
        pairs.push((name, texts.next().ok_or(StartupError)?));
    }
    // As the server does, the last of several counts; so there may be only one.
    let mut users = pairs.iter_mut().filter(|(name, _)| *name == b"user");
    let (Some(user), None) = (users.next(), users.next()) else { return Err(StartupError) };
    let text = std::str::from_utf8(user.1).map_err(|_| StartupError)?;
    let (name, direct) = match text.strip_suffix(DIRECT_MARK) {
        Some(name) => (name, true),
        None => (text, false),
    };
    let role: LoginRole = name.parse().map_err(|_| StartupError)?;
    let role_name = role.to_string();
    user.1 = role_name.as_bytes();
    let mut packet = vec![0; 4];
    packet.extend(code.to_be_bytes());
    for (name, value) in pairs {
        for text in [name, value] {
            packet.extend(text);
            packet.push(0);
        }
    }
    packet.push(0);
    // Never longer than the one that came.
    let length = u32::try_from(packet.len()).map_err(|_| StartupError)?;
    packet[..4].copy_from_slice(&length.to_be_bytes());
    Ok(Startup { role, direct, packet })
}

/// The server's word that a session does not begin, and why.
pub fn refusal(code: &str, message: &str) -> Vec<u8> {
    let mut fields = Vec::new();
    for (kind, text) in [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', code), (b'M', message)] {
        fields.push(kind);
        fields.extend(text.bytes().filter(|byte| *byte != 0));
        fields.push(0);
    }
    fields.push(0);
    let length = u32::try_from(fields.len() + 4).unwrap_or(u32::MAX);
    [&b"E"[..], &length.to_be_bytes(), &fields].concat()
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    fn packet(code: u32, rest: &[u8]) -> Vec<u8> {
        let length = u32::try_from(rest.len() + 8).unwrap();
        [&length.to_be_bytes()[..], &code.to_be_bytes(), rest].concat()
    }

    fn of(user: &str) -> Vec<u8> {
        packet(196_608, format!("user\0{user}\0database\0main\0\0").as_bytes())
    }

    #[test]
    fn a_session_goes_to_its_users_database_and_around_the_pool_when_it_says_so() {
        let role = LoginRole::from_bits(7);
        let plain = of("u000000000007");
        for (user, direct) in [("u000000000007", false), ("u000000000007.direct", true)] {
            let mut bytes = of(user);
            let length = bytes.len();
            bytes.extend(b"more");
            let startup = Startup { role, direct, packet: plain.clone() };
            assert_eq!(opening(&bytes), Ok(Some((Opening::Startup(startup), length))));
            for cut in 0..length {
                assert_eq!(opening(&bytes[..cut]), Ok(None), "{cut}");
            }
        }
    }

    #[test]
    fn encryption_and_cancels_are_told_from_sessions() {
        for (code, asks) in [(TLS, Opening::Tls), (GSSAPI, Opening::Gssapi)] {
            assert_eq!(opening(&packet(code, b"")), Ok(Some((asks, 8))));
            assert_eq!(opening(&packet(code, b"x")), Err(StartupError));
        }
        assert_eq!(opening(&packet(CANCEL, &[0; 8])), Ok(Some((Opening::Cancel, 16))));
    }

    #[test]
    fn what_is_no_session_of_anybody_here_is_refused() {
        let huge = u32::try_from(STARTUP_BYTES_MAX + 1).unwrap().to_be_bytes();
        let tls = vec![TLS_FIRST_BYTE, 3, 1, 2, 0, 1];
        let mut wrong = vec![vec![0; 4], tls, huge.to_vec(), b"GET / HTTP/1.1\r\n".to_vec()];
        wrong.extend(["", "postgres", "u1", "u000000000007.pooled"].map(of));
        for rest in [
            &b""[..],
            b"\0",
            b"\0\0",
            b"user\0\0",
            b"user\0u000000000007\0",
            b"database\0main\0\0",
            b"user\0u000000000007\0user\0u000000000008\0\0",
        ] {
            wrong.push(packet(196_608, rest));
        }
        wrong.push(packet(131_072, b"user\0u000000000007\0\0"));
        for bytes in wrong {
            assert_eq!(opening(&bytes), Err(StartupError), "{bytes:?}");
        }
    }

    #[test]
    fn a_refusal_is_an_error_message() {
        let refusal = refusal("28000", "no\0body");
        assert_eq!(refusal, b"E\0\0\0\x22SFATAL\0VFATAL\0C28000\0Mnobody\0\0");
    }

    proptest! {
        #[test]
        fn whatever_comes_first_is_bounded(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Some((_, length))) = opening(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }

        #[test]
        fn what_the_server_gets_is_no_longer_and_the_same_again(
            parameters in proptest::collection::vec(("[a-z]{1,8}", "[^\0]{0,20}"), 0..6),
            direct in any::<bool>(),
        ) {
            let mark = if direct { DIRECT_MARK } else { "" };
            let mut rest = format!("user\0u0000000000ab{mark}\0").into_bytes();
            for (name, value) in parameters.iter().filter(|(name, _)| name != "user") {
                rest.extend(format!("{name}\0{value}\0").into_bytes());
            }
            rest.push(0);
            let bytes = packet(196_608, &rest);
            let Ok(Some((Opening::Startup(startup), length))) = opening(&bytes) else {
                return Err(TestCaseError::fail("refused"));
            };
            prop_assert_eq!((length, startup.direct), (bytes.len(), direct));
            prop_assert!(startup.packet.len() <= bytes.len());
            let again = opening(&startup.packet).unwrap().unwrap();
            prop_assert_eq!(again.1, startup.packet.len());
        }
    }
}
