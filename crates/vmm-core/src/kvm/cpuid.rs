//! The processor a guest sees: what KVM supports, less what cannot be saved or must not be shared.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;

use super::KvmError;

/// Leaf 1 ECX: VMX, x2APIC, TSC deadline, hypervisor present.
const VMX: u32 = 1 << 5;
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 7.0 EBX: processor trace. ECX: CET shadow stacks. EDX: CET branch tracking, AMX.
const PROCESSOR_TRACE: u32 = 1 << 25;
const CET_SHADOW_STACK: u32 = 1 << 7;
const CET_BRANCH_TRACKING: u32 = 1 << 20;
const AMX: u32 = 1 << 22 | 1 << 24 | 1 << 25;
/// XCR0 components 17 and 18: AMX tile state. IA32_XSS components 8, 11, 12: PT and CET.
const XCR0_AMX: u32 = 3 << 17;
const XSS_PT_CET: u32 = 1 << 8 | 3 << 11;
/// Leaf 0x8000_0001 ECX: SVM.
const SVM: u32 = 1 << 2;
/// Leaf 0x4000_0001 EAX (KVM features): asynchronous page faults, their VM exit and interrupt forms.
/// A task that waits for such a fault in a snapshot waits for ever in its clones.
const KVM_ASYNC_PF: u32 = 1 << 4 | 1 << 10 | 1 << 14;

/// What every vCPU of a new machine sees, before its own ids are filled in.
///
/// Masked on purpose: AMX (8 KiB of state per thread, and a permission dance), CET and processor
/// trace (state beyond the MSR list), nested virtualization, the PMU and KVM's asynchronous page
/// faults.
pub(crate) fn template(kvm: &Kvm) -> Result<CpuId, KvmError> {
    let mut cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(KvmError::ioctl("KVM_GET_SUPPORTED_CPUID"))?;
    for entry in cpuid.as_mut_slice() {
        match (entry.function, entry.index) {
            (1, _) => {
                entry.ecx &= !VMX;
                // KVM's local APIC has both even where the processor's own has not.
                entry.ecx |= X2APIC | TSC_DEADLINE | HYPERVISOR;
            }
            (7, 0) => {
                entry.ebx &= !PROCESSOR_TRACE;
                entry.ecx &= !CET_SHADOW_STACK;
                entry.edx &= !(CET_BRANCH_TRACKING | AMX);
            }
            (0xa | 0x14 | 0x1d | 0x1e, _) => clear(entry),
            (0xd, 0) => entry.eax &= !XCR0_AMX,
            (0xd, 1) => entry.ecx &= !XSS_PT_CET,
            (0xd, 8 | 11 | 12 | 17 | 18) => clear(entry),
            (0x4000_0001, _) => entry.eax &= !KVM_ASYNC_PF,
            (0x8000_0001, _) => entry.ecx &= !SVM,
            (0x8000_000a, _) => clear(entry),
            _ => {}
        }
    }
    Ok(cpuid)
}

/// `template` with the ids and topology of vCPU `id` of `vcpus`: one socket, one thread per core.
pub(crate) fn for_vcpu(template: &CpuId, id: u8, vcpus: u8) -> CpuId {
    let mut cpuid = template.clone();
    let (id, vcpus) = (u32::from(id), u32::from(vcpus));
    let id_bits = vcpus.next_power_of_two().trailing_zeros();
    for entry in cpuid.as_mut_slice() {
        match (entry.function, entry.index) {
            (1, _) => {
                entry.ebx = entry.ebx & 0x0000_ffff | id << 24 | vcpus << 16;
                set(&mut entry.edx, 1 << 28, vcpus > 1);
            }
            // Deterministic cache parameters: cores per package in EAX 31:26, sharing in 25:14.
            (4, _) if entry.eax & 0x1f != 0 => {
                let level = entry.eax >> 5 & 7;
                let sharing = if level >= 3 { vcpus - 1 } else { 0 };
                entry.eax = entry.eax & 0x3fff | sharing << 14 | (vcpus - 1) << 26;
            }
            // Extended topology (Intel SDM, leaf 0xB): level 0 threads, level 1 cores.
            (0xb | 0x1f, level) => {
                entry.edx = id;
                (entry.eax, entry.ebx, entry.ecx) = match level {
                    0 => (0, 1, 1 << 8),
                    1 => (id_bits, vcpus, 2 << 8 | 1),
                    other => (0, 0, other),
                };
            }
            // AMD: thread count less one in ECX 7:0, id size in 15:12.
            (0x8000_0008, _) => entry.ecx = entry.ecx & !0xf0ff | (vcpus - 1) | id_bits << 12,
            (0x8000_001d, _) if entry.eax & 0x1f != 0 => {
                let level = entry.eax >> 5 & 7;
                let sharing = if level >= 3 { vcpus - 1 } else { 0 };
                entry.eax = entry.eax & 0x3fff | sharing << 14;
            }
            (0x8000_001e, _) => (entry.eax, entry.ebx, entry.ecx) = (id, id, 0),
            _ => {}
        }
    }
    cpuid
}

/// What kind of machine a snapshot belongs to: vendor, family, model and stepping of the processor
/// as KVM shows it. A snapshot of another kind is refused before anything of it is used.
pub(crate) fn machine_tag(template: &CpuId) -> String {
    let find = |function| template.as_slice().iter().find(|entry| entry.function == function);
    let vendor: Vec<u8> = find(0)
        .map(|entry| [entry.ebx, entry.edx, entry.ecx].map(u32::to_le_bytes).concat())
        .unwrap_or_default();
    let signature = find(1).map_or(0, |entry| entry.eax);
    let xcr0 = template
        .as_slice()
        .iter()
        .find(|entry| (entry.function, entry.index) == (0xd, 0))
        .map_or(0, |entry| entry.eax);
    format!("x86_64 {} {signature:08x} xcr0 {xcr0:x}", String::from_utf8_lossy(&vendor))
}

fn clear(entry: &mut kvm_cpuid_entry2) {
    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
}

fn set(register: &mut u32, bits: u32, on: bool) {
    if on {
        *register |= bits;
    } else {
        *register &= !bits;
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
        let all = u32::MAX;
        kvm_cpuid_entry2 {
            function,
            index,
            eax: all,
            ebx: all,
            ecx: all,
            edx: all,
            ..Default::default()
        }
    }

    #[test]
    fn each_vcpu_has_its_own_apic_id_everywhere() {
        let leaves = [(1, 0), (0xb, 0), (0xb, 1), (0x8000_001e, 0)].map(|(f, i)| entry(f, i));
        let template = CpuId::from_entries(&leaves).unwrap();
        for id in 0..4 {
            let cpuid = for_vcpu(&template, id, 4);
            let leaves = cpuid.as_slice();
            assert_eq!(leaves[0].ebx >> 24, u32::from(id));
            assert_eq!(leaves[0].ebx >> 16 & 0xff, 4);
            assert_eq!(leaves[1].edx, u32::from(id));
            assert_eq!((leaves[2].eax, leaves[2].ebx), (2, 4));
            assert_eq!(leaves[3].eax, u32::from(id));
        }
    }
}
