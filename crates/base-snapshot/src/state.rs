//! The state file: named sections behind a table that is verified as a whole.
//!
//! ```text
//!   0  magic "sfstate\0"                8
//!   8  format version                   4
//!  12  number of sections               4
//!  16  length of the whole file         8
//!  24  machine tag, zero padded        64
//!  88  BLAKE3 of bytes 0..88 and table 32
//! 120  table, one entry per section: tag 4, version 4, length 8, BLAKE3 of the payload 32
//!   …  payloads in table order, without gaps
//! ```
//!
//! Offsets are not stored, so sections cannot overlap.

use std::fmt;
use std::fs::File;
use std::ops::Range;

use crate::error::check_length;
use crate::fields::{Fields, MAGIC_BYTES, preamble, read_whole};
use crate::{FileKind, OpenError};

pub(crate) const MAGIC: &[u8; MAGIC_BYTES] = b"sfstate\0";
const VERSION: u32 = 1;
/// Bytes of the header the checksum covers, besides the table.
const CHECKED_BYTES: usize = 88;
const HEADER_BYTES: usize = CHECKED_BYTES + blake3::OUT_LEN;
const ENTRY_BYTES: usize = 4 + 4 + 8 + blake3::OUT_LEN;

/// LIMIT: a machine of 8 vCPUs and its devices is under 1 MiB; this leaves room for a device with
/// buffers and bounds what one restore may allocate.
pub const STATE_BYTES_MAX: u64 = 64 << 20;
/// LIMIT: 8 vCPUs with a few sections each, and the devices, are under 64.
pub const SECTIONS_MAX: usize = 256;
/// LIMIT: fixed field in the header; "x86_64 GenuineIntel 6-143" is 25.
pub const MACHINE_TAG_BYTES_MAX: usize = 64;

/// The name of a section: four bytes, by custom lower-case ASCII.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub [u8; 4]);

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tag({self})")
    }
}

/// Why a state file could not be put together. A mistake of the program, not of its input.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateEncodeError {
    /// The machine tag is empty, too long or not printable ASCII.
    #[error("machine tag must be 1 to {MACHINE_TAG_BYTES_MAX} printable ASCII bytes")]
    MachineTag,
    /// Two sections of one name.
    #[error("state section `{0}` was given twice")]
    Duplicate(Tag),
    /// Over [`SECTIONS_MAX`].
    #[error("{0} state sections are over the limit of {SECTIONS_MAX}")]
    TooMany(usize),
    /// Over [`STATE_BYTES_MAX`].
    #[error("a state of {0} bytes is over the limit of {STATE_BYTES_MAX}")]
    TooLarge(u64),
}

/// Collects sections and makes a state file of them.
#[derive(Debug)]
pub struct StateWriter {
    machine: String,
    sections: Vec<(Tag, u32, Vec<u8>)>,
}

impl StateWriter {
    /// An empty state of a machine of type `machine`: a text equal on all machines the state can be
    /// restored on, 1 to [`MACHINE_TAG_BYTES_MAX`] printable ASCII bytes.
    pub fn new(machine: impl Into<String>) -> Self {
        Self { machine: machine.into(), sections: Vec::new() }
    }

    /// Adds a section. `version` is the version of this section's own encoding.
    pub fn section(&mut self, tag: Tag, version: u32, bytes: Vec<u8>) -> &mut Self {
        self.sections.push((tag, version, bytes));
        self
    }

    /// The file.
    pub fn finish(&self) -> Result<Vec<u8>, StateEncodeError> {
        let Self { machine, sections } = self;
        if !machine_tag_is_valid(machine.as_bytes()) {
            return Err(StateEncodeError::MachineTag);
        }
        if sections.len() > SECTIONS_MAX {
            return Err(StateEncodeError::TooMany(sections.len()));
        }
        for (at, (tag, ..)) in sections.iter().enumerate() {
            if sections.iter().take(at).any(|(earlier, ..)| earlier == tag) {
                return Err(StateEncodeError::Duplicate(*tag));
            }
        }
        let table_bytes = sections.len() * ENTRY_BYTES;
        let payload_bytes: usize = sections.iter().map(|(.., bytes)| bytes.len()).sum();
        let total = HEADER_BYTES + table_bytes + payload_bytes;
        if total as u64 > STATE_BYTES_MAX {
            return Err(StateEncodeError::TooLarge(total as u64));
        }

        let mut table = Vec::with_capacity(table_bytes);
        for (tag, version, bytes) in sections {
            table.extend_from_slice(&tag.0);
            table.extend_from_slice(&version.to_le_bytes());
            table.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            table.extend_from_slice(blake3::hash(bytes).as_bytes());
        }
        let mut file = Vec::with_capacity(total);
        file.extend_from_slice(MAGIC);
        file.extend_from_slice(&VERSION.to_le_bytes());
        file.extend_from_slice(&(sections.len() as u32).to_le_bytes());
        file.extend_from_slice(&(total as u64).to_le_bytes());
        file.extend_from_slice(machine.as_bytes());
        file.resize(CHECKED_BYTES, 0);
        let checksum = header_checksum(&file, &table);
        file.extend_from_slice(checksum.as_bytes());
        file.extend_from_slice(&table);
        for (.., bytes) in sections {
            file.extend_from_slice(bytes);
        }
        Ok(file)
    }
}

/// A section of a [`State`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section<'a> {
    /// Its name.
    pub tag: Tag,
    /// Version of its encoding.
    pub version: u32,
    /// Its content, which matched its checksum.
    pub bytes: &'a [u8],
}

/// Why a section could not be had.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SectionError {
    /// No section of this name.
    #[error("the state file has no section `{0}`; make the snapshot again")]
    Missing(Tag),
    /// Encoded by a later program.
    #[error(
        "section `{tag}` of the state file has version {found}, this program reads up to \
         {supported}; upgrade it or make the snapshot again"
    )]
    Newer {
        /// Of the section.
        tag: Tag,
        /// In the file.
        found: u32,
        /// The newest version the caller reads.
        supported: u32,
    },
}

/// A state file in memory, verified from its first byte to its last.
#[derive(Clone, Debug)]
pub struct State {
    file: Vec<u8>,
    machine: String,
    sections: Vec<(Tag, u32, Range<usize>)>,
}

impl State {
    /// Reads and verifies `file` from its start, whatever its offset is: the descriptor may be shared
    /// by several processes. `machine` is the tag the file must carry.
    pub fn open(file: &File, machine: &str) -> Result<Self, OpenError> {
        Self::from_bytes(read_whole(file, FileKind::State, STATE_BYTES_MAX)?, machine)
    }

    /// Verifies a whole file already in memory. `machine` is the tag the file must carry.
    pub fn from_bytes(file: Vec<u8>, machine: &str) -> Result<Self, OpenError> {
        let state = Self::parse(file)?;
        if state.machine != machine {
            return Err(OpenError::WrongMachine { found: state.machine, here: machine.to_owned() });
        }
        Ok(state)
    }

    /// Verifies everything but whom the file is for.
    pub(crate) fn parse(file: Vec<u8>) -> Result<Self, OpenError> {
        const KIND: FileKind = FileKind::State;
        let actual = file.len() as u64;
        if actual > STATE_BYTES_MAX {
            return Err(OpenError::TooLarge {
                file: KIND,
                what: "bytes",
                found: actual,
                limit: STATE_BYTES_MAX,
            });
        }
        let truncated = |expected: usize| OpenError::Truncated {
            file: KIND,
            expected: expected as u64,
            actual,
        };
        let malformed = |reason| OpenError::Malformed { file: KIND, reason };

        let mut fields = Fields(&file);
        preamble(KIND, &mut fields, MAGIC, VERSION, HEADER_BYTES as u64)?;
        let header = || truncated(HEADER_BYTES);
        let count = fields.u32().ok_or_else(header)?;
        let total = fields.u64().ok_or_else(header)?;
        let machine: [u8; MACHINE_TAG_BYTES_MAX] = fields.array().ok_or_else(header)?;
        let checksum: [u8; blake3::OUT_LEN] = fields.array().ok_or_else(header)?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count > SECTIONS_MAX {
            return Err(OpenError::TooLarge {
                file: KIND,
                what: "sections",
                found: count as u64,
                limit: SECTIONS_MAX as u64,
            });
        }
        let table_bytes = count * ENTRY_BYTES;
        let table = fields.bytes(table_bytes).ok_or(truncated(HEADER_BYTES + table_bytes))?;
        if header_checksum(&file[..CHECKED_BYTES], table) != checksum {
            return Err(OpenError::Damaged { file: KIND, part: "header".to_owned() });
        }
        check_length(KIND, total, actual)?;

        let machine = match machine.iter().position(|&byte| byte == 0) {
            Some(end) if machine[end..].iter().all(|&byte| byte == 0) => &machine[..end],
            Some(_) => return Err(malformed("its machine tag is not zero padded")),
            None => &machine[..],
        };
        if !machine_tag_is_valid(machine) {
            return Err(malformed("its machine tag is not printable"));
        }
        let machine = String::from_utf8_lossy(machine).into_owned();

        let mut sections: Vec<(Tag, u32, Range<usize>)> = Vec::with_capacity(count);
        let mut hashes = Vec::with_capacity(count);
        let mut entries = Fields(table);
        let mut start = HEADER_BYTES + table_bytes;
        for _ in 0..count {
            let entry = (entries.array(), entries.u32(), entries.u64(), entries.array());
            let (Some(tag), Some(version), Some(len), Some(hash)) = entry else {
                return Err(malformed("its section table ends early"));
            };
            let tag = Tag(tag);
            if sections.iter().any(|(earlier, ..)| *earlier == tag) {
                return Err(malformed("two of its sections have one name"));
            }
            let end = usize::try_from(len)
                .ok()
                .and_then(|len| start.checked_add(len))
                .filter(|&end| end <= file.len())
                .ok_or(malformed("a section reaches past its end"))?;
            sections.push((tag, version, start..end));
            let hash: [u8; blake3::OUT_LEN] = hash;
            hashes.push(hash);
            start = end;
        }
        if start != file.len() {
            return Err(malformed("there are bytes after its last section"));
        }
        for ((tag, _, range), hash) in sections.iter().zip(&hashes) {
            if blake3::hash(&file[range.clone()]) != *hash {
                return Err(OpenError::Damaged { file: KIND, part: format!("section `{tag}`") });
            }
        }
        Ok(Self { file, machine, sections })
    }

    /// The machine tag the file carries.
    pub fn machine(&self) -> &str {
        &self.machine
    }

    /// The section named `tag`, of a version up to `supported`. Lower versions are the caller's to
    /// tell apart.
    pub fn section(&self, tag: Tag, supported: u32) -> Result<Section<'_>, SectionError> {
        let section = self.find(tag).ok_or(SectionError::Missing(tag))?;
        if section.version > supported {
            return Err(SectionError::Newer { tag, found: section.version, supported });
        }
        Ok(section)
    }

    /// The section named `tag`, if there is one, of whatever version.
    pub fn find(&self, tag: Tag) -> Option<Section<'_>> {
        self.sections().find(|section| section.tag == tag)
    }

    /// All sections, in file order.
    pub fn sections(&self) -> impl ExactSizeIterator<Item = Section<'_>> {
        self.sections.iter().map(|(tag, version, range)| Section {
            tag: *tag,
            version: *version,
            bytes: &self.file[range.clone()],
        })
    }
}

fn machine_tag_is_valid(tag: &[u8]) -> bool {
    (1..=MACHINE_TAG_BYTES_MAX).contains(&tag.len())
        && tag.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ')
}

fn header_checksum(header: &[u8], table: &[u8]) -> blake3::Hash {
    blake3::Hasher::new().update(header).update(table).finalize()
}

#[cfg(test)]
mod test;
