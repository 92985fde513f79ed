//! The wires between a device and its guest: notifications in, interrupts out.

use std::{
    io,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Interrupt status: a used buffer.
pub(crate) const INTERRUPT_USED: u32 = 1;
/// Interrupt status: configuration or device status changed.
pub(crate) const INTERRUPT_CONFIG: u32 = 2;

/// Event descriptors of one device, made before anything is known about the guest so that a
/// waiting machine can already have them registered with KVM.
///
/// The interrupt status register lives here too, outside the lock of the device: the guest reads
/// and acknowledges it for every interrupt, and must not wait for a request in progress.
#[derive(Debug)]
pub struct Lines {
    interrupt: EventFd,
    queues: Vec<EventFd>,
    status: AtomicU32,
    interrupts: AtomicU64,
}

impl Lines {
    /// Descriptors for a device with `queues` queues.
    pub fn new(queues: usize) -> io::Result<Self> {
        Ok(Lines {
            interrupt: EventFd::new(EFD_NONBLOCK)?,
            queues: (0..queues).map(|_| EventFd::new(EFD_NONBLOCK)).collect::<Result<_, _>>()?,
            status: AtomicU32::new(0),
            interrupts: AtomicU64::new(0),
        })
    }

    /// What to register as irqfd: written when the guest is to be interrupted.
    pub fn interrupt_eventfd(&self) -> &EventFd {
        &self.interrupt
    }

    /// What to register as ioeventfd at register `0x50` with datamatch `queue` (4 bytes wide).
    pub fn queue_eventfd(&self, queue: usize) -> Option<&EventFd> {
        self.queues.get(queue)
    }

    /// How many queues these lines are for.
    pub fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// Interrupts raised so far.
    pub fn interrupts(&self) -> u64 {
        self.interrupts.load(Ordering::Relaxed)
    }

    /// Sets `bits` of the interrupt status and raises the interrupt.
    pub(crate) fn raise(&self, bits: u32) {
        self.status.fetch_or(bits, Ordering::SeqCst);
        self.interrupts.fetch_add(1, Ordering::Relaxed);
        // Fails only when the counter is full, and then the interrupt is pending anyway.
        let _ = self.interrupt.write(1);
    }

    pub(crate) fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    pub(crate) fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }

    pub(crate) fn set_status(&self, bits: u32) {
        self.status.store(bits, Ordering::SeqCst);
    }

    /// Makes the event loop process `queue`, as if the guest had notified it.
    pub(crate) fn notify(&self, queue: usize) {
        if let Some(eventfd) = self.queues.get(queue) {
            // Fails only when the counter is full, and then the notification is pending anyway.
            let _ = eventfd.write(1);
        }
    }

    /// Takes the pending notification of `queue`, if there is one.
    pub(crate) fn take_notification(&self, queue: usize) {
        if let Some(eventfd) = self.queues.get(queue) {
            // Fails when none is pending: the event was stale.
            let _ = eventfd.read();
        }
    }
}
