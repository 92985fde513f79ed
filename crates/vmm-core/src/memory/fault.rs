//! Serving the pages of a lazily filled clone.
//!
//! One thread reads page faults and answers each from the first source that has the page: a memory
//! layer (copied, private), the template's memfd (mapped, shared until written), or nothing (zero).
//! It must not be the event loop: devices touch guest memory too, and would wait for themselves.
//! Should it ever fail, the process ends; a guest that waits for ever is worse than one that died.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use base_snapshot::{CHUNK_BYTES, LayerKind, Resolved, Source, Stack};
use base_types::PAGE_SIZE;
use rustix::event::{PollFd, PollFlags, poll};

use super::{MemoryError, Reservation, Userfault};

/// LIMIT: faults a recording keeps; past this the working set is of no use anyway.
const RECORDED_MAX: usize = 1 << 20;
/// Pages mapped around a minor fault, a power of two. Mapping shared pages costs no memory.
const FAULT_AROUND_PAGES: u64 = 16;

/// What the fault thread counts and records; shared with the control loop.
#[derive(Debug, Default)]
pub(crate) struct FaultCounters {
    /// Faults served.
    pub(crate) faults: AtomicU64,
    /// Pages copied into private memory.
    pub(crate) copied: AtomicU64,
    /// Pages asked for, in order, while recording.
    recorded: Mutex<Vec<u64>>,
    recording: AtomicBool,
}

impl FaultCounters {
    /// Ends recording and takes what was recorded.
    pub(crate) fn take_recorded(&self) -> Vec<u64> {
        self.recording.store(false, Ordering::Relaxed);
        std::mem::take(&mut *self.recorded.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn record(&self, page: u64) {
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        if recorded.len() < RECORDED_MAX {
            recorded.push(page);
        }
    }
}

/// Everything the thread needs.
#[derive(Debug)]
pub(crate) struct FaultSetup {
    /// Where faults come from; already registered on the whole of `ram`.
    pub(crate) userfault: Userfault,
    /// Memory layers over the template.
    pub(crate) stack: Arc<Stack>,
    /// The mapping whose pages fault.
    pub(crate) ram: Arc<Reservation>,
    /// Shared with the control loop.
    pub(crate) counters: Arc<FaultCounters>,
    /// Record pages; then each page faults by itself.
    pub(crate) record: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct FaultHandler;

impl FaultHandler {
    /// Serves faults until the process ends.
    pub(crate) fn serve(setup: FaultSetup) {
        setup.counters.recording.store(setup.record, Ordering::Relaxed);
        // LIMIT: a quarter of this thread's stack.
        let mut chunk = Box::new([0; CHUNK_BYTES]);
        loop {
            let result = setup.wait().and_then(|()| setup.serve_waiting(&mut chunk));
            if let Err(error) = result {
                eprintln!("page fault handler: {}", base_types::Chain(&error));
                std::process::abort();
            }
        }
    }
}

impl FaultSetup {
    #[expect(unsafe_code, reason = "polls a descriptor known by number")]
    fn wait(&self) -> Result<(), MemoryError> {
        // SAFETY: `self.userfault` owns the descriptor and outlives the call.
        let fd = unsafe { BorrowedFd::borrow_raw(self.userfault.as_raw_fd()) };
        debug_assert!(fd.as_raw_fd() >= 0);
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => {
                Err(MemoryError::Userfault { call: "poll userfaultfd", source: error.into() })
            }
        }
    }

    fn serve_waiting(&self, chunk: &mut [u8; CHUNK_BYTES]) -> Result<(), MemoryError> {
        for fault in self.userfault.faults()? {
            self.counters.faults.fetch_add(1, Ordering::Relaxed);
            let address = fault.address & !(PAGE_SIZE - 1);
            let Some(page) = address
                .checked_sub(self.ram.address())
                .map(|offset| offset / PAGE_SIZE)
                .filter(|page| *page < self.ram.bytes() / PAGE_SIZE)
            else {
                continue;
            };
            let recording = self.counters.recording.load(Ordering::Relaxed);
            if recording {
                self.counters.record(page);
            }
            self.place(page, fault.minor, recording, chunk)?;
        }
        Ok(())
    }

    /// Makes `page` present.
    fn place(
        &self,
        page: u64,
        minor: bool,
        alone: bool,
        chunk: &mut [u8; CHUNK_BYTES],
    ) -> Result<(), MemoryError> {
        // A page of the base layer that has reached the memfd meanwhile is better shared.
        let shared = minor
            && match self.stack.lookup(page) {
                Source::Layer { layer, .. } => self
                    .stack
                    .layers()
                    .get(layer)
                    .is_some_and(|layer| layer.kind() == LayerKind::Base),
                Source::Zero => false,
                Source::Below => true,
            };
        if shared {
            let alone = alone || !self.stack.layers().is_empty();
            return self.map_around(page, alone);
        }
        match self.stack.resolve(page, chunk).map_err(MemoryError::Layer)? {
            Resolved::Data { first_page, bytes } => {
                let start = self.ram.address() + first_page * PAGE_SIZE;
                let placed = self.userfault.copy(start, bytes)?;
                self.counters.copied.fetch_add(placed / PAGE_SIZE, Ordering::Relaxed);
                Ok(())
            }
            Resolved::Zero { .. } | Resolved::Below { .. } => {
                self.userfault.zero(self.ram.address() + page * PAGE_SIZE, PAGE_SIZE).map(drop)
            }
        }
    }

    /// Maps `page` from the template and, unless it is to come `alone`, those around it.
    fn map_around(&self, page: u64, alone: bool) -> Result<(), MemoryError> {
        let address = self.ram.address() + page * PAGE_SIZE;
        if !alone {
            let first = page & !(FAULT_AROUND_PAGES - 1);
            let last = (first + FAULT_AROUND_PAGES).min(self.ram.bytes() / PAGE_SIZE);
            let start = self.ram.address() + first * PAGE_SIZE;
            // EFAULT means a page of the window is not in the memfd (a hole): then just the one.
            if self.userfault.map(start, (last - first) * PAGE_SIZE).is_ok() {
                return Ok(());
            }
        }
        self.userfault.map(address, PAGE_SIZE).map(drop)
    }
}
