//! Starts and stops the portable host: one Linux in QEMU, on an emulated processor with virtualization, in which
//! the whole node runs on machines that have no usable KVM.
//!
//! [`PortableHost`] is the long-lived one behind `sandflare up`; [`run_once`] runs a single program in a fresh one
//! and brings back its output and exit status, which is how Linux guests are tested anywhere.

mod backlog;
mod config;
mod disks;
mod error;
mod host;
mod initrd;
mod manifest;
mod once;
mod process;
mod qemu;
mod qmp;

pub use config::{Config, MEMORY_MIB_DEFAULT, VCPUS_DEFAULT};
pub use disks::DATA_BYTES_DEFAULT;
pub use error::HostError;
pub use host::{PortableHost, Running, Start, Status, Step, check_qemu};
pub use once::{Once, Outcome, run_once};
pub use portable_init::{ADDRESS, DATA_DIR, End, IMAGES_DIR};
