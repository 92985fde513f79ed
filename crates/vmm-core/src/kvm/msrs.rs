//! Which model-specific registers belong to a machine's state.
//!
//! The host's own list (`KVM_GET_MSR_INDEX_LIST`) plus what it leaves out although it is state:
//! the MTRRs. Registers are judged by whether they can be read once CPUID is set, never by vendor.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd};

use super::KvmError;

/// IA32_MTRR_PHYSBASE0 to PHYSMASK7, fixed ranges, default type: real state, yet not listed by KVM.
const MTRRS: [(u32, u32); 6] = [
    (0x200, 0x20f),
    (0x250, 0x250),
    (0x258, 0x259),
    (0x268, 0x26f),
    (0x277, 0x277),
    (0x2ff, 0x2ff),
];
/// Not state of the guest: read-only identification of the host, or written through another door.
const NOT_STATE: [u32; 9] = [
    0x17,        // IA32_PLATFORM_ID
    0x8b,        // IA32_BIOS_SIGN_ID: microcode revision of the host
    0xce,        // MSR_PLATFORM_INFO
    0x10a,       // IA32_ARCH_CAPABILITIES
    0x345,       // IA32_PERF_CAPABILITIES; the PMU is masked
    0x17b,       // IA32_MCG_CTL: writable only with MCG_CTL_P, which KVM does not offer
    0x480,       // IA32_VMX_BASIC and on: nested virtualization is masked
    0x4000_0000, // Hyper-V guest OS id and on: Hyper-V is not offered
    0xc001_0117, // MSR_VM_HSAVE_PA: nested virtualization is masked
];
const VMX_CAPABILITIES: std::ops::RangeInclusive<u32> = 0x480..=0x491;
const HYPERV: std::ops::RangeInclusive<u32> = 0x4000_0000..=0x4000_010f;
/// Performance counters and their event selects: the PMU is masked.
const PMU: [std::ops::RangeInclusive<u32>; 6] = [
    0xc1..=0xc8,
    0x186..=0x18d,
    0x309..=0x30c,
    0x38d..=0x391,
    0xc001_0000..=0xc001_0007,
    0xc001_0200..=0xc001_020b,
];
/// Versions of the PMU global registers on newer AMD processors.
const PMU_AMD_V2: std::ops::RangeInclusive<u32> = 0xc000_0300..=0xc000_0303;
/// IA32_TIME_STAMP_COUNTER.
pub(super) const TSC: u32 = 0x10;
/// IA32_TSC_DEADLINE.
pub(super) const TSC_DEADLINE: u32 = 0x6e0;
/// IA32_TSC_ADJUST. Writing it moves the TSC, so it goes before.
pub(super) const TSC_ADJUST: u32 = 0x3b;

fn is_state(index: u32) -> bool {
    !(NOT_STATE.contains(&index)
        || VMX_CAPABILITIES.contains(&index)
        || HYPERV.contains(&index)
        || PMU_AMD_V2.contains(&index)
        || PMU.iter().any(|range| range.contains(&index)))
}

/// The registers to save for a machine whose vCPU is `vcpu` (with CPUID set): those that can be
/// read, in the order to write them back: everything else, then TSC_ADJUST, TSC, and TSC_DEADLINE.
pub(crate) fn saved_indices(kvm: &Kvm, vcpu: &VcpuFd) -> Result<Vec<u32>, KvmError> {
    let listed = kvm.get_msr_index_list().map_err(KvmError::ioctl("KVM_GET_MSR_INDEX_LIST"))?;
    let mut wanted: Vec<u32> =
        listed.as_slice().iter().copied().filter(|index| is_state(*index)).collect();
    wanted.extend(MTRRS.iter().flat_map(|(first, last)| *first..=*last));
    wanted.sort_by_key(|index| match *index {
        TSC_ADJUST => (1, 0),
        TSC => (2, 0),
        TSC_DEADLINE => (3, 0),
        other => (0, other),
    });
    wanted.dedup();
    // One by one: a list stops at the first register that this processor does not have.
    let mut readable = Vec::with_capacity(wanted.len());
    for index in wanted {
        let entry = kvm_msr_entry { index, ..Default::default() };
        let mut one = Msrs::from_entries(&[entry]).map_err(|_| KvmError::TooMany("MSRs"))?;
        if vcpu.get_msrs(&mut one).is_ok_and(|count| count == 1) {
            readable.push(index);
        }
    }
    Ok(readable)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn identification_and_masked_features_are_not_state() {
        for index in [0x8b, 0x480, 0x48f, 0xc1, 0x4000_0000, 0xc001_0117] {
            assert!(!is_state(index), "{index:#x}");
        }
        for index in [TSC, TSC_DEADLINE, TSC_ADJUST, 0xc000_0082, 0x4b56_4d01, 0x1a0] {
            assert!(is_state(index), "{index:#x}");
        }
    }
}
