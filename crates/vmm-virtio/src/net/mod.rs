//! The network card: Ethernet frames between a guest and a socket of the host's.
//!
//! ```text
//! guest ── Net (queues) ── FrameSocket ── one frame in each packet ── whoever has the other end
//! ```
//!
//! Nothing is looked at in a frame but its length. A socket that is full stops taking from the guest,
//! and a guest without buffers stops reading from the socket, so neither costs more than one frame of
//! memory. When the other end is closed, what the guest sends is lost, until there is another socket.
//!
//! Frames may be lost on any network, so a snapshot has none: what lies in the socket, or was read and
//! found no room in the guest, is not in it. What the guest was not relieved of stays in its queue.
//! Frames that fill several of the guest's buffers are given to it at once.

mod device;
mod freeze;
mod socket;
#[cfg(test)]
mod test;

pub use self::{
    device::{FRAME_BYTES_MIN, HEADER_BYTES, MERGED_MAX, Net, NetSettings, NetStats},
    freeze::{FrozenNet, NetHost, ThawNetError},
};
