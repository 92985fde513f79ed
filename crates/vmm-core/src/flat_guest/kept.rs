//! The whole control loop with a guest that counts, and nodes that come and go.

use std::fs::File;
use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Instant;

use api_vmm::{Answer, BootSpec, Command, DiskSpec, Message, Progress, Request, ShellSpec};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use tempfile::TempDir;

use super::kernel::counting;
use super::test::{MEMORY_MIB, PATIENCE, disk, file_with, frame_sockets};
use crate::control::RunError;

/// A node's end of a control socket.
pub(super) struct Node(OwnedFd);

impl Node {
    pub(super) fn hear(&self) -> Option<Message> {
        let mut packet = vec![0; api_vmm::PACKET_BYTES_MAX];
        let (length, _) =
            rustix::net::recv(&self.0, packet.as_mut_slice(), RecvFlags::empty()).unwrap();
        (length > 0).then(|| api_vmm::decode(&packet[..length]).unwrap())
    }

    pub(super) fn progress(&self) -> Progress {
        match self.hear() {
            Some(Message::Hello { protocol: api_vmm::PROTOCOL, progress }) => progress,
            other => panic!("{other:?} is no hello"),
        }
    }

    pub(super) fn send(&self, command: Command, files: &[BorrowedFd<'_>]) {
        let packet = api_vmm::encode(&Request { seq: 1, command }).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(files.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(files)));
        let parts = [IoSlice::new(&packet)];
        rustix::net::sendmsg(&self.0, &parts, &mut ancillary, SendFlags::NOSIGNAL).unwrap();
    }

    pub(super) fn ask(&self, command: Command, files: &[BorrowedFd<'_>]) -> Result<Answer, String> {
        self.send(command, files);
        match self.hear() {
            Some(Message::Reply { result, .. }) => result,
            other => panic!("{other:?} is no reply"),
        }
    }

    fn exits(&self) -> u64 {
        match self.ask(Command::Stats, &[]) {
            Ok(Answer::Stats(stats)) => stats.exits,
            other => panic!("{other:?}"),
        }
    }

    /// Whether the guest runs: it leaves its machine for the monitor all the time.
    pub(super) fn assert_counting(&self) {
        let (before, begun) = (self.exits(), Instant::now());
        while self.exits() <= before {
            assert!(begun.elapsed() < PATIENCE, "the guest stands still");
        }
    }
}

/// A control loop on a thread of its own, instead of a process of its own.
pub(super) struct Vmm {
    dir: TempDir,
    thread: JoinHandle<Result<(), RunError>>,
}

impl Vmm {
    pub(super) fn start() -> (Self, Node) {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let kvm = File::options().read(true).write(true).open("/dev/kvm").unwrap();
        let files = vmm_jail::open_kernel_files().unwrap();
        let inputs =
            crate::Inputs { control: theirs, kvm: OwnedFd::from(kvm), files, confine: false };
        let thread = std::thread::spawn(move || crate::run(inputs));
        (Self { dir: tempfile::tempdir().unwrap(), thread }, Node(ours))
    }

    /// With a guest that runs.
    fn booted(kernel: &[u8]) -> (Self, Node) {
        let (_, frames) = frame_sockets();
        Self::booted_with(kernel, &frames)
    }

    /// With a guest that runs and has this frame socket.
    pub(super) fn booted_with(kernel: &[u8], frames: &OwnedFd) -> (Self, Node) {
        let (vmm, node) = Self::start();
        assert_eq!(node.progress(), Progress::Empty);
        let shell = ShellSpec { vcpus: 1, memory_mib: MEMORY_MIB };
        assert_eq!(node.ask(Command::Build(shell), &[]), Ok(Answer::Done));
        let mut files = vec![file_with(kernel), file_with(b"initrd")];
        files.extend(disk());
        files.push(tempfile::tempfile().unwrap());
        let mut files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        files.push(frames.as_fd());
        let boot = BootSpec { cmdline: "quiet".into(), disk: DiskSpec { files: 2 } };
        node.send(Command::Boot(boot), &files);
        (vmm, node)
    }

    fn address(&self) -> SocketAddrUnix {
        SocketAddrUnix::new(self.dir.path().join("keeper")).unwrap()
    }

    fn socket() -> OwnedFd {
        let flags = SocketFlags::CLOEXEC;
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
    }

    /// Where the next node comes in.
    fn keeper(&self) -> OwnedFd {
        let keeper = Self::socket();
        rustix::net::bind(&keeper, &self.address()).unwrap();
        keeper
    }

    fn connect(&self) -> Node {
        let socket = Self::socket();
        rustix::net::connect(&socket, &self.address()).unwrap();
        Node(socket)
    }

    pub(super) fn ended(self) -> Result<(), RunError> {
        self.thread.join().unwrap()
    }
}

#[test]
fn end_of_file_on_the_control_socket_ends_the_process_loop() {
    let (vmm, node) = Vmm::start();
    assert_eq!(node.progress(), Progress::Empty);
    drop(node);
    vmm.ended().unwrap();
}

#[test]
fn a_machine_that_is_not_kept_ends_with_its_node() {
    let (vmm, node) = Vmm::booted(&counting());
    assert!(matches!(node.hear(), Some(Message::Reply { result: Ok(Answer::Done), .. })));
    node.assert_counting();
    drop(node);
    vmm.ended().unwrap();
}

#[test]
fn a_shell_cannot_be_kept() {
    let (vmm, node) = Vmm::start();
    assert_eq!(node.progress(), Progress::Empty);
    let keeper = vmm.keeper();
    let refused = node.ask(Command::Keep, &[keeper.as_fd()]).unwrap_err();
    assert!(refused.contains("keep needs a machine that is running"), "{refused}");
    drop(node);
    vmm.ended().unwrap();
}

#[test]
fn a_kept_machine_runs_on_without_a_node_and_serves_the_next_ones() {
    let (vmm, mut node) = Vmm::booted(&counting());
    assert!(matches!(node.hear(), Some(Message::Reply { result: Ok(Answer::Done), .. })));
    assert_eq!(node.ask(Command::Keep, &[vmm.keeper().as_fd()]), Ok(Answer::Done));
    for _ in 0..3 {
        let before = node.exits();
        // A request whose answer nobody waits for does not end it either.
        node.send(Command::Stats, &[]);
        drop(node);
        node = vmm.connect();
        assert_eq!(node.progress(), Progress::Running);
        assert!(node.exits() >= before);
        node.assert_counting();
    }
    assert_eq!(node.ask(Command::Pause, &[]), Ok(Answer::Done));
    drop(node);
    let node = vmm.connect();
    assert_eq!(node.progress(), Progress::Paused);
    assert_eq!(node.ask(Command::Resume, &[]), Ok(Answer::Done));
    node.assert_counting();
    assert_eq!(node.ask(Command::Stop, &[]), Ok(Answer::Done));
    vmm.ended().unwrap();
}

#[test]
fn a_second_node_waits_for_the_end_of_the_first() {
    let (vmm, node) = Vmm::booted(&counting());
    assert!(matches!(node.hear(), Some(Message::Reply { result: Ok(Answer::Done), .. })));
    assert_eq!(node.ask(Command::Keep, &[vmm.keeper().as_fd()]), Ok(Answer::Done));
    let second = vmm.connect();
    // Answered, so the loop went round with the second one waiting.
    node.assert_counting();
    let mut byte = [0];
    let early = rustix::net::recv(&second.0, &mut byte, RecvFlags::DONTWAIT);
    assert_eq!(early.map(|_| ()), Err(rustix::io::Errno::AGAIN));
    drop(node);
    assert_eq!(second.progress(), Progress::Running);
    assert_eq!(second.ask(Command::Stop, &[]), Ok(Answer::Done));
    vmm.ended().unwrap();
}

#[test]
fn connections_into_the_guest_end_with_the_guests_answer_and_not_with_the_node() {
    let (vmm, node) = Vmm::booted(&counting());
    assert!(matches!(node.hear(), Some(Message::Reply { result: Ok(Answer::Done), .. })));
    assert_eq!(node.ask(Command::Keep, &[vmm.keeper().as_fd()]), Ok(Answer::Done));
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    assert_eq!(node.ask(Command::Connect { port: 1 }, &[theirs.as_fd()]), Ok(Answer::Done));
    drop((node, theirs));
    let node = vmm.connect();
    assert_eq!(node.progress(), Progress::Running);
    node.assert_counting();
    // The guest has no driver for it; what is left of the connection goes with the machine.
    assert_eq!(node.ask(Command::Stop, &[]), Ok(Answer::Done));
    vmm.ended().unwrap();
    assert_eq!(ours.read(&mut [0]).unwrap(), 0);
}
