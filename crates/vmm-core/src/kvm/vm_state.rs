//! State of the interrupt controllers, the interval timer and the paravirtual clock.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data, kvm_irqchip,
    kvm_pit_state2,
};
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};

use super::KvmError;

/// VM-wide KVM state, as plain data.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct VmState {
    pit: kvm_pit_state2,
    clock: kvm_clock_data,
    irqchips: Vec<kvm_irqchip>,
}

impl VmState {
    /// Reads the state while all vCPUs are parked and devices are drained.
    pub(crate) fn save(vm: &VmFd) -> Result<Self, KvmError> {
        let pit = vm.get_pit2().map_err(KvmError::ioctl("KVM_GET_PIT2"))?;
        let mut clock = vm.get_clock().map_err(KvmError::ioctl("KVM_GET_CLOCK"))?;
        // Only the nanoseconds travel: with flags, KVM would add the time the snapshot lay on disk
        // to the guest's monotonic clock. The agent steps the wall clock forward instead.
        clock.flags = 0;
        let mut irqchips = Vec::with_capacity(3);
        for chip_id in [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC] {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            vm.get_irqchip(&mut chip).map_err(KvmError::ioctl("KVM_GET_IRQCHIP"))?;
            irqchips.push(chip);
        }
        Ok(Self { pit, clock, irqchips })
    }

    /// Writes the state, after every vCPU's and before any vCPU runs.
    pub(crate) fn restore(&self, vm: &VmFd) -> Result<(), KvmError> {
        vm.set_pit2(&self.pit).map_err(KvmError::ioctl("KVM_SET_PIT2"))?;
        vm.set_clock(&self.clock).map_err(KvmError::ioctl("KVM_SET_CLOCK"))?;
        for chip in &self.irqchips {
            vm.set_irqchip(chip).map_err(KvmError::ioctl("KVM_SET_IRQCHIP"))?;
        }
        Ok(())
    }
}
