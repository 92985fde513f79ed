//! A machine: a shell with a kernel, a disk and memory in it.
//!
//! Both ways in, [`Machine::boot`] and [`Primed::new`] with [`Machine::restore`], consume the
//! shell and do everything that can fail before a vCPU runs. What comes out can be released, held, written to files and
//! asked for counters.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use api_vmm::{BootSpec, RestoreSpec, RestoreTimes};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vm_memory::{Bytes, GuestAddress};
use vm_superio::Serial;
use vmm_sys_util::epoll::Epoll;
use vmm_sys_util::eventfd::EventFd;

use crate::boot::{self, BootError};
use crate::bus::Bus;
use crate::devices::{DeviceError, DeviceFiles, Devices};
use crate::kvm::{self, KvmError};
use crate::layout;
use crate::memory::{FaultCounters, MemoryError, PageScanner, Ram};
use crate::prime::Primed;
use crate::serial::{Com1, ConsoleLog, Line};
use crate::shell::{FaultThread, Shell};
use crate::snapshot::StateError;
use crate::vcpu::{Vcpu, VcpuEnd};

/// Why a machine could not be made, held or written.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The kernel could not be loaded.
    #[error("put the guest kernel into memory")]
    Boot(#[from] BootError),
    /// KVM refused.
    #[error("set up the virtual machine")]
    Kvm(#[from] KvmError),
    /// Guest memory.
    #[error("set up guest memory")]
    Memory(#[from] MemoryError),
    /// A device.
    #[error("set up the devices")]
    Device(#[from] DeviceError),
    /// The state file.
    #[error("use the snapshot's state")]
    State(#[from] StateError),
    /// A memory layer file.
    #[error("open a memory layer")]
    Layer(#[source] base_snapshot::OpenError),
    /// The layers do not belong together.
    #[error("stack the memory layers")]
    Stack(#[source] base_snapshot::StackError),
    /// The working-set file.
    #[error("open the working set")]
    WorkingSet(#[source] base_snapshot::OpenError),
    /// The working set could not be encoded.
    #[error("encode the working set")]
    EncodeWorkingSet(#[source] base_snapshot::WorkingSetEncodeError),
    /// A memory layer could not be written.
    #[error("write the memory layer")]
    WriteLayer(#[source] base_snapshot::LayerWriteError),
    /// A layer could not be read into memory.
    #[error("read a memory layer")]
    ReadLayer(#[source] base_snapshot::LayerReadError),
    /// A file could not be written or synced.
    #[error("{call}")]
    File {
        /// What was tried.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The VM generation id could not be announced.
    #[error("announce the new machine generation to the guest")]
    Generation,
    /// The node asked for something contradictory.
    #[error("{0}")]
    Contradiction(&'static str),
}

/// Adapts an I/O error for `map_err`.
pub(crate) fn file(call: &'static str) -> impl Fn(io::Error) -> MachineError {
    move |source| MachineError::File { call, source }
}

/// What a machine needs of the process besides its shell.
pub(crate) struct Surroundings {
    pub(crate) scanner: PageScanner,
    pub(crate) smaps: File,
    pub(crate) userfaultfd: Option<OwnedFd>,
    pub(crate) epoll: Arc<Epoll>,
}

/// What a boot works on, as [`BootSpec`] lists it.
#[derive(Debug)]
pub(crate) struct BootFiles {
    pub(crate) kernel: File,
    pub(crate) initrd: File,
    pub(crate) devices: DeviceFiles,
    pub(crate) console: File,
}

/// What a restore works on, as [`RestoreSpec`] lists it.
#[derive(Debug)]
pub(crate) struct RestoreFiles {
    pub(crate) devices: DeviceFiles,
    pub(crate) console: File,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Machine {
    // INVARIANT: dropped in this order: threads that run the VM, devices, the VM, memory.
    pub(crate) vcpus: Vec<Vcpu>,
    pub(crate) devices: Devices,
    pub(crate) bus: Arc<Bus>,
    pub(crate) generation: EventFd,
    pub(crate) exited: EventFd,
    pub(crate) vm: VmFd,
    pub(crate) kvm: Kvm,
    pub(crate) machine_tag: String,
    pub(crate) xsave_bytes: usize,
    #[expect(dead_code, reason = "held so that the thread ends with the machine")]
    pub(crate) fault_thread: FaultThread,
    pub(crate) counters: Arc<FaultCounters>,
    pub(crate) prefetched: u64,
    /// What a restored machine is a clone of.
    pub(crate) template: Option<File>,
    pub(crate) ram: Ram,
}

impl Machine {
    /// Loads a kernel into the shell.
    pub(crate) fn boot(
        shell: Shell,
        spec: &BootSpec,
        mut files: BootFiles,
        around: &Surroundings,
    ) -> Result<Self, MachineError> {
        let machine_tag = kvm::machine_tag(&shell.cpuid);
        let xsave_bytes = shell.xsave_bytes();
        let Shell { vcpus, bus, vm, kvm, cpuid, lines, exited, fault_thread, reservation } = shell;
        let ram = reservation.attach_anonymous()?;
        let count = u8::try_from(vcpus.len()).unwrap_or(u8::MAX);
        let entry = boot::load(
            ram.memory(),
            ram.reservation().bytes(),
            count,
            &mut files.kernel,
            &files.initrd,
            &spec.cmdline,
        )?;
        for (id, vcpu) in (0..).zip(&vcpus) {
            let fd = vcpu.parked();
            fd.set_cpuid2(&kvm::cpuid_for_vcpu(&cpuid, id, count))
                .map_err(KvmError::ioctl("KVM_SET_CPUID2"))?;
            boot::prepare_any_cpu(&fd)?;
            if id == 0 {
                boot::prepare_boot_cpu(&fd, ram.memory(), entry)?;
            }
        }
        let console = ConsoleLog::new(files.console).map_err(file("open the console log"))?;
        let com1: Com1 = Serial::new(Line(lines.com1), console);
        let devices = Devices::new(files.devices, ram.memory(), lines.devices, &around.epoll)?;
        bus.attach(com1, devices.windows());
        Ok(Self {
            vcpus,
            devices,
            bus,
            generation: lines.generation,
            exited,
            vm,
            kvm,
            machine_tag,
            xsave_bytes,
            fault_thread,
            counters: Arc::default(),
            prefetched: 0,
            template: None,
            ram,
        })
    }

    /// Continues the snapshot that `primed` holds the memory of. The vCPUs stay parked.
    pub(crate) fn restore(
        primed: Primed,
        spec: &RestoreSpec,
        files: RestoreFiles,
        around: &Surroundings,
    ) -> Result<(Self, RestoreTimes), MachineError> {
        let mut clock = Stopwatch::start();
        let mut times = RestoreTimes::default();
        let Primed { vcpus, bus, lines, vm, kvm, ram, state, .. } = primed;

        let tsc_control = kvm.check_extension(Cap::TscControl);
        for (vcpu, state) in vcpus.iter().zip(&state.vcpus) {
            state.restore(&vcpu.parked(), primed.xsave_bytes, tsc_control)?;
        }
        state.vm.restore(&vm)?;
        times.state_us = clock.lap();

        let console = ConsoleLog::new(files.console).map_err(file("open the console log"))?;
        let com1 = Serial::from_state(
            &state.serial.into(),
            Line(lines.com1),
            vm_superio::serial::NoEvents,
            console,
        )
        .map_err(|_| {
            MachineError::Contradiction("the snapshot's serial port state is not valid")
        })?;
        let devices = Devices::thaw(
            state.devices,
            files.devices,
            ram.memory(),
            lines.devices,
            &around.epoll,
        )?;
        bus.attach(com1, devices.windows());
        let machine = Self {
            vcpus,
            devices,
            bus,
            generation: lines.generation,
            exited: primed.exited,
            vm,
            kvm,
            machine_tag: primed.machine_tag,
            xsave_bytes: primed.xsave_bytes,
            fault_thread: primed.fault_thread,
            counters: primed.counters,
            prefetched: primed.prefetched,
            template: Some(primed.template),
            ram,
        };
        // After the IOAPIC's state, which would overwrite the pending interrupt.
        machine.announce_generation(spec.generation_id)?;
        machine.devices.kick();
        times.devices_us = clock.lap();
        Ok((machine, times))
    }

    /// Tells the guest kernel that it is another machine now (VMGenID): its RNG reseeds.
    fn announce_generation(&self, id: [u8; 16]) -> Result<(), MachineError> {
        self.ram
            .memory()
            .write_slice(&id, GuestAddress(layout::GENERATION_ID))
            .map_err(|_| MachineError::Generation)?;
        self.generation.write(1).map_err(|_| MachineError::Generation)
    }

    /// Lets the vCPUs run.
    pub(crate) fn release(&self) {
        for vcpu in &self.vcpus {
            vcpu.release();
        }
    }

    /// Parks the vCPUs; returns when all are.
    pub(crate) fn hold(&self) {
        for vcpu in &self.vcpus {
            vcpu.kick();
        }
        for vcpu in &self.vcpus {
            drop(vcpu.parked());
        }
    }

    /// Signalled when a vCPU left for good; [`Self::ended`] says why.
    pub(crate) fn exited(&self) -> &EventFd {
        &self.exited
    }

    /// Why the guest ended, if it did.
    pub(crate) fn ended(&self) -> Option<VcpuEnd> {
        self.vcpus.iter().find_map(Vcpu::ended)
    }

    /// Writes what the guest printed last to the console log.
    pub(crate) fn flush_console(&self) {
        if let Some(mut com1) = self.bus.com1() {
            // A full disk loses console output, nothing else.
            drop(com1.writer_mut().flush());
        }
    }

    /// The devices.
    pub(crate) fn devices(&self) -> &Devices {
        &self.devices
    }

    /// Guest memory, for tests that look into it.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> &vm_memory::GuestMemoryMmap<()> {
        self.ram.memory()
    }

    /// General registers of the held boot CPU, for tests that compare machines.
    #[cfg(test)]
    pub(crate) fn boot_cpu_registers(&self) -> kvm_bindings::kvm_regs {
        self.vcpus[0].parked().get_regs().unwrap()
    }
}

/// Measures steps.
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Microseconds since the last lap.
    pub(crate) fn lap(&mut self) -> u32 {
        let now = Instant::now();
        let lap = now.duration_since(self.0).as_micros();
        self.0 = now;
        u32::try_from(lap).unwrap_or(u32::MAX)
    }
}
