//! The files a snapshot is made of, and nothing else: no KVM, no devices, no clock.
//!
//! A snapshot is three files, each with a magic, one version number and checksums over every byte:
//!
//! - [`State`]: what the processors and devices hold, as named sections. Small, read in one go.
//! - [`Layer`]: pages of guest memory. The lowest layer of a [`Stack`] holds the whole memory, the
//!   ones above it only what changed. Zero pages are never stored.
//! - [`WorkingSet`]: which pages a restored machine touches first, so they can be mapped early.
//!
//! The files are trusted no more than a network peer: everything that sizes an allocation or leads
//! to an offset is checked against a limit and a checksum before it is used, and a file that fails
//! leaves nothing half done. Checksums here guard against accidents (a torn write, a full disk, a
//! flipped bit), not against someone who can rewrite the files.
//!
//! All integers are little-endian. A page number is an offset into the machine's memory image (the
//! memfd) in units of [`base_types::PAGE_SIZE`], not a guest physical address.

mod error;
mod fields;
mod inspect;
mod layer;
mod state;
mod working_set;
mod zero;

pub use error::{FileKind, OpenError};
pub use inspect::{Summary, inspect};
pub use layer::{
    CHUNK_BYTES, CHUNK_PAGES, Layer, LayerExtent, LayerKind, LayerReadError, LayerSummary,
    LayerWriteError, LayerWriter, PAGES_MAX, Page, Resolved, Run, Source, Stack, StackError,
};
pub use state::{
    MACHINE_TAG_BYTES_MAX, SECTIONS_MAX, STATE_BYTES_MAX, Section, SectionError, State,
    StateEncodeError, StateWriter, Tag,
};
pub use working_set::{
    WORKING_SET_EXTENTS_MAX, WorkingSet, WorkingSetEncodeError, WorkingSetExtent,
};
pub use zero::is_zero;

/// [`base_types::PAGE_SIZE`] where memory is indexed.
pub(crate) const PAGE_BYTES: usize = base_types::PAGE_SIZE as usize;
