//! Memory layers: pages of guest memory in a file, or the statement that they are zero.
//!
//! ```text
//!    0  magic "sflayer\0"              8
//!    8  format version                 4
//!   12  kind: 0 base, 1 diff           4
//!   16  pages of the machine's memory  8
//!   24  pages of data in this file     8
//!   32  number of extents              8
//!   40  number of chunk checksums      8
//!   48  BLAKE3 of the index           32
//!   80  BLAKE3 of bytes 0..80         32
//!  112  zeros
//! 4096  data pages, in order of page number, without gaps
//!    …  index: extents (first page 4, pages 4, kind 4: 0 zero, 1 data), then chunk checksums (8)
//! ```
//!
//! Extents are sorted and do not overlap. Where the data of an extent lies is not stored: it follows
//! from the extents before it, so no extent can point outside the file or into another. The header
//! is written last; a file whose writer died is not a layer.
//!
//! The data of each extent is cut into chunks of [`CHUNK_PAGES`] (the last may be shorter), each with
//! an XXH3-64 in the index. Bulk data gets the cheaper hash because it is verified while a machine
//! is waiting, often on an emulated processor where BLAKE3 has no vector units to use: XXH3 is
//! several times faster and as good against accidents, which is all a checksum kept in the same file
//! can guard against. The index decides which bytes become which page, and is under BLAKE3.

mod format;
mod reader;
mod stack;
mod writer;

pub use format::LayerKind;
pub use reader::{Layer, LayerExtent, LayerReadError, Page, Run};
pub use stack::{Resolved, Source, Stack, StackError};
pub use writer::{LayerSummary, LayerWriteError, LayerWriter};

use crate::PAGE_BYTES;

/// LIMIT: 64 GiB of guest memory, the most a machine may have. Bounds the index: at most 20 bytes
/// for each page of the machine.
pub const PAGES_MAX: u64 = 1 << 24;
/// Pages under one checksum: the most that is read to verify a single page.
pub const CHUNK_PAGES: u64 = 16;
/// [`CHUNK_PAGES`] in bytes.
pub const CHUNK_BYTES: usize = CHUNK_PAGES as usize * PAGE_BYTES;

#[cfg(test)]
mod test;
