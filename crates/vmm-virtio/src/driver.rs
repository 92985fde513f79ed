//! The guest's side, for tests: memory, a driver that sets a device up by its registers and works
//! its queues as Linux does, and the event loop that serves the device.

use std::{collections::HashMap, sync::Arc};

use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::{Epoll, EpollEvent};

use crate::{
    Device, Freeze, GuestMemory, Lines, MmioTransport, Registrar, TransportHost, split_token,
};

pub(crate) const DEVICE: u32 = 7;
const MEMORY_BYTES: usize = 16 << 20;
/// Rings lie below, buffers above.
const BUFFERS_AT: u64 = 1 << 20;
const RING_SPACE: u64 = 64 << 10;

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

const VERSION_1: u64 = 1 << 32;
const EVENT_IDX: u64 = 1 << 29;

/// A buffer of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    Out(u64, u32),
    In(u64, u32),
}

pub(crate) struct Ring {
    pub(crate) base: u64,
    pub(crate) size: u16,
    available: u16,
    used: u16,
    free: Vec<u16>,
    chains: HashMap<u16, Vec<u16>>,
}

impl Ring {
    fn new(index: usize, size: u16) -> Self {
        let base = index as u64 * RING_SPACE;
        let free = (0..size).rev().collect();
        Ring { base, size, available: 0, used: 0, free, chains: HashMap::new() }
    }

    pub(crate) fn available_at(&self) -> u64 {
        self.base + (16 << 10)
    }

    pub(crate) fn used_at(&self) -> u64 {
        self.base + (32 << 10)
    }
}

/// Everything around a device under test.
pub(crate) struct Guest<D: Device> {
    pub(crate) memory: GuestMemory,
    pub(crate) epoll: Arc<Epoll>,
    pub(crate) transport: MmioTransport<D>,
    pub(crate) rings: Vec<Ring>,
    next_buffer: u64,
    event_idx: bool,
}

pub(crate) fn registrar() -> (Arc<Epoll>, Registrar) {
    let epoll = Arc::new(Epoll::new().unwrap());
    (Arc::clone(&epoll), Registrar::new(epoll, DEVICE))
}

fn host<D: Device>(memory: &GuestMemory, registrar: Registrar) -> TransportHost {
    let lines = Lines::new(D::QUEUE_SIZES.len()).unwrap();
    TransportHost { memory: Arc::clone(memory), lines, registrar }
}

impl<D: Device> Guest<D> {
    /// A machine whose driver has not looked at the device yet.
    pub(crate) fn cold(make: impl FnOnce(Registrar) -> D) -> Self {
        let memory: GuestMemory = Arc::new(
            GuestMemoryMmap::from_ranges(&[
                (GuestAddress(0), MEMORY_BYTES / 2),
                (GuestAddress(MEMORY_BYTES as u64 / 2), MEMORY_BYTES / 2),
            ])
            .unwrap(),
        );
        let (epoll, registrar) = registrar();
        let device = make(registrar.clone());
        let transport = MmioTransport::new(device, host::<D>(&memory, registrar)).unwrap();
        Guest {
            memory,
            epoll,
            transport,
            rings: Vec::new(),
            next_buffer: BUFFERS_AT,
            event_idx: true,
        }
    }

    /// A machine whose driver is up.
    pub(crate) fn new(make: impl FnOnce(Registrar) -> D) -> Self {
        let mut guest = Self::cold(make);
        guest.start();
        guest
    }

    /// What a driver does when it is loaded.
    pub(crate) fn start(&mut self) {
        self.negotiate();
        self.set_up_queues();
        self.set(0x70, 15);
        assert_eq!(self.get(0x70), 15);
        self.pump();
    }

    pub(crate) fn negotiate(&mut self) {
        assert_eq!(self.get(0x00), 0x7472_6976);
        assert_eq!(self.get(0x04), 2);
        assert_eq!(self.get(0x08), D::DEVICE_ID);
        self.set(0x70, 0);
        self.set(0x70, 1);
        self.set(0x70, 3);
        let features = self.offered();
        self.accept(if self.event_idx { features } else { features & !EVENT_IDX });
        self.set(0x70, 11);
        assert_eq!(self.get(0x70), 11, "features are accepted");
    }

    pub(crate) fn offered(&self) -> u64 {
        self.set(0x14, 0);
        let low = self.get(0x10);
        self.set(0x14, 1);
        let features = u64::from(self.get(0x10)) << 32 | u64::from(low);
        assert_ne!(features & VERSION_1, 0);
        features
    }

    pub(crate) fn accept(&self, features: u64) {
        self.set(0x24, 0);
        self.set(0x20, features as u32);
        self.set(0x24, 1);
        self.set(0x20, (features >> 32) as u32);
    }

    pub(crate) fn set_up_queues(&mut self) {
        self.rings.clear();
        for (index, &max_size) in D::QUEUE_SIZES.iter().enumerate() {
            self.set(0x30, index as u32);
            assert_eq!(self.get(0x34), u32::from(max_size));
            assert_eq!(self.get(0x44), 0);
            let ring = Ring::new(index, max_size);
            self.memory
                .write_slice(&vec![0; RING_SPACE as usize], GuestAddress(ring.base))
                .unwrap();
            self.set(0x38, max_size.into());
            for (register, address) in
                [(0x80, ring.base), (0x90, ring.available_at()), (0xa0, ring.used_at())]
            {
                self.set(register, address as u32);
                self.set(register + 4, (address >> 32) as u32);
            }
            self.set(0x44, 1);
            self.rings.push(ring);
        }
    }

    pub(crate) fn get(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.transport.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    pub(crate) fn set(&self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    /// Lets the event loop run until nothing is ready.
    pub(crate) fn pump(&self) {
        let mut events = vec![EpollEvent::default(); 32];
        loop {
            let count = self.epoll.wait(0, &mut events).unwrap();
            if count == 0 {
                return;
            }
            for event in &events[..count] {
                let (device, token) = split_token(event.data());
                assert_eq!(device, DEVICE);
                self.transport.event(token, event.event_set());
            }
        }
    }

    /// Guest memory for a buffer. Wraps around: a test has fewer than 15 MiB of them in use.
    pub(crate) fn buffer(&mut self, len: u32) -> u64 {
        if self.next_buffer + u64::from(len) > MEMORY_BYTES as u64 {
            self.next_buffer = BUFFERS_AT;
        }
        let address = self.next_buffer;
        self.next_buffer += u64::from(len).next_multiple_of(64);
        address
    }

    pub(crate) fn buffer_with(&mut self, bytes: &[u8]) -> u64 {
        let address = self.buffer(bytes.len() as u32);
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
        address
    }

    pub(crate) fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    pub(crate) fn write_descriptor(&self, at: u64, address: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = Vec::new();
        bytes.extend(address.to_le_bytes());
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.memory.write_slice(&bytes, GuestAddress(at)).unwrap();
    }

    /// Offers a chain; none when the ring has no room. The device is not told.
    pub(crate) fn offer(&mut self, queue: usize, parts: &[Part]) -> Option<u16> {
        let ring = &mut self.rings[queue];
        if ring.free.len() < parts.len() {
            return None;
        }
        let at = ring.free.len() - parts.len();
        let slots = ring.free.split_off(at);
        let base = ring.base;
        for (index, (part, &slot)) in parts.iter().zip(&slots).enumerate() {
            let (address, len, direction) = match *part {
                Part::Out(address, len) => (address, len, 0),
                Part::In(address, len) => (address, len, WRITE),
            };
            let next = slots.get(index + 1);
            let flags = direction | if next.is_some() { NEXT } else { 0 };
            let at = base + 16 * u64::from(slot);
            self.write_descriptor(at, address, len, flags, next.copied().unwrap_or(0));
        }
        let head = slots[0];
        self.rings[queue].chains.insert(head, slots);
        self.publish(queue, head);
        Some(head)
    }

    /// Offers a chain whose descriptors lie in a table of their own.
    pub(crate) fn offer_indirect(&mut self, queue: usize, parts: &[Part]) -> u16 {
        let table = self.buffer(16 * parts.len() as u32);
        for (index, part) in parts.iter().enumerate() {
            let (address, len, direction) = match *part {
                Part::Out(address, len) => (address, len, 0),
                Part::In(address, len) => (address, len, WRITE),
            };
            let last = index + 1 == parts.len();
            let flags = direction | if last { 0 } else { NEXT };
            self.write_descriptor(
                table + 16 * index as u64,
                address,
                len,
                flags,
                if last { 0 } else { index as u16 + 1 },
            );
        }
        let slot = self.rings[queue].free.pop().unwrap();
        let at = self.rings[queue].base + 16 * u64::from(slot);
        self.write_descriptor(at, table, 16 * parts.len() as u32, INDIRECT, 0);
        self.rings[queue].chains.insert(slot, vec![slot]);
        self.publish(queue, slot);
        slot
    }

    /// Puts `head` on the available ring, whatever it refers to.
    pub(crate) fn publish(&mut self, queue: usize, head: u16) {
        let ring = &mut self.rings[queue];
        let slot = ring.available_at() + 4 + 2 * u64::from(ring.available % ring.size);
        ring.available = ring.available.wrapping_add(1);
        let (index_at, index) = (ring.available_at() + 2, ring.available);
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.memory.write_obj(index, GuestAddress(index_at)).unwrap();
    }

    /// Descriptors that nobody uses.
    pub(crate) fn free(&self, queue: usize) -> usize {
        self.rings[queue].free.len()
    }

    pub(crate) fn notify(&self, queue: usize) {
        self.set(0x50, queue as u32);
    }

    /// The next chain the device has completed: head and bytes written.
    pub(crate) fn used(&mut self, queue: usize) -> Option<(u16, u32)> {
        let ring = &mut self.rings[queue];
        let index: u16 = self.memory.read_obj(GuestAddress(ring.used_at() + 2)).unwrap();
        if index == ring.used {
            return None;
        }
        let at = ring.used_at() + 4 + 8 * u64::from(ring.used % ring.size);
        let id: u32 = self.memory.read_obj(GuestAddress(at)).unwrap();
        let len: u32 = self.memory.read_obj(GuestAddress(at + 4)).unwrap();
        ring.used = ring.used.wrapping_add(1);
        let head = u16::try_from(id).unwrap();
        let slots = ring.chains.remove(&head).expect("the device completes what was offered, once");
        ring.free.extend(slots);
        // used_event: interrupt for whatever is next.
        let (at, value) = (ring.available_at() + 4 + 2 * u64::from(ring.size), ring.used);
        self.memory.write_obj(value, GuestAddress(at)).unwrap();
        Some((head, len))
    }

    /// Offers a chain, tells the device, and waits for it.
    pub(crate) fn submit(&mut self, queue: usize, parts: &[Part]) -> u32 {
        let head = self.offer(queue, parts).unwrap();
        self.notify(queue);
        self.pump();
        let (used, len) = self.used(queue).expect("the request is completed");
        assert_eq!(used, head);
        len
    }

    /// Whether the device has raised its interrupt since the last call.
    pub(crate) fn interrupted(&self) -> bool {
        let raised = self.transport.lines().interrupt_eventfd().read().is_ok();
        self.set(0x64, self.get(0x60));
        raised
    }
}

impl<D: Device + Freeze> Guest<D>
where
    D::Error: std::error::Error + 'static,
{
    /// Snapshots the device and goes on in a clone, with the same memory.
    pub(crate) fn clone_machine(&mut self, make: impl FnOnce(Registrar) -> D::Host) {
        self.transport.drain();
        let bytes = postcard::to_stdvec(&self.transport.freeze()).unwrap();
        let frozen = postcard::from_bytes(&bytes).unwrap();
        self.thaw(frozen, make).unwrap();
        let again = postcard::to_stdvec(&self.transport.freeze()).unwrap();
        assert_eq!(again, bytes, "freezing what was thawed gives the same");
        self.transport.kick();
        assert!(self.interrupted(), "a clone is always interrupted once");
        self.pump();
    }

    /// Goes on in the machine `frozen` describes, with the same memory; nothing is kicked.
    pub(crate) fn thaw(
        &mut self,
        frozen: crate::FrozenTransport<D::Frozen>,
        make: impl FnOnce(Registrar) -> D::Host,
    ) -> Result<(), crate::ThawTransportError<D::Error>> {
        let (epoll, registrar) = registrar();
        let device_host = make(registrar.clone());
        let transport_host = host::<D>(&self.memory, registrar);
        self.transport = MmioTransport::thaw(frozen, (transport_host, device_host))?;
        self.epoll = epoll;
        Ok(())
    }
}
