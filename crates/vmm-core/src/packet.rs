//! Packets on the control socket: one message each, with the file descriptors that came along.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use api_vmm::{PACKET_BYTES_MAX, PACKET_FDS_MAX};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recvmsg, send,
};

/// Why the control socket is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The call failed.
    #[error("{call} on the control socket")]
    Socket {
        /// The call.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A packet or its descriptors were cut off.
    #[error("a control packet exceeds {PACKET_BYTES_MAX} bytes or {PACKET_FDS_MAX} descriptors")]
    TooBig,
    /// A packet is not a message.
    #[error("understand a control packet")]
    Codec(#[source] api_vmm::CodecError),
}

/// One received packet.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

/// Receives one packet without waiting: `Ok(None)` when there is none now, `Ok(Some)` with no bytes
/// at end of file.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> Result<Option<Packet>, ControlError> {
    let mut bytes = vec![0; PACKET_BYTES_MAX];
    let mut space =
        [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PACKET_FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut parts = [io::IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        match recvmsg(socket, &mut parts, &mut ancillary, flags) {
            Ok(received) => break received,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(error) => {
                return Err(ControlError::Socket { call: "recvmsg", source: error.into() });
            }
        }
    };
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(ControlError::TooBig);
    }
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    bytes.truncate(received.bytes);
    Ok(Some(Packet { bytes, fds }))
}

/// Sends `message`, waiting for room.
pub(crate) fn deliver(
    socket: BorrowedFd<'_>,
    message: &api_vmm::Message,
) -> Result<(), ControlError> {
    let bytes = api_vmm::encode(message).map_err(ControlError::Codec)?;
    loop {
        match send(socket, &bytes, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => {
                return Err(ControlError::Socket { call: "send", source: error.into() });
            }
        }
    }
}
