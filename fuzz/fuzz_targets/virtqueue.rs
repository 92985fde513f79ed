//! A guest that writes any registers, rings and descriptors breaks its device at worst.
//!
//! Input: which device, then the size of the queues, then register writes up to a marker, then what
//! guest memory holds from address 0 on. The device is started with its rings inside that memory, so
//! most inputs reach the queues.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::Epoll;
use vmm_virtio::net::{NetHost, NetSettings};
use vmm_virtio::{Device, Events, Lines, MmioTransport, Net, Registrar, Rng, TransportHost, Vsock};

const MEMORY_BYTES: usize = 64 << 10;
/// Register writes after the start, at most.
const WRITES_MAX: usize = 8;

fuzz_target!(|data: &[u8]| {
    let Some(([device, size, writes], rest)) = data.split_first_chunk() else { return };
    let size = 1 << (size % 9);
    let (writes, image) = rest.split_at(rest.len().min(usize::from(*writes) % WRITES_MAX * 5));
    match device % 3 {
        0 => run(Rng::new(), size, writes, image),
        1 => run_net(size, writes, image),
        _ => run_vsock(size, writes, image),
    }
});

fn run<D: Device>(device: D, size: u32, writes: &[u8], image: &[u8]) {
    let host = host(D::QUEUE_SIZES.len(), image);
    drive(&MmioTransport::new(device, host).expect("transport"), size, writes);
}

fn run_vsock(size: u32, writes: &[u8], image: &[u8]) {
    let host = host(Vsock::QUEUE_SIZES.len(), image);
    let device = Vsock::new(host.registrar.clone());
    drive(&MmioTransport::new(device, host).expect("transport"), size, writes);
}

/// With frames of several lengths to be put into whatever the guest offers.
fn run_net(size: u32, writes: &[u8], image: &[u8]) {
    let host = host(Net::QUEUE_SIZES.len(), image);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
    let (wire, socket) = pair.expect("sockets");
    for len in [60, 9014, 1, 1514, 9015] {
        send(&wire, &vec![0x5a; len], SendFlags::NOSIGNAL).expect("the socket has room");
    }
    let settings = NetSettings { mac: [2, 0, 0, 0, 0, 1], mtu: 9000 };
    let registrar = host.registrar.clone();
    let device = Net::new(NetHost { settings, socket, registrar }).expect("card");
    drive(&MmioTransport::new(device, host).expect("transport"), size, writes);
}

fn host(queues: usize, image: &[u8]) -> TransportHost {
    let memory: GuestMemoryMmap<()> =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).expect("memory");
    let image = &image[..image.len().min(MEMORY_BYTES)];
    memory.write_slice(image, GuestAddress(0)).expect("the image fits");
    TransportHost {
        memory: Arc::new(memory),
        lines: Lines::new(queues).expect("eventfds"),
        registrar: Registrar::new(Arc::new(Epoll::new().expect("epoll")), 0),
    }
}

fn drive<D: Device>(transport: &MmioTransport<D>, size: u32, writes: &[u8]) {
    let write = |register: u64, value: u32| transport.write(register, &value.to_le_bytes());
    // Status: acknowledge, driver; all features offered; features ok.
    write(0x70, 1);
    write(0x70, 3);
    for half in 0..2 {
        let mut offered = [0; 4];
        write(0x14, half);
        transport.read(0x10, &mut offered);
        write(0x24, half);
        transport.write(0x20, &offered);
    }
    write(0x70, 11);
    for queue in 0..D::QUEUE_SIZES.len() as u32 {
        let base = queue * 0x400;
        write(0x30, queue);
        write(0x38, size);
        write(0x80, base);
        write(0x90, base + 0x100);
        write(0xa0, base + 0x200);
        write(0x44, 1);
    }
    write(0x70, 15);
    let events = || {
        for queue in 0..D::QUEUE_SIZES.len() as u32 {
            transport.event(queue, Events::IN);
        }
    };
    events();
    for step in writes.chunks_exact(5) {
        let value = [step[1], step[2], step[3], step[4]];
        transport.write(u64::from(step[0]), &value);
        transport.read(u64::from(step[0]), &mut [0; 4]);
        events();
    }
    transport.drain();
    transport.kick();
    transport.take_broken();
}
