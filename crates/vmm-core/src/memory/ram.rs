#![expect(unsafe_code, reason = "owns the mapping that is guest memory")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use super::MemoryError;
use crate::kvm::KvmError;
use crate::layout::{RamPiece, ram_pieces};

/// Guest memory is aligned to this, so that KVM can use 2 MiB pages where the host has them.
const HUGE_PAGE: usize = 2 << 20;

/// Address space for guest memory, with nothing behind it.
///
/// INVARIANT: `base..base + bytes` is one mapping owned by `self`, aligned to 2 MiB, unmapped on
/// drop and never before.
#[derive(Debug)]
pub(crate) struct Reservation {
    base: NonNull<u8>,
    bytes: usize,
    mapping: NonNull<u8>,
    mapping_bytes: usize,
}

// SAFETY: the pointers are only the address of a mapping owned by `self`; nothing is thread-bound.
unsafe impl Send for Reservation {}
// SAFETY: as above; a shared reference only reads the address.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// Reserves address space for `bytes` of guest memory.
    pub(crate) fn new(bytes: u64) -> Result<Self, MemoryError> {
        let refused = |source| MemoryError::Reserve { bytes, source };
        let size =
            usize::try_from(bytes).map_err(|_| refused(io::ErrorKind::OutOfMemory.into()))?;
        let mapping_bytes = size + HUGE_PAGE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing.
        let mapping = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapping_bytes,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapping == libc::MAP_FAILED {
            return Err(refused(io::Error::last_os_error()));
        }
        let mapping = NonNull::new(mapping.cast::<u8>())
            .ok_or_else(|| refused(io::ErrorKind::OutOfMemory.into()))?;
        let padding = mapping.as_ptr().align_offset(HUGE_PAGE);
        // SAFETY: `padding` is under 2 MiB, and the mapping is that much longer than `bytes`.
        let base = unsafe { mapping.add(padding) };
        Ok(Self { base, bytes: size, mapping, mapping_bytes })
    }

    /// Host address of the first byte of the RAM image.
    pub(crate) fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// Length of the RAM image in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// The pieces the guest sees.
    pub(crate) fn pieces(&self) -> Vec<RamPiece> {
        ram_pieces(self.bytes())
    }

    /// Gives KVM its memory slots over the reservation.
    pub(crate) fn install_slots(&self, vm: &VmFd) -> Result<(), KvmError> {
        for (slot, piece) in (0..).zip(self.pieces()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: piece.guest,
                memory_size: piece.bytes,
                userspace_addr: self.address() + piece.offset,
            };
            // SAFETY: the range is inside the reservation, which outlives the VM: the machine
            // drops its VM first (field order), and unmapping is left to `Drop`.
            unsafe { vm.set_user_memory_region(region) }
                .map_err(KvmError::ioctl("KVM_SET_USER_MEMORY_REGION"))?;
        }
        Ok(())
    }

    /// Puts zeroed private memory behind the reservation.
    pub(crate) fn attach_anonymous(self) -> Result<Ram, MemoryError> {
        self.map_over(libc::MAP_ANONYMOUS, -1)?;
        Ram::new(self)
    }

    /// Puts a private, copy-on-write view of a sealed memfd behind the reservation.
    pub(crate) fn attach_template(self, memfd: &File) -> Result<Ram, MemoryError> {
        let found = memfd.metadata().map_err(MemoryError::Map)?.len();
        if found != self.bytes() {
            return Err(MemoryError::TemplateSize { found, wanted: self.bytes() });
        }
        // SAFETY: a query on a file descriptor we own.
        let seals = unsafe { libc::fcntl(memfd.as_raw_fd(), libc::F_GET_SEALS) };
        // A template that shrank under a clone would kill its VMM with SIGBUS, and one that changed
        // would change the clone.
        if seals < 0 || seals & libc::F_SEAL_SHRINK == 0 {
            return Err(MemoryError::NotSealed);
        }
        if seals & (libc::F_SEAL_WRITE | libc::F_SEAL_FUTURE_WRITE) == 0 {
            return Err(MemoryError::NotSealed);
        }
        self.map_over(0, memfd.as_raw_fd())?;
        Ram::new(self)
    }

    fn map_over(&self, flags: i32, fd: i32) -> Result<(), MemoryError> {
        // SAFETY: replaces exactly the reservation, which nothing refers to before `Ram` exists
        // but KVM's memory slots, and KVM follows the change through its MMU notifier.
        let mapped = unsafe {
            libc::mmap(
                self.base.as_ptr().cast(),
                self.bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_NORESERVE | flags,
                fd,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(MemoryError::Map(io::Error::last_os_error()));
        }
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: INVARIANT: the mapping is ours, and everything that pointed into it borrowed or
        // owned this reservation.
        unsafe { libc::munmap(self.mapping.as_ptr().cast(), self.mapping_bytes) };
    }
}

/// Guest memory with something behind it.
#[derive(Debug)]
pub(crate) struct Ram {
    memory: Arc<GuestMemoryMmap<()>>,
    reservation: Arc<Reservation>,
}

impl Ram {
    fn new(reservation: Reservation) -> Result<Self, MemoryError> {
        let mut regions = Vec::with_capacity(2);
        for piece in reservation.pieces() {
            let offset = usize::try_from(piece.offset).map_err(|_| MemoryError::Regions)?;
            let bytes = usize::try_from(piece.bytes).map_err(|_| MemoryError::Regions)?;
            // SAFETY: `offset` is inside the reservation (`ram_pieces` partitions it).
            let start = unsafe { reservation.base.add(offset) };
            // SAFETY: the range is mapped readable and writable by `map_over` and stays so for the
            // life of the reservation, which `Ram` holds as long as the regions.
            let region = unsafe {
                MmapRegion::build_raw(
                    start.as_ptr(),
                    bytes,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_NORESERVE,
                )
            }
            .map_err(|_| MemoryError::Regions)?;
            regions.push(
                GuestRegionMmap::new(region, GuestAddress(piece.guest))
                    .ok_or(MemoryError::Regions)?,
            );
        }
        let memory = GuestMemoryMmap::from_regions(regions).map_err(|_| MemoryError::Regions)?;
        Ok(Self { memory: Arc::new(memory), reservation: Arc::new(reservation) })
    }

    /// Memory by guest-physical address.
    pub(crate) fn memory(&self) -> &Arc<GuestMemoryMmap<()>> {
        &self.memory
    }

    /// Where the RAM image lies in this process.
    pub(crate) fn reservation(&self) -> &Arc<Reservation> {
        &self.reservation
    }

    /// Calls `read` with the bytes of `pages` pages of the RAM image from `first_page` on. Only for
    /// a paused machine: nothing may write them meanwhile.
    pub(crate) fn with_pages<T>(
        &self,
        first_page: u64,
        pages: u64,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Option<T> {
        let start = usize::try_from(first_page.checked_mul(base_types::PAGE_SIZE)?).ok()?;
        let bytes = usize::try_from(pages.checked_mul(base_types::PAGE_SIZE)?).ok()?;
        if start.checked_add(bytes)? > self.reservation.bytes {
            return None;
        }
        // SAFETY: `start` is inside the reservation (checked above).
        let start = unsafe { self.reservation.base.add(start) };
        // SAFETY: the range is inside the reservation and mapped; vCPUs are parked and devices
        // drained, so nobody writes it during the call.
        let slice = unsafe { std::slice::from_raw_parts(start.as_ptr(), bytes) };
        Some(read(slice))
    }
}
