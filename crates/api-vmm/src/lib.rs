//! What the node and one `sandflare-vmm` process say to each other.
//!
//! One `SOCK_SEQPACKET` Unix socket, inherited by the VMM as file descriptor [`CONTROL_FD`]. Every
//! packet is one postcard-encoded message of at most [`PACKET_BYTES_MAX`] bytes; file descriptors
//! ride along by `SCM_RIGHTS`, in the order each [`Command`] documents. The VMM answers requests in
//! the order it got them, so the node may send the next one before the answer to the last.
//!
//! End of file on the socket means the node is gone. Then the VMM exits at once, unless its machine
//! is [kept](Command::Keep): a kept machine runs on, its VMM takes the next node's connection, says
//! [`Message::Hello`] and then tells of every device that broke so far. Requests that were under way
//! when a connection ended are answered to nobody.
//!
//! This crate is data only. Neither side trusts the other's bytes: [`decode`] is bounded.

use serde::{Deserialize, Serialize};

/// Control socket of a VMM process.
pub const CONTROL_FD: i32 = 3;
/// `/dev/kvm`, opened by the node.
pub const KVM_FD: i32 = 4;
/// `cgroup.procs` of the sandbox's cgroup, open for writing; or `/dev/null` where there is none.
pub const CGROUP_FD: i32 = 5;

/// LIMIT: the largest control message is a [`BootSpec`]; everything bigger travels in files.
pub const PACKET_BYTES_MAX: usize = 64 * 1024;
/// LIMIT: kernel `SCM_MAX_FD` is 253; a disk chain is at most [`DISK_FILES_MAX`] long.
pub const PACKET_FDS_MAX: usize = 64;
/// LIMIT: base image plus overlays of one disk.
pub const DISK_FILES_MAX: usize = 24;
/// LIMIT: memory layers of one restore.
pub const MEMORY_LAYERS_MAX: usize = 24;

/// Address of every guest's network card. Locally administered; no two of them share a link.
pub const NET_MAC: [u8; 6] = [0x02, 0x53, 0x46, 0x00, 0x00, 0x02];
/// Address of whoever is at the other end of a network card's link.
pub const NET_GATEWAY_MAC: [u8; 6] = [0x02, 0x53, 0x46, 0x00, 0x00, 0x01];
/// LIMIT: bytes of one packet on a network card's link. What costs is the packet, not its bytes.
pub const NET_MTU: u16 = 9000;
/// LIMIT: one Ethernet frame: its header and a packet. Longer ones are dropped on both sides.
pub const NET_FRAME_BYTES_MAX: usize = NET_MTU as usize + 14;

/// What to build before it is known what will run: VM, irqchip, vCPUs, memory slots over reserved
/// address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShellSpec {
    /// 1 to 8.
    pub vcpus: u8,
    /// 64 to 65536.
    pub memory_mib: u32,
}

/// A disk: `files` descriptors, the raw base image first, then qcow2 overlays bottom to top. The
/// topmost is open for reading and writing, the others for reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// How many descriptors make up the chain, 2 to [`DISK_FILES_MAX`].
    pub files: u8,
}

/// How clean memory reaches a clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryPath {
    /// Plain private mapping of the template's memfd; diff layers are copied in before resume.
    Private,
    /// Userfaultfd (MISSING and MINOR) on the private mapping; every page comes on first touch.
    Userfault,
}

/// Boot a kernel in the shell.
///
/// Descriptors: kernel (vmlinux ELF), initrd, the disk's files, console log (read-write), [frame
/// socket](Command::Network).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootSpec {
    /// Kernel command line, at most 2047 bytes.
    pub cmdline: String,
    /// Root disk.
    pub disk: DiskSpec,
}

/// Put a snapshot's memory into the shell, so that only state is left to set: [`Command::Restore`]
/// follows, at once or when the shell is claimed.
///
/// Descriptors: state file, template memfd (sealed), `layers` memory layer files (top first), the
/// working set when `working_set`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrimeSpec {
    /// How clean memory reaches the clone.
    pub memory: MemoryPath,
    /// How many memory layer files are passed, at most [`MEMORY_LAYERS_MAX`]. With
    /// [`MemoryPath::Private`] these are only the layers above the memfd; with
    /// [`MemoryPath::Userfault`] the base layer may be among them, for a memfd that is not full.
    pub layers: u8,
    /// Whether a working-set file is passed; its pages are mapped before the guest runs.
    pub working_set: bool,
    /// Record which pages the guest touches until [`Command::TakeWorkingSet`]. Needs
    /// [`MemoryPath::Userfault`].
    pub record: bool,
}

/// Continue the snapshot a shell is primed with.
///
/// Descriptors: the disk's files, console log (read-write), [frame socket](Command::Network).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreSpec {
    /// Root disk.
    pub disk: DiskSpec,
    /// Start the vCPUs as soon as everything is in place.
    pub resume: bool,
    /// New VM generation id, random: what makes this clone a different machine to its kernel.
    pub generation_id: [u8; 16],
}

/// Write the paused machine to files. The machine stays paused.
///
/// Descriptors: state file, memory layer file (both empty, read-write), then, if `disk` is given, its
/// files: a chain with the content of the machine's own, and on top a fresh overlay that takes all
/// later writes. No file of the old chain is written again. Without `disk`, state and memory are on stable
/// storage when this is answered; with it they are not, so that the machine can go on before they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSpec {
    /// What the machine's disk is from then on, if it is to go on.
    pub disk: Option<DiskSpec>,
    /// Write only pages changed since the restore (a layer over what it was restored from) rather
    /// than all non-zero pages. Of a machine that was booted, not restored, that is every page: a layer
    /// which hides whatever is below it.
    pub only_dirty: bool,
}

/// Make one overlay of several. Needs a process without a machine: whoever reads what a guest wrote
/// is jailed.
///
/// Descriptors: what is below (the raw base image first, then overlays bottom to top), the overlays
/// that are to be merged, bottom to top, and a fresh overlay (read-write) that takes what these hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeSpec {
    /// How many files are below, 1 to [`DISK_FILES_MAX`].
    pub below: u8,
    /// How many overlays are merged; with those below at most [`DISK_FILES_MAX`].
    pub run: u8,
}

/// Something the node asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Build the shell. First command of every process; no descriptors.
    Build(ShellSpec),
    /// See [`BootSpec`].
    Boot(BootSpec),
    /// See [`PrimeSpec`].
    Prime(PrimeSpec),
    /// See [`RestoreSpec`].
    Restore(RestoreSpec),
    /// Stop the vCPUs; I/O the guest has begun is finished first.
    Pause,
    /// Run the vCPUs.
    Resume,
    /// See [`SnapshotSpec`].
    Snapshot(SnapshotSpec),
    /// See [`MergeSpec`]. Answered when the new overlay is on stable storage.
    Merge(MergeSpec),
    /// Splice one vsock connection to `port` of the guest onto the stream socket passed along. The
    /// stream is closed when the guest refuses or resets. May be sent before the guest runs.
    Connect {
        /// vsock port in the guest.
        port: u32,
    },
    /// Use another frame socket in place of the present one, for a daemon that took over a machine
    /// whose frames went to the daemon before it. Frames on their way are lost.
    ///
    /// A frame socket is a connected `SOCK_SEQPACKET` Unix socket. Each of its packets is one Ethernet
    /// frame of at most [`NET_FRAME_BYTES_MAX`] bytes, without check sequence, to or from the guest's
    /// network card, whose address is [`NET_MAC`]. Whoever has the other end must take frames, or the
    /// guest's wait; it must not wait itself when the guest takes none. When the other end is closed
    /// the machine goes on, and what its guest sends is lost.
    ///
    /// Descriptors: a frame socket.
    Network,
    /// End recording and write the working set to the file passed along.
    TakeWorkingSet,
    /// Let the machine outlive this connection. From now on the end of the control socket does not end the
    /// process: whoever connects next to the socket passed along, as the user who runs the node, is
    /// the node. May be repeated; the last socket counts.
    ///
    /// Descriptors: a bound `SOCK_SEQPACKET` Unix socket. The VMM listens on it, so that those who
    /// connect learn from the kernel which process answers.
    Keep,
    /// Counters.
    Stats,
    /// End the process.
    Stop,
}

/// One request. `seq` comes back in the reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the node, increasing.
    pub seq: u32,
    /// What to do.
    pub command: Command,
}

/// Time spent putting memory into a shell, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrimeTimes {
    /// Parsing and checking the state file.
    pub parse_us: u32,
    /// Mapping memory, registering userfaultfd, prefetching the working set.
    pub map_us: u32,
}

/// Time spent in each step of a restore, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreTimes {
    /// Setting vCPU, irqchip and clock state.
    pub state_us: u32,
    /// Opening the disk and thawing devices.
    pub devices_us: u32,
    /// From there to vCPU threads released.
    pub resume_us: u32,
}

/// Counters of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineStats {
    /// Userfaultfd events served.
    pub faults: u64,
    /// Pages copied into private memory by the fault handler.
    pub pages_copied: u64,
    /// Pages mapped or copied from the working set before resume.
    pub pages_prefetched: u64,
    /// Private (copied) guest pages now, by PAGEMAP_SCAN.
    pub private_pages: u64,
    /// Resident memory of the VMM beside guest memory, in KiB.
    pub overhead_kib: u64,
    /// Bytes the guest wrote to its disk.
    pub disk_written_bytes: u64,
    /// KVM exits handled in user space.
    pub exits: u64,
}

/// What a command that worked answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Done; nothing to report.
    Done,
    /// Memory is in place.
    Primed(PrimeTimes),
    /// The machine was restored.
    Restored(RestoreTimes),
    /// The snapshot is on stable storage.
    Snapshotted {
        /// Pages written to the memory layer.
        pages: u64,
        /// How long the memory and state took, in microseconds.
        took_us: u64,
    },
    /// Counters.
    Stats(MachineStats),
}

/// Why a machine is no more, or a part of it broke.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopReason {
    /// The guest shut down or reset itself (a kernel panic ends so too; see the console log).
    GuestShutdown,
    /// KVM gave up on the guest.
    KvmFailure(String),
    /// A vCPU or device thread of the VMM failed.
    VmmFailure(String),
}

/// How far a VMM process has come, as it tells a node that connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// Jailed, nothing built.
    Empty,
    /// It has a shell, perhaps primed.
    Shell,
    /// It has a machine whose vCPUs are parked.
    Paused,
    /// It has a machine whose vCPUs run.
    Running,
    /// Its machine is over.
    Stopped,
}

/// A packet from the VMM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Jailed and ready for requests. The first packet of every connection.
    Hello {
        /// [`PROTOCOL`] of the VMM; the node refuses another.
        protocol: u32,
        /// How far it has come: [`Progress::Empty`] in its first connection.
        progress: Progress,
    },
    /// The answer to a request, or one sentence saying what failed, because of what.
    Reply {
        /// Of the request.
        seq: u32,
        /// Answer or reason.
        result: Result<Answer, String>,
    },
    /// The machine is over; the process exits after this.
    Stopped(StopReason),
    /// The guest broke a device; it is dead until the next boot, the rest goes on.
    DeviceBroken {
        /// Name of the device.
        device: String,
        /// What the guest did.
        reason: String,
    },
}

/// Version of this protocol. Node and VMM are shipped together, so they must be equal.
pub const PROTOCOL: u32 = 5;

/// A packet that is not a message.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Longer than [`PACKET_BYTES_MAX`].
    #[error("control packet of {0} bytes is over the limit of {PACKET_BYTES_MAX}")]
    TooLong(usize),
    /// Not what the type asks for.
    #[error("control packet does not decode")]
    Malformed(#[source] postcard::Error),
}

/// The packet that carries `message`.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    let packet = postcard::to_stdvec(message).map_err(CodecError::Malformed)?;
    if packet.len() > PACKET_BYTES_MAX {
        Err(CodecError::TooLong(packet.len()))
    } else {
        Ok(packet)
    }
}

/// The message in `packet`.
pub fn decode<'a, T: Deserialize<'a>>(packet: &'a [u8]) -> Result<T, CodecError> {
    if packet.len() > PACKET_BYTES_MAX {
        return Err(CodecError::TooLong(packet.len()));
    }
    postcard::from_bytes(packet).map_err(CodecError::Malformed)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_message_survives_its_packet() {
        let request = Request {
            seq: 9,
            command: Command::Boot(BootSpec {
                cmdline: "quiet".into(),
                disk: DiskSpec { files: 2 },
            }),
        };
        let packet = encode(&request).unwrap();
        assert_eq!(decode::<Request>(&packet).unwrap(), request);
    }

    #[test]
    fn a_packet_cut_short_is_refused() {
        let packet = encode(&Message::Hello { protocol: 1, progress: Progress::Empty }).unwrap();
        for end in 0..packet.len() {
            assert!(decode::<Message>(&packet[..end]).is_err());
        }
    }
}
