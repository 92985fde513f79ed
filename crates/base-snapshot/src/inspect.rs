//! What a file of a snapshot says about itself, for people.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::fields::{MAGIC_BYTES, read_whole};
use crate::{FileKind, Layer, LayerKind, OpenError, Page, STATE_BYTES_MAX, State, Tag, WorkingSet};
use crate::{state, working_set};

/// A verified file in short. Its `Display` is a few lines of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Summary {
    /// Of a state file.
    State {
        /// The machine tag.
        machine: String,
        /// Name, version and length in bytes of each section.
        sections: Vec<(Tag, u32, u64)>,
    },
    /// Of a memory layer. Only header and index were verified.
    Layer {
        /// Base or diff.
        kind: LayerKind,
        /// Pages of the machine's memory.
        total_pages: u64,
        /// Pages with content.
        data_pages: u64,
        /// Pages recorded as zero.
        zero_pages: u64,
        /// Runs the two come in.
        extents: u64,
    },
    /// Of a working set.
    WorkingSet {
        /// Pages of the machine's memory.
        total_pages: u64,
        /// Pages only read.
        read_pages: u64,
        /// Pages written to.
        written_pages: u64,
        /// Runs the two come in.
        extents: u64,
    },
}

/// Verifies `file`, whichever of the three it is, and sums it up. What is none of them is taken for
/// a memory layer and refused as such.
pub fn inspect(file: File) -> Result<Summary, OpenError> {
    let mut magic = [0; MAGIC_BYTES];
    // A file too short for a magic is refused below, with the reason.
    let known = file.read_exact_at(&mut magic, 0).is_ok();
    if known && &magic == state::MAGIC {
        let state = State::parse(read_whole(&file, FileKind::State, STATE_BYTES_MAX)?)?;
        let sections = state
            .sections()
            .map(|section| (section.tag, section.version, section.bytes.len() as u64))
            .collect();
        return Ok(Summary::State { machine: state.machine().to_owned(), sections });
    }
    if known && &magic == working_set::MAGIC {
        let limit = working_set::FILE_BYTES_MAX;
        let set = WorkingSet::parse(&read_whole(&file, FileKind::WorkingSet, limit)?)?;
        let written_pages =
            set.extents().iter().filter(|extent| extent.written).map(|extent| extent.pages).sum();
        return Ok(Summary::WorkingSet {
            total_pages: set.total_pages(),
            read_pages: set.pages() - written_pages,
            written_pages,
            extents: set.extents().len() as u64,
        });
    }
    let layer = Layer::parse(file, None)?;
    let zero = layer.extents().filter(|extent| extent.content == Page::Zero);
    Ok(Summary::Layer {
        kind: layer.kind(),
        total_pages: layer.total_pages(),
        data_pages: layer.data_pages(),
        zero_pages: zero.map(|extent| extent.pages).sum(),
        extents: layer.extents().len() as u64,
    })
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State { machine, sections } => {
                write!(f, "state file for machine type `{machine}`")?;
                for (tag, version, bytes) in sections {
                    write!(f, "\n  section `{tag}` version {version}, {bytes} bytes")?;
                }
                Ok(())
            }
            Self::Layer { kind, total_pages, data_pages, zero_pages, extents } => {
                let kind = match kind {
                    LayerKind::Base => "base",
                    LayerKind::Diff => "diff",
                };
                write!(
                    f,
                    "memory layer ({kind}) for {total_pages} pages\n  {data_pages} pages of data, \
                     {zero_pages} zero pages, {extents} extents"
                )
            }
            Self::WorkingSet { total_pages, read_pages, written_pages, extents } => write!(
                f,
                "working set for {total_pages} pages\n  {read_pages} pages read, {written_pages} \
                 pages written, {extents} extents"
            ),
        }
    }
}

#[cfg(test)]
mod test;
