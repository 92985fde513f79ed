//! The queues of a device, as the device may use them.

use std::{
    num::Wrapping,
    sync::atomic::{Ordering, fence},
};

use virtio_queue::{Queue, QueueOwnedT as _, QueueT as _};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

use crate::{
    Chain, GuestFault,
    lines::{INTERRUPT_USED, Lines},
};

/// Access to the queues of one device for the length of one event.
#[derive(Debug)]
pub struct Queues<'a> {
    memory: &'a GuestMemoryMmap<()>,
    queues: &'a mut [Queue],
    lines: &'a Lines,
    /// Features the driver accepted.
    features: u64,
}

/// Offset of the index in an available or used ring.
const INDEX_AT: u64 = 2;
/// Offset of the first entry in an available or used ring.
const ENTRIES_AT: u64 = 4;
const AVAILABLE_ENTRY_BYTES: u64 = 2;
const USED_ENTRY_BYTES: u64 = 8;

impl<'a> Queues<'a> {
    pub(crate) fn of(
        memory: &'a GuestMemoryMmap<()>,
        queues: &'a mut [Queue],
        lines: &'a Lines,
        features: u64,
    ) -> Self {
        Queues { memory, queues, lines, features }
    }

    /// The next chain the guest offers on `queue`; none when the queue is not set up either.
    pub fn pop(&mut self, queue: usize) -> Result<Option<Chain<'a>>, GuestFault> {
        let memory = self.memory;
        let Some(ring) = self.queues.get_mut(queue).filter(|ring| ring.ready()) else {
            return Ok(None);
        };
        let next = ring.iter(memory).map_err(|source| GuestFault::Queue { queue, source })?.next();
        next.map(|descriptors| Chain::parse(memory, queue, descriptors)).transpose()
    }

    /// Takes back the last [`pop`](Self::pop): the chain will be offered again.
    pub fn put_back(&mut self, queue: usize) {
        if let Some(ring) = self.queues.get_mut(queue) {
            ring.go_to_previous_position();
        }
    }

    /// Whether the guest has offered chains on `queue` that were not taken yet.
    pub fn has_chains(&mut self, queue: usize) -> bool {
        let memory = self.memory;
        let Some(ring) = self.queues.get_mut(queue).filter(|ring| ring.ready()) else {
            return false;
        };
        ring.avail_idx(memory, std::sync::atomic::Ordering::Acquire)
            .is_ok_and(|index| index.0 != ring.next_avail())
    }

    /// Gives a chain back, with `written` bytes in its writable buffers.
    pub fn complete(&mut self, queue: usize, head: u16, written: u32) -> Result<(), GuestFault> {
        let memory = self.memory;
        match self.queues.get_mut(queue) {
            Some(ring) => ring
                .add_used(memory, head, written)
                .map_err(|source| GuestFault::Queue { queue, source }),
            None => Ok(()),
        }
    }

    /// Gives several chains back, each with how much was written to it, so that the guest sees all of
    /// them or none. Afterwards, [`interrupt_since`](Self::interrupt_since) is for this queue what
    /// [`interrupt`](Self::interrupt) is for others.
    pub fn complete_together(
        &mut self,
        queue: usize,
        chains: &[(u16, u32)],
    ) -> Result<(), GuestFault> {
        let memory = self.memory;
        let Some(ring) = self.queues.get_mut(queue) else { return Ok(()) };
        let fault = |source| GuestFault::Queue { queue, source };
        let (base, size) = (ring.used_ring(), ring.size());
        let mut position = Wrapping(ring.next_used());
        for &(head, written) in chains {
            let slot = u64::from(position.0.checked_rem(size).unwrap_or(0));
            let at = ENTRIES_AT.saturating_add(slot.saturating_mul(USED_ENTRY_BYTES));
            let entry = u64::from(head) | u64::from(written) << 32;
            memory
                .write_obj(entry.to_le(), GuestAddress(base.saturating_add(at)))
                .map_err(|source| fault(virtio_queue::Error::GuestMemory(source)))?;
            position += Wrapping(1);
        }
        ring.set_next_used(position.0);
        let at = GuestAddress(base.saturating_add(INDEX_AT));
        memory
            .store(position.0.to_le(), at, Ordering::Release)
            .map_err(|source| fault(virtio_queue::Error::GuestMemory(source)))
    }

    /// Where in the used ring of `queue` the next chain given back will be.
    pub fn used_position(&self, queue: usize) -> u16 {
        self.queues.get(queue).map_or(0, Queue::next_used)
    }

    /// Whether the driver accepted `feature`, a bit's number.
    pub fn agreed(&self, feature: u32) -> bool {
        self.features.checked_shr(feature).unwrap_or(0) & 1 != 0
    }

    /// Asks for a notification when the guest adds to `queue`; true when it already has.
    pub fn rearm(&mut self, queue: usize) -> Result<bool, GuestFault> {
        let memory = self.memory;
        match self.queues.get_mut(queue) {
            Some(ring) if ring.ready() => ring
                .enable_notification(memory)
                .map_err(|source| GuestFault::Queue { queue, source }),
            _ => Ok(false),
        }
    }

    /// Interrupts the guest about what was completed on `queue`, if it wants to know. Call once
    /// after a batch in which something was completed.
    pub fn interrupt(&mut self, queue: usize) -> Result<(), GuestFault> {
        let memory = self.memory;
        let Some(ring) = self.queues.get_mut(queue).filter(|ring| ring.ready()) else {
            return Ok(());
        };
        if ring.needs_notification(memory).map_err(|source| GuestFault::Queue { queue, source })? {
            self.lines.raise(INTERRUPT_USED);
        }
        Ok(())
    }

    /// Interrupts the guest, if it wants to know, about all that was completed on `queue` since its
    /// [position](Self::used_position) was `since`. For chains that were completed together.
    pub fn interrupt_since(&mut self, queue: usize, since: u16) -> Result<(), GuestFault> {
        let memory = self.memory;
        let Some(ring) = self.queues.get_mut(queue).filter(|ring| ring.ready()) else {
            return Ok(());
        };
        let (since, now) = (Wrapping(since), Wrapping(ring.next_used()));
        if now == since {
            return Ok(());
        }
        if ring.event_idx_enabled() {
            // The guest must see what was completed before it is seen what the guest wants to know.
            fence(Ordering::SeqCst);
            // `used_event`, behind the entries of the available ring.
            let entries = u64::from(ring.size()).saturating_mul(AVAILABLE_ENTRY_BYTES);
            let at = ring.avail_ring().saturating_add(ENTRIES_AT).saturating_add(entries);
            let wanted: u16 = memory
                .load(GuestAddress(at), Ordering::Relaxed)
                .map_err(virtio_queue::Error::GuestMemory)
                .map_err(|source| GuestFault::Queue { queue, source })?;
            // `vring_need_event` of the standard (virtio 1.2, 2.7.7.2).
            if now - Wrapping(u16::from_le(wanted)) - Wrapping(1) >= now - since {
                return Ok(());
            }
        }
        self.lines.raise(INTERRUPT_USED);
        Ok(())
    }

    /// Comes back to `queue` in a later turn of the event loop, so that others get theirs.
    pub fn again(&self, queue: usize) {
        self.lines.notify(queue);
    }
}
