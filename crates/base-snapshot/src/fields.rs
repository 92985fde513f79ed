//! Little-endian fields of a header, read without ever reaching past its end.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::{FileKind, OpenError};

/// Length of every magic.
pub(crate) const MAGIC_BYTES: usize = 8;
/// Magic and format version, the part of a header all versions share.
const PREAMBLE_BYTES: u64 = MAGIC_BYTES as u64 + 4;

/// What is left to read of a byte string.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }
}

/// Checks magic and version, which come first in every file so that any version can be named.
/// Leaves `fields` after them. `header_bytes` is the shortest whole file.
pub(crate) fn preamble(
    file: FileKind,
    fields: &mut Fields<'_>,
    magic: &[u8; MAGIC_BYTES],
    version: u32,
    header_bytes: u64,
) -> Result<(), OpenError> {
    let actual = fields.0.len() as u64;
    let known = fields.0.len().min(MAGIC_BYTES);
    if actual == 0 || fields.0.get(..known) != magic.get(..known) {
        return Err(OpenError::NotASnapshot { file });
    }
    let truncated = |expected| OpenError::Truncated { file, expected, actual };
    fields.array::<MAGIC_BYTES>().ok_or(truncated(PREAMBLE_BYTES))?;
    let found = fields.u32().ok_or(truncated(PREAMBLE_BYTES))?;
    if found > version {
        return Err(OpenError::NewerVersion { file, found, supported: version });
    }
    // Version 0 was never written.
    if found == 0 {
        return Err(OpenError::NotASnapshot { file });
    }
    if actual < header_bytes {
        return Err(truncated(header_bytes));
    }
    Ok(())
}

/// The whole of a small file, by one positional read: the descriptor may be shared with other
/// processes, and so is its offset. Refused before reading when longer than `limit`.
pub(crate) fn read_whole(file: &File, kind: FileKind, limit: u64) -> Result<Vec<u8>, OpenError> {
    let failed = |source: io::Error| OpenError::Io { file: kind, source };
    let len = file.metadata().map_err(failed)?.len();
    if len > limit {
        return Err(OpenError::TooLarge { file: kind, what: "bytes", found: len, limit });
    }
    let len = usize::try_from(len).map_err(|_| {
        failed(io::Error::other("the file does not fit in this process's address space"))
    })?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0).map_err(failed)?;
    Ok(bytes)
}
