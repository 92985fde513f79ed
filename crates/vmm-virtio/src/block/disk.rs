//! A chain of layers as one disk.

use std::{fs::File, io, sync::Arc};

use imago::{
    DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder as _, ShallowMapping,
    file::File as LayerFile,
    io_buffers::{IoVector, IoVectorMut},
    qcow2::Qcow2,
    raw::Raw,
};

use super::{request::SECTOR_BYTES, room::Room};
use crate::Buffers;

/// One layer with everything under it.
pub(super) type Layer = Arc<FormatAccess<LayerFile>>;

/// Why a disk could not be opened, or a layer put above it.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A disk needs at least its base.
    #[error("a disk needs at least one file")]
    NoFiles,
    /// The top overlay's header could not be read.
    #[error("read the size of the disk")]
    Size(#[source] base_overlay::OverlayError),
    /// A file could not be used.
    #[error("use file {layer} of the disk (0 is the base image)")]
    File {
        /// Position in the chain.
        layer: usize,
        /// What is wrong with it.
        source: io::Error,
    },
    /// A layer is not what it should be.
    #[error("open layer {layer} of the disk (0 is the base image)")]
    Layer {
        /// Position in the chain.
        layer: usize,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The overlay is for a disk of another size.
    #[error("the overlay is for a disk of {found} bytes, not {expected}")]
    OtherSize {
        /// Size in the overlay.
        found: u64,
        /// Size of the disk.
        expected: u64,
    },
    /// The host failed to carry out a request; a full file system, most likely.
    #[error("read or write the disk's files")]
    Io(#[source] io::Error),
    /// The host's file system is nearly full, and this disk has had its part.
    #[error(
        "grow the disk's file: the host's file system has {free_mib} MiB left, kept for the node and for smaller disks"
    )]
    NoRoom {
        /// What is left.
        free_mib: u64,
    },
    /// What was written could not be brought to stable storage.
    #[error("bring the disk to stable storage")]
    Flush(#[source] io::Error),
    /// Opening was tried before and failed.
    #[error("the disk could not be opened earlier")]
    Unusable,
}

/// A disk made of a raw base image and qcow2 overlays, bottom to top; all but the top are only
/// read. Opened when first used: a clone that never touches its disk never reads its tables.
#[derive(Debug)]
pub struct Disk {
    state: State,
    layers: usize,
    size: u64,
    room: Room,
}

#[derive(Debug)]
enum State {
    Closed(Vec<File>),
    Open(Opened),
    Unusable,
}

#[derive(Debug)]
pub(super) struct Opened {
    pub(super) top: Layer,
    /// The top's file once more, to bring only its data to stable storage.
    top_file: File,
}

impl Disk {
    /// A disk over `files`: the base image, then overlays bottom to top, the last open for reading
    /// and writing. Reads the size and nothing else.
    pub fn new(files: Vec<File>) -> Result<Self, DiskError> {
        let layers = files.len();
        let size = match files.as_slice() {
            [] => return Err(DiskError::NoFiles),
            [base] => base.metadata().map_err(|source| DiskError::File { layer: 0, source })?.len(),
            [.., top] => base_overlay::virtual_size(top).map_err(DiskError::Size)?,
        };
        Ok(Disk { state: State::Closed(files), layers, size, room: Room::default() })
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Size in whole sectors.
    pub fn sectors(&self) -> u64 {
        self.size / SECTOR_BYTES
    }

    /// How many layers the disk has.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// Opens the chain, unless it is open. A disk that failed to open stays unusable.
    pub fn open(&mut self) -> Result<(), DiskError> {
        self.opened().map(|_| ())
    }

    /// Fills `buffers` from `offset`.
    pub(crate) fn read(&mut self, buffers: &Buffers<'_>, offset: u64) -> Result<(), DiskError> {
        let opened = self.opened()?;
        let (vector, _guard) = IoVectorMut::from_volatile_slice(buffers.slices());
        opened.top.readv(vector, offset).map_err(DiskError::Io)
    }

    /// Writes `buffers` at `offset`.
    pub(crate) fn write(&mut self, buffers: &Buffers<'_>, offset: u64) -> Result<(), DiskError> {
        self.make_sure_of_room(offset, buffers.len() as u64)?;
        let opened = self.opened()?;
        let (vector, _guard) = IoVector::from_volatile_slice(buffers.slices());
        opened.top.writev(vector, offset).map_err(DiskError::Io)
    }

    /// Makes `len` bytes at `offset` read as zeroes; `discard` also gives their space back.
    pub(crate) fn zero(&mut self, offset: u64, len: u64, discard: bool) -> Result<(), DiskError> {
        let opened = self.opened()?;
        match Arc::get_mut(&mut opened.top) {
            Some(top) if discard => top.discard_to_zero(offset, len),
            _ => opened.top.write_zeroes(offset, len),
        }
        .map_err(DiskError::Io)
    }

    /// Brings everything written so far to stable storage.
    pub fn flush(&mut self) -> Result<(), DiskError> {
        match &self.state {
            // Nothing was written.
            State::Closed(_) => Ok(()),
            State::Open(opened) => opened.flush(),
            State::Unusable => Err(DiskError::Unusable),
        }
    }

    /// Brings everything to stable storage and goes on over `files`, a chain with the same content:
    /// the base image, then overlays bottom to top, the last one empty and open for reading and
    /// writing. No file of before is written again. The disk goes on as it was when this fails.
    pub fn go_on_over(&mut self, files: Vec<File>) -> Result<(), DiskError> {
        let mut next = Self::new(files)?;
        if next.size != self.size {
            return Err(DiskError::OtherSize { found: next.size, expected: self.size });
        }
        self.flush()?;
        match &self.state {
            State::Closed(_) => {}
            // Now, so that it fails here and not at the guest's next request.
            State::Open(_) => next.open()?,
            State::Unusable => return Err(DiskError::Unusable),
        }
        *self = next;
        Ok(())
    }

    /// Refuses to write `len` bytes at `offset` where the overlay would grow and must not.
    fn make_sure_of_room(&mut self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.opened()?;
        let State::Open(opened) = &self.state else { return Err(DiskError::Unusable) };
        match self.room.ask(&opened.top_file, len).map_err(DiskError::Io)? {
            Ok(()) => Ok(()),
            Err(free_mib) if !opened.has(offset, len)? => Err(DiskError::NoRoom { free_mib }),
            Err(_) => Ok(()),
        }
    }

    fn opened(&mut self) -> Result<&mut Opened, DiskError> {
        if let State::Closed(files) = &mut self.state {
            let files = std::mem::take(files);
            self.state = State::Unusable;
            self.state = State::Open(open_chain(files, self.size)?);
        }
        match &mut self.state {
            State::Open(opened) => Ok(opened),
            State::Closed(_) | State::Unusable => Err(DiskError::Unusable),
        }
    }
}

impl Opened {
    /// Whether all of it is in the top layer already.
    fn has(&self, mut offset: u64, mut len: u64) -> Result<bool, DiskError> {
        while len > 0 {
            let mapping = self.top.get_shallow_mapping(offset, len).map_err(DiskError::Io)?;
            let (ShallowMapping::Raw { writable: true, .. }, found @ 1..) = mapping else {
                return Ok(false);
            };
            offset = offset.saturating_add(found);
            len = len.saturating_sub(found);
        }
        Ok(true)
    }

    pub(super) fn flush(&self) -> Result<(), DiskError> {
        self.top.flush().map_err(DiskError::Flush)?;
        self.top_file.sync_data().map_err(DiskError::Flush)
    }
}

fn open_chain(files: Vec<File>, size: u64) -> Result<Opened, DiskError> {
    let last = files.len().saturating_sub(1);
    let mut files = files.into_iter().enumerate();
    let (_, base) = files.next().ok_or(DiskError::NoFiles)?;
    let mut opened = open_base(base, last == 0)?;
    for (layer, file) in files {
        opened = open_overlay(layer, file, opened.top, layer == last)?;
    }
    let found = opened.top.size();
    if found == size { Ok(opened) } else { Err(DiskError::OtherSize { found, expected: size }) }
}

pub(super) fn open_base(file: File, writable: bool) -> Result<Opened, DiskError> {
    let top_file = file.try_clone().map_err(|source| DiskError::File { layer: 0, source })?;
    let file = LayerFile::try_from(file).map_err(|source| DiskError::File { layer: 0, source })?;
    let raw = Raw::builder(file)
        .write(writable)
        .open(DenyImplicitOpenGate::default())
        .map_err(|source| DiskError::Layer { layer: 0, source })?;
    Ok(Opened { top: Arc::new(FormatAccess::new(raw)), top_file })
}

/// The overlay in `file` with `below` under it, whatever its header says: no layer can name a file.
pub(super) fn open_overlay(
    layer: usize,
    file: File,
    below: Layer,
    writable: bool,
) -> Result<Opened, DiskError> {
    let top_file = file.try_clone().map_err(|source| DiskError::File { layer, source })?;
    let file = LayerFile::try_from(file).map_err(|source| DiskError::File { layer, source })?;
    let overlay = Qcow2::<LayerFile, Layer>::builder(file)
        .backing(Some(below))
        .data_file(None)
        .write(writable)
        .open(DenyImplicitOpenGate::default())
        .map_err(|source| DiskError::Layer { layer, source })?;
    if overlay.requires_external_data_file() {
        let source = io::Error::new(io::ErrorKind::InvalidData, "its data is in another file");
        return Err(DiskError::Layer { layer, source });
    }
    Ok(Opened { top: Arc::new(FormatAccess::new(overlay)), top_file })
}
