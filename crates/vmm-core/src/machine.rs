//! A machine: a shell with a kernel, a disk and memory in it.
//!
//! Both ways in, [`Machine::boot`] and [`Primed::new`] with [`Machine::restore`], consume the
//! shell and do everything that can fail before a vCPU runs. What comes out can be released, held, written to files and
//! asked for counters.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use api_vmm::{
    BootSpec, MachineStats, MemoryPath, PrimeSpec, PrimeTimes, RestoreSpec, RestoreTimes,
};
use base_snapshot::{Layer, LayerKind, LayerWriter, Run, Stack, State, WorkingSet};
use base_types::PAGE_SIZE;
use kvm_ioctls::{Cap, Kvm, VmFd};
use vm_memory::{Bytes, GuestAddress};
use vm_superio::Serial;
use vmm_sys_util::epoll::Epoll;
use vmm_sys_util::eventfd::EventFd;

use crate::boot::{self, BootError};
use crate::bus::Bus;
use crate::devices::{DeviceError, Devices};
use crate::kvm::{self, KvmError, VcpuState, VmState};
use crate::layout;
use crate::memory::{
    FaultCounters, FaultSetup, MemoryError, PageRun, PageScanner, Ram, Userfault, prefetch,
};
use crate::serial::{Com1, ConsoleLog, Line};
use crate::shell::{FaultThread, Lines, Shell};
use crate::snapshot::{MachineState, Shape, StateError};
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
    /// A changed-pages snapshot of a machine without a base.
    #[error("only a restored machine has changed pages; take a full snapshot of a booted one")]
    NothingBelow,
    /// The node asked for something contradictory.
    #[error("{0}")]
    Contradiction(&'static str),
}

fn file(call: &'static str) -> impl Fn(io::Error) -> MachineError {
    move |source| MachineError::File { call, source }
}

/// What a machine needs of the process besides its shell.
pub(crate) struct Surroundings {
    pub(crate) scanner: PageScanner,
    pub(crate) smaps: File,
    pub(crate) userfaultfd: Option<OwnedFd>,
    pub(crate) epoll: Arc<Epoll>,
}

/// The files of a boot, in the order of [`BootSpec`].
#[derive(Debug)]
pub(crate) struct BootFiles {
    pub(crate) kernel: File,
    pub(crate) initrd: File,
    pub(crate) disk: Vec<File>,
    pub(crate) console: File,
}

/// The files that prime a shell, in the order of [`PrimeSpec`].
#[derive(Debug)]
pub(crate) struct PrimeFiles {
    pub(crate) state: File,
    pub(crate) template: File,
    pub(crate) layers: Vec<File>,
    pub(crate) working_set: Option<File>,
}

/// The files of a restore, in the order of [`RestoreSpec`].
#[derive(Debug)]
pub(crate) struct RestoreFiles {
    pub(crate) disk: Vec<File>,
    pub(crate) console: File,
}

/// A shell with the memory of a snapshot in place: what is left is to set its state.
#[derive(Debug)]
pub(crate) struct Primed {
    // INVARIANT: dropped in the order of `Machine`.
    vcpus: Vec<Vcpu>,
    bus: Arc<Bus>,
    lines: Lines,
    exited: EventFd,
    vm: VmFd,
    kvm: Kvm,
    machine_tag: String,
    xsave_bytes: usize,
    fault_thread: FaultThread,
    counters: Arc<FaultCounters>,
    prefetched: u64,
    template: File,
    ram: Ram,
    state: MachineState,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Machine {
    // INVARIANT: dropped in this order: threads that run the VM, devices, the VM, memory.
    vcpus: Vec<Vcpu>,
    devices: Devices,
    bus: Arc<Bus>,
    generation: EventFd,
    exited: EventFd,
    vm: VmFd,
    kvm: Kvm,
    machine_tag: String,
    xsave_bytes: usize,
    #[expect(dead_code, reason = "held so that the thread ends with the machine")]
    fault_thread: FaultThread,
    counters: Arc<FaultCounters>,
    prefetched: u64,
    /// What a restored machine is a clone of.
    template: Option<File>,
    ram: Ram,
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
        let devices = Devices::new(files.disk, ram.memory(), lines.devices, &around.epoll)?;
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
        let devices =
            Devices::thaw(state.devices, files.disk, ram.memory(), lines.devices, &around.epoll)?;
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

    /// Writes state and memory of the held machine, and puts `overlay` on top of its disk.
    /// Returns how many pages were written.
    pub(crate) fn snapshot(
        &self,
        mut state_file: File,
        memory_file: File,
        overlay: Option<File>,
        only_dirty: bool,
        around: &Surroundings,
    ) -> Result<u64, MachineError> {
        if only_dirty && self.template.is_none() {
            return Err(MachineError::NothingBelow);
        }
        // Devices first: finishing their requests may raise interrupts that belong to the state.
        self.devices.settle()?;
        let devices = self.devices.freeze();
        let first = self.vcpus.first().map(Vcpu::parked);
        let indices = match &first {
            Some(fd) => kvm::saved_indices(&self.kvm, fd)?,
            None => Vec::new(),
        };
        drop(first);
        let vcpus = self
            .vcpus
            .iter()
            .map(|vcpu| VcpuState::save(&vcpu.parked(), &indices, self.xsave_bytes))
            .collect::<Result<Vec<_>, _>>()?;
        let vm = VmState::save(&self.vm)?;
        let serial = self
            .bus
            .com1()
            .map(|com1| com1.state().into())
            .ok_or(MachineError::Contradiction("the machine has no serial port"))?;
        let shape = Shape {
            vcpus: u8::try_from(self.vcpus.len()).unwrap_or(u8::MAX),
            memory_bytes: self.ram.reservation().bytes(),
        };
        let state = MachineState { shape, vcpus, vm, devices, serial };
        let bytes = state.encode(&self.machine_tag)?;
        state_file.rewind().map_err(file("write the state file"))?;
        state_file.write_all(&bytes).map_err(file("write the state file"))?;
        state_file.sync_data().map_err(file("sync the state file"))?;

        let pages = self.write_memory(memory_file, only_dirty, around)?;
        if let Some(overlay) = overlay {
            self.devices.push_overlay(overlay)?;
        }
        Ok(pages)
    }

    fn write_memory(
        &self,
        memory_file: File,
        only_dirty: bool,
        around: &Surroundings,
    ) -> Result<u64, MachineError> {
        let ram = self.ram.reservation();
        let total = ram.bytes() / PAGE_SIZE;
        let (kind, runs) = match (only_dirty, self.template.is_some()) {
            (true, _) => (LayerKind::Diff, around.scanner.private(ram)?),
            // What a booted machine never touched is not present, and zero.
            (false, false) => (LayerKind::Base, around.scanner.present(ram)?),
            (false, true) => (LayerKind::Base, vec![PageRun { first: 0, pages: total }]),
        };
        let mut writer =
            LayerWriter::new(memory_file, total, kind).map_err(MachineError::WriteLayer)?;
        for run in runs {
            let mut first = run.first;
            let end = run.first + run.pages;
            while first < end {
                let pages = (end - first).min(SNAPSHOT_STEP_PAGES);
                self.ram
                    .with_pages(first, pages, |bytes| writer.pages(first, bytes))
                    .ok_or(MachineError::Contradiction("a page lies outside guest memory"))?
                    .map_err(MachineError::WriteLayer)?;
                first += pages;
            }
        }
        let (memory_file, summary) = writer.finish().map_err(MachineError::WriteLayer)?;
        memory_file.sync_data().map_err(file("sync the memory layer"))?;
        Ok(summary.data_pages)
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

    /// Ends recording and writes the working set: every page asked for, and which were written.
    pub(crate) fn take_working_set(
        &self,
        mut to: File,
        around: &Surroundings,
    ) -> Result<u64, MachineError> {
        let mut pages: Vec<(u64, bool)> =
            self.counters.take_recorded().into_iter().map(|page| (page, false)).collect();
        for run in around.scanner.private(self.ram.reservation())? {
            for page in run.first..run.first + run.pages {
                pages.push((page, self.differs_from_template(page)?));
            }
        }
        let count = pages.len() as u64;
        let total = self.ram.reservation().bytes() / PAGE_SIZE;
        let set = WorkingSet::from_pages(total, pages, WORKING_SET_GAP_PAGES)
            .map_err(MachineError::EncodeWorkingSet)?;
        let bytes = set.encode();
        to.rewind().map_err(file("write the working set"))?;
        to.write_all(&bytes).map_err(file("write the working set"))?;
        to.sync_data().map_err(file("sync the working set"))?;
        Ok(count)
    }

    /// Whether `page` holds something else than in the template. A private page need not: KVM's
    /// worker for pages that are slow to come (`async_pf_execute`) asks for every page as if to
    /// write it, and so copies pages that the guest only read.
    fn differs_from_template(&self, page: u64) -> Result<bool, MachineError> {
        let Some(template) = &self.template else { return Ok(true) };
        let mut original = [0; PAGE_SIZE as usize];
        template
            .read_exact_at(&mut original, page * PAGE_SIZE)
            .map_err(file("read the template's memory"))?;
        self.ram
            .with_pages(page, 1, |now| now != original)
            .ok_or(MachineError::Contradiction("a page lies outside guest memory"))
    }

    /// Counters.
    pub(crate) fn stats(&self, around: &Surroundings) -> Result<MachineStats, MachineError> {
        let private: u64 =
            around.scanner.private(self.ram.reservation())?.iter().map(|run| run.pages).sum();
        let own_kib = own_kib(&around.smaps).map_err(file("read memory usage"))?;
        Ok(MachineStats {
            faults: self.counters.faults.load(Ordering::Relaxed),
            pages_copied: self.counters.copied.load(Ordering::Relaxed),
            pages_prefetched: self.prefetched,
            private_pages: private,
            overhead_kib: own_kib.saturating_sub(private * PAGE_SIZE / 1024),
            disk_written_bytes: self.devices.disk_written_bytes(),
            exits: self.bus.exits(),
        })
    }
}

impl Primed {
    /// Verifies a snapshot's state, and puts its memory into the shell.
    pub(crate) fn new(
        shell: Shell,
        spec: &PrimeSpec,
        files: PrimeFiles,
        around: &mut Surroundings,
    ) -> Result<(Self, PrimeTimes), MachineError> {
        let mut clock = Stopwatch::start();
        let mut times = PrimeTimes::default();
        if spec.record && spec.memory != MemoryPath::Userfault {
            return Err(MachineError::Contradiction("recording a working set needs userfault"));
        }
        let machine_tag = kvm::machine_tag(&shell.cpuid);
        let xsave_bytes = shell.xsave_bytes();
        let shape = Shape {
            vcpus: u8::try_from(shell.vcpus.len()).unwrap_or(u8::MAX),
            memory_bytes: shell.reservation.bytes(),
        };
        let state = State::open(&files.state, &machine_tag).map_err(StateError::Open)?;
        let state = MachineState::decode(&state, shape)?;
        let total_pages = shape.memory_bytes / PAGE_SIZE;
        let layers = files
            .layers
            .into_iter()
            .map(|layer| Layer::open(layer, total_pages).map_err(MachineError::Layer))
            .collect::<Result<Vec<_>, _>>()?;
        let stack = Arc::new(Stack::new(layers).map_err(MachineError::Stack)?);
        let working_set = match &files.working_set {
            Some(file) => {
                Some(WorkingSet::open(file, total_pages).map_err(MachineError::WorkingSet)?)
            }
            None => None,
        };
        times.parse_us = clock.lap();

        let Shell { vcpus, bus, vm, kvm, cpuid: _, lines, exited, mut fault_thread, reservation } =
            shell;
        let ram = reservation.attach_template(&files.template)?;
        let counters: Arc<FaultCounters> = Arc::default();
        // Before registering with userfaultfd: populating would fault into it.
        let prefetched = working_set.as_ref().map_or(0, |set| {
            let boot_cpu = vcpus.first().map(Vcpu::parked);
            prefetch(ram.reservation(), set, &stack, boot_cpu.as_deref())
        });
        match spec.memory {
            MemoryPath::Private => load_layers(&ram, &stack)?,
            MemoryPath::Userfault => {
                let fd = around
                    .userfaultfd
                    .take()
                    .ok_or(MachineError::Contradiction("this process has no userfaultfd"))?;
                let userfault = Userfault::new(fd)?;
                userfault.register(ram.reservation().address(), ram.reservation().bytes())?;
                fault_thread.serve(FaultSetup {
                    userfault,
                    stack,
                    ram: Arc::clone(ram.reservation()),
                    counters: Arc::clone(&counters),
                    record: spec.record,
                });
            }
        }
        times.map_us = clock.lap();
        let primed = Self {
            vcpus,
            bus,
            lines,
            exited,
            vm,
            kvm,
            machine_tag,
            xsave_bytes,
            fault_thread,
            counters,
            prefetched,
            template: files.template,
            ram,
            state,
        };
        Ok((primed, times))
    }

    /// Pages mapped ahead.
    pub(crate) fn prefetched(&self) -> u64 {
        self.prefetched
    }
}

/// Copies the data of every layer into the clone's private memory, lowest first.
fn load_layers(ram: &Ram, stack: &Stack) -> Result<(), MachineError> {
    let memory = ram.memory();
    let pieces = ram.reservation().pieces();
    let write = |page: u64, bytes: &[u8]| -> io::Result<()> {
        let offset = page * PAGE_SIZE;
        let piece = pieces
            .iter()
            .find(|piece| offset >= piece.offset && offset < piece.offset + piece.bytes)
            .ok_or(io::ErrorKind::InvalidData)?;
        memory
            .write_slice(bytes, GuestAddress(piece.guest + (offset - piece.offset)))
            .map_err(io::Error::other)
    };
    let zeros = [0; PAGE_SIZE as usize];
    for layer in stack.layers().iter().rev() {
        layer
            .load(&mut |run| match run {
                Run::Data { first_page, bytes } => write(first_page, bytes),
                Run::Zero { first_page, pages } => {
                    (first_page..first_page + pages).try_for_each(|page| write(page, &zeros))
                }
            })
            .map_err(MachineError::ReadLayer)?;
    }
    Ok(())
}

/// Clean pages mapped along when they lie between two of the working set.
const WORKING_SET_GAP_PAGES: u64 = 16;
/// LIMIT: pages looked at in one go while a snapshot is written (2 MiB).
const SNAPSHOT_STEP_PAGES: u64 = 512;
/// LIMIT: `/proc/self/smaps_rollup` is under 1 KiB; anything longer is not it.
const SMAPS_BYTES_MAX: usize = 8192;

/// Memory of this process in KiB: anonymous pages, the guest's among them, and its share of the
/// program's own pages. The template's pages are neither.
fn own_kib(smaps: &File) -> io::Result<u64> {
    let mut text = vec![0; SMAPS_BYTES_MAX];
    let got = smaps.read_at(&mut text, 0)?;
    text.truncate(got);
    let text = String::from_utf8_lossy(&text);
    let field = |line: &str| -> Option<u64> {
        let (name, value) = line.split_once(':')?;
        matches!(name, "Anonymous" | "Pss_File")
            .then(|| value.trim().trim_end_matches(" kB").trim().parse().ok())?
    };
    Ok(text.lines().filter_map(field).sum())
}

struct Stopwatch(Instant);

impl Stopwatch {
    fn start() -> Self {
        Self(Instant::now())
    }

    /// Microseconds since the last lap.
    fn lap(&mut self) -> u32 {
        let now = Instant::now();
        let lap = now.duration_since(self.0).as_micros();
        self.0 = now;
        u32::try_from(lap).unwrap_or(u32::MAX)
    }
}
