//! Header and index, to bytes and back. No file access.

use crate::fields::{Fields, preamble};
use crate::layer::{CHUNK_PAGES, PAGES_MAX};
use crate::{FileKind, OpenError, PAGE_BYTES, is_zero};

pub(super) const KIND: FileKind = FileKind::Layer;
const MAGIC: &[u8; 8] = b"sflayer\0";
const VERSION: u32 = 1;
const CHECKED_BYTES: usize = 80;
const USED_BYTES: usize = CHECKED_BYTES + blake3::OUT_LEN;
/// One page, so that data is page aligned.
pub(super) const HEADER_BYTES: usize = PAGE_BYTES;
pub(super) const EXTENT_BYTES: u64 = 12;
pub(super) const CHECKSUM_BYTES: u64 = 8;

const EXTENT_ZERO: u32 = 0;
const EXTENT_DATA: u32 = 1;

/// What a layer says about pages it does not mention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// They are zero: this is the lowest layer.
    Base,
    /// They are as in the layer below.
    Diff,
}

impl LayerKind {
    fn code(self) -> u32 {
        match self {
            Self::Base => 0,
            Self::Diff => 1,
        }
    }
}

/// A run of pages in the index. Page numbers fit 32 bits by [`PAGES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) first: u32,
    pub(super) pages: u32,
    /// `None` for zero pages.
    pub(super) data: Option<Data>,
}

/// Where an extent's content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Data {
    /// Number of the first page within the file's data.
    pub(super) page: u32,
    /// Index of the first chunk's checksum.
    pub(super) chunk: u32,
}

impl Extent {
    pub(super) fn first(&self) -> u64 {
        self.first.into()
    }

    pub(super) fn end(&self) -> u64 {
        u64::from(self.first) + u64::from(self.pages)
    }
}

/// How many chunks `pages` of one extent make.
pub(super) fn chunks_of(pages: u64) -> u64 {
    pages.div_ceil(CHUNK_PAGES)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: LayerKind,
    pub(super) total_pages: u64,
    pub(super) data_pages: u64,
    pub(super) extents: u64,
    pub(super) chunks: u64,
    pub(super) index_hash: [u8; blake3::OUT_LEN],
}

impl Header {
    /// Where the index starts.
    pub(super) fn index_offset(&self) -> u64 {
        HEADER_BYTES as u64 + self.data_pages * PAGE_BYTES as u64
    }

    pub(super) fn index_bytes(&self) -> u64 {
        self.extents * EXTENT_BYTES + self.chunks * CHECKSUM_BYTES
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.index_offset() + self.index_bytes()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.kind.code().to_le_bytes());
        for count in [self.total_pages, self.data_pages, self.extents, self.chunks] {
            bytes.extend_from_slice(&count.to_le_bytes());
        }
        bytes.extend_from_slice(&self.index_hash);
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        bytes.resize(HEADER_BYTES, 0);
        bytes
    }

    /// The header in `bytes`, the first [`HEADER_BYTES`] of a file or all of it. Every count is within
    /// its limit, so no arithmetic on them overflows.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, OpenError> {
        let mut fields = Fields(bytes);
        preamble(KIND, &mut fields, MAGIC, VERSION, HEADER_BYTES as u64)?;
        let checked = bytes.get(..CHECKED_BYTES);
        let hash = bytes.get(CHECKED_BYTES..USED_BYTES);
        let padding = bytes.get(USED_BYTES..HEADER_BYTES);
        let (Some(checked), Some(hash), Some(padding)) = (checked, hash, padding) else {
            return Err(OpenError::Truncated {
                file: KIND,
                expected: HEADER_BYTES as u64,
                actual: bytes.len() as u64,
            });
        };
        if blake3::hash(checked).as_bytes() != hash || !is_zero(padding) {
            return Err(OpenError::Damaged { file: KIND, part: "header".to_owned() });
        }
        let parsed =
            (fields.u32(), fields.u64(), fields.u64(), fields.u64(), fields.u64(), fields.array());
        let (
            Some(kind),
            Some(total_pages),
            Some(data_pages),
            Some(extents),
            Some(chunks),
            Some(index_hash),
        ) = parsed
        else {
            return Err(malformed("its header ends early"));
        };
        let kind = match kind {
            0 => LayerKind::Base,
            1 => LayerKind::Diff,
            _ => return Err(malformed("its kind is unknown")),
        };
        let within = |what, found, limit| {
            if found > limit {
                Err(OpenError::TooLarge { file: KIND, what, found, limit })
            } else {
                Ok(())
            }
        };
        within("pages", total_pages, PAGES_MAX)?;
        within("data pages", data_pages, total_pages)?;
        within("extents", extents, total_pages)?;
        within("chunks", chunks, data_pages)?;
        Ok(Self { kind, total_pages, data_pages, extents, chunks, index_hash })
    }
}

/// The bytes of the index.
pub(super) fn encode_index(extents: &[Extent], checksums: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(
        extents.len() * EXTENT_BYTES as usize + checksums.len() * CHECKSUM_BYTES as usize,
    );
    for extent in extents {
        let kind = if extent.data.is_some() { EXTENT_DATA } else { EXTENT_ZERO };
        for field in [extent.first, extent.pages, kind] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
    }
    for checksum in checksums {
        bytes.extend_from_slice(&checksum.to_le_bytes());
    }
    bytes
}

/// The index in `bytes`, checked against `header` in every respect.
pub(super) fn decode_index(
    header: &Header,
    bytes: &[u8],
) -> Result<(Vec<Extent>, Vec<u64>), OpenError> {
    if *blake3::hash(bytes).as_bytes() != header.index_hash {
        return Err(OpenError::Damaged { file: KIND, part: "index".to_owned() });
    }
    // In range by the limits checked in `Header::decode`; the bytes are already in memory.
    let mut extents = Vec::with_capacity(header.extents as usize);
    let mut checksums = Vec::with_capacity(header.chunks as usize);
    let mut fields = Fields(bytes);
    let (mut next_page, mut data_pages, mut chunks) = (0u64, 0u64, 0u64);
    for _ in 0..header.extents {
        let (Some(first), Some(pages), Some(kind)) = (fields.u32(), fields.u32(), fields.u32())
        else {
            return Err(malformed("its index ends early"));
        };
        let end = u64::from(first) + u64::from(pages);
        if pages == 0 || u64::from(first) < next_page || end > header.total_pages {
            return Err(malformed("its extents are not sorted pages of the machine"));
        }
        next_page = end;
        let data = match kind {
            EXTENT_DATA => {
                // Both are at most `total_pages` so far: the extents do not overlap.
                let data = Data { page: data_pages as u32, chunk: chunks as u32 };
                data_pages += u64::from(pages);
                chunks += chunks_of(pages.into());
                Some(data)
            }
            EXTENT_ZERO if header.kind == LayerKind::Diff => None,
            EXTENT_ZERO => return Err(malformed("a base layer has zero extents")),
            _ => return Err(malformed("an extent has an unknown kind")),
        };
        extents.push(Extent { first, pages, data });
    }
    if data_pages != header.data_pages || chunks != header.chunks {
        return Err(malformed("its extents do not add up to its data"));
    }
    for _ in 0..header.chunks {
        checksums.push(fields.u64().ok_or(malformed("its index ends early"))?);
    }
    if !fields.0.is_empty() {
        return Err(malformed("its index goes on after its end"));
    }
    Ok((extents, checksums))
}

pub(super) fn malformed(reason: &'static str) -> OpenError {
    OpenError::Malformed { file: KIND, reason }
}
