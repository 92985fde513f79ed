//! Virtio over MMIO, version 2: the register window between a guest's driver and a device.
//!
//! One [`MmioTransport`] is shared by the vCPU threads, which read and write its registers, and
//! the event loop, which serves its queues. Everything sits behind one lock but the interrupt
//! status (see [`Lines`]), so a register access waits at most for the request in progress.
//!
//! A guest that breaks the rules gets `DEVICE_NEEDS_RESET`: queues are served no more until its
//! driver resets the device, and [`MmioTransport::take_broken`] tells the owner once.

mod freeze;
mod registers;
#[cfg(test)]
mod test;

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT as _};
use vm_memory::GuestAddress;

pub use self::freeze::{FrozenQueue, FrozenTransport, ThawTransportError};
use self::registers::{NEEDS_RESET, Register, StatusChange};
use crate::{
    Device, Events, GuestFault, GuestMemory, Lines, Queues, Registrar,
    lines::{INTERRUPT_CONFIG, INTERRUPT_USED},
};

/// Event tokens below this are queue notifications; a device's own begin here.
pub const QUEUE_TOKENS: u32 = 16;

/// Where the configuration space of the device begins in the window.
const CONFIG_OFFSET: u64 = 0x100;

/// What a transport needs of its surroundings.
#[derive(Debug)]
pub struct TransportHost {
    /// Guest memory.
    pub memory: GuestMemory,
    /// Notifications and interrupt; one queue descriptor for each of the device's queues.
    pub lines: Lines,
    /// Where the queue descriptors are registered, with their index as token.
    pub registrar: Registrar,
}

/// A device of type `D` and its register window.
#[derive(Debug)]
pub struct MmioTransport<D> {
    memory: GuestMemory,
    lines: Lines,
    state: Mutex<State<D>>,
}

/// What every transport can do, whatever its device: what a bus and an event loop need.
pub trait MmioDevice: Send + Sync {
    /// Name of the device in reports.
    fn name(&self) -> &'static str;
    /// See [`MmioTransport::read`].
    fn read(&self, offset: u64, data: &mut [u8]);
    /// See [`MmioTransport::write`].
    fn write(&self, offset: u64, data: &[u8]);
    /// See [`MmioTransport::event`].
    fn event(&self, sub_token: u32, events: Events);
    /// See [`MmioTransport::kick`].
    fn kick(&self);
    /// See [`MmioTransport::drain`].
    fn drain(&self);
    /// The device's descriptors.
    fn lines(&self) -> &Lines;
    /// See [`MmioTransport::take_broken`].
    fn take_broken(&self) -> Option<String>;
    /// See [`MmioTransport::take_host_failure`].
    fn take_host_failure(&self) -> Option<String>;
}

#[derive(Debug)]
struct State<D> {
    device: D,
    queues: Vec<Queue>,
    /// Ring addresses as the driver writes them; checked and taken over when it says "ready".
    rings: Vec<Rings>,
    registers: Registers,
    broken: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Registers {
    status: u32,
    driver_features: u64,
    device_features_select: u32,
    driver_features_select: u32,
    queue_select: u32,
    config_generation: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rings {
    descriptors: u64,
    available: u64,
    used: u64,
}

impl Rings {
    fn of(queue: &Queue) -> Self {
        Rings {
            descriptors: queue.desc_table(),
            available: queue.avail_ring(),
            used: queue.used_ring(),
        }
    }
}

impl<D: Device> MmioTransport<D> {
    /// A transport in the state a reset leaves it in. Fails when the lines have fewer queues than
    /// the device, or the queue descriptors cannot be registered.
    pub fn new(device: D, host: TransportHost) -> io::Result<Self> {
        let queues = D::QUEUE_SIZES
            .iter()
            .map(|&size| Queue::new(size).map_err(io::Error::other))
            .collect::<Result<Vec<_>, _>>()?;
        let rings = vec![Rings::default(); queues.len()];
        Self::assemble(device, queues, rings, Registers::default(), host)
    }

    fn assemble(
        device: D,
        queues: Vec<Queue>,
        rings: Vec<Rings>,
        registers: Registers,
        host: TransportHost,
    ) -> io::Result<Self> {
        let TransportHost { memory, lines, registrar } = host;
        for (token, queue) in (0..QUEUE_TOKENS).zip(0..queues.len()) {
            let eventfd = lines.queue_eventfd(queue).ok_or(io::ErrorKind::InvalidInput)?;
            registrar.add(eventfd, Events::IN, token)?;
        }
        let state = Mutex::new(State { device, queues, rings, registers, broken: None });
        Ok(MmioTransport { memory, lines, state })
    }

    /// Answers a guest's read of `data.len()` bytes at `offset` of the window. Unknown registers
    /// and odd widths read as zero.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(config) = offset.checked_sub(CONFIG_OFFSET) {
            self.lock().device.read_config(config, data);
            return;
        }
        let (Some(register), Ok(into)) = (Register::at(offset), <&mut [u8; 4]>::try_from(data))
        else {
            return;
        };
        *into = self.read_register(register).to_le_bytes();
    }

    /// Takes a guest's write of `data` at `offset` of the window. What makes no sense is ignored;
    /// what breaks the device is reported through [`take_broken`](Self::take_broken).
    pub fn write(&self, offset: u64, data: &[u8]) {
        if let (Some(register), Ok(value)) = (Register::at(offset), <[u8; 4]>::try_from(data)) {
            self.write_register(register, u32::from_le_bytes(value));
        }
    }

    /// Serves an event of the epoll set, whatever thread owns it. `sub_token` is the lower half of
    /// its data; stale events are harmless.
    pub fn event(&self, sub_token: u32, events: Events) {
        let mut state = self.lock();
        if sub_token < QUEUE_TOKENS {
            let queue = sub_token as usize;
            self.lines.take_notification(queue);
            state.serve(&self.memory, &self.lines, |device, queues| {
                device.queue_event(queue, queues)
            });
        } else if registers::runs(state.registers.status) {
            state.serve(&self.memory, &self.lines, |device, queues| {
                device.backend_event(sub_token, events, queues)
            });
        } else {
            // The device hears of it, as an edge comes but once; there are no queues to use.
            let mut queues = Queues::of(&self.memory, &mut [], &self.lines, 0);
            if let Err(fault) = state.device.backend_event(sub_token, events, &mut queues) {
                state.fail(&fault, &self.lines);
            }
        }
    }

    /// After a thaw: serves every queue once and raises the interrupt once, whether or not
    /// anything was found. A notification or interrupt may have been lost with the snapshot, and
    /// a spurious one is free.
    pub fn kick(&self) {
        let mut state = self.lock();
        if registers::runs(state.registers.status) {
            state.serve_all(&self.memory, &self.lines);
            self.lines.raise(INTERRUPT_USED);
        }
    }

    /// Before a snapshot, with the vCPUs stopped: serves every queue until the guest's requests
    /// are done, so that no notification is in flight when the state is frozen.
    pub fn drain(&self) {
        self.lock().serve_all(&self.memory, &self.lines);
    }

    /// The device's descriptors, for registration with KVM.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Lets the caller use the device, with its queues, under the transport's lock.
    pub fn with<R>(&self, work: impl FnOnce(&mut D, &mut Queues<'_>) -> R) -> R {
        let state = &mut *self.lock();
        let features = state.registers.driver_features;
        let mut queues = Queues::of(&self.memory, &mut state.queues, &self.lines, features);
        work(&mut state.device, &mut queues)
    }

    /// Like [`with`](Self::with), for work that reads what the guest says: a fault breaks the
    /// device, and a device that does not run is left alone.
    pub fn serve(&self, work: impl FnOnce(&mut D, &mut Queues<'_>) -> Result<(), GuestFault>) {
        self.lock().serve(&self.memory, &self.lines, work);
    }

    /// Whether the guest has broken the device and not reset it since.
    pub fn is_broken(&self) -> bool {
        self.lock().registers.status & NEEDS_RESET != 0
    }

    /// What the guest did to break the device; some once, after it happened. Ask after every
    /// [`event`](Self::event): a device broken by a vCPU's register write causes one.
    pub fn take_broken(&self) -> Option<String> {
        self.lock().broken.take()
    }

    /// Something of the host's that failed (a full disk, say), in one sentence; some once.
    pub fn take_host_failure(&self) -> Option<String> {
        self.lock().device.take_host_failure()
    }

    fn lock(&self) -> MutexGuard<'_, State<D>> {
        // A panic aborts the process in release builds; in tests the state is still looked at.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_register(&self, register: Register) -> u32 {
        if register == Register::InterruptStatus {
            return self.lines.status();
        }
        let state = self.lock();
        let registers = &state.registers;
        let queue = state.queues.get(registers.queue_select as usize);
        match register {
            Register::Magic => registers::MAGIC_VALUE,
            Register::Version => registers::VERSION,
            Register::DeviceId => D::DEVICE_ID,
            Register::Vendor => registers::VENDOR,
            Register::DeviceFeatures => {
                registers::half(state.offered(), registers.device_features_select)
            }
            Register::QueueSizeMax => queue.map_or(0, |queue| queue.max_size().into()),
            Register::QueueReady => queue.map_or(0, |queue| queue.ready().into()),
            Register::Status => registers.status,
            Register::ConfigGeneration => registers.config_generation,
            Register::SharedMemory => u32::MAX,
            Register::InterruptStatus
            | Register::DeviceFeaturesSelect
            | Register::DriverFeatures
            | Register::DriverFeaturesSelect
            | Register::QueueSelect
            | Register::QueueSize
            | Register::QueueNotify
            | Register::InterruptAcknowledge
            | Register::DescriptorsLow
            | Register::DescriptorsHigh
            | Register::AvailableLow
            | Register::AvailableHigh
            | Register::UsedLow
            | Register::UsedHigh => 0,
        }
    }

    fn write_register(&self, register: Register, value: u32) {
        match register {
            Register::InterruptAcknowledge => return self.lines.acknowledge(value),
            // Reached only where the notification is not an ioeventfd.
            Register::QueueNotify => return self.lines.notify(value as usize),
            _ => (),
        }
        let mut state = self.lock();
        let state = &mut *state;
        match register {
            Register::DeviceFeaturesSelect => state.registers.device_features_select = value,
            Register::DriverFeaturesSelect => state.registers.driver_features_select = value,
            Register::DriverFeatures => state.set_driver_features(value),
            Register::QueueSelect => state.registers.queue_select = value,
            Register::QueueSize => state.set_queue_size(value),
            Register::QueueReady => state.set_queue_ready(value == 1, &self.memory, &self.lines),
            Register::DescriptorsLow => state.set_ring(|rings| (&mut rings.descriptors, 0), value),
            Register::DescriptorsHigh => state.set_ring(|rings| (&mut rings.descriptors, 1), value),
            Register::AvailableLow => state.set_ring(|rings| (&mut rings.available, 0), value),
            Register::AvailableHigh => state.set_ring(|rings| (&mut rings.available, 1), value),
            Register::UsedLow => state.set_ring(|rings| (&mut rings.used, 0), value),
            Register::UsedHigh => state.set_ring(|rings| (&mut rings.used, 1), value),
            Register::Status => state.set_status(value, &self.lines),
            Register::Magic
            | Register::Version
            | Register::DeviceId
            | Register::Vendor
            | Register::DeviceFeatures
            | Register::QueueSizeMax
            | Register::QueueNotify
            | Register::InterruptStatus
            | Register::InterruptAcknowledge
            | Register::SharedMemory
            | Register::ConfigGeneration => (),
        }
    }
}

impl<D: Device> MmioDevice for MmioTransport<D> {
    fn name(&self) -> &'static str {
        D::NAME
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        self.read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.write(offset, data);
    }

    fn event(&self, sub_token: u32, events: Events) {
        self.event(sub_token, events);
    }

    fn kick(&self) {
        self.kick();
    }

    fn drain(&self) {
        self.drain();
    }

    fn lines(&self) -> &Lines {
        self.lines()
    }

    fn take_broken(&self) -> Option<String> {
        self.take_broken()
    }

    fn take_host_failure(&self) -> Option<String> {
        self.take_host_failure()
    }
}

impl<D: Device> State<D> {
    fn offered(&self) -> u64 {
        self.device.features() | registers::TRANSPORT_FEATURES
    }

    /// Runs `work` unless the device is not running, and breaks it on a fault.
    fn serve(
        &mut self,
        memory: &GuestMemory,
        lines: &Lines,
        work: impl FnOnce(&mut D, &mut Queues<'_>) -> Result<(), GuestFault>,
    ) {
        if !registers::runs(self.registers.status) {
            return;
        }
        let features = self.registers.driver_features;
        let mut queues = Queues::of(memory, &mut self.queues, lines, features);
        if let Err(fault) = work(&mut self.device, &mut queues) {
            self.fail(&fault, lines);
        }
    }

    fn serve_all(&mut self, memory: &GuestMemory, lines: &Lines) {
        for queue in 0..self.queues.len() {
            self.serve(memory, lines, |device, queues| device.queue_event(queue, queues));
        }
    }

    /// The guest broke the device: it serves nothing until the guest resets it.
    fn fail(&mut self, fault: &GuestFault, lines: &Lines) {
        let reason = match std::error::Error::source(fault) {
            Some(source) => format!("{fault}: {source}"),
            None => fault.to_string(),
        };
        self.broken = Some(reason);
        self.registers.status |= NEEDS_RESET;
        self.device.reset();
        lines.raise(INTERRUPT_CONFIG);
        // The event loop asks for the reason after an event; this makes one.
        lines.notify(0);
    }

    fn set_driver_features(&mut self, value: u32) {
        let settled = registers::FEATURES_OK | registers::DRIVER_OK;
        if self.registers.status & settled == 0 {
            self.registers.driver_features = registers::with_half(
                self.registers.driver_features,
                self.registers.driver_features_select,
                value,
            );
        }
    }

    fn set_queue_size(&mut self, value: u32) {
        if let Some(queue) = self.queues.get_mut(self.registers.queue_select as usize)
            && !queue.ready()
        {
            // A size that is no power of two or too large leaves the old one; the driver then
            // sets up rings for another size than ours, and the first bad index breaks the device.
            queue.set_size(u16::try_from(value).unwrap_or(0));
        }
    }

    fn set_ring(&mut self, which: impl FnOnce(&mut Rings) -> (&mut u64, u32), value: u32) {
        if let Some(rings) = self.rings.get_mut(self.registers.queue_select as usize) {
            let (address, select) = which(rings);
            *address = registers::with_half(*address, select, value);
        }
    }

    fn set_queue_ready(&mut self, ready: bool, memory: &GuestMemory, lines: &Lines) {
        let index = self.registers.queue_select as usize;
        let (Some(queue), Some(rings)) = (self.queues.get_mut(index), self.rings.get(index)) else {
            return;
        };
        if !ready {
            queue.set_ready(false);
            return;
        }
        if queue.ready() || self.registers.status & NEEDS_RESET != 0 {
            return;
        }
        if let Err(fault) = start_queue(index, queue, *rings, memory) {
            queue.set_ready(false);
            self.fail(&fault, lines);
        }
    }

    fn set_status(&mut self, written: u32, lines: &Lines) {
        let acceptable =
            registers::features_acceptable(self.offered(), self.registers.driver_features);
        match registers::write_status(self.registers.status, written, acceptable) {
            StatusChange::Reset => self.reset(lines),
            StatusChange::To(status) => self.registers.status = status,
            StatusChange::Refused => self.fail(&GuestFault::NotNegotiated, lines),
            StatusChange::Start(status) => {
                self.registers.status = status;
                let event_idx = self.registers.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
                for (index, queue) in self.queues.iter_mut().enumerate() {
                    queue.set_event_idx(event_idx);
                    // Whatever the host has waiting is served as soon as the driver is there.
                    lines.notify(index);
                }
            }
        }
    }

    fn reset(&mut self, lines: &Lines) {
        self.device.reset();
        for queue in &mut self.queues {
            queue.reset();
        }
        self.rings.fill(Rings::default());
        self.registers = Registers {
            config_generation: self.registers.config_generation,
            ..Registers::default()
        };
        lines.set_status(0);
    }
}

/// Takes over the addresses the driver gave for its rings.
fn start_queue(
    index: usize,
    queue: &mut Queue,
    rings: Rings,
    memory: &GuestMemory,
) -> Result<(), GuestFault> {
    let fault = |source| GuestFault::Queue { queue: index, source };
    queue.try_set_desc_table_address(GuestAddress(rings.descriptors)).map_err(fault)?;
    queue.try_set_avail_ring_address(GuestAddress(rings.available)).map_err(fault)?;
    queue.try_set_used_ring_address(GuestAddress(rings.used)).map_err(fault)?;
    queue.set_ready(true);
    if queue.is_valid(&**memory) { Ok(()) } else { Err(GuestFault::QueueOutside { queue: index }) }
}
