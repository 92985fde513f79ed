//! The queues of a device, as the device may use them.

use virtio_queue::{Queue, QueueOwnedT as _, QueueT as _};
use vm_memory::GuestMemoryMmap;

use crate::{
    Chain, GuestFault,
    lines::{INTERRUPT_USED, Lines},
};

/// Access to the queues of one device for the length of one event.
#[derive(Debug)]
pub struct Queues<'a> {
    pub(crate) memory: &'a GuestMemoryMmap<()>,
    pub(crate) queues: &'a mut [Queue],
    pub(crate) lines: &'a Lines,
}

impl<'a> Queues<'a> {
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

    /// Comes back to `queue` in a later turn of the event loop, so that others get theirs.
    pub fn again(&self, queue: usize) {
        self.lines.notify(queue);
    }
}
