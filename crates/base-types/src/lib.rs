//! Words every place shares: ids, names and sizes, and how an error chain is printed.
//!
//! This crate runs anywhere and knows nothing: no clock, no files, no sockets.

mod chain;
mod id;
mod name;
mod panic;
mod size;

pub use chain::Chain;
pub use id::{DatabaseId, KeyId, ParseIdError, ProjectId, SandboxId, SnapshotId};
pub use name::{ParseNameError, TemplateName};
pub use panic::abort_on_panic;
pub use size::{ParseSizeError, Size};

/// Bytes in one page of guest memory. x86-64 only; the snapshot format depends on it.
pub const PAGE_SIZE: u64 = 4096;
