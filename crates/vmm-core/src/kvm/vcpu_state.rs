//! All state of one vCPU, and the only orders in which it may be read and written.
//!
//! The edges that matter, each learnt from a public bug:
//! CPUID before everything (it decides which MSRs and CR4 bits are legal); SREGS before LAPIC (they
//! carry the APIC mode); LAPIC before MSRs (a TSC_DEADLINE write is dropped unless the timer is in
//! deadline mode); TSC before TSC_DEADLINE; REGS and SREGS before events (they clear pending
//! exceptions); `KVM_KVMCLOCK_CTRL` last, so that the guest's watchdog knows it slept.

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, KVM_MAX_MSR_ENTRIES, Msrs, Xsave, kvm_cpuid_entry2,
    kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave2,
};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use super::{KvmError, msrs};

/// All state of one vCPU, as plain data.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct VcpuState {
    cpuid: Vec<kvm_cpuid_entry2>,
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: Vec<u32>,
    xcrs: kvm_xcrs,
    debugregs: kvm_debugregs,
    lapic: kvm_lapic_state,
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
    tsc_khz: u32,
}

/// `u32` words of the legacy XSAVE area, which every host has; more is in the flexible part.
const XSAVE_LEGACY_WORDS: usize = 1024;

impl VcpuState {
    /// Reads the state of a parked vCPU. `indices` as from [`msrs::saved_indices`]; `xsave_bytes`
    /// is the VM's `KVM_CAP_XSAVE2`, or 4096.
    pub(crate) fn save(
        vcpu: &VcpuFd,
        indices: &[u32],
        xsave_bytes: usize,
    ) -> Result<Self, KvmError> {
        // First: it handles pending INIT and SIPI, which changes what follows.
        let mp_state = vcpu.get_mp_state().map_err(KvmError::ioctl("KVM_GET_MP_STATE"))?;
        let regs = vcpu.get_regs().map_err(KvmError::ioctl("KVM_GET_REGS"))?;
        let sregs = vcpu.get_sregs().map_err(KvmError::ioctl("KVM_GET_SREGS"))?;
        let xsave = get_xsave(vcpu, xsave_bytes)?;
        let xcrs = vcpu.get_xcrs().map_err(KvmError::ioctl("KVM_GET_XCRS"))?;
        let debugregs = vcpu.get_debug_regs().map_err(KvmError::ioctl("KVM_GET_DEBUGREGS"))?;
        let lapic = vcpu.get_lapic().map_err(KvmError::ioctl("KVM_GET_LAPIC"))?;
        // Zero where the host has no stable TSC; the restore then keeps the host's own.
        let tsc_khz = vcpu.get_tsc_khz().unwrap_or(0);
        let cpuid = vcpu
            .get_cpuid2(KVM_MAX_CPUID_ENTRIES)
            .map_err(KvmError::ioctl("KVM_GET_CPUID2"))?
            .as_slice()
            .to_vec();
        let mut msrs = get_msrs(vcpu, indices)?;
        arm_expired_deadline(&mut msrs);
        // Last: the calls above may deliver or clear events.
        let events = vcpu.get_vcpu_events().map_err(KvmError::ioctl("KVM_GET_VCPU_EVENTS"))?;
        Ok(Self {
            cpuid,
            mp_state,
            regs,
            sregs,
            xsave,
            xcrs,
            debugregs,
            lapic,
            msrs,
            events,
            tsc_khz,
        })
    }

    /// Writes this state to a vCPU that has not run.
    ///
    /// Where the host can scale time stamp counters (`tsc_control`), the guest keeps the frequency
    /// it was saved with. Where it cannot, kvm-clock still tells the guest the right time.
    pub(crate) fn restore(
        &self,
        vcpu: &VcpuFd,
        xsave_bytes: usize,
        tsc_control: bool,
    ) -> Result<(), KvmError> {
        let cpuid =
            CpuId::from_entries(&self.cpuid).map_err(|_| KvmError::TooMany("CPUID leaves"))?;
        vcpu.set_cpuid2(&cpuid).map_err(KvmError::ioctl("KVM_SET_CPUID2"))?;
        if tsc_control && frequencies_differ(self.tsc_khz, vcpu.get_tsc_khz().unwrap_or(0)) {
            vcpu.set_tsc_khz(self.tsc_khz).map_err(KvmError::ioctl("KVM_SET_TSC_KHZ"))?;
        }
        vcpu.set_mp_state(self.mp_state).map_err(KvmError::ioctl("KVM_SET_MP_STATE"))?;
        vcpu.set_regs(&self.regs).map_err(KvmError::ioctl("KVM_SET_REGS"))?;
        vcpu.set_sregs(&self.sregs).map_err(KvmError::ioctl("KVM_SET_SREGS"))?;
        set_xsave(vcpu, &self.xsave, xsave_bytes)?;
        vcpu.set_xcrs(&self.xcrs).map_err(KvmError::ioctl("KVM_SET_XCRS"))?;
        vcpu.set_debug_regs(&self.debugregs).map_err(KvmError::ioctl("KVM_SET_DEBUGREGS"))?;
        vcpu.set_lapic(&self.lapic).map_err(KvmError::ioctl("KVM_SET_LAPIC"))?;
        set_msrs(vcpu, &self.msrs)?;
        vcpu.set_vcpu_events(&self.events).map_err(KvmError::ioctl("KVM_SET_VCPU_EVENTS"))?;
        // EINVAL when the guest does not use kvm-clock: then there is nothing to tell it.
        match vcpu.kvmclock_ctrl() {
            Err(error) if error.errno() != libc::EINVAL => {
                Err(KvmError::ioctl("KVM_KVMCLOCK_CTRL")(error))
            }
            _ => Ok(()),
        }
    }
}

/// Whether two TSC frequencies differ by more than 250 parts per million, the tolerance KVM itself
/// has. An unknown one (0) never differs.
fn frequencies_differ(saved_khz: u32, host_khz: u32) -> bool {
    let (saved, host) = (u64::from(saved_khz), u64::from(host_khz));
    saved != 0 && host != 0 && saved.abs_diff(host) * 1_000_000 > host * 250
}

/// A deadline that reads 0 while the timer is in deadline mode has fired, and its interrupt may be
/// in flight: the current TSC makes it fire at once instead of never.
fn arm_expired_deadline(entries: &mut [kvm_msr_entry]) {
    let find = |wanted| entries.iter().find(|entry| entry.index == wanted).map(|entry| entry.data);
    if let (Some(tsc), Some(0)) = (find(msrs::TSC), find(msrs::TSC_DEADLINE)) {
        for entry in entries.iter_mut().filter(|entry| entry.index == msrs::TSC_DEADLINE) {
            entry.data = tsc;
        }
    }
}

fn get_msrs(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, KvmError> {
    let mut all = Vec::with_capacity(indices.len());
    for chunk in indices.chunks(KVM_MAX_MSR_ENTRIES) {
        let entries: Vec<_> = chunk
            .iter()
            .map(|index| kvm_msr_entry { index: *index, ..Default::default() })
            .collect();
        let mut msrs = Msrs::from_entries(&entries).map_err(|_| KvmError::TooMany("MSRs"))?;
        let count = vcpu.get_msrs(&mut msrs).map_err(KvmError::ioctl("KVM_GET_MSRS"))?;
        if let Some(index) = chunk.get(count) {
            return Err(KvmError::MsrUnreadable { index: *index });
        }
        all.extend_from_slice(msrs.as_slice());
    }
    Ok(all)
}

fn set_msrs(vcpu: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<(), KvmError> {
    for chunk in entries.chunks(KVM_MAX_MSR_ENTRIES) {
        let msrs = Msrs::from_entries(chunk).map_err(|_| KvmError::TooMany("MSRs"))?;
        let count = vcpu.set_msrs(&msrs).map_err(KvmError::ioctl("KVM_SET_MSRS"))?;
        if let Some(refused) = chunk.get(count) {
            return Err(KvmError::MsrRefused { index: refused.index });
        }
    }
    Ok(())
}

fn xsave_room(bytes: usize) -> Result<Xsave, KvmError> {
    let extra = (bytes / 4).saturating_sub(XSAVE_LEGACY_WORDS);
    Xsave::new(extra).map_err(|_| KvmError::TooMany("XSAVE words"))
}

#[expect(unsafe_code, reason = "KVM writes as many bytes as KVM_CAP_XSAVE2 says")]
fn get_xsave(vcpu: &VcpuFd, bytes: usize) -> Result<Vec<u32>, KvmError> {
    let mut room = xsave_room(bytes)?;
    if bytes > XSAVE_LEGACY_WORDS * 4 {
        // SAFETY: `room` holds `bytes` bytes, which is what the VM's KVM_CAP_XSAVE2 asks for.
        unsafe { vcpu.get_xsave2(&mut room) }.map_err(KvmError::ioctl("KVM_GET_XSAVE2"))?;
        let fixed = room.as_fam_struct_ref().xsave.region;
        Ok(fixed.iter().chain(room.as_slice()).copied().collect())
    } else {
        let xsave = vcpu.get_xsave().map_err(KvmError::ioctl("KVM_GET_XSAVE"))?;
        Ok(xsave.region.to_vec())
    }
}

#[expect(unsafe_code, reason = "KVM reads as many bytes as KVM_CAP_XSAVE2 says")]
fn set_xsave(vcpu: &VcpuFd, words: &[u32], bytes: usize) -> Result<(), KvmError> {
    let wrong = || KvmError::XsaveSize { found: words.len() * 4, wanted: bytes };
    if words.len() * 4 != bytes.max(XSAVE_LEGACY_WORDS * 4) {
        return Err(wrong());
    }
    let (fixed, rest) = words.split_at_checked(XSAVE_LEGACY_WORDS).ok_or_else(wrong)?;
    let mut header = kvm_xsave2::default();
    header.xsave.region.copy_from_slice(fixed);
    let mut room = Xsave::from_entries(rest).map_err(|_| KvmError::TooMany("XSAVE words"))?;
    // SAFETY: only the fixed part is replaced; the length field keeps the value `room` was made with.
    unsafe { room.as_mut_fam_struct() }.xsave.region = header.xsave.region;
    // SAFETY: `room` holds `bytes` bytes (checked above), which is what KVM reads.
    unsafe { vcpu.set_xsave2(&room) }.map_err(KvmError::ioctl("KVM_SET_XSAVE"))
}

#[cfg(test)]
mod test {
    use super::*;

    fn msr(index: u32, data: u64) -> kvm_msr_entry {
        kvm_msr_entry { index, data, ..Default::default() }
    }

    #[test]
    fn tsc_frequencies_within_tolerance_are_equal() {
        assert!(!frequencies_differ(3_000_000, 3_000_700));
        assert!(frequencies_differ(3_000_000, 3_001_000));
        assert!(!frequencies_differ(0, 3_000_000) && !frequencies_differ(3_000_000, 0));
    }

    #[test]
    fn a_deadline_in_flight_fires_at_once_after_restore() {
        let mut fired = [msr(msrs::TSC, 77), msr(msrs::TSC_DEADLINE, 0)];
        arm_expired_deadline(&mut fired);
        assert_eq!(fired[1].data, 77);
        let mut armed = [msr(msrs::TSC, 77), msr(msrs::TSC_DEADLINE, 99)];
        arm_expired_deadline(&mut armed);
        assert_eq!(armed[1].data, 99);
    }
}
