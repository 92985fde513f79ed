//! Which pages of guest memory are private, that is changed since the clone was made.
//!
//! In a `MAP_PRIVATE` mapping of a memfd a page that was written is anonymous, one that was only
//! read still belongs to the file. `PAGEMAP_SCAN` (Linux 6.7, `Documentation/admin-guide/mm/
//! pagemap.rst`) lists the former exactly, whoever wrote them, at no cost while the guest runs.

#![expect(unsafe_code, reason = "the PAGEMAP_SCAN ioctl fills an array")]

use std::fs::File;
use std::io;

use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_iowr_nr;

use super::{MemoryError, Reservation};

const IS_FILE: u64 = 1 << 2;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;
const IS_PFNZERO: u64 = 1 << 5;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

#[repr(C)]
#[derive(Default)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

ioctl_iowr_nr!(PAGEMAP_SCAN, b'f' as u32, 16, ScanArg);

/// Regions returned by one call.
const REGIONS_PER_CALL: usize = 256;

/// Consecutive pages of the RAM image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageRun {
    /// First page.
    pub(crate) first: u64,
    /// How many, at least one.
    pub(crate) pages: u64,
}

/// Asks the kernel about this process's own pages, through `/proc/self/pagemap` opened before the
/// jail closed.
#[derive(Debug)]
pub(crate) struct PageScanner {
    pagemap: File,
}

impl PageScanner {
    /// Takes `/proc/self/pagemap`, open for reading.
    pub(crate) fn new(pagemap: File) -> Self {
        Self { pagemap }
    }

    /// Pages with private content: written by the guest, by a device or by the fault handler.
    pub(crate) fn private(&self, ram: &Reservation) -> Result<Vec<PageRun>, MemoryError> {
        self.scan(ram, IS_FILE | IS_PFNZERO, IS_FILE | IS_PFNZERO)
    }

    /// Pages that are mapped at all.
    pub(crate) fn present(&self, ram: &Reservation) -> Result<Vec<PageRun>, MemoryError> {
        self.scan(ram, 0, 0)
    }

    fn scan(
        &self,
        ram: &Reservation,
        inverted: u64,
        required: u64,
    ) -> Result<Vec<PageRun>, MemoryError> {
        let mut runs: Vec<PageRun> = Vec::new();
        let end = ram.address() + ram.bytes();
        let mut start = ram.address();
        while start < end {
            let mut regions = [Region::default(); REGIONS_PER_CALL];
            let mut arg = ScanArg {
                size: size_of::<ScanArg>() as u64,
                start,
                end,
                vec: regions.as_mut_ptr() as u64,
                vec_len: REGIONS_PER_CALL as u64,
                category_inverted: inverted,
                category_mask: required,
                category_anyof_mask: IS_PRESENT | IS_SWAPPED,
                return_mask: IS_PRESENT,
                ..Default::default()
            };
            // SAFETY: the kernel reads and writes one `ScanArg` and writes at most `vec_len`
            // regions into the array it points at, which outlives the call.
            let found = unsafe { ioctl_with_mut_ref(&self.pagemap, PAGEMAP_SCAN(), &mut arg) };
            let Ok(found) = usize::try_from(found) else {
                return Err(MemoryError::Pagemap(io::Error::last_os_error()));
            };
            for region in regions.iter().take(found) {
                let first = (region.start - ram.address()) / base_types::PAGE_SIZE;
                let pages = (region.end - region.start) / base_types::PAGE_SIZE;
                match runs.last_mut() {
                    Some(last) if last.first + last.pages == first => last.pages += pages,
                    _ => runs.push(PageRun { first, pages }),
                }
            }
            if arg.walk_end <= start {
                break;
            }
            start = arg.walk_end;
        }
        Ok(runs)
    }
}
