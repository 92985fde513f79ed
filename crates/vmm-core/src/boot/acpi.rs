//! The ACPI tables of a machine: processors, IOAPIC, serial port, virtio windows, the VM generation
//! id with its generic event device, and how to switch the machine off.
//!
//! Hardware-reduced ACPI (ACPI 6.5, section 4.1): no PM timer, no SCI, no legacy PIC. Device ids:
//! `LNRO0005` is virtio-mmio (Linux `drivers/virtio/virtio_mmio.c`), `VMGENCTR` the generation id
//! (Linux `drivers/virt/vmgenid.c`), `ACPI0013` the generic event device.

use acpi_tables::aml::{
    Arg, Device, EISAName, Equal, IO, If, Interrupt, Memory32Fixed, Method, Name, Notify, Package,
    Path, ResourceTemplate,
};
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};

use crate::layout;

const OEM: [u8; 6] = *b"SNDFLR";
const OEM_TABLE: [u8; 8] = *b"SANDFLAR";
const OEM_REVISION: u32 = 1;
/// No VGA, no CMOS RTC, no legacy devices but the 8042 reset (ACPI 6.5 table 5.11: bits 2 and 5).
const BOOT_ARCH_NO_VGA_NO_CMOS: u16 = 1 << 2 | 1 << 5;
/// Notification value of the VM generation id (Microsoft "Virtual Machine Generation ID", 2018).
const GENERATION_CHANGED: u8 = 0x80;

/// All tables, laid out from [`layout::ACPI`] on.
pub(super) struct Tables {
    /// What to write at [`layout::ACPI`].
    pub(super) bytes: Vec<u8>,
    /// Guest-physical address of the RSDP.
    pub(super) rsdp: u64,
}

struct Bytes(Vec<u8>);

impl AmlSink for Bytes {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }
}

impl Bytes {
    /// Appends `table` at a 16-byte boundary and says at which guest address.
    fn table(&mut self, table: &dyn Aml) -> u64 {
        self.0.resize(self.0.len().next_multiple_of(16), 0);
        let at = layout::ACPI + self.0.len() as u64;
        table.to_aml_bytes(self);
        at
    }
}

/// The tables of a machine with `vcpus` processors.
pub(super) fn tables(vcpus: u8) -> Tables {
    // The RSDP comes first in memory but last in time: it points at what follows.
    let mut out = Bytes(vec![0; Rsdp::len()]);
    let dsdt = out.table(&dsdt());

    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::PerformanceServer)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = BOOT_ARCH_NO_VGA_NO_CMOS.into();
    // Control and status share one port: the bits do not overlap, and this machine never wakes.
    fadt.sleep_control_reg = sleep_register();
    fadt.sleep_status_reg = sleep_register();
    let fadt = out.table(&fadt.finalize());

    let mut madt =
        MADT::new(OEM, OEM_TABLE, OEM_REVISION, LocalInterruptController::Address(layout::LAPIC));
    for id in 0..vcpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, layout::IOAPIC, 0));
    let madt = out.table(&madt);

    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = out.table(&xsdt);

    let mut rsdp = Bytes(Vec::new());
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut rsdp);
    let mut bytes = out.0;
    bytes.splice(..rsdp.0.len(), rsdp.0);
    Tables { bytes, rsdp: layout::ACPI }
}

fn dsdt() -> Sdt {
    let mut dsdt = Sdt::new(*b"DSDT", 36, 6, OEM, OEM_TABLE, OEM_REVISION);
    let mut body = Bytes(Vec::new());
    serial(&mut body);
    for index in 0..layout::VIRTIO_DEVICES {
        virtio(index, &mut body);
    }
    generation_id(&mut body);
    Name::new("_S5_".into(), &Package::new(vec![&layout::SLEEP_TYPE_OFF])).to_aml_bytes(&mut body);
    dsdt.append_slice(&body.0);
    dsdt
}

fn sleep_register() -> GAS {
    let port = u64::from(layout::SLEEP_CONTROL);
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port)
}

fn line(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

fn serial(out: &mut Bytes) {
    Device::new(
        "_SB_.COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &0u8),
            &Name::new("_DDN".into(), &"COM1"),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &line(layout::COM1_GSI),
                    &IO::new(layout::COM1, layout::COM1, 1, 8),
                ]),
            ),
        ],
    )
    .to_aml_bytes(out);
}

fn virtio(index: u32, out: &mut Bytes) {
    // The windows lie below 4 GiB by construction, so the address fits 32 bits.
    let base = u32::try_from(layout::virtio_mmio(index)).unwrap_or(u32::MAX);
    let bytes = u32::try_from(layout::VIRTIO_MMIO_BYTES).unwrap_or(u32::MAX);
    Device::new(
        Path::new(&format!("_SB_.V{index:03}")),
        vec![
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &index),
            &Name::new("_CCA".into(), &1u8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &Memory32Fixed::new(true, base, bytes),
                    &line(layout::virtio_gsi(index)),
                ]),
            ),
        ],
    )
    .to_aml_bytes(out);
}

fn generation_id(out: &mut Bytes) {
    let low = u32::try_from(layout::GENERATION_ID).unwrap_or(u32::MAX);
    Device::new(
        "_SB_.VGEN".into(),
        vec![
            &Name::new("_HID".into(), &"VMGENCTR"),
            &Name::new("_CID".into(), &"VM_Gen_Counter"),
            &Name::new("_DDN".into(), &"VM_Gen_Counter"),
            &Name::new("ADDR".into(), &Package::new(vec![&low, &0u32])),
        ],
    )
    .to_aml_bytes(out);
    Device::new(
        "_SB_.GED_".into(),
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_UID".into(), &0u8),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&line(layout::GENERATION_GSI)])),
            &Method::new(
                "_EVT".into(),
                1,
                true,
                vec![&If::new(
                    &Equal::new(&Arg(0), &layout::GENERATION_GSI),
                    vec![&Notify::new(&Path::new("\\_SB_.VGEN"), &GENERATION_CHANGED)],
                )],
            ),
        ],
    )
    .to_aml_bytes(out);
}

#[cfg(test)]
mod test {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn every_table_is_reachable_and_adds_up_to_zero() {
        for vcpus in 1..=8 {
            let tables = tables(vcpus);
            let at = |address: u64| {
                let offset = (address - layout::ACPI) as usize;
                &tables.bytes[offset..]
            };
            let table = |address: u64| {
                let bytes = at(address);
                let length = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
                &bytes[..length]
            };
            let rsdp = &at(tables.rsdp)[..36];
            assert_eq!(&rsdp[..8], b"RSD PTR ");
            assert_eq!(sum(rsdp), 0);
            let xsdt = table(u64::from_le_bytes(rsdp[24..32].try_into().unwrap()));
            assert_eq!((&xsdt[..4], sum(xsdt)), (&b"XSDT"[..], 0));
            let entries: Vec<u64> = xsdt[36..]
                .chunks(8)
                .map(|entry| u64::from_le_bytes(entry.try_into().unwrap()))
                .collect();
            let fadt = table(entries[0]);
            assert_eq!((&fadt[..4], sum(fadt)), (&b"FACP"[..], 0));
            let madt = table(entries[1]);
            assert_eq!((&madt[..4], sum(madt)), (&b"APIC"[..], 0));
            assert_eq!(madt.len(), 44 + usize::from(vcpus) * 8 + 12);
            let dsdt = table(u64::from_le_bytes(fadt[140..148].try_into().unwrap()));
            assert_eq!((&dsdt[..4], sum(dsdt)), (&b"DSDT"[..], 0));
        }
    }
}
