//! Keeping KVM awake.
//!
//! With the first VM of a host KVM turns the processors' virtualization on and patches the
//! scheduler's code; with the last one it does the reverse. The same goes for the first and the last
//! vCPU without a local APIC, or with one that is disabled. Where QEMU emulates the processors, that
//! is dangerous: QEMU (10.0 at least) invalidates a translation *before* the store that makes it stale, so
//! another processor that translates between the two keeps the old code. A kernel patches by way of
//! `int3`; a stale one is met when nobody expects it any more, and the host dies of it ("Fatal
//! exception in interrupt", in `finish_task_switch`). So the portable host holds a VM of each kind from
//! before its first program to its end, and nothing of this is patched in between.

use crate::create::create_vm;
use std::io;

use kvm_ioctls::{Kvm, VcpuFd, VmFd};

/// VMs that never run and have no memory. While they exist, making and destroying others patches
/// nothing.
#[derive(Debug)]
pub struct Held {
    // One local APIC disabled by software, as after a reset; one disabled altogether; a vCPU without any.
    _vcpus: [VcpuFd; 3],
    _vms: [VmFd; 2],
}

/// Why no VM could be made.
#[derive(Debug, thiserror::Error)]
#[error("{call} failed; `sandflare-vmm probe` tells whether KVM is usable")]
pub struct HoldError {
    call: &'static str,
    source: kvm_ioctls::Error,
}

/// The flag of `IA32_APIC_BASE` that enables the local APIC (Intel SDM volume 3, 12.4.4).
const APIC_ENABLED: u64 = 1 << 11;

/// Makes the VMs to be held. Takes a millisecond.
pub fn hold() -> Result<Held, HoldError> {
    let failed = |call| move |source| HoldError { call, source };
    let kvm = Kvm::new().map_err(failed("opening /dev/kvm"))?;
    let vm = create_vm(&kvm).map_err(failed("KVM_CREATE_VM"))?;
    vm.create_irq_chip().map_err(failed("KVM_CREATE_IRQCHIP"))?;
    let reset = vm.create_vcpu(0).map_err(failed("KVM_CREATE_VCPU"))?;
    let disabled = vm.create_vcpu(1).map_err(failed("KVM_CREATE_VCPU"))?;
    let mut sregs = disabled.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
    sregs.apic_base &= !APIC_ENABLED;
    disabled.set_sregs(&sregs).map_err(failed("KVM_SET_SREGS"))?;
    let bare = create_vm(&kvm).map_err(failed("KVM_CREATE_VM"))?;
    let without = bare.create_vcpu(0).map_err(failed("KVM_CREATE_VCPU"))?;
    Ok(Held { _vcpus: [reset, disabled, without], _vms: [vm, bare] })
}

/// Waits until the other end of standard input is closed, however its owner ended.
pub(crate) fn wait_for_end_of_input() -> io::Result<()> {
    io::copy(&mut io::stdin().lock(), &mut io::sink()).map(drop)
}
