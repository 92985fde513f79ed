//! The root disk: a virtio block device over a chain of layers.
//!
//! ```text
//! guest ── Block (queue, requests) ── Disk ── qcow2 overlay, read-write   ◀ every write
//!                                             qcow2 overlays, frozen
//!                                             raw base image, shared by all
//! ```
//!
//! Requests are served one after another on the event loop, so none is in flight between two
//! events; freezing needs no waiting. A flush ends on stable storage.

mod device;
mod disk;
mod freeze;
mod merge;
mod request;
mod room;
#[cfg(test)]
mod test;

pub use self::{
    device::{Block, BlockStats},
    disk::{Disk, DiskError},
    freeze::{FrozenBlock, ThawBlockError},
    merge::merge,
    request::{
        HEADER_BYTES, ID_BYTES, RANGE_BYTES, RANGE_SECTORS_MAX, RANGES_MAX, REQUEST_BYTES_MAX,
        Refusal, Request, SECTOR_BYTES, parse_range, parse_request,
    },
};
