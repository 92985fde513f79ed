//! Memory of a flat guest.
#![expect(unsafe_code, reason = "guest memory is raw memory the kernel writes to")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// Guest physical addresses from here to 4 GiB are the interrupt controllers', not memory.
const LOW_END: u64 = 3 << 30;
const HIGH_START: u64 = 4 << 30;

/// Private memory of a guest.
///
/// INVARIANT: `base` points at `len` bytes mapped readable and writable for `self`'s lifetime. A
/// running guest writes to them, so they are never borrowed, only copied.
#[derive(Debug)]
pub(crate) struct GuestMemory {
    base: NonNull<u8>,
    len: usize,
}

impl GuestMemory {
    /// `len` bytes of zeros.
    pub(crate) fn anonymous(len: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: the kernel chooses the address, so no other mapping is touched.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), len, protection, flags) }?;
        Self::new(base, len)
    }

    /// A private, copy-on-write view of the first `len` bytes of `file`.
    pub(crate) fn private(file: impl AsFd, len: usize) -> io::Result<Self> {
        let file: BorrowedFd<'_> = file.as_fd();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: the kernel chooses the address, so no other mapping is touched.
        let base = unsafe { mmap(std::ptr::null_mut(), len, protection, flags, file, 0) }?;
        Self::new(base, len)
    }

    fn new(base: *mut std::ffi::c_void, len: usize) -> io::Result<Self> {
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, len })
    }

    /// Copies `bytes` to guest physical `address`, which must be below 3 GiB.
    pub(crate) fn write(&self, address: usize, bytes: &[u8]) {
        let end = address.checked_add(bytes.len()).expect("addresses here are small constants");
        assert!(end <= self.len, "{address:#x} is outside of the guest's memory");
        // SAFETY: `address` is inside the mapping, as just checked.
        let to = unsafe { self.base.add(address) };
        // SAFETY: `bytes` fit behind `to`, as checked, and cannot overlap memory nobody borrows.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
    }

    /// The little-endian number at guest physical `address`, which is a multiple of 4.
    pub(crate) fn read_u32(&self, address: usize) -> u32 {
        assert!(address.is_multiple_of(4) && address < self.len, "not a number of the guest's");
        // SAFETY: `address` is inside the mapping, as just checked.
        let from = unsafe { self.base.add(address) }.cast::<u32>();
        // SAFETY: `from` is aligned and four bytes long, because both `address` and the mapping's
        // length are multiples of 4; any bits make a `u32`.
        u32::from_le(unsafe { from.read_volatile() })
    }

    /// Gives the memory to `vm`, from guest physical 0 up, around the hole below 4 GiB.
    ///
    /// The memory must outlive `vm`'s vCPUs.
    pub(crate) fn give_to(&self, vm: &VmFd) -> Result<(), kvm_ioctls::Error> {
        let len = self.len as u64;
        let host = self.base.as_ptr() as u64;
        let low = len.min(LOW_END);
        let parts = [(0, 0, low), (HIGH_START, low, len - low)];
        for (slot, (guest, offset, size)) in (0..).zip(parts) {
            if size == 0 {
                continue;
            }
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: guest,
                memory_size: size,
                userspace_addr: host + offset,
            };
            // SAFETY: the range is inside our mapping (INVARIANT), which nothing here borrows.
            unsafe { vm.set_user_memory_region(region) }?;
        }
        Ok(())
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: the range is ours (INVARIANT), and whoever ran a guest in it is gone. Should it
        // fail, the address space stays in use, which harms nobody.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}
