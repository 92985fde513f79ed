//! Mapping the recorded working set of a template before its clone runs.
//!
//! Clones of one template touch nearly the same pages on their way to the first answer. Mapping
//! those in a few calls, the written ones already copied, replaces hundreds of page faults, each of
//! which would stop the guest.

#![expect(unsafe_code, reason = "madvise and KVM_PRE_FAULT_MEMORY on ranges of guest memory")]

use base_snapshot::{Source, Stack, WorkingSet};
use base_types::PAGE_SIZE;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_iowr_nr;

use super::Reservation;
use crate::layout::ram_pieces;

/// `struct kvm_pre_fault_memory` (Linux 6.11, `Documentation/virt/kvm/api.rst` 4.143).
#[repr(C)]
#[derive(Default)]
struct PreFault {
    gpa: u64,
    size: u64,
    flags: u64,
    padding: [u64; 5],
}

ioctl_iowr_nr!(KVM_PRE_FAULT_MEMORY, 0xae, 0xd5, PreFault);

/// Maps the pages of `set` that no layer of `stack` covers; with `vcpu`, into the second-level page
/// tables too. Returns how many pages were mapped. Best effort: what cannot be mapped now faults
/// later. The kernel may map pages of the template around them as well: whoever has layers must write
/// them over these.
pub(crate) fn prefetch(
    ram: &Reservation,
    set: &WorkingSet,
    stack: &Stack,
    vcpu: Option<&VcpuFd>,
) -> u64 {
    let mut mapped = 0;
    let pages = ram.bytes() / PAGE_SIZE;
    for extent in set.extents() {
        let end = extent.first_page.saturating_add(extent.pages).min(pages);
        let mut first = extent.first_page;
        while first < end {
            let run = uncovered(stack, first, end);
            if run > 0 && populate(ram, first, run, extent.written) {
                mapped += run;
                if let Some(vcpu) = vcpu {
                    pre_fault(vcpu, ram, first, run);
                }
            }
            first += run.max(1);
        }
    }
    mapped
}

/// How many pages from `first` on, up to `end`, come from the template itself.
fn uncovered(stack: &Stack, first: u64, end: u64) -> u64 {
    if stack.layers().is_empty() {
        return end - first;
    }
    (first..end).take_while(|page| stack.lookup(*page) == Source::Below).count() as u64
}

fn populate(ram: &Reservation, first: u64, pages: u64, written: bool) -> bool {
    let advice = if written { libc::MADV_POPULATE_WRITE } else { libc::MADV_POPULATE_READ };
    let start = ram.address() + first * PAGE_SIZE;
    // SAFETY: the range lies inside the reservation (checked by the caller against its size);
    // populating changes no content.
    let result =
        unsafe { libc::madvise(start as *mut libc::c_void, (pages * PAGE_SIZE) as usize, advice) };
    result == 0
}

fn pre_fault(vcpu: &VcpuFd, ram: &Reservation, first: u64, pages: u64) {
    let offset = first * PAGE_SIZE;
    for piece in ram_pieces(ram.bytes()) {
        if offset < piece.offset || offset >= piece.offset + piece.bytes {
            continue;
        }
        let mut range = PreFault {
            gpa: piece.guest + (offset - piece.offset),
            size: (pages * PAGE_SIZE).min(piece.offset + piece.bytes - offset),
            ..Default::default()
        };
        while range.size > 0 {
            let before = range.size;
            // SAFETY: the kernel reads and writes one `PreFault` and maps only memory of this VM.
            let result = unsafe { ioctl_with_mut_ref(vcpu, KVM_PRE_FAULT_MEMORY(), &mut range) };
            if result < 0 || range.size >= before {
                return;
            }
        }
    }
}
