//! Priming a shell: verifying a snapshot and putting its memory in place, so that a restore only has
//! to set state. A shell can wait primed; nothing here depends on which clone it becomes.

use std::fs::File;
use std::io;
use std::sync::Arc;

use api_vmm::{MemoryPath, PrimeSpec, PrimeTimes};
use base_snapshot::{Layer, Run, Stack, State, WorkingSet};
use base_types::PAGE_SIZE;
use kvm_ioctls::{Kvm, VmFd};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::Bus;
use crate::kvm;
use crate::machine::{MachineError, Stopwatch, Surroundings};
use crate::memory::{FaultCounters, FaultSetup, Ram, Userfault, prefetch};
use crate::shell::{FaultThread, Lines, Shell};
use crate::snapshot::{MachineState, Shape, StateError};
use crate::vcpu::Vcpu;

/// The files that prime a shell, in the order of [`PrimeSpec`].
#[derive(Debug)]
pub(crate) struct PrimeFiles {
    pub(crate) state: File,
    pub(crate) template: File,
    pub(crate) layers: Vec<File>,
    pub(crate) working_set: Option<File>,
}

/// A shell with the memory of a snapshot in place: what is left is to set its state.
#[derive(Debug)]
pub(crate) struct Primed {
    // INVARIANT: dropped in the order of `Machine`.
    pub(crate) vcpus: Vec<Vcpu>,
    pub(crate) bus: Arc<Bus>,
    pub(crate) lines: Lines,
    pub(crate) exited: EventFd,
    pub(crate) vm: VmFd,
    pub(crate) kvm: Kvm,
    pub(crate) machine_tag: String,
    pub(crate) xsave_bytes: usize,
    pub(crate) fault_thread: FaultThread,
    pub(crate) counters: Arc<FaultCounters>,
    pub(crate) prefetched: u64,
    pub(crate) template: File,
    pub(crate) ram: Ram,
    pub(crate) state: MachineState,
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
        // Before registering with userfaultfd: populating would fault into it. Until then the kernel
        // maps the template's pages around those asked for, too, also where a layer has others; in a
        // private mapping the layers are then written over them, here they would stay.
        let hides = spec.memory == MemoryPath::Userfault && !stack.layers().is_empty();
        let prefetched = working_set.as_ref().filter(|_| !hides).map_or(0, |set| {
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
