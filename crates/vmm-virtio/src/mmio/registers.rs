//! The register file of virtio-mmio version 2, and what the device status may do.
//!
//! ```text
//! 0 ──▶ ACKNOWLEDGE ──▶ DRIVER ──▶ FEATURES_OK ──▶ DRIVER_OK
//! ▲                                                   │
//! └───────────── write of 0, from anywhere ───────────┘
//! ```
//!
//! The driver only ever adds bits; writing 0 resets. `FEATURES_OK` sticks only when the driver
//! accepted a subset of what was offered, which is how it learns that it may go on.

use virtio_bindings::{
    virtio_config::{
        VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
        VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
        VIRTIO_F_VERSION_1,
    },
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};

pub(crate) const MAGIC_VALUE: u32 = 0x7472_6976;
pub(crate) const VERSION: u32 = 2;
/// "SFLR", little endian.
pub(crate) const VENDOR: u32 = 0x524c_4653;

pub(crate) const ACKNOWLEDGE: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE;
pub(crate) const DRIVER: u32 = VIRTIO_CONFIG_S_DRIVER;
pub(crate) const DRIVER_OK: u32 = VIRTIO_CONFIG_S_DRIVER_OK;
pub(crate) const FEATURES_OK: u32 = VIRTIO_CONFIG_S_FEATURES_OK;
pub(crate) const NEEDS_RESET: u32 = VIRTIO_CONFIG_S_NEEDS_RESET;
pub(crate) const FAILED: u32 = VIRTIO_CONFIG_S_FAILED;
/// Every status bit there is.
pub(crate) const STATUS_ALL: u32 =
    ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | NEEDS_RESET | FAILED;

/// What the transport itself offers. Event indices are worth it: under load most notifications
/// and interrupts, each an exit, go away.
pub(crate) const TRANSPORT_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// Offsets in the register window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    Magic,
    Version,
    DeviceId,
    Vendor,
    DeviceFeatures,
    DeviceFeaturesSelect,
    DriverFeatures,
    DriverFeaturesSelect,
    QueueSelect,
    QueueSizeMax,
    QueueSize,
    QueueReady,
    QueueNotify,
    InterruptStatus,
    InterruptAcknowledge,
    Status,
    DescriptorsLow,
    DescriptorsHigh,
    AvailableLow,
    AvailableHigh,
    UsedLow,
    UsedHigh,
    /// Length and base of a shared memory region: always "there is none".
    SharedMemory,
    ConfigGeneration,
}

impl Register {
    /// The register at `offset`, if there is one.
    pub(crate) fn at(offset: u64) -> Option<Self> {
        Some(match offset {
            0x00 => Self::Magic,
            0x04 => Self::Version,
            0x08 => Self::DeviceId,
            0x0c => Self::Vendor,
            0x10 => Self::DeviceFeatures,
            0x14 => Self::DeviceFeaturesSelect,
            0x20 => Self::DriverFeatures,
            0x24 => Self::DriverFeaturesSelect,
            0x30 => Self::QueueSelect,
            0x34 => Self::QueueSizeMax,
            0x38 => Self::QueueSize,
            0x44 => Self::QueueReady,
            0x50 => Self::QueueNotify,
            0x60 => Self::InterruptStatus,
            0x64 => Self::InterruptAcknowledge,
            0x70 => Self::Status,
            0x80 => Self::DescriptorsLow,
            0x84 => Self::DescriptorsHigh,
            0x90 => Self::AvailableLow,
            0x94 => Self::AvailableHigh,
            0xa0 => Self::UsedLow,
            0xa4 => Self::UsedHigh,
            0xb0 | 0xb4 | 0xb8 | 0xbc => Self::SharedMemory,
            0xfc => Self::ConfigGeneration,
            _ => return None,
        })
    }
}

/// What a write to the status register does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatusChange {
    /// Back to the beginning.
    Reset,
    /// The status is now this.
    To(u32),
    /// The status is now this, and the device starts.
    Start(u32),
    /// The driver started the device without agreeing on features first.
    Refused,
}

/// What writing `written` does to a device in `current`; `acceptable` says whether the driver's
/// features are ones it was offered.
pub(crate) fn write_status(current: u32, written: u32, acceptable: bool) -> StatusChange {
    if written == 0 {
        return StatusChange::Reset;
    }
    let driver_bits = STATUS_ALL & !NEEDS_RESET;
    let mut next = current | (written & driver_bits);
    if current & FEATURES_OK == 0 && next & FEATURES_OK != 0 && !acceptable {
        next &= !FEATURES_OK;
    }
    let starts = current & DRIVER_OK == 0 && next & DRIVER_OK != 0;
    if !starts {
        StatusChange::To(next)
    } else if next & FEATURES_OK == 0 || next & (ACKNOWLEDGE | DRIVER) != ACKNOWLEDGE | DRIVER {
        StatusChange::Refused
    } else {
        StatusChange::Start(next)
    }
}

/// Whether a driver may accept `accepted` of `offered`.
pub(crate) fn features_acceptable(offered: u64, accepted: u64) -> bool {
    accepted & !offered == 0 && accepted & (1 << VIRTIO_F_VERSION_1) != 0
}

/// Whether a device in `status` serves its queues.
pub(crate) fn runs(status: u32) -> bool {
    status & DRIVER_OK != 0 && status & (NEEDS_RESET | FAILED) == 0
}

/// Half of `value`: the low one for selector 0, the high one for 1, nothing beyond.
pub(crate) fn half(value: u64, select: u32) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "the two halves are what is wanted")]
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

/// `value` with one half replaced, as [`half`] counts them.
pub(crate) fn with_half(value: u64, select: u32, half: u32) -> u64 {
    match select {
        0 => value & !0xffff_ffff | u64::from(half),
        1 => value & 0xffff_ffff | u64::from(half) << 32,
        _ => value,
    }
}
