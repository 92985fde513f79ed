//! Sockets between host and guest: every connection is a Unix stream of the host's, spliced onto a
//! port of the guest.
//!
//! The host opens connections ([`MmioTransport::connect`](crate::MmioTransport)), at any time, also
//! before the guest runs; the guest opens none and is told so by a reset. Both directions have
//! flow control: the guest may send as much as a connection's buffer holds, and is sent as much as
//! it says it can hold, so a slow reader on either side costs a bounded amount of memory and
//! stalls nobody else. Connections take turns, one packet each.
//!
//! A connection does not survive a snapshot: its host side is gone. After a thaw the guest gets a
//! reset for each, before anything else.

mod connection;
mod device;
mod freeze;
mod muxer;
mod packet;
#[cfg(test)]
mod test;

pub use self::{
    connection::BUFFER_BYTES,
    device::{Vsock, VsockStats},
    freeze::{FrozenVsock, ThawVsockError},
    muxer::{CONNECTIONS_MAX, ConnectError},
    packet::{
        GUEST_CID, HEADER_BYTES, HOST_CID, Operation, PacketHeader, SHUTDOWN_BOTH,
        SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM,
    },
};
