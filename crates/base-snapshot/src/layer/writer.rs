use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::format::{Data, Extent, HEADER_BYTES, Header, LayerKind, encode_index};
use super::{CHUNK_BYTES, CHUNK_PAGES, PAGES_MAX};
use crate::{PAGE_BYTES, is_zero};

/// Short runs are gathered to this much before they are written, so that scattered dirty pages do
/// not cost one system call each.
const GATHER_BYTES: usize = 1 << 20;

/// Why a layer could not be written. The file is not a layer then; delete it.
#[derive(Debug, thiserror::Error)]
pub enum LayerWriteError {
    /// Over [`PAGES_MAX`], or no pages at all.
    #[error("a memory of {0} pages cannot be saved, 1 to {PAGES_MAX} can")]
    MemorySize(u64),
    /// Pages must come in increasing order.
    #[error("page {page} came after page {next} was next")]
    OutOfOrder {
        /// Given.
        page: u64,
        /// The lowest that may be given.
        next: u64,
    },
    /// Pages past the end of the machine's memory.
    #[error("{pages} pages at page {first} are outside a memory of {total} pages")]
    OutOfRange {
        /// First page given.
        first: u64,
        /// How many.
        pages: u64,
        /// Pages the machine has.
        total: u64,
    },
    /// Data that is not whole pages.
    #[error("{0} bytes of data are not whole pages")]
    NotWholePages(usize),
    /// The operating system refused.
    #[error("the memory layer cannot be written")]
    Io(#[source] io::Error),
}

/// What a finished layer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerSummary {
    /// Pages stored.
    pub data_pages: u64,
    /// Pages recorded as zero over what is below. Always 0 in a base layer.
    pub zero_pages: u64,
    /// Length of the file.
    pub file_bytes: u64,
}

/// Writes a memory layer, pages in increasing order.
///
/// Until [`finish`](Self::finish) the file has no header and is refused by
/// [`Layer::open`](super::Layer::open).
#[derive(Debug)]
pub struct LayerWriter {
    file: File,
    kind: LayerKind,
    total_pages: u64,
    next_page: u64,
    data_pages: u64,
    zero_pages: u64,
    extents: Vec<Extent>,
    checksums: Vec<u64>,
    open_chunk: OpenChunk,
    gathered: Vec<u8>,
    /// Where `gathered` goes.
    write_at: u64,
}

impl LayerWriter {
    /// Starts a layer for a memory of `total_pages`, 1 to [`PAGES_MAX`]. Anything in `file` is lost.
    pub fn new(file: File, total_pages: u64, kind: LayerKind) -> Result<Self, LayerWriteError> {
        if total_pages == 0 || total_pages > PAGES_MAX {
            return Err(LayerWriteError::MemorySize(total_pages));
        }
        file.set_len(0).map_err(LayerWriteError::Io)?;
        Ok(Self {
            file,
            kind,
            total_pages,
            next_page: 0,
            data_pages: 0,
            zero_pages: 0,
            extents: Vec::new(),
            checksums: Vec::new(),
            open_chunk: OpenChunk::default(),
            gathered: Vec::new(),
            write_at: HEADER_BYTES as u64,
        })
    }

    /// Adds the pages `bytes` holds, leaving out those that are zero: a base layer does not mention
    /// them, a diff layer records them as zero. This is what savers of memory call.
    pub fn pages(&mut self, first_page: u64, bytes: &[u8]) -> Result<(), LayerWriteError> {
        let (pages, rest) = bytes.as_chunks::<PAGE_BYTES>();
        if !rest.is_empty() {
            return Err(LayerWriteError::NotWholePages(bytes.len()));
        }
        self.check_range(first_page, pages.len() as u64)?;
        let mut start = 0;
        while let Some(page) = pages.get(start) {
            let zero = is_zero(page);
            let len =
                1 + pages[start + 1..].iter().take_while(|page| is_zero(*page) == zero).count();
            let first = first_page + start as u64;
            if zero {
                self.zero(first, len as u64)?;
            } else {
                self.data(first, pages[start..start + len].as_flattened())?;
            }
            start += len;
        }
        Ok(())
    }

    /// Adds pages as they are, zero or not. `bytes` is whole pages.
    pub fn data(&mut self, first_page: u64, bytes: &[u8]) -> Result<(), LayerWriteError> {
        if !bytes.len().is_multiple_of(PAGE_BYTES) {
            return Err(LayerWriteError::NotWholePages(bytes.len()));
        }
        let pages = (bytes.len() / PAGE_BYTES) as u64;
        let (first, count) = self.check_range(first_page, pages)?;
        if count == 0 {
            return Ok(());
        }
        match self.extents.last_mut() {
            Some(last) if last.data.is_some() && last.end() == first_page => last.pages += count,
            _ => {
                self.checksums.extend(self.open_chunk.close());
                // Both are at most `total_pages`, which fits.
                let data =
                    Data { page: self.data_pages as u32, chunk: self.checksums.len() as u32 };
                self.extents.push(Extent { first, pages: count, data: Some(data) });
            }
        }
        self.open_chunk.add(bytes, &mut self.checksums);
        self.write(bytes)?;
        self.data_pages += pages;
        self.next_page = first_page + pages;
        Ok(())
    }

    /// Records pages as zero, whatever the layers below hold. In a base layer, where pages that are
    /// not mentioned are zero anyway, this only moves on.
    pub fn zero(&mut self, first_page: u64, pages: u64) -> Result<(), LayerWriteError> {
        let (first, count) = self.check_range(first_page, pages)?;
        if self.kind == LayerKind::Diff && count > 0 {
            self.zero_pages += pages;
            match self.extents.last_mut() {
                Some(last) if last.data.is_none() && last.end() == first_page => {
                    last.pages += count;
                }
                _ => self.extents.push(Extent { first, pages: count, data: None }),
            }
        }
        self.next_page = first_page + pages;
        Ok(())
    }

    /// Writes index and header and gives the file back. It is whole then, but only on stable storage
    /// once the caller has called [`File::sync_all`].
    pub fn finish(mut self) -> Result<(File, LayerSummary), LayerWriteError> {
        self.checksums.extend(self.open_chunk.close());
        self.flush()?;
        let index = encode_index(&self.extents, &self.checksums);
        let header = Header {
            kind: self.kind,
            total_pages: self.total_pages,
            data_pages: self.data_pages,
            extents: self.extents.len() as u64,
            chunks: self.checksums.len() as u64,
            index_hash: *blake3::hash(&index).as_bytes(),
        };
        self.file.write_all_at(&index, self.write_at).map_err(LayerWriteError::Io)?;
        self.file.write_all_at(&header.encode(), 0).map_err(LayerWriteError::Io)?;
        let summary = LayerSummary {
            data_pages: self.data_pages,
            zero_pages: self.zero_pages,
            file_bytes: header.file_bytes(),
        };
        Ok((self.file, summary))
    }

    /// The range in the index's width, when it may come next.
    fn check_range(&self, first: u64, pages: u64) -> Result<(u32, u32), LayerWriteError> {
        if first < self.next_page {
            return Err(LayerWriteError::OutOfOrder { page: first, next: self.next_page });
        }
        let outside = || LayerWriteError::OutOfRange { first, pages, total: self.total_pages };
        first
            .checked_add(pages)
            .filter(|&end| end <= self.total_pages)
            .and_then(|_| Some((u32::try_from(first).ok()?, u32::try_from(pages).ok()?)))
            .ok_or_else(outside)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), LayerWriteError> {
        if bytes.len() < GATHER_BYTES {
            self.gathered.extend_from_slice(bytes);
            if self.gathered.len() >= GATHER_BYTES { self.flush() } else { Ok(()) }
        } else {
            self.flush()?;
            self.file.write_all_at(bytes, self.write_at).map_err(LayerWriteError::Io)?;
            self.write_at += bytes.len() as u64;
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<(), LayerWriteError> {
        self.file.write_all_at(&self.gathered, self.write_at).map_err(LayerWriteError::Io)?;
        self.write_at += self.gathered.len() as u64;
        self.gathered.clear();
        Ok(())
    }
}

/// The chunk at the end of the last extent, while it can still grow.
#[derive(Default)]
struct OpenChunk {
    hash: Xxh3,
    bytes: usize,
}

impl std::fmt::Debug for OpenChunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenChunk").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl OpenChunk {
    /// Continues the extent with `bytes`; checksums of chunks that became full go to `full`.
    fn add(&mut self, mut bytes: &[u8], full: &mut Vec<u64>) {
        if self.bytes > 0 {
            let (head, rest) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.bytes));
            self.hash.update(head);
            self.bytes += head.len();
            bytes = rest;
            if self.bytes == CHUNK_BYTES {
                full.extend(self.close());
            }
        }
        let (chunks, rest) = bytes.as_chunks::<CHUNK_BYTES>();
        full.extend(chunks.iter().map(|chunk| xxh3_64(chunk)));
        if !rest.is_empty() {
            self.hash.update(rest);
            self.bytes += rest.len();
        }
    }

    /// Ends the chunk, if one has begun.
    fn close(&mut self) -> Option<u64> {
        (self.bytes > 0).then(|| {
            self.bytes = 0;
            let checksum = self.hash.digest();
            self.hash.reset();
            checksum
        })
    }
}

const _: () = assert!(CHUNK_PAGES as usize * PAGE_BYTES == CHUNK_BYTES);
