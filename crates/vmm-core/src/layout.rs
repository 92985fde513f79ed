//! Where things are in guest-physical address space, and which interrupt line each has.
//!
//! ```text
//!  0x0000_0500  GDT of the boot CPU             0x0000_6000  PVH start info, memory map
//!  0x0002_0000  kernel command line             0x0009_fc00  end of low RAM, reserved from here
//!  0x000e_0000  ACPI tables                     0x000f_f000  VM generation id
//!  0x0010_0000  RAM, up to 3 GiB                0xd000_0000  virtio-mmio windows
//!  0xfec0_0000  IOAPIC   0xfee0_0000  LAPIC     0x1_0000_0000  RAM beyond 3 GiB
//! ```
//!
//! A snapshot depends on every number here: changing one changes the state format version.

/// GDT of the boot CPU.
pub(crate) const GDT: u64 = 0x500;
/// `hvm_start_info` of the PVH boot protocol.
pub(crate) const PVH_START_INFO: u64 = 0x6000;
/// `hvm_modlist_entry` for the initrd.
pub(crate) const PVH_MODULES: u64 = 0x6040;
/// `hvm_memmap_table_entry` array.
pub(crate) const PVH_MEMORY_MAP: u64 = 0x7000;
/// Kernel command line, NUL terminated.
pub(crate) const CMDLINE: u64 = 0x2_0000;
/// LIMIT: `COMMAND_LINE_SIZE` of x86 Linux, with its NUL.
pub(crate) const CMDLINE_BYTES_MAX: usize = 2048;
/// First byte that is not ordinary low RAM.
pub(crate) const LOW_RAM_END: u64 = 0x9_fc00;
/// ACPI tables, RSDP first.
pub(crate) const ACPI: u64 = 0xe_0000;
/// LIMIT: room for ACPI tables; 8 vCPUs and 5 devices need under 2 KiB.
pub(crate) const ACPI_BYTES_MAX: usize = 0x1_0000;
/// Page that holds the VM generation id.
pub(crate) const GENERATION_ID: u64 = 0xf_f000;
/// RAM above the legacy hole.
pub(crate) const HIGH_MEMORY: u64 = 0x10_0000;
/// End of RAM below 4 GiB; the rest continues at [`RAM_ABOVE_4G`].
pub(crate) const RAM_BELOW_4G_MAX: u64 = 3 << 30;
/// Start of the RAM that does not fit below the MMIO hole.
pub(crate) const RAM_ABOVE_4G: u64 = 4 << 30;
/// First virtio-mmio window; one page each.
pub(crate) const VIRTIO_MMIO: u64 = 0xd000_0000;
/// Bytes of one virtio-mmio window.
pub(crate) const VIRTIO_MMIO_BYTES: u64 = 0x1000;
/// Intel-defined IOAPIC address, where KVM's own is.
pub(crate) const IOAPIC: u32 = 0xfec0_0000;
/// Intel-defined local APIC address, where KVM's own is.
pub(crate) const LAPIC: u32 = 0xfee0_0000;
/// Three pages KVM needs on Intel for real-mode emulation, just below the BIOS hole.
pub(crate) const KVM_TSS: usize = 0xfffb_d000;

/// First port of COM1.
pub(crate) const COM1: u16 = 0x3f8;
/// Interrupt of COM1.
pub(crate) const COM1_GSI: u32 = 4;
/// Command and status port of the i8042 keyboard controller; 0xfe written there means reset.
pub(crate) const I8042_COMMAND: u16 = 0x64;
/// ACPI sleep control and status register, one byte; [`POWER_OFF`] written there ends the machine.
pub(crate) const SLEEP_CONTROL: u16 = 0x600;
/// Sleep type that means "off", as the DSDT's `_S5` says it.
pub(crate) const SLEEP_TYPE_OFF: u8 = 5;
/// Sleep type in bits 2 to 4 and the enable bit (ACPI 6.5, section 4.8.3.7).
pub(crate) const POWER_OFF: u8 = SLEEP_TYPE_OFF << 2 | 1 << 5;
/// Interrupt of the ACPI generic event device that announces a new VM generation id.
pub(crate) const GENERATION_GSI: u32 = 16 + VIRTIO_DEVICES;
/// Interrupt of virtio device `index`. Lines 16 and up are IOAPIC only: the PIC never sees them.
pub(crate) const fn virtio_gsi(index: u32) -> u32 {
    16 + index
}
/// Address of the window of virtio device `index`.
pub(crate) const fn virtio_mmio(index: u32) -> u64 {
    VIRTIO_MMIO + index as u64 * VIRTIO_MMIO_BYTES
}
/// The virtio devices of every machine, in window order: root disk, vsock, entropy, network.
pub(crate) const VIRTIO_DEVICES: u32 = 4;

/// One piece of guest RAM: where the guest sees it and where it lies in the RAM image, which is
/// what memfds, layers and the VMM's own mapping are addressed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RamPiece {
    /// Guest-physical address.
    pub(crate) guest: u64,
    /// Offset in the RAM image.
    pub(crate) offset: u64,
    /// Length in bytes.
    pub(crate) bytes: u64,
}

/// The RAM of a machine with `total` bytes: one piece, or two when it reaches the MMIO hole.
pub(crate) fn ram_pieces(total: u64) -> Vec<RamPiece> {
    let low = total.min(RAM_BELOW_4G_MAX);
    let mut pieces = vec![RamPiece { guest: 0, offset: 0, bytes: low }];
    if total > low {
        pieces.push(RamPiece { guest: RAM_ABOVE_4G, offset: low, bytes: total - low });
    }
    pieces
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn ram_skips_the_mmio_hole() {
        assert_eq!(ram_pieces(512 << 20).len(), 1);
        let large = ram_pieces(8 << 30);
        assert_eq!(large[0], RamPiece { guest: 0, offset: 0, bytes: 3 << 30 });
        assert_eq!(large[1], RamPiece { guest: 4 << 30, offset: 3 << 30, bytes: 5 << 30 });
    }

    #[test]
    fn windows_lie_in_the_hole() {
        assert!(virtio_mmio(0) >= RAM_BELOW_4G_MAX);
        assert!(virtio_mmio(VIRTIO_DEVICES) <= u64::from(IOAPIC));
        assert!(virtio_gsi(VIRTIO_DEVICES - 1) < GENERATION_GSI);
        // The IOAPIC has 24 lines.
        const { assert!(GENERATION_GSI < 24) };
    }
}
