//! Putting a kernel into guest memory: the PVH entry of an uncompressed Linux (`vmlinux`), its
//! command line and initrd, and ACPI tables that name the devices.
//!
//! PVH is the Xen direct-boot ABI: 32-bit protected mode, paging off, `rbx` pointing at
//! `hvm_start_info` (Xen `docs/misc/pvh.pandoc`; Linux `arch/x86/platform/pvh/enlighten.c`).

mod acpi;
mod cpu;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use linux_loader::loader::{Elf, KernelLoader};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryMmap};

pub(crate) use cpu::{prepare_any_cpu, prepare_boot_cpu};

use crate::layout;

/// `XEN_HVM_START_MAGIC_VALUE` of Linux `include/xen/interface/hvm/start_info.h`.
const PVH_MAGIC: u32 = 0x336e_c578;
const MEMORY_RAM: u32 = 1;
const MEMORY_RESERVED: u32 = 2;
/// LIMIT: an initrd takes at most half the guest's low RAM.
const INITRD_SHARE_MAX: u64 = 2;

/// Why a kernel could not be put into memory.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Not an ELF kernel, or one that does not fit.
    #[error("load the guest kernel")]
    Kernel(#[source] linux_loader::loader::Error),
    /// No `XEN_ELFNOTE_PHYS32_ENTRY` note.
    #[error("the guest kernel has no PVH entry point; use the vmlinux of a Debian cloud kernel")]
    NotPvh,
    /// The initrd cannot be read.
    #[error("read the initrd")]
    Initrd(#[source] io::Error),
    /// The initrd is too big for the guest.
    #[error("the initrd of {bytes} bytes is more than half of the guest's memory")]
    InitrdTooBig {
        /// Size of the initrd.
        bytes: u64,
    },
    /// The command line does not fit.
    #[error("kernel command line of {0} bytes is over the limit of 2047")]
    CmdlineTooLong(usize),
    /// Guest memory is smaller than the boot data.
    #[error("write boot data into guest memory")]
    Write(#[source] vm_memory::GuestMemoryError),
    /// The ACPI tables outgrew their room.
    #[error("ACPI tables of {0} bytes do not fit")]
    AcpiTooBig(usize),
}

/// Where a loaded kernel starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// 32-bit entry point.
    pub(crate) rip: u64,
}

/// Loads kernel, initrd, command line, PVH boot data and ACPI tables.
pub(crate) fn load(
    memory: &GuestMemoryMmap<()>,
    ram_bytes: u64,
    vcpus: u8,
    kernel: &mut File,
    initrd: &File,
    cmdline: &str,
) -> Result<Entry, BootError> {
    let loaded = Elf::load(memory, None, kernel, Some(GuestAddress(layout::HIGH_MEMORY)))
        .map_err(BootError::Kernel)?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(BootError::NotPvh);
    };

    let (initrd_start, initrd_bytes) = load_initrd(memory, ram_bytes, initrd)?;

    if cmdline.len() >= layout::CMDLINE_BYTES_MAX || cmdline.bytes().any(|b| b == 0) {
        return Err(BootError::CmdlineTooLong(cmdline.len()));
    }
    let mut line = cmdline.as_bytes().to_vec();
    line.push(0);
    memory.write_slice(&line, GuestAddress(layout::CMDLINE)).map_err(BootError::Write)?;

    let tables = acpi::tables(vcpus);
    if tables.bytes.len() > layout::ACPI_BYTES_MAX {
        return Err(BootError::AcpiTooBig(tables.bytes.len()));
    }
    memory.write_slice(&tables.bytes, GuestAddress(layout::ACPI)).map_err(BootError::Write)?;

    let map = memory_map(ram_bytes);
    let entry_bytes = size_of::<hvm_memmap_table_entry>() as u64;
    for (index, piece) in map.iter().enumerate() {
        let at = layout::PVH_MEMORY_MAP + index as u64 * entry_bytes;
        memory.write_obj(Pod(*piece), GuestAddress(at)).map_err(BootError::Write)?;
    }
    let module =
        hvm_modlist_entry { paddr: initrd_start, size: initrd_bytes, ..Default::default() };
    memory.write_obj(Pod(module), GuestAddress(layout::PVH_MODULES)).map_err(BootError::Write)?;
    let start = hvm_start_info {
        magic: PVH_MAGIC,
        version: 1,
        nr_modules: 1,
        modlist_paddr: layout::PVH_MODULES,
        cmdline_paddr: layout::CMDLINE,
        rsdp_paddr: tables.rsdp,
        memmap_paddr: layout::PVH_MEMORY_MAP,
        memmap_entries: u32::try_from(map.len()).unwrap_or(u32::MAX),
        ..Default::default()
    };
    memory.write_obj(Pod(start), GuestAddress(layout::PVH_START_INFO)).map_err(BootError::Write)?;
    Ok(Entry { rip: entry.0 })
}

/// Puts the initrd page-aligned at the top of low RAM, out of the kernel's way.
fn load_initrd(
    memory: &GuestMemoryMmap<()>,
    ram_bytes: u64,
    initrd: &File,
) -> Result<(u64, u64), BootError> {
    let bytes = initrd.metadata().map_err(BootError::Initrd)?.len();
    let low_ram = ram_bytes.min(layout::RAM_BELOW_4G_MAX);
    if bytes > low_ram / INITRD_SHARE_MAX {
        return Err(BootError::InitrdTooBig { bytes });
    }
    let start = (low_ram - bytes) & !(base_types::PAGE_SIZE - 1);
    // Positional reads: the node may hand one descriptor to many machines.
    let mut room = vec![0u8; 1 << 20];
    let mut done = 0;
    while done < bytes {
        let step = usize::try_from(bytes - done).unwrap_or(usize::MAX).min(room.len());
        let (chunk, _) = room.split_at_mut(step);
        initrd.read_exact_at(chunk, done).map_err(BootError::Initrd)?;
        memory.write_slice(chunk, GuestAddress(start + done)).map_err(BootError::Write)?;
        done += step as u64;
    }
    Ok((start, bytes))
}

fn memory_map(ram_bytes: u64) -> Vec<hvm_memmap_table_entry> {
    let entry = |addr, end: u64, kind| hvm_memmap_table_entry {
        addr,
        size: end - addr,
        type_: kind,
        ..Default::default()
    };
    let mut map = vec![
        entry(0, layout::LOW_RAM_END, MEMORY_RAM),
        entry(layout::LOW_RAM_END, layout::HIGH_MEMORY, MEMORY_RESERVED),
    ];
    for piece in layout::ram_pieces(ram_bytes) {
        let start = piece.guest.max(layout::HIGH_MEMORY);
        map.push(entry(start, piece.guest + piece.bytes, MEMORY_RAM));
    }
    map
}

/// Lets the loader's plain C structs be written to guest memory.
#[derive(Clone, Copy, Debug, Default)]
#[repr(transparent)]
struct Pod<T>(T);

#[expect(unsafe_code, reason = "vm-memory asks for a marker on plain C structs")]
mod pod {
    use super::{ByteValued, Pod, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};

    // SAFETY: plain integers, no padding (three u64-aligned C structs of the Xen ABI).
    unsafe impl ByteValued for Pod<hvm_start_info> {}
    // SAFETY: as above.
    unsafe impl ByteValued for Pod<hvm_modlist_entry> {}
    // SAFETY: as above.
    unsafe impl ByteValued for Pod<hvm_memmap_table_entry> {}
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_memory_map_covers_all_ram_without_overlap() {
        for ram in [64 << 20, 512 << 20, 3 << 30, 8u64 << 30] {
            let map = memory_map(ram);
            let mut last = 0;
            let mut usable = 0;
            for entry in &map {
                assert!(entry.addr >= last);
                last = entry.addr + entry.size;
                if entry.type_ == MEMORY_RAM {
                    usable += entry.size;
                }
            }
            assert_eq!(usable, ram - (layout::HIGH_MEMORY - layout::LOW_RAM_END));
        }
    }
}
