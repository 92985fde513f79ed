//! One descriptor chain, checked from end to end before a device sees any of it.

use virtio_queue::DescriptorChain;
use vm_memory::{GuestMemory as _, GuestMemoryMmap, Permissions};

use crate::{Buffers, GuestFault};

/// LIMIT: descriptors in one chain, indirect ones included. The standard allows as many as the
/// queue has entries; the largest queue here has 256.
pub const CHAIN_DESCRIPTORS_MAX: usize = 256;

/// A request as the guest laid it out: buffers to read, then buffers to write.
#[derive(Debug)]
pub struct Chain<'m> {
    /// What to give back through [`Queues::complete`](crate::Queues::complete).
    pub head: u16,
    /// Buffers the guest filled.
    pub readable: Buffers<'m>,
    /// Buffers the guest wants filled.
    pub writable: Buffers<'m>,
}

impl<'m> Chain<'m> {
    /// Walks `descriptors`.
    pub(crate) fn parse(
        memory: &'m GuestMemoryMmap<()>,
        queue: usize,
        descriptors: DescriptorChain<&'m GuestMemoryMmap<()>>,
    ) -> Result<Self, GuestFault> {
        let head = descriptors.head_index();
        let mut chain = Chain { head, readable: Buffers::default(), writable: Buffers::default() };
        let mut count = 0_usize;
        let mut seen_writable = false;
        // The iterator ends silently at whatever it cannot follow; the last descriptor it yields
        // then still points further.
        let mut goes_on = true;
        for descriptor in descriptors {
            count = count.saturating_add(1);
            if count > CHAIN_DESCRIPTORS_MAX {
                return Err(GuestFault::ChainEnds { queue, head });
            }
            goes_on = descriptor.has_next();
            let (access, buffers) = if descriptor.is_write_only() {
                seen_writable = true;
                (Permissions::Write, &mut chain.writable)
            } else if seen_writable {
                return Err(GuestFault::ChainOrder { queue, head });
            } else {
                (Permissions::Read, &mut chain.readable)
            };
            let outside = || GuestFault::BufferOutside {
                address: descriptor.addr().0,
                len: descriptor.len(),
            };
            let len = usize::try_from(descriptor.len()).map_err(|_| outside())?;
            if len == 0 {
                continue;
            }
            let slices =
                memory.get_slices(descriptor.addr(), len, access).map_err(|_| outside())?;
            for slice in slices {
                buffers.push(slice.map_err(|_| outside())?);
            }
        }
        if goes_on { Err(GuestFault::ChainEnds { queue, head }) } else { Ok(chain) }
    }
}
