//! The state of a transport on disk.

use std::io;

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueState, QueueT as _};

use super::{MmioTransport, Registers, Rings, TransportHost, registers};
use crate::{
    Device, Freeze,
    lines::{INTERRUPT_CONFIG, INTERRUPT_USED},
};

/// A transport and its device, frozen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrozenTransport<F> {
    /// Device type, so that state is never given to another device.
    pub device_id: u32,
    /// Device status.
    pub status: u32,
    /// Features the driver accepted.
    pub driver_features: u64,
    /// Selector registers: device features, driver features, queue.
    pub selects: [u32; 3],
    /// Configuration generation.
    pub config_generation: u32,
    /// Interrupt status.
    pub interrupt_status: u32,
    /// Queues, in order.
    pub queues: Vec<FrozenQueue>,
    /// Of the device.
    pub device: F,
}

/// A queue, frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrozenQueue {
    /// Entries.
    pub size: u16,
    /// Whether the driver finished its setup.
    pub ready: bool,
    /// Whether event indices are in use.
    pub event_idx: bool,
    /// Next entry of the available ring to take.
    pub next_available: u16,
    /// Next entry of the used ring to fill.
    pub next_used: u16,
    /// Guest physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest physical address of the available ring.
    pub available: u64,
    /// Guest physical address of the used ring.
    pub used: u64,
}

/// Why frozen state of a transport was refused.
#[derive(Debug, thiserror::Error)]
pub enum ThawTransportError<E> {
    /// The state is of another device.
    #[error("device state is of virtio device type {found}, not {expected}")]
    OtherDevice {
        /// Type in the state.
        found: u32,
        /// Type of the device.
        expected: u32,
    },
    /// A register holds what it cannot.
    #[error("device state has an impossible {0}")]
    Register(&'static str),
    /// The state has more or fewer queues than the device.
    #[error("device state has {found} queues, not {expected}")]
    QueueCount {
        /// Queues in the state.
        found: usize,
        /// Queues of the device.
        expected: usize,
    },
    /// A queue is impossible.
    #[error("queue {queue} of the device state is impossible")]
    Queue {
        /// Index of the queue.
        queue: usize,
        /// What is wrong with it.
        source: virtio_queue::Error,
    },
    /// The rings of a queue do not lie in guest memory.
    #[error("queue {0} of the device state lies outside guest memory")]
    QueueOutside(usize),
    /// The device refused its own part.
    #[error("device state is not usable")]
    Device(#[source] E),
    /// The event descriptors could not be set up.
    #[error("set up the descriptors of a device")]
    Host(#[source] io::Error),
}

impl<D: Device + Freeze> Freeze for MmioTransport<D>
where
    D::Error: std::error::Error + 'static,
{
    type Frozen = FrozenTransport<D::Frozen>;
    type Host = (TransportHost, D::Host);
    type Error = ThawTransportError<D::Error>;

    fn freeze(&self) -> Self::Frozen {
        let state = self.lock();
        let registers = &state.registers;
        FrozenTransport {
            device_id: D::DEVICE_ID,
            status: registers.status,
            driver_features: registers.driver_features,
            selects: [
                registers.device_features_select,
                registers.driver_features_select,
                registers.queue_select,
            ],
            config_generation: registers.config_generation,
            interrupt_status: self.lines.status(),
            queues: state.queues.iter().zip(&state.rings).map(freeze_queue).collect(),
            device: state.device.freeze(),
        }
    }

    fn thaw(frozen: Self::Frozen, host: Self::Host) -> Result<Self, Self::Error> {
        let (host, device_host) = host;
        let queues = thaw_queues::<D, D::Error>(&frozen, &host)?;
        let rings = frozen
            .queues
            .iter()
            .map(|queue| Rings {
                descriptors: queue.descriptors,
                available: queue.available,
                used: queue.used,
            })
            .collect();
        let device = D::thaw(frozen.device, device_host).map_err(ThawTransportError::Device)?;
        let offered = device.features() | registers::TRANSPORT_FEATURES;
        if frozen.status & registers::FEATURES_OK != 0
            && !registers::features_acceptable(offered, frozen.driver_features)
        {
            return Err(ThawTransportError::Register("feature set"));
        }
        let [device_features_select, driver_features_select, queue_select] = frozen.selects;
        let registers = Registers {
            status: frozen.status,
            driver_features: frozen.driver_features,
            device_features_select,
            driver_features_select,
            queue_select,
            config_generation: frozen.config_generation,
        };
        host.lines.set_status(frozen.interrupt_status);
        Self::assemble(device, queues, rings, registers, host).map_err(ThawTransportError::Host)
    }
}

/// What a queue that is ready uses, or what the driver has written of one that is not yet.
fn freeze_queue((queue, rings): (&Queue, &Rings)) -> FrozenQueue {
    let state = queue.state();
    let rings = if state.ready { Rings::of(queue) } else { *rings };
    FrozenQueue {
        size: state.size,
        ready: state.ready,
        event_idx: state.event_idx_enabled,
        next_available: state.next_avail,
        next_used: state.next_used,
        descriptors: rings.descriptors,
        available: rings.available,
        used: rings.used,
    }
}

/// Checks everything a transport's own state says, and makes its queues.
fn thaw_queues<D: Device + Freeze, E>(
    frozen: &FrozenTransport<D::Frozen>,
    host: &TransportHost,
) -> Result<Vec<Queue>, ThawTransportError<E>> {
    if frozen.device_id != D::DEVICE_ID {
        return Err(ThawTransportError::OtherDevice {
            found: frozen.device_id,
            expected: D::DEVICE_ID,
        });
    }
    if frozen.status & !registers::STATUS_ALL != 0
        || frozen.status & registers::DRIVER_OK != 0 && frozen.status & registers::FEATURES_OK == 0
    {
        return Err(ThawTransportError::Register("device status"));
    }
    if frozen.interrupt_status & !(INTERRUPT_USED | INTERRUPT_CONFIG) != 0 {
        return Err(ThawTransportError::Register("interrupt status"));
    }
    if frozen.queues.len() != D::QUEUE_SIZES.len() {
        return Err(ThawTransportError::QueueCount {
            found: frozen.queues.len(),
            expected: D::QUEUE_SIZES.len(),
        });
    }
    let mut queues = Vec::with_capacity(frozen.queues.len());
    for ((index, queue), &max_size) in frozen.queues.iter().enumerate().zip(D::QUEUE_SIZES) {
        // Addresses of a queue that is not ready mean nothing yet and are not checked.
        let address = |address: u64| if queue.ready { address } else { 0 };
        let thawed = Queue::try_from(QueueState {
            max_size,
            next_avail: queue.next_available,
            next_used: queue.next_used,
            event_idx_enabled: queue.event_idx,
            size: queue.size,
            ready: queue.ready,
            desc_table: address(queue.descriptors),
            avail_ring: address(queue.available),
            used_ring: address(queue.used),
        })
        .map_err(|source| ThawTransportError::Queue { queue: index, source })?;
        if thawed.ready() && !thawed.is_valid(&*host.memory) {
            return Err(ThawTransportError::QueueOutside(index));
        }
        queues.push(thawed);
    }
    Ok(queues)
}
