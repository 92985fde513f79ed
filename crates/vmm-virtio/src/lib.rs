//! Virtio devices of a microVM: block, vsock, entropy and network, each behind a virtio-mmio
//! register window.
//!
//! This crate never touches KVM, never opens a path and starts no thread. The caller owns one
//! event-loop thread and the vCPU threads:
//!
//! - vCPU threads call [`MmioTransport::read`] and [`MmioTransport::write`] for every access to the
//!   register window;
//! - the event loop waits on an epoll set. Devices add their descriptors to it through a
//!   [`Registrar`], and the loop hands each event to [`MmioTransport::event`] of the device that
//!   [`split_token`] names.
//!
//! What must always hold: everything the guest says is checked before it is used, every loop the
//! guest can lengthen has a bound, and a guest that breaks the rules breaks its device (see
//! [`MmioTransport::take_broken`]), never the process. Frozen state is treated the same way: a
//! snapshot file may have been edited.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

use std::sync::Arc;

pub mod block;
mod buffers;
mod chain;
mod device;
#[cfg(test)]
mod driver;
mod lines;
pub mod mmio;
pub mod net;
mod queues;
mod registrar;
pub mod rng;
pub mod vsock;

pub use block::Block;
pub use buffers::Buffers;
pub use chain::{CHAIN_DESCRIPTORS_MAX, Chain};
pub use device::{Device, Freeze, GuestFault};
pub use lines::Lines;
pub use mmio::{FrozenTransport, MmioDevice, MmioTransport, ThawTransportError, TransportHost};
pub use net::Net;
pub use queues::Queues;
pub use registrar::{Events, Registrar, split_token};
pub use rng::Rng;
pub use vsock::Vsock;

/// Guest memory as every device sees it.
pub type GuestMemory = Arc<vm_memory::GuestMemoryMmap<()>>;

/// LIMIT: the register window of one device, and the granularity at which windows are laid out.
pub const MMIO_WINDOW_BYTES: u64 = 4096;
