//! What a vCPU reaches by port or memory-mapped I/O: the serial port, the reset line, the
//! power switch, and the register windows of the virtio devices. Everything else reads as ones and ignores writes, as on
//! a real bus.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use vmm_virtio::MmioDevice;

use crate::layout;
use crate::serial::Com1;

const COM1_LAST: u16 = layout::COM1 + 7;
/// Pulse the reset line (8042 command 0xfe).
const I8042_RESET: u8 = 0xfe;

/// The devices of a machine. Built empty with the shell; filled once, when it becomes a machine.
#[derive(Default)]
pub(crate) struct Bus {
    com1: OnceLock<Mutex<Com1>>,
    windows: OnceLock<Vec<Arc<dyn MmioDevice>>>,
    exits: AtomicU64,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus").field("exits", &self.exits).finish_non_exhaustive()
    }
}

impl Bus {
    /// Attaches the devices. Later calls change nothing.
    pub(crate) fn attach(&self, com1: Com1, windows: Vec<Arc<dyn MmioDevice>>) {
        // A machine is built once; a second attach would be a bug caught by the state machine.
        drop(self.com1.set(Mutex::new(com1)));
        drop(self.windows.set(windows));
    }

    /// The serial port, once there is one.
    pub(crate) fn com1(&self) -> Option<MutexGuard<'_, Com1>> {
        self.com1.get().map(|port| port.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Exits to user space handled so far.
    pub(crate) fn exits(&self) -> u64 {
        self.exits.load(Ordering::Relaxed)
    }

    /// A port write. True when it resets the machine or switches it off.
    pub(crate) fn port_write(&self, port: u16, data: &[u8]) -> bool {
        self.count();
        match (port, data) {
            (layout::COM1..=COM1_LAST, [value]) => {
                if let (Some(mut com1), Ok(register)) =
                    (self.com1(), u8::try_from(port - layout::COM1))
                {
                    // The only failure is a full receive buffer in loopback mode: guest's loss.
                    drop(com1.write(register, *value));
                }
                false
            }
            (layout::I8042_COMMAND, [I8042_RESET])
            | (layout::SLEEP_CONTROL, [layout::POWER_OFF]) => true,
            _ => false,
        }
    }

    /// A port read.
    pub(crate) fn port_read(&self, port: u16, data: &mut [u8]) {
        self.count();
        data.fill(0xff);
        match (port, data) {
            (layout::COM1..=COM1_LAST, [value]) => {
                if let (Some(mut com1), Ok(register)) =
                    (self.com1(), u8::try_from(port - layout::COM1))
                {
                    *value = com1.read(register);
                }
            }
            // No keyboard: nothing to read, always ready for a command.
            // Awake: the status register has no bit set.
            (layout::I8042_COMMAND | layout::SLEEP_CONTROL, [value]) => *value = 0,
            _ => {}
        }
    }

    /// A memory-mapped write.
    pub(crate) fn mmio_write(&self, address: u64, data: &[u8]) {
        self.count();
        if let Some((window, offset)) = self.window(address) {
            window.write(offset, data);
        }
    }

    /// A memory-mapped read.
    pub(crate) fn mmio_read(&self, address: u64, data: &mut [u8]) {
        self.count();
        data.fill(0xff);
        if let Some((window, offset)) = self.window(address) {
            window.read(offset, data);
        }
    }

    fn window(&self, address: u64) -> Option<(&dyn MmioDevice, u64)> {
        let distance = address.checked_sub(layout::VIRTIO_MMIO)?;
        let index = usize::try_from(distance / layout::VIRTIO_MMIO_BYTES).ok()?;
        let window = self.windows.get()?.get(index)?;
        Some((window.as_ref(), distance % layout::VIRTIO_MMIO_BYTES))
    }

    fn count(&self) {
        self.exits.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn an_empty_bus_reads_as_ones_and_only_reset_and_power_off_end_the_machine() {
        let bus = Bus::default();
        let mut data = [0; 4];
        bus.mmio_read(layout::VIRTIO_MMIO, &mut data);
        assert_eq!(data, [0xff; 4]);
        bus.port_read(0x60, &mut data[..1]);
        assert_eq!(data[0], 0xff);
        assert!(!bus.port_write(layout::I8042_COMMAND, &[0xd1]));
        assert!(!bus.port_write(0x80, &[0xfe]));
        assert!(bus.port_write(layout::I8042_COMMAND, &[0xfe]));
        // Clearing the wake status, as every sleep begins, is no sleep.
        assert!(!bus.port_write(layout::SLEEP_CONTROL, &[0x80]));
        assert!(bus.port_write(layout::SLEEP_CONTROL, &[0x34]));
    }
}
