//! The first register state of the boot CPU, as PVH asks for it.

use kvm_bindings::{Msrs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::Entry;
use crate::kvm::KvmError;
use crate::layout;

const CR0_PE_ET: u64 = 0x11;
/// x87 control word and MXCSR as after reset by firmware (Intel SDM vol. 1, 8.1.5 and 10.2.3).
const FCW_DEFAULT: u16 = 0x37f;
const MXCSR_DEFAULT: u32 = 0x1f80;
/// IA32_MTRR_DEF_TYPE: MTRRs on, everything write-back.
const MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_WRITE_BACK_ON: u64 = 0x806;
/// IA32_MISC_ENABLE: fast strings.
const MISC_ENABLE: u32 = 0x1a0;

/// A flat 4 GiB segment; `kind` is the descriptor type, 0xb code or 0x3 data.
fn flat(selector: u16, kind: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}

/// Sets the registers of the boot CPU so that `KVM_RUN` enters the kernel at `entry`.
pub(crate) fn prepare_boot_cpu(
    vcpu: &VcpuFd,
    memory: &GuestMemoryMmap<()>,
    entry: Entry,
) -> Result<(), KvmError> {
    // The same three descriptors as in the segment registers below, for code that reloads them.
    let gdt: [u64; 4] = [0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067];
    for (index, descriptor) in gdt.iter().enumerate() {
        memory
            .write_obj(*descriptor, GuestAddress(layout::GDT + index as u64 * 8))
            .map_err(KvmError::GuestMemory)?;
    }

    let mut sregs = vcpu.get_sregs().map_err(KvmError::ioctl("KVM_GET_SREGS"))?;
    sregs.cs = flat(0x8, 0xb);
    for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *segment = flat(0x10, 0x3);
    }
    sregs.tr = kvm_segment {
        base: 0,
        limit: 0x67,
        selector: 0x18,
        type_: 0xb,
        present: 1,
        ..Default::default()
    };
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = 31;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cr0 = CR0_PE_ET;
    sregs.cr4 = 0;
    sregs.efer = 0;
    vcpu.set_sregs(&sregs).map_err(KvmError::ioctl("KVM_SET_SREGS"))?;

    let regs =
        kvm_regs { rip: entry.rip, rbx: layout::PVH_START_INFO, rflags: 2, ..Default::default() };
    vcpu.set_regs(&regs).map_err(KvmError::ioctl("KVM_SET_REGS"))?;

    let fpu = kvm_fpu { fcw: FCW_DEFAULT, mxcsr: MXCSR_DEFAULT, ..Default::default() };
    vcpu.set_fpu(&fpu).map_err(KvmError::ioctl("KVM_SET_FPU"))?;
    Ok(())
}

/// What firmware would have left in every CPU's MSRs, and LINT pins as the MP spec wants them.
pub(crate) fn prepare_any_cpu(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let entries = [(MISC_ENABLE, 1), (MTRR_DEF_TYPE, MTRR_WRITE_BACK_ON)]
        .map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
    let msrs = Msrs::from_entries(&entries).map_err(|_| KvmError::TooMany("MSRs"))?;
    vcpu.set_msrs(&msrs).map_err(KvmError::ioctl("KVM_SET_MSRS"))?;

    // LVT LINT0 (0x350) = ExtINT, LINT1 (0x360) = NMI: delivery mode in bits 8..=10.
    let mut lapic = vcpu.get_lapic().map_err(KvmError::ioctl("KVM_GET_LAPIC"))?;
    for (register, mode) in [(0x350usize, 7u32), (0x360, 4)] {
        if let Some(slot) = lapic.regs.get_mut(register..register + 4) {
            let bytes = [slot[0] as u8, slot[1] as u8, slot[2] as u8, slot[3] as u8];
            let value = u32::from_le_bytes(bytes) & !0x700 | mode << 8;
            for (to, from) in slot.iter_mut().zip(value.to_le_bytes()) {
                *to = from as std::os::raw::c_char;
            }
        }
    }
    vcpu.set_lapic(&lapic).map_err(KvmError::ioctl("KVM_SET_LAPIC"))
}
