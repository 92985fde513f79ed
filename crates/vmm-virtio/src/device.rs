//! What every device is: queues it serves, state that can be frozen, ways a guest can break it.

use serde::{Serialize, de::DeserializeOwned};

use crate::{Events, Queues};

/// A part of the machine that survives a snapshot.
pub trait Freeze: Sized {
    /// Plain data, the only thing written to disk.
    type Frozen: Serialize + DeserializeOwned;
    /// Everything a thawed device needs that cannot be written down: descriptors, guest memory.
    type Host;
    /// Why frozen state was refused.
    type Error;

    /// Cannot fail: a device that is not running always knows its own state.
    fn freeze(&self) -> Self::Frozen;

    /// Treats `frozen` as hostile input; a snapshot file may have been edited.
    fn thaw(frozen: Self::Frozen, host: Self::Host) -> Result<Self, Self::Error>;
}

/// One virtio device behind a transport. All methods run under the transport's lock.
pub trait Device: Send + 'static {
    /// Name in reports.
    const NAME: &'static str;
    /// Virtio device type.
    const DEVICE_ID: u32;
    /// Largest size of each queue; powers of two.
    const QUEUE_SIZES: &'static [u16];

    /// Feature bits of this device type; the transport adds its own.
    fn features(&self) -> u64;

    /// Fills `data` from the configuration space at `offset`; bytes past its end are zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// The guest added buffers to `queue`, or may have.
    fn queue_event(&mut self, queue: usize, queues: &mut Queues<'_>) -> Result<(), GuestFault>;

    /// A descriptor the device registered with `token` is ready. Tokens below
    /// [`QUEUE_TOKENS`](crate::mmio::QUEUE_TOKENS) belong to the transport.
    fn backend_event(
        &mut self,
        token: u32,
        events: Events,
        queues: &mut Queues<'_>,
    ) -> Result<(), GuestFault>;

    /// The guest resets the device, or has broken it: forget everything it said.
    fn reset(&mut self);

    /// Something of the host's that failed since the last call, in one sentence.
    fn take_host_failure(&mut self) -> Option<String> {
        None
    }
}

/// How a guest broke a device.
#[derive(Debug, thiserror::Error)]
pub enum GuestFault {
    /// A queue's rings are misaligned, outside guest memory, or their indices make no sense.
    #[error("queue {queue} is not usable")]
    Queue {
        /// Index of the queue.
        queue: usize,
        /// What is wrong with it.
        source: virtio_queue::Error,
    },
    /// The rings of a queue do not lie in guest memory.
    #[error("queue {queue} lies outside guest memory")]
    QueueOutside {
        /// Index of the queue.
        queue: usize,
    },
    /// A chain has no descriptor, does not end, is too long or refers to none that exists.
    #[error("descriptor chain {head} of queue {queue} is empty, too long, circular or cut off")]
    ChainEnds {
        /// Index of the queue.
        queue: usize,
        /// First descriptor of the chain.
        head: u16,
    },
    /// A device-readable buffer follows a device-writable one.
    #[error("descriptor chain {head} of queue {queue} has a readable buffer after a writable one")]
    ChainOrder {
        /// Index of the queue.
        queue: usize,
        /// First descriptor of the chain.
        head: u16,
    },
    /// A buffer is not all in guest memory.
    #[error("a buffer of {len} bytes at {address:#x} lies outside guest memory")]
    BufferOutside {
        /// Guest physical address.
        address: u64,
        /// Length in bytes.
        len: u32,
    },
    /// A request that breaks the rules of its device.
    #[error("{0}")]
    Request(&'static str),
    /// The driver went on after negotiating features it was not offered, or in the wrong order.
    #[error("driver started the device without agreeing on its features")]
    NotNegotiated,
}
