use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Event, LINE_BYTES_MAX};

/// What stands between the hashed bytes of a line and its hash.
const HASH_KEY: &[u8] = b",\"hash\":\"";
/// What stands after it.
const LINE_END: &[u8] = b"\"}";
/// A hash in hexadecimal digits.
const HASH_DIGITS: usize = 64;

/// The hash of a line, or of the nothing before the first one (all zeros).
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash([u8; 32]);

impl Hash {
    /// What the first line of a log names as the one before it.
    pub const NONE: Self = Self([0; 32]);

    fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

/// A text that is no hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a hash is 64 of 0-9 and a-f")]
pub struct ParseHashError;

impl FromStr for Hash {
    type Err = ParseHashError;

    fn from_str(text: &str) -> Result<Self, ParseHashError> {
        let digits = text.as_bytes();
        if digits.len() != HASH_DIGITS {
            return Err(ParseHashError);
        }
        let digit = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(ParseHashError),
        };
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = (digit(pair[0])? << 4) | digit(pair[1])?;
        }
        Ok(Self(hash))
    }
}

impl TryFrom<String> for Hash {
    type Error = ParseHashError;

    fn try_from(text: String) -> Result<Self, ParseHashError> {
        text.parse()
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.to_string()
    }
}

/// A place in a log: the index of a line, and its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Index of the line; the first of a log is 0.
    pub index: u64,
    /// Its hash.
    pub hash: Hash,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.index, self.hash)
    }
}

/// A text that is no place in a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not INDEX:HASH, as a verification of the log gives it")]
pub struct ParseLinkError(String);

impl FromStr for Link {
    type Err = ParseLinkError;

    fn from_str(text: &str) -> Result<Self, ParseLinkError> {
        let wrong = || ParseLinkError(text.to_owned());
        let (index, hash) = text.split_once(':').ok_or_else(wrong)?;
        let index = index.parse().map_err(|_| wrong())?;
        Ok(Self { index, hash: hash.parse().map_err(|_| wrong())? })
    }
}

/// One line of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its index; the first of a log is 0.
    pub index: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
    /// Hash of the line before it.
    pub previous: Hash,
    /// Its own.
    pub hash: Hash,
}

impl Record {
    /// Its place in the log.
    pub const fn link(&self) -> Link {
        Link { index: self.index, hash: self.hash }
    }
}

#[derive(Serialize)]
struct Sealed<'a> {
    index: u64,
    #[serde(flatten)]
    event: &'a Event,
    previous: Hash,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Longer than any line the writer makes.
    #[error("it is longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
    /// Its bytes do not have its hash.
    #[error("its hash is not that of its bytes: it was edited")]
    Edited,
    /// Its hash is right and it still is no line of a log.
    #[error("it is no entry of an audit log: {0}")]
    Malformed(String),
    /// It is not the line that comes here.
    #[error(
        "it is entry {found} where entry {expected} belongs: lines were removed, inserted or moved"
    )]
    Misplaced {
        /// Its index.
        found: u64,
        /// The index that comes here.
        expected: u64,
    },
    /// It follows another line than the one before it.
    #[error("it does not follow the line before it: that one was replaced")]
    Unlinked,
    /// The head says that this line has another hash.
    #[error("it is not the line that the head names: the log was written anew")]
    NotTheHead,
}

/// The line (without line feed) of `event` after `before`, and its place.
pub fn seal(event: &Event, before: Option<Link>) -> (Vec<u8>, Link) {
    let (index, previous) = match before {
        Some(Link { index, hash }) => (index + 1, hash),
        None => (0, Hash::NONE),
    };
    let sealed = Sealed { index, event, previous };
    let mut line = serde_json::to_vec(&sealed).expect("an event has only string keys");
    // The closing brace comes back after the hash.
    line.pop();
    let hash = Hash::of(&line);
    line.extend_from_slice(HASH_KEY);
    line.extend_from_slice(hash.to_string().as_bytes());
    line.extend_from_slice(LINE_END);
    (line, Link { index, hash })
}

/// Takes the lines of a log in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    next: u64,
    /// `None` where the line before is not known.
    before: Option<Hash>,
}

impl Chain {
    /// A log from its beginning.
    pub const fn beginning() -> Self {
        Self { next: 0, before: Some(Hash::NONE) }
    }

    /// A log from the line with this index, whatever was before it.
    pub const fn from_index(next: u64) -> Self {
        if next == 0 { Self::beginning() } else { Self { next, before: None } }
    }

    /// A log after that line.
    pub const fn after(link: Link) -> Self {
        Self { next: link.index + 1, before: Some(link.hash) }
    }

    /// Index of the line that comes next.
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Takes the next line, without its line feed. After a fault it still waits for the same line.
    pub fn take(&mut self, line: &[u8]) -> Result<Record, Fault> {
        if line.len() >= LINE_BYTES_MAX {
            return Err(Fault::TooLong);
        }
        let body = split(line).ok_or(Fault::Edited)?;
        let record: Record =
            serde_json::from_slice(line).map_err(|error| Fault::Malformed(error.to_string()))?;
        if Hash::of(body) != record.hash {
            return Err(Fault::Edited);
        }
        if record.index != self.next {
            return Err(Fault::Misplaced { found: record.index, expected: self.next });
        }
        if self.before.is_some_and(|before| before != record.previous) {
            return Err(Fault::Unlinked);
        }
        let after = record.index.checked_add(1).ok_or(Fault::TooLong)?;
        *self = Self { next: after, before: Some(record.hash) };
        Ok(record)
    }
}

/// The part of a line that its hash is of, when the line ends like one.
fn split(line: &[u8]) -> Option<&[u8]> {
    let body = line.len().checked_sub(HASH_KEY.len() + HASH_DIGITS + LINE_END.len())?;
    let (body, rest) = line.split_at(body);
    (rest.starts_with(HASH_KEY) && rest.ends_with(LINE_END)).then_some(body)
}
