//! The entropy device.

use std::cmp::min;

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use crate::{Device, Events, GuestFault, Queues};

/// LIMIT: entropy for one request; the guest asks again when it wants more. Linux asks for less
/// than a page at a time.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// LIMIT: requests served before others get their turn: a full queue, so that with the vCPUs
/// stopped one turn serves everything.
const TURN_REQUESTS_MAX: usize = 64;

/// LIMIT: bytes drawn at once, on the stack. `getrandom` never cuts this short.
const PIECE_BYTES: usize = 256;

const QUEUE: usize = 0;

/// Counters of an entropy device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RngStats {
    /// Requests served.
    pub requests: u64,
    /// Bytes given to the guest.
    pub bytes: u64,
}

/// An entropy device.
#[derive(Debug, Default)]
pub struct Rng {
    stats: RngStats,
    failure: Option<String>,
}

impl Rng {
    /// A device that draws from the kernel's generator.
    pub fn new() -> Self {
        Rng::default()
    }

    /// Counters since the device was made.
    pub fn stats(&self) -> RngStats {
        self.stats
    }
}

impl Device for Rng {
    const NAME: &'static str = "rng";
    const DEVICE_ID: u32 = VIRTIO_ID_RNG;
    const QUEUE_SIZES: &'static [u16] = &[64];

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn queue_event(&mut self, _queue: usize, queues: &mut Queues<'_>) -> Result<(), GuestFault> {
        let mut served = 0_usize;
        loop {
            while let Some(mut chain) = queues.pop(QUEUE)? {
                if chain.writable.is_empty() {
                    return Err(GuestFault::Request("an entropy request has no buffer to fill"));
                }
                let mut piece = [0_u8; PIECE_BYTES];
                let mut left = min(chain.writable.len(), REQUEST_BYTES_MAX);
                let mut written = 0_u32;
                while left > 0 {
                    let part = piece.get_mut(..min(left, PIECE_BYTES)).unwrap_or_default();
                    let drawn = match rustix::rand::getrandom(
                        &mut *part,
                        rustix::rand::GetRandomFlags::empty(),
                    ) {
                        Ok(drawn) => drawn,
                        Err(rustix::io::Errno::INTR) => continue,
                        Err(error) => {
                            self.failure = Some(format!("draw entropy for the guest: {error}"));
                            break;
                        }
                    };
                    let copied = chain.writable.write(part.get(..drawn).unwrap_or_default());
                    left = left.saturating_sub(copied);
                    written = written.saturating_add(u32::try_from(copied).unwrap_or(0));
                }
                self.stats.requests = self.stats.requests.saturating_add(1);
                self.stats.bytes = self.stats.bytes.saturating_add(written.into());
                queues.complete(QUEUE, chain.head, written)?;
                served = served.saturating_add(1);
                if served >= TURN_REQUESTS_MAX {
                    queues.again(QUEUE);
                    return queues.interrupt(QUEUE);
                }
            }
            if !queues.rearm(QUEUE)? {
                break;
            }
        }
        if served > 0 { queues.interrupt(QUEUE) } else { Ok(()) }
    }

    fn backend_event(
        &mut self,
        _token: u32,
        _events: Events,
        _queues: &mut Queues<'_>,
    ) -> Result<(), GuestFault> {
        Ok(())
    }

    fn reset(&mut self) {}

    fn take_host_failure(&mut self) -> Option<String> {
        self.failure.take()
    }
}
