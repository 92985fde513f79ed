//! Several overlays of a disk as one.
//!
//! ```text
//!   run: c ──┐
//!        b   ├──▶ merged      holds what a, b and c hold, the uppermost of each cluster
//!        a ──┘       │
//!   below:   x       x
//!        base image  base image
//! ```
//!
//! The run is only read. A disk over `merged` reads as one over the run did, whatever is above.

use std::fs::File;
use std::ptr;

use imago::ShallowMapping;

use super::disk::{DiskError, Layer, open_base, open_overlay};

/// LIMIT: what is copied in one go. The most it costs is memory.
const COPY_BYTES: u64 = 1 << 20;

/// What the run says about a stretch of the disk.
enum Content {
    /// Nothing: what is below counts.
    Below,
    /// It is zero.
    Zero,
    /// It has bytes of its own.
    Data,
}

/// Makes `merged`, an empty overlay open for reading and writing, hold what the overlays `run` hold,
/// which lie over `below`: the base image, then overlays, bottom to top. On stable storage when this
/// returns. Returns how many bytes were copied.
pub fn merge(below: Vec<File>, run: Vec<File>, merged: File) -> Result<u64, DiskError> {
    let mut below = below.into_iter();
    let base = below.next().ok_or(DiskError::NoFiles)?;
    let mut lower = open_base(base, false)?.top;
    let mut layer = 1_usize;
    for file in below {
        lower = open_overlay(layer, file, lower, false)?.top;
        layer = layer.saturating_add(1);
    }
    let to = open_overlay(layer, merged, Layer::clone(&lower), true)?;
    let mut top = Layer::clone(&lower);
    for file in run {
        top = open_overlay(layer, file, top, false)?.top;
        layer = layer.saturating_add(1);
    }
    let size = to.top.size();
    if top.size() != size {
        return Err(DiskError::OtherSize { found: size, expected: top.size() });
    }
    let mut buffer = vec![0; usize::try_from(COPY_BYTES).unwrap_or_default()];
    let (mut offset, mut copied) = (0_u64, 0_u64);
    while offset < size {
        let (content, len) = look(&top, &lower, offset, size.saturating_sub(offset))?;
        let len = match content {
            Content::Below => len,
            Content::Zero => {
                to.top.write_zeroes(offset, len).map_err(DiskError::Io)?;
                len
            }
            Content::Data => {
                let len = len.min(COPY_BYTES);
                let piece = usize::try_from(len).ok().and_then(|len| buffer.get_mut(..len));
                let piece = piece.unwrap_or_default();
                top.read(&mut *piece, offset).map_err(DiskError::Io)?;
                to.top.write(&*piece, offset).map_err(DiskError::Io)?;
                copied = copied.saturating_add(len);
                len
            }
        };
        offset = offset.saturating_add(len);
    }
    to.flush()?;
    Ok(copied)
}

/// What the overlays from `top` down to above `lower` say of the disk at `offset`, and for how many
/// bytes, at least one and at most `len`.
fn look(
    top: &Layer,
    lower: &Layer,
    mut offset: u64,
    mut len: u64,
) -> Result<(Content, u64), DiskError> {
    let mut at = &**top;
    let content = loop {
        if ptr::eq(at, &**lower) {
            break Content::Below;
        }
        let (mapping, found) = at.get_shallow_mapping(offset, len).map_err(DiskError::Io)?;
        len = len.min(found);
        match mapping {
            ShallowMapping::Indirect { layer, offset: there, .. } => (at, offset) = (layer, there),
            ShallowMapping::Zero { .. } => break Content::Zero,
            ShallowMapping::Eof { .. } => {
                return Err(DiskError::Io(std::io::ErrorKind::UnexpectedEof.into()));
            }
            // Where and how it is stored is for the reader.
            _ => break Content::Data,
        }
    };
    match len {
        0 => Err(DiskError::Io(std::io::ErrorKind::InvalidData.into())),
        len => Ok((content, len)),
    }
}
