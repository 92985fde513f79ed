//! Guest memory: reserved first, filled when it is known with what.
//!
//! ```text
//!  reserve ──▶ PROT_NONE address space, memory slots point at it (a shell)
//!     │ attach_anonymous            │ attach_template
//!     ▼                             ▼
//!  zeroed memory, for a boot     MAP_PRIVATE view of the template's memfd, for a clone;
//!                                optionally filled page by page through userfaultfd
//! ```
//!
//! Installing a memory slot costs a grace period in KVM; replacing what lies behind one costs an
//! `mmap`. So a shell is built with its slots, and a claim only maps.

mod fault;
mod pagemap;
mod prefetch;
mod ram;
mod uffd;

pub(crate) use fault::{FaultCounters, FaultHandler, FaultSetup};
pub(crate) use pagemap::{PageRun, PageScanner};
pub(crate) use prefetch::prefetch;
pub(crate) use ram::{Ram, Reservation};
pub(crate) use uffd::Userfault;

use std::io;

/// Why guest memory could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// No address space.
    #[error("reserve {bytes} bytes of address space for guest memory")]
    Reserve {
        /// How much.
        bytes: u64,
        /// Why.
        source: io::Error,
    },
    /// The mapping was refused.
    #[error("map guest memory")]
    Map(#[source] io::Error),
    /// The template's memory has another size than the machine.
    #[error("the template's memory has {found} bytes, the machine has {wanted}")]
    TemplateSize {
        /// Size of the memfd.
        found: u64,
        /// Size of the machine.
        wanted: u64,
    },
    /// The template's memory could still be changed by somebody.
    #[error("the template's memory is not sealed against writing")]
    NotSealed,
    /// vm-memory refused the regions.
    #[error("describe guest memory")]
    Regions,
    /// A userfaultfd call failed.
    #[error("{call}")]
    Userfault {
        /// The call.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
    /// PAGEMAP_SCAN failed.
    #[error("find the changed pages of guest memory")]
    Pagemap(#[source] io::Error),
    /// A layer cannot be read.
    #[error("read a memory layer")]
    Layer(#[source] base_snapshot::LayerReadError),
    /// The fault handler cannot start.
    #[error("start the fault handler")]
    Thread(#[source] io::Error),
}
