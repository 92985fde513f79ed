//! A guest that sends back every frame it gets, by a driver that is a list of writes.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use api_vmm::{
    Answer, Command, DiskSpec, MemoryPath, Message, PrimeSpec, Progress, RestoreSpec, ShellSpec,
    SnapshotSpec,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::kept::{Node, Vmm};
use super::kernel::{Step, following};
use super::test::{MEMORY_MIB, PATIENCE, disk, file_with, frame_sockets, template};
use crate::layout;

/// The network card is the last device.
const CARD: u32 = layout::virtio_mmio(layout::VIRTIO_DEVICES - 1) as u32;
const QUEUE_SIZE: u32 = 8;
/// Bytes of the frames that are sent back; the guest does not look how long one is.
const FRAME_BYTES: usize = 60;
const HEADER_BYTES: u32 = 12;

const fn descriptors(queue: u32) -> u32 {
    0x30_0000 + queue * 0x1_0000
}

const fn available(queue: u32) -> u32 {
    descriptors(queue) + 0x1000
}

const fn used(queue: u32) -> u32 {
    descriptors(queue) + 0x2000
}

const fn buffer(index: u32) -> u32 {
    0x34_0000 + index * 0x4000
}

/// Sets the card up, then sends back [`QUEUE_SIZE`] frames.
fn echoing() -> Vec<u8> {
    use Step::{Wait, Write};
    let set = |register: u32, value: u32| Write(CARD + register, value);
    // Acknowledge, driver; of the features only that the device is a modern one; features are fine.
    let mut steps = vec![set(0x70, 1), set(0x70, 3), set(0x24, 0), set(0x20, 0)];
    steps.extend([set(0x24, 1), set(0x20, 1), set(0x70, 11)]);
    for queue in 0..2 {
        for index in 0..QUEUE_SIZE {
            let at = descriptors(queue) + index * 16;
            // Header and frame are in one buffer, from where they are sent as they came.
            let (bytes, flags) =
                [(9100, 2), (HEADER_BYTES + FRAME_BYTES as u32, 0)][queue as usize];
            steps.extend([Write(at, buffer(index)), Write(at + 8, bytes), Write(at + 12, flags)]);
        }
        for pair in 0..QUEUE_SIZE / 2 {
            let entries = (2 * pair) | ((2 * pair + 1) << 16);
            steps.push(Write(available(queue) + 4 + 4 * pair, entries));
        }
        steps.extend([set(0x30, queue), set(0x38, QUEUE_SIZE)]);
        let rings = [(0x80, descriptors(queue)), (0x90, available(queue)), (0xa0, used(queue))];
        steps.extend(rings.map(|(register, ring)| set(register, ring)));
        steps.push(set(0x44, 1));
    }
    steps.push(set(0x70, 15));
    for count in 1..=QUEUE_SIZE {
        let index = count << 16;
        steps.extend([Write(available(0), index), set(0x50, 0), Wait(used(0), index)]);
        steps.extend([Write(available(1), index), set(0x50, 1)]);
    }
    following(&steps)
}

fn frame(number: u8) -> [u8; FRAME_BYTES] {
    [number; FRAME_BYTES]
}

#[track_caller]
fn assert_echoes(wire: &OwnedFd, number: u8) {
    send(wire, &frame(number), SendFlags::NOSIGNAL).unwrap();
    let limit = Timespec::try_from(PATIENCE).unwrap();
    let mut ready = [PollFd::new(wire, PollFlags::IN)];
    assert_eq!(poll(&mut ready, Some(&limit)), Ok(1), "frame {number} does not come back");
    let mut bytes = [0; 200];
    assert_eq!(recv(wire, &mut bytes, RecvFlags::empty()), Ok((FRAME_BYTES, FRAME_BYTES)));
    assert_eq!(bytes[..FRAME_BYTES], frame(number));
}

fn echoing_machine() -> (Vmm, Node, OwnedFd) {
    let (wire, frames) = frame_sockets();
    let (vmm, node) = Vmm::booted_with(&echoing(), &frames);
    assert!(matches!(node.hear(), Some(Message::Reply { result: Ok(Answer::Done), .. })));
    (vmm, node, wire)
}

#[test]
fn frames_go_to_the_guest_and_back_and_then_over_another_socket() {
    let (vmm, node, wire) = echoing_machine();
    assert_echoes(&wire, 1);
    assert_echoes(&wire, 2);
    // Whoever had it is gone, and the machine goes on.
    drop(wire);
    node.assert_counting();
    for number in [3, 4] {
        let (wire, frames) = frame_sockets();
        assert_eq!(node.ask(Command::Network, &[frames.as_fd()]), Ok(Answer::Done));
        drop(frames);
        assert_echoes(&wire, number);
    }
    let refused = node.ask(Command::Network, &[]).unwrap_err();
    assert!(refused.contains("network takes 1 file descriptors, 0 came"), "{refused}");
    assert_eq!(node.ask(Command::Stop, &[]), Ok(Answer::Done));
    vmm.ended().unwrap();
}

#[test]
fn a_clone_has_a_wire_of_its_own_and_no_frame_that_came_before() {
    let (vmm, node, wire) = echoing_machine();
    assert_echoes(&wire, 1);
    assert_eq!(node.ask(Command::Pause, &[]), Ok(Answer::Done));
    let (state, memory) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let snapshot = Command::Snapshot(SnapshotSpec { disk: None, only_dirty: false });
    let taken = node.ask(snapshot, &[state.as_fd(), memory.as_fd()]);
    assert!(matches!(taken, Ok(Answer::Snapshotted { .. })), "{taken:?}");
    send(&wire, &frame(2), SendFlags::NOSIGNAL).unwrap();
    let template = template(&memory);
    let clones: Vec<_> = (0..2).map(|_| restored(&state, &template)).collect();
    for (number, (_, _, wire)) in (3..).zip(&clones) {
        assert_echoes(wire, number);
    }
    for (vmm, node, _) in clones {
        assert_eq!(node.ask(Command::Stop, &[]), Ok(Answer::Done));
        vmm.ended().unwrap();
    }
    // The machine itself goes on where it was.
    assert_eq!(node.ask(Command::Resume, &[]), Ok(Answer::Done));
    let mut bytes = [0; 200];
    assert_eq!(recv(&wire, &mut bytes, RecvFlags::empty()), Ok((FRAME_BYTES, FRAME_BYTES)));
    assert_eq!(bytes[..FRAME_BYTES], frame(2));
    assert_eq!(node.ask(Command::Stop, &[]), Ok(Answer::Done));
    vmm.ended().unwrap();
}

fn restored(state: &File, template: &File) -> (Vmm, Node, OwnedFd) {
    let (vmm, node) = Vmm::start();
    assert_eq!(node.progress(), Progress::Empty);
    let shell = ShellSpec { vcpus: 1, memory_mib: MEMORY_MIB };
    assert_eq!(node.ask(Command::Build(shell), &[]), Ok(Answer::Done));
    let prime =
        PrimeSpec { memory: MemoryPath::Private, layers: 0, working_set: false, record: false };
    let primed = node.ask(Command::Prime(prime), &[state.as_fd(), template.as_fd()]);
    assert!(matches!(primed, Ok(Answer::Primed(_))), "{primed:?}");
    let (wire, frames) = frame_sockets();
    let (disk, console) = (disk(), file_with(b""));
    let mut files: Vec<BorrowedFd<'_>> = disk.iter().map(AsFd::as_fd).collect();
    files.extend([console.as_fd(), frames.as_fd()]);
    let spec = RestoreSpec { disk: DiskSpec { files: 2 }, resume: true, generation_id: [7; 16] };
    let restored = node.ask(Command::Restore(spec), &files);
    assert!(matches!(restored, Ok(Answer::Restored(_))), "{restored:?}");
    (vmm, node, wire)
}
