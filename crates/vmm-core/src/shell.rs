//! A shell: everything of a machine that does not depend on what will run in it.
//!
//! VM, interrupt controllers, vCPUs with their parked threads, memory slots over reserved address
//! space, and every eventfd KVM is to know. Building it takes the calls that wait for grace periods
//! in the host kernel; claiming it takes none of them.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

use api_vmm::ShellSpec;
use kvm_bindings::{CpuId, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VmFd};
use vmm_jail::Thread;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::Bus;
use crate::kvm::{self, KvmError};
use crate::layout;
use crate::memory::{FaultHandler, FaultSetup, MemoryError, Reservation};
use crate::vcpu::{Vcpu, prepare_kicks};

/// vCPUs a machine may have.
const VCPUS: std::ops::RangeInclusive<u8> = 1..=8;
/// MiB of memory a machine may have.
const MEMORY_MIB: std::ops::RangeInclusive<u32> = 64..=65536;
/// Register a driver writes a queue's number to when there is work (virtio 1.2, 4.2.2).
const QUEUE_NOTIFY: u64 = 0x50;

/// Why a shell could not be built.
#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    /// The node asked for more than there can be.
    #[error("a machine has 1 to 8 vCPUs and 64 to 65536 MiB, not {vcpus} and {memory_mib}")]
    OutOfRange {
        /// vCPUs asked for.
        vcpus: u8,
        /// MiB asked for.
        memory_mib: u32,
    },
    /// KVM refused.
    #[error("build the virtual machine")]
    Kvm(#[from] KvmError),
    /// Memory could not be reserved.
    #[error("reserve guest memory")]
    Memory(#[from] MemoryError),
    /// An eventfd or a thread could not be made.
    #[error("{call}")]
    Os {
        /// What.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
}

fn os(call: &'static str) -> impl Fn(io::Error) -> ShellError {
    move |source| ShellError::Os { call, source }
}

/// Everything KVM signals or is signalled by.
#[derive(Debug)]
pub(crate) struct Lines {
    /// Interrupt of the serial port.
    pub(crate) com1: EventFd,
    /// Interrupt of the generic event device.
    pub(crate) generation: EventFd,
    /// Of the virtio devices, in window order.
    pub(crate) devices: Vec<vmm_virtio::Lines>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Shell {
    // INVARIANT: dropped in this order: threads that run the VM, the VM, the memory under it.
    pub(crate) vcpus: Vec<Vcpu>,
    pub(crate) bus: Arc<Bus>,
    pub(crate) vm: VmFd,
    pub(crate) kvm: Kvm,
    pub(crate) cpuid: CpuId,
    pub(crate) lines: Lines,
    pub(crate) exited: EventFd,
    pub(crate) fault_thread: FaultThread,
    pub(crate) reservation: Reservation,
}

impl Shell {
    /// Builds the shell.
    pub(crate) fn build(
        kvm: Kvm,
        spec: ShellSpec,
        queues: &[usize],
        confine: bool,
    ) -> Result<Self, ShellError> {
        if !VCPUS.contains(&spec.vcpus) || !MEMORY_MIB.contains(&spec.memory_mib) {
            return Err(ShellError::OutOfRange { vcpus: spec.vcpus, memory_mib: spec.memory_mib });
        }
        let reservation = Reservation::new(u64::from(spec.memory_mib) << 20)?;
        let vm = create_vm(&kvm).map_err(KvmError::ioctl("KVM_CREATE_VM"))?;
        vm.set_tss_address(layout::KVM_TSS).map_err(KvmError::ioctl("KVM_SET_TSS_ADDR"))?;
        // Before the vCPUs: their local APICs are created with it.
        vm.create_irq_chip().map_err(KvmError::ioctl("KVM_CREATE_IRQCHIP"))?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        vm.create_pit2(pit).map_err(KvmError::ioctl("KVM_CREATE_PIT2"))?;
        reservation.install_slots(&vm)?;
        let lines = Lines::install(&vm, queues)?;

        prepare_kicks().map_err(os("install the kick signal"))?;
        let cpuid = kvm::cpuid_template(&kvm)?;
        let bus = Arc::new(Bus::default());
        let exited = EventFd::new(EFD_NONBLOCK).map_err(os("make an eventfd"))?;
        let fault_thread = FaultThread::start(confine)?;
        let mut vcpus = Vec::with_capacity(usize::from(spec.vcpus));
        for id in 0..spec.vcpus {
            let fd = vm.create_vcpu(u64::from(id)).map_err(KvmError::ioctl("KVM_CREATE_VCPU"))?;
            let exited = exited.try_clone().map_err(os("share an eventfd"))?;
            let on_start = move || enter_thread(Thread::Vcpu, confine);
            vcpus.push(
                Vcpu::start(id, fd, Arc::clone(&bus), exited, on_start)
                    .map_err(os("start a vCPU thread"))?,
            );
        }
        Ok(Self { vcpus, bus, vm, kvm, cpuid, lines, exited, fault_thread, reservation })
    }

    /// Bytes of XSAVE state KVM reads and writes for a vCPU of this VM.
    pub(crate) fn xsave_bytes(&self) -> usize {
        usize::try_from(self.vm.check_extension_int(Cap::Xsave2)).unwrap_or(0).max(4096)
    }
}

impl Lines {
    fn install(vm: &VmFd, queues: &[usize]) -> Result<Self, ShellError> {
        let irqfd =
            |fd: &EventFd, gsi| vm.register_irqfd(fd, gsi).map_err(KvmError::ioctl("KVM_IRQFD"));
        let mut devices = Vec::with_capacity(queues.len());
        for (index, queues) in (0..).zip(queues) {
            let lines = vmm_virtio::Lines::new(*queues).map_err(os("make an eventfd"))?;
            irqfd(lines.interrupt_eventfd(), layout::virtio_gsi(index))?;
            let address = IoEventAddress::Mmio(layout::virtio_mmio(index) + QUEUE_NOTIFY);
            // The driver writes 32 bits, so that is the width to match.
            for (number, queue) in (0u32..).zip(0..*queues) {
                if let Some(fd) = lines.queue_eventfd(queue) {
                    vm.register_ioevent(fd, &address, number)
                        .map_err(KvmError::ioctl("KVM_IOEVENTFD"))?;
                }
            }
            devices.push(lines);
        }
        let com1 = EventFd::new(EFD_NONBLOCK).map_err(os("make an eventfd"))?;
        irqfd(&com1, layout::COM1_GSI)?;
        let generation = EventFd::new(EFD_NONBLOCK).map_err(os("make an eventfd"))?;
        irqfd(&generation, layout::GENERATION_GSI)?;
        Ok(Self { com1, generation, devices })
    }
}

/// LIMIT: the kernel starts a thread for each VM and gives up when a signal comes just then; the
/// next try succeeds unless signals never end.
const CREATE_TRIES: usize = 16;

/// A new VM, tried again when a signal came in between.
fn create_vm(kvm: &Kvm) -> Result<VmFd, kvm_ioctls::Error> {
    for _ in 1..CREATE_TRIES {
        match kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR => {}
            done => return done,
        }
    }
    kvm.create_vm()
}

/// Puts the calling thread under its seccomp filter. A thread that cannot be confined must not run.
fn enter_thread(role: Thread, confine: bool) {
    if confine && vmm_jail::install(role).is_err() {
        std::process::abort();
    }
}

/// The thread that will serve page faults, waiting to be told of what. It exists from the start
/// because no thread can be made once the process is sealed.
#[derive(Debug)]
pub(crate) struct FaultThread {
    setup: Option<Sender<FaultSetup>>,
    thread: Option<JoinHandle<()>>,
}

impl FaultThread {
    fn start(confine: bool) -> Result<Self, ShellError> {
        let (setup, waiting) = mpsc::channel::<FaultSetup>();
        let thread = std::thread::Builder::new()
            .name("faults".into())
            // LIMIT: one chunk of a layer (64 KiB) and a few frames.
            .stack_size(256 * 1024)
            .spawn(move || {
                enter_thread(Thread::Fault, confine);
                if let Ok(setup) = waiting.recv() {
                    FaultHandler::serve(setup);
                }
            })
            .map_err(os("start the fault thread"))?;
        Ok(Self { setup: Some(setup), thread: Some(thread) })
    }

    /// Starts serving.
    pub(crate) fn serve(&mut self, setup: FaultSetup) {
        if let Some(sender) = self.setup.take() {
            // The thread waits for exactly this one message.
            drop(sender.send(setup));
        }
    }
}

impl Drop for FaultThread {
    fn drop(&mut self) {
        // Without a setup the thread ends when the channel closes. While it serves, it ends with
        // the process: the guest may still be waiting for it until then.
        if self.setup.take().is_some()
            && let Some(thread) = self.thread.take()
        {
            drop(thread.join());
        }
    }
}
