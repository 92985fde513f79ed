//! The header in front of every vsock packet. Pure.

use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;

/// Virtio device type of a socket device.
pub(super) const DEVICE_ID: u32 = VIRTIO_ID_VSOCK;

/// Bytes of a packet header.
pub const HEADER_BYTES: usize = 44;

/// CID of the host in every guest's eyes.
pub const HOST_CID: u64 = 2;
/// CID of the guest, the same in every machine: each has a host of its own.
pub const GUEST_CID: u64 = 3;

/// Stream sockets, the only type here.
pub const TYPE_STREAM: u16 = 1;

/// In a shutdown: the sender will not receive any more.
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// In a shutdown: the sender will not send any more.
pub const SHUTDOWN_SEND: u32 = 2;
/// Both of them.
pub const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Open a connection.
    Request,
    /// Accept one.
    Response,
    /// Refuse or end one at once.
    Reset,
    /// End one in order; `flags` say which directions.
    Shutdown,
    /// Carry data.
    Data,
    /// Tell how much room there is.
    CreditUpdate,
    /// Ask how much room there is.
    CreditRequest,
}

impl Operation {
    /// Number on the wire.
    pub fn code(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Reset => 3,
            Self::Shutdown => 4,
            Self::Data => 5,
            Self::CreditUpdate => 6,
            Self::CreditRequest => 7,
        }
    }

    /// The operation with this number on the wire.
    pub fn from_code(code: u16) -> Option<Self> {
        Some(match code {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

/// A packet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketHeader {
    /// CID of the sender.
    pub src_cid: u64,
    /// CID of the receiver.
    pub dst_cid: u64,
    /// Port of the sender.
    pub src_port: u32,
    /// Port of the receiver.
    pub dst_port: u32,
    /// Bytes of data after the header.
    pub len: u32,
    /// Kind of socket.
    pub socket_type: u16,
    /// Number of the [`Operation`].
    pub operation: u16,
    /// Of the operation.
    pub flags: u32,
    /// How much the sender can hold of what it receives.
    pub buf_alloc: u32,
    /// How much the sender has passed on of what it received, modulo 2^32.
    pub fwd_cnt: u32,
}

impl PacketHeader {
    /// The header in the first bytes of `bytes`; none when they are too few. Any values go: what
    /// they mean is for the receiver to check.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (header, _) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let (src_cid, rest) = header.split_first_chunk::<8>()?;
        let (dst_cid, rest) = rest.split_first_chunk::<8>()?;
        let (src_port, rest) = rest.split_first_chunk::<4>()?;
        let (dst_port, rest) = rest.split_first_chunk::<4>()?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (socket_type, rest) = rest.split_first_chunk::<2>()?;
        let (operation, rest) = rest.split_first_chunk::<2>()?;
        let (flags, rest) = rest.split_first_chunk::<4>()?;
        let (buf_alloc, rest) = rest.split_first_chunk::<4>()?;
        let (fwd_cnt, _) = rest.split_first_chunk::<4>()?;
        Some(PacketHeader {
            src_cid: u64::from_le_bytes(*src_cid),
            dst_cid: u64::from_le_bytes(*dst_cid),
            src_port: u32::from_le_bytes(*src_port),
            dst_port: u32::from_le_bytes(*dst_port),
            len: u32::from_le_bytes(*len),
            socket_type: u16::from_le_bytes(*socket_type),
            operation: u16::from_le_bytes(*operation),
            flags: u32::from_le_bytes(*flags),
            buf_alloc: u32::from_le_bytes(*buf_alloc),
            fwd_cnt: u32::from_le_bytes(*fwd_cnt),
        })
    }

    /// The bytes of this header.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let fields = (self.src_cid.to_le_bytes().into_iter())
            .chain(self.dst_cid.to_le_bytes())
            .chain(self.src_port.to_le_bytes())
            .chain(self.dst_port.to_le_bytes())
            .chain(self.len.to_le_bytes())
            .chain(self.socket_type.to_le_bytes())
            .chain(self.operation.to_le_bytes())
            .chain(self.flags.to_le_bytes())
            .chain(self.buf_alloc.to_le_bytes())
            .chain(self.fwd_cnt.to_le_bytes());
        bytes.iter_mut().zip(fields).for_each(|(into, byte)| *into = byte);
        bytes
    }
}
