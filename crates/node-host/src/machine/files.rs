//! What a machine is made with besides its memory.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use api_vmm::DiskSpec;

/// Where a machine's disk, console and frames go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MachineFiles<'a> {
    /// The raw base image, for reading.
    pub(crate) root: &'a File,
    /// Overlays that are frozen, lowest first, for reading.
    pub(crate) frozen: &'a [&'a File],
    /// The overlay this machine writes to.
    pub(crate) overlay: &'a File,
    /// Console log.
    pub(crate) console: &'a File,
    /// Frame socket. Whoever keeps it open hides the machine's end from those behind it.
    pub(crate) frames: BorrowedFd<'a>,
}

impl<'a> MachineFiles<'a> {
    pub(super) fn disk(&self) -> DiskSpec {
        disk_spec(self.frozen.len() + 2)
    }

    /// As a boot and a restore take them.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'a>> {
        let frozen = self.frozen.iter().map(|file| file.as_fd());
        std::iter::once(self.root.as_fd()).chain(frozen).chain([
            self.overlay.as_fd(),
            self.console.as_fd(),
            self.frames,
        ])
    }
}

/// What a chain of `files` is told as.
pub(super) fn disk_spec(files: usize) -> DiskSpec {
    DiskSpec { files: u8::try_from(files).unwrap_or(u8::MAX) }
}
