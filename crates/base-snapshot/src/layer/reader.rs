use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use xxhash_rust::xxh3::xxh3_64;

use super::format::{Data, Extent, HEADER_BYTES, Header, KIND, LayerKind, decode_index, malformed};
use super::{CHUNK_BYTES, CHUNK_PAGES};
use crate::error::check_length;
use crate::{OpenError, PAGE_BYTES};

/// How much [`Layer::load`] reads at a time; a whole number of chunks.
const LOAD_BYTES: usize = 16 * CHUNK_BYTES;

/// Why pages could not be had from an open layer.
#[derive(Debug, thiserror::Error)]
pub enum LayerReadError {
    /// The operating system refused.
    #[error("page {page} of the memory layer cannot be read")]
    Io {
        /// The first page asked for.
        page: u64,
        /// Why.
        source: io::Error,
    },
    /// A checksum does not fit.
    #[error(
        "the memory layer is damaged: pages {first} to {last} fail their checksum; make the \
         snapshot again"
    )]
    Damaged {
        /// First page of the chunk.
        first: u64,
        /// Last page of the chunk.
        last: u64,
    },
    /// The layer has no data for a page.
    #[error("the memory layer has no data for page {0}")]
    NotData(u64),
    /// The receiver of [`Layer::load`] failed.
    #[error("the content of page {page} could not be put in place")]
    Sink {
        /// The first page of the run.
        page: u64,
        /// Why.
        source: io::Error,
    },
}

/// What a layer says about one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// Its content is in the file, at this offset (page aligned).
    Data {
        /// In bytes.
        offset: u64,
    },
    /// It is zero, whatever is below.
    Zero,
}

/// A run of pages a layer mentions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerExtent {
    /// First page.
    pub first_page: u64,
    /// How many, at least one.
    pub pages: u64,
    /// Where its first page is; the others follow.
    pub content: Page,
}

/// Verified pages, on their way to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run<'a> {
    /// Pages with content.
    Data {
        /// First page.
        first_page: u64,
        /// Whole pages.
        bytes: &'a [u8],
    },
    /// Pages to be made zero. Never in a base layer.
    Zero {
        /// First page.
        first_page: u64,
        /// How many.
        pages: u64,
    },
}

/// A memory layer file, its index verified and in memory. Data is verified when it is read, except
/// through the offsets of [`Page::Data`].
///
/// All reads are positional: a layer can be used by several threads, and its descriptor by several
/// processes.
#[derive(Debug)]
pub struct Layer {
    file: File,
    kind: LayerKind,
    total_pages: u64,
    data_pages: u64,
    extents: Vec<Extent>,
    checksums: Vec<u64>,
}

/// One chunk of an extent.
struct Chunk {
    first: u64,
    pages: u64,
    offset: u64,
    checksum: u64,
}

impl Chunk {
    fn bytes(&self) -> usize {
        // At most `CHUNK_BYTES`.
        self.pages as usize * PAGE_BYTES
    }

    fn verify(&self, bytes: &[u8]) -> Result<(), LayerReadError> {
        if xxh3_64(bytes) == self.checksum {
            Ok(())
        } else {
            Err(LayerReadError::Damaged { first: self.first, last: self.first + self.pages - 1 })
        }
    }
}

impl Layer {
    /// Reads and verifies header and index of `file`, which must be for a memory of `total_pages`.
    pub fn open(file: File, total_pages: u64) -> Result<Self, OpenError> {
        Self::parse(file, Some(total_pages))
    }

    /// [`Self::open`], for a memory of any size with `None`.
    pub(crate) fn parse(file: File, total_pages: Option<u64>) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Io { file: KIND, source };
        let actual = file.metadata().map_err(failed)?.len();
        let mut bytes = [0; HEADER_BYTES];
        // At most `HEADER_BYTES`.
        let head = &mut bytes[..actual.min(HEADER_BYTES as u64) as usize];
        file.read_exact_at(head, 0).map_err(failed)?;
        let header = Header::decode(head)?;
        // Before the index is read: the memory's size bounds it.
        if let Some(expected) = total_pages.filter(|&expected| expected != header.total_pages) {
            let found = header.total_pages;
            return Err(OpenError::WrongMemorySize { file: KIND, found, expected });
        }
        check_length(KIND, header.file_bytes(), actual)?;
        let len = usize::try_from(header.index_bytes())
            .map_err(|_| malformed("its index does not fit in memory"))?;
        let mut index = vec![0; len];
        file.read_exact_at(&mut index, header.index_offset()).map_err(failed)?;
        let (extents, checksums) = decode_index(&header, &index)?;
        let Header { kind, total_pages, data_pages, .. } = header;
        Ok(Self { file, kind, total_pages, data_pages, extents, checksums })
    }

    /// What the layer says about pages it does not mention.
    pub fn kind(&self) -> LayerKind {
        self.kind
    }

    /// Pages of the machine's memory.
    pub fn total_pages(&self) -> u64 {
        self.total_pages
    }

    /// Pages stored in this layer.
    pub fn data_pages(&self) -> u64 {
        self.data_pages
    }

    /// The file, for reading at the offsets [`Self::lookup`] gives. Such reads are not verified.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// What this layer says about `page`; `None` where it does not mention it. O(log extents).
    pub fn lookup(&self, page: u64) -> Option<Page> {
        let extent = self.extent_of(page)?;
        Some(extent.content(page))
    }

    /// All runs of pages the layer mentions, in increasing order.
    pub fn extents(&self) -> impl ExactSizeIterator<Item = LayerExtent> {
        self.extents.iter().map(|extent| LayerExtent {
            first_page: extent.first(),
            pages: extent.pages.into(),
            content: extent.content(extent.first()),
        })
    }

    /// Reads `buf.len() / 4096` pages from `first_page` on, all of which must have data here, and
    /// verifies every chunk they are part of.
    ///
    /// # Panics
    ///
    /// If `buf` is not whole pages.
    pub fn read(&self, first_page: u64, buf: &mut [u8]) -> Result<(), LayerReadError> {
        assert!(buf.len().is_multiple_of(PAGE_BYTES), "buffer is not whole pages");
        let mut scratch = Vec::new();
        let mut page = first_page;
        let mut rest = buf;
        while !rest.is_empty() {
            let chunk = self.chunk_of(page)?;
            // At most `CHUNK_PAGES`.
            let skip = (page - chunk.first) as usize * PAGE_BYTES;
            let len = rest.len().min(chunk.bytes() - skip);
            let (head, tail) = rest.split_at_mut(len);
            if len == chunk.bytes() {
                self.read_chunk(&chunk, head)?;
            } else {
                scratch.resize(CHUNK_BYTES, 0);
                let whole = &mut scratch[..chunk.bytes()];
                self.read_chunk(&chunk, whole)?;
                head.copy_from_slice(&whole[skip..skip + len]);
            }
            page += (len / PAGE_BYTES) as u64;
            rest = tail;
        }
        Ok(())
    }

    /// The whole verified chunk that holds `page`, which must have data here: its first page and its
    /// content, 1 to [`CHUNK_PAGES`] pages. For fault handlers, who have paid for verifying all of it
    /// and had better map it.
    pub fn chunk<'b>(
        &self,
        page: u64,
        buf: &'b mut [u8; CHUNK_BYTES],
    ) -> Result<(u64, &'b [u8]), LayerReadError> {
        let chunk = self.chunk_of(page)?;
        let bytes = &mut buf[..chunk.bytes()];
        self.read_chunk(&chunk, bytes)?;
        Ok((chunk.first, bytes))
    }

    /// Hands all content to `sink`, in increasing order, each piece after it was verified. On an error
    /// `sink` has had the pieces before the damage: the memory it filled is to be dropped.
    pub fn load(
        &self,
        sink: &mut dyn FnMut(Run<'_>) -> io::Result<()>,
    ) -> Result<(), LayerReadError> {
        let mut buf = vec![0; LOAD_BYTES];
        for extent in &self.extents {
            let first = extent.first();
            let failed = |page| move |source| LayerReadError::Sink { page, source };
            let Some(data) = extent.data else {
                sink(Run::Zero { first_page: first, pages: extent.pages.into() })
                    .map_err(failed(first))?;
                continue;
            };
            let mut page = first;
            while page < extent.end() {
                let pages = (extent.end() - page).min((LOAD_BYTES / PAGE_BYTES) as u64);
                let bytes = &mut buf[..pages as usize * PAGE_BYTES];
                let offset = extent.offset(data, page);
                self.file
                    .read_exact_at(bytes, offset)
                    .map_err(|source| LayerReadError::Io { page, source })?;
                for (at, piece) in bytes.chunks(CHUNK_BYTES).enumerate() {
                    let start = page + at as u64 * CHUNK_PAGES;
                    self.chunk_in(extent, data, start).verify(piece)?;
                }
                sink(Run::Data { first_page: page, bytes }).map_err(failed(page))?;
                page += pages;
            }
        }
        Ok(())
    }

    /// Reads and verifies everything.
    pub fn verify(&self) -> Result<(), LayerReadError> {
        self.load(&mut |_| Ok(()))
    }

    /// The pages around `page` about which this layer says the same thing in the same way: they are
    /// all zero, all in one chunk of data, or all not mentioned.
    pub(super) fn surroundings(&self, page: u64) -> (Option<Page>, Range<u64>) {
        let at = self.extents.partition_point(|extent| extent.end() <= page);
        match self.extents.get(at) {
            Some(extent) if extent.first() <= page => {
                let content = extent.content(page);
                let range = match extent.data {
                    Some(data) => {
                        let chunk = self.chunk_in(extent, data, page);
                        chunk.first..chunk.first + chunk.pages
                    }
                    None => extent.first()..extent.end(),
                };
                (Some(content), range)
            }
            next => {
                let start = at.checked_sub(1).map_or(0, |before| self.extents[before].end());
                (None, start..next.map_or(self.total_pages, Extent::first))
            }
        }
    }

    fn extent_of(&self, page: u64) -> Option<&Extent> {
        let at = self.extents.partition_point(|extent| extent.end() <= page);
        self.extents.get(at).filter(|extent| extent.first() <= page)
    }

    fn chunk_of(&self, page: u64) -> Result<Chunk, LayerReadError> {
        let extent = self.extent_of(page).ok_or(LayerReadError::NotData(page))?;
        let data = extent.data.ok_or(LayerReadError::NotData(page))?;
        Ok(self.chunk_in(extent, data, page))
    }

    /// The chunk of `extent` that holds `page`, which is in it.
    fn chunk_in(&self, extent: &Extent, data: Data, page: u64) -> Chunk {
        let number = (page - extent.first()) / CHUNK_PAGES;
        let first = extent.first() + number * CHUNK_PAGES;
        Chunk {
            first,
            pages: CHUNK_PAGES.min(extent.end() - first),
            offset: extent.offset(data, first),
            // There is one for every chunk of every extent: checked by `decode_index`.
            checksum: self.checksums[data.chunk as usize + number as usize],
        }
    }

    fn read_chunk(&self, chunk: &Chunk, buf: &mut [u8]) -> Result<(), LayerReadError> {
        self.file
            .read_exact_at(buf, chunk.offset)
            .map_err(|source| LayerReadError::Io { page: chunk.first, source })?;
        chunk.verify(buf)
    }
}

impl Extent {
    /// What it says about `page`, which is in it.
    fn content(&self, page: u64) -> Page {
        self.data.map_or(Page::Zero, |data| Page::Data { offset: self.offset(data, page) })
    }

    fn offset(&self, data: Data, page: u64) -> u64 {
        HEADER_BYTES as u64 + (u64::from(data.page) + (page - self.first())) * PAGE_BYTES as u64
    }
}
