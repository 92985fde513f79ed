//! Which pages a restored machine touches before it first answers.
//!
//! ```text
//!  0  magic "sfwset\0\0"                8
//!  8  format version                    4
//! 12  number of extents                 4
//! 16  pages of the machine's memory     8
//! 24  BLAKE3 of bytes 0..24 and extents 32
//! 56  extents: first page 4, pages 4, written 4 (0 or 1)
//! ```
//!
//! Extents are sorted and do not overlap.

use std::fs::File;

use crate::error::check_length;
use crate::fields::{Fields, MAGIC_BYTES, preamble, read_whole};
use crate::{FileKind, OpenError, PAGES_MAX};

const KIND: FileKind = FileKind::WorkingSet;
pub(crate) const MAGIC: &[u8; MAGIC_BYTES] = b"sfwset\0\0";
const VERSION: u32 = 1;
const CHECKED_BYTES: usize = 24;
const HEADER_BYTES: usize = CHECKED_BYTES + blake3::OUT_LEN;
const EXTENT_BYTES: usize = 12;

/// LIMIT: a recording of a whole boot has some thousand extents; one with more than a million (a file
/// of 12 MiB) would cost more to read than to fault in.
pub const WORKING_SET_EXTENTS_MAX: usize = 1 << 20;

pub(crate) const FILE_BYTES_MAX: u64 =
    (HEADER_BYTES + WORKING_SET_EXTENTS_MAX * EXTENT_BYTES) as u64;

/// A run of pages of a working set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkingSetExtent {
    /// First page.
    pub first_page: u64,
    /// How many, at least one.
    pub pages: u64,
    /// Whether they were written to, so that a private copy is worth making ahead.
    pub written: bool,
}

impl WorkingSetExtent {
    fn end(&self) -> u64 {
        self.first_page + self.pages
    }
}

/// Why a working set could not be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkingSetEncodeError {
    /// Over [`PAGES_MAX`].
    #[error("a memory of {0} pages is over the limit of {PAGES_MAX}")]
    MemorySize(u64),
    /// A page past the end of the memory.
    #[error("page {page} is outside a memory of {total} pages")]
    OutOfRange {
        /// Given.
        page: u64,
        /// Pages the machine has.
        total: u64,
    },
    /// Over [`WORKING_SET_EXTENTS_MAX`].
    #[error("{0} extents are over the limit of {WORKING_SET_EXTENTS_MAX}; merge wider gaps")]
    TooMany(usize),
}

/// Sorted runs of pages that do not overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkingSet {
    total_pages: u64,
    extents: Vec<WorkingSetExtent>,
}

impl WorkingSet {
    /// The set of `pages` of a memory of `total_pages`, each with whether it was written to. Any order;
    /// a page given twice counts as written if it was once. Gaps of up to `gap_pages` between two runs
    /// that were only read are filled: mapping a few more clean pages is cheaper than another call.
    pub fn from_pages(
        total_pages: u64,
        pages: impl IntoIterator<Item = (u64, bool)>,
        gap_pages: u64,
    ) -> Result<Self, WorkingSetEncodeError> {
        if total_pages > PAGES_MAX {
            return Err(WorkingSetEncodeError::MemorySize(total_pages));
        }
        let mut pages: Vec<(u64, bool)> = pages.into_iter().collect();
        // Written first, so that the duplicates dropped are the others.
        pages.sort_unstable_by_key(|&(page, written)| (page, !written));
        pages.dedup_by_key(|&mut (page, _)| page);
        if let Some(&(page, _)) = pages.last().filter(|&&(page, _)| page >= total_pages) {
            return Err(WorkingSetEncodeError::OutOfRange { page, total: total_pages });
        }
        let mut extents: Vec<WorkingSetExtent> = Vec::new();
        for (page, written) in pages {
            let gap_max = if written { 0 } else { gap_pages };
            match extents.last_mut() {
                Some(last) if last.written == written && page - last.end() <= gap_max => {
                    last.pages = page + 1 - last.first_page;
                }
                _ => extents.push(WorkingSetExtent { first_page: page, pages: 1, written }),
            }
        }
        if extents.len() > WORKING_SET_EXTENTS_MAX {
            return Err(WorkingSetEncodeError::TooMany(extents.len()));
        }
        Ok(Self { total_pages, extents })
    }

    /// Pages of the machine's memory.
    pub fn total_pages(&self) -> u64 {
        self.total_pages
    }

    /// Sorted by page, without overlap.
    pub fn extents(&self) -> &[WorkingSetExtent] {
        &self.extents
    }

    /// How many pages all extents have.
    pub fn pages(&self) -> u64 {
        self.extents.iter().map(|extent| extent.pages).sum()
    }

    /// The file.
    pub fn encode(&self) -> Vec<u8> {
        let mut file = Vec::with_capacity(HEADER_BYTES + self.extents.len() * EXTENT_BYTES);
        file.extend_from_slice(MAGIC);
        file.extend_from_slice(&VERSION.to_le_bytes());
        // The casts lose nothing: the numbers are within `WORKING_SET_EXTENTS_MAX` and `PAGES_MAX`.
        file.extend_from_slice(&(self.extents.len() as u32).to_le_bytes());
        file.extend_from_slice(&self.total_pages.to_le_bytes());
        file.resize(HEADER_BYTES, 0);
        for extent in &self.extents {
            let fields = [extent.first_page as u32, extent.pages as u32, extent.written.into()];
            for field in fields {
                file.extend_from_slice(&field.to_le_bytes());
            }
        }
        let checksum = checksum(&file[..CHECKED_BYTES], &file[HEADER_BYTES..]);
        file[CHECKED_BYTES..HEADER_BYTES].copy_from_slice(checksum.as_bytes());
        file
    }

    /// Reads and verifies `file`, which must be for a memory of `total_pages`.
    pub fn open(file: &File, total_pages: u64) -> Result<Self, OpenError> {
        Self::from_bytes(&read_whole(file, KIND, FILE_BYTES_MAX)?, total_pages)
    }

    /// Verifies a whole file already in memory.
    pub fn from_bytes(file: &[u8], total_pages: u64) -> Result<Self, OpenError> {
        let set = Self::parse(file)?;
        if set.total_pages != total_pages {
            return Err(OpenError::WrongMemorySize {
                file: KIND,
                found: set.total_pages,
                expected: total_pages,
            });
        }
        Ok(set)
    }

    /// [`Self::from_bytes`] for a memory of any size.
    pub(crate) fn parse(file: &[u8]) -> Result<Self, OpenError> {
        let malformed = |reason| OpenError::Malformed { file: KIND, reason };
        let mut fields = Fields(file);
        preamble(KIND, &mut fields, MAGIC, VERSION, HEADER_BYTES as u64)?;
        let parsed = (fields.u32(), fields.u64(), fields.array::<{ blake3::OUT_LEN }>());
        let (Some(count), Some(total_pages), Some(hash)) = parsed else {
            return Err(malformed("its header ends early"));
        };
        let too_large = |what, found, limit| OpenError::TooLarge { file: KIND, what, found, limit };
        if total_pages > PAGES_MAX {
            return Err(too_large("pages", total_pages, PAGES_MAX));
        }
        let limit = WORKING_SET_EXTENTS_MAX as u64;
        let count = u64::from(count);
        if count > limit {
            return Err(too_large("extents", count, limit));
        }
        let expected = HEADER_BYTES as u64 + count * EXTENT_BYTES as u64;
        check_length(KIND, expected, file.len() as u64)?;
        if checksum(&file[..CHECKED_BYTES], fields.0) != hash {
            return Err(OpenError::Damaged { file: KIND, part: "content".to_owned() });
        }
        let mut extents = Vec::with_capacity(fields.0.len() / EXTENT_BYTES);
        let mut next_page = 0;
        while let (Some(first), Some(pages), Some(written)) =
            (fields.u32(), fields.u32(), fields.u32())
        {
            let written = match written {
                0 => false,
                1 => true,
                _ => return Err(malformed("an extent has unknown flags")),
            };
            let extent =
                WorkingSetExtent { first_page: first.into(), pages: pages.into(), written };
            if pages == 0 || extent.first_page < next_page || extent.end() > total_pages {
                return Err(malformed("its extents are not sorted pages of the machine"));
            }
            next_page = extent.end();
            extents.push(extent);
        }
        Ok(Self { total_pages, extents })
    }
}

fn checksum(header: &[u8], extents: &[u8]) -> blake3::Hash {
    blake3::Hasher::new().update(header).update(extents).finalize()
}

#[cfg(test)]
mod test;
