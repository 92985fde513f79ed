//! Keeping KVM awake.
//!
//! With the first VM of a host KVM turns the processors' virtualization on and patches the
//! scheduler; with the last one it does the reverse. A node that is between sandboxes would pay for
//! both with every one. Where QEMU emulates the processors it is worse than slow: QEMU before 8.1
//! can go on executing what was there while the scheduler is patched, and the host dies of it. So
//! somebody should hold a VM for as long as others come and go.

use crate::create::create_vm;
use std::io;

use kvm_ioctls::{Kvm, VcpuFd, VmFd};

/// A VM that never runs: no memory, one vCPU, interrupt controllers. While it exists, making and
/// destroying others patches nothing.
#[derive(Debug)]
pub struct Held {
    // Its local APIC is disabled by software, as after a reset. KVM has patched code for that, too,
    // which it flips when the first such vCPU comes and the last one goes.
    _vcpu: VcpuFd,
    _vm: VmFd,
}

/// Why no VM could be made.
#[derive(Debug, thiserror::Error)]
#[error("{call} failed; `sandflare-vmm probe` tells whether KVM is usable")]
pub struct HoldError {
    call: &'static str,
    source: kvm_ioctls::Error,
}

/// Makes a VM to be held. Takes a millisecond.
pub fn hold() -> Result<Held, HoldError> {
    let failed = |call| move |source| HoldError { call, source };
    let kvm = Kvm::new().map_err(failed("opening /dev/kvm"))?;
    let vm = create_vm(&kvm).map_err(failed("KVM_CREATE_VM"))?;
    vm.create_irq_chip().map_err(failed("KVM_CREATE_IRQCHIP"))?;
    let vcpu = vm.create_vcpu(0).map_err(failed("KVM_CREATE_VCPU"))?;
    Ok(Held { _vcpu: vcpu, _vm: vm })
}

/// Waits until the other end of standard input is closed, however its owner ended.
pub(crate) fn wait_for_end_of_input() -> io::Result<()> {
    io::copy(&mut io::stdin().lock(), &mut io::sink()).map(drop)
}
