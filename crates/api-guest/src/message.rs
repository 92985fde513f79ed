use serde::{Deserialize, Serialize};

use crate::surface::{choices, structs};
use crate::{OUTPUT_KEPT_BYTES, OUTPUT_KEPT_BYTES_RANGE, PROCESSES_MAX, PROCESSES_RANGE};

structs! {
    /// Makes a restored clone a machine of its own. See the crate's word on order.
    ///
    /// Every value is new for each clone. The guest reseeds its kernel's random generator, steps the
    /// wall clock (never the monotonic one), and renews host name, `/etc/machine-id` and
    /// `/proc/sys/kernel/random/boot_id`, all before it answers.
    pub struct Identify {
        /// Id of the sandbox, found inside the guest in `/run/sandflare/sandbox-id`.
        pub sandbox_id: String,
        /// New host name, 1 to 64 bytes of `a-zA-Z0-9.-`.
        pub hostname: String,
        /// New `/etc/machine-id`.
        pub machine_id: [u8; 16],
        /// New boot id.
        pub boot_id: [u8; 16],
        /// Host randomness, 32 to 512 bytes, credited in full.
        pub entropy: Vec<u8>,
        /// Wall clock now, nanoseconds since 1970 UTC.
        pub wall_clock_ns: i64,
    }

    /// Steps the wall clock.
    pub struct SetClock {
        /// Wall clock now, nanoseconds since 1970 UTC.
        pub wall_clock_ns: i64,
    }

    /// Runs a command in a session and process group of its own.
    pub struct Exec {
        /// Program and arguments, at least one. A name without `/` is looked up in the `PATH` the
        /// command gets.
        pub argv: Vec<String>,
        /// Added to the default environment (PATH, HOME, USER, LOGNAME, SHELL, LANG), the last of a
        /// name wins.
        pub env: Vec<(String, String)>,
        /// Directory to run in, the user's home when `None`. Relative ones start there too.
        pub cwd: Option<String>,
        /// User name or decimal uid, [`DEFAULT_USER`](crate::DEFAULT_USER) when `None`.
        pub user: Option<String>,
        /// When this passes, the process group is killed and `Exited` says `timed_out`; what it
        /// printed until then arrives all the same. No limit when `None`.
        pub time_limit_ms: Option<u64>,
        /// Whether standard input will come as `Stdin` frames; otherwise it is empty.
        pub stdin: bool,
        /// A terminal in place of pipes: its output is all `Stdout`, and it always takes input. Only
        /// [`Spawn`] makes one; as a request of its own, `Exec` is answered `Failed` with
        /// `Unsupported`.
        pub pty: Option<PtySize>,
    }

    /// Starts a process that lives on whoever listens: its output is kept, up to a bound, for those
    /// who attach. One that cannot be started is there too, over, with what a shell would say.
    pub struct Spawn {
        /// What to run.
        pub exec: Exec,
    }

    /// As [`Spawn`], with bounds other than the protocol's own. An agent of generation 1 does not know it.
    pub struct SpawnWithin {
        /// What to run.
        pub exec: Exec,
        /// What holds for it.
        pub bounds: ProcessBounds,
    }

    /// Bounds of processes that live on their own, which the host chooses.
    pub struct ProcessBounds {
        /// The process is started if fewer than these run, within
        /// [`PROCESSES_RANGE`](crate::PROCESSES_RANGE).
        pub processes: u32,
        /// Bytes of its output that are kept, within
        /// [`OUTPUT_KEPT_BYTES_RANGE`](crate::OUTPUT_KEPT_BYTES_RANGE).
        pub output_kept_bytes: u32,
    }

    /// Follows a process: first what was kept of it, then what happens. Several may.
    pub struct Attach {
        /// Its number.
        pub process: u32,
        /// Leave out events up to this one, except for the end, which is always told. Past the last
        /// event it stands for the last. All that is kept when `None`.
        pub after: Option<u64>,
    }

    /// Gives a process input, signals, or another terminal size: the frames that follow, up to `End`.
    pub struct Control {
        /// Its number.
        pub process: u32,
    }

    /// Gives the process's terminal another size.
    pub struct Resize {
        /// The new size.
        pub size: PtySize,
    }

    /// Size of a terminal.
    pub struct PtySize {
        /// Lines.
        pub rows: u16,
        /// Characters in a line.
        pub columns: u16,
    }

    /// Reads a regular file. Relative paths start at the default user's home, here and everywhere.
    pub struct ReadFile {
        /// The file.
        pub path: String,
        /// First byte to read; past the end gives no data.
        pub offset: u64,
        /// Most bytes to read, to the end when `None`.
        pub length: Option<u64>,
    }

    /// Creates or replaces a file from the `Chunk` frames that follow, up to `End`. The file appears
    /// whole or not at all.
    pub struct WriteFile {
        /// The file.
        pub path: String,
        /// Permission bits (0 to 0o7777). When `None`: those of the file replaced, or 0o644.
        pub mode: Option<u32>,
        /// Owner. When `None`: that of the file replaced, or the default user.
        pub user: Option<String>,
        /// Make missing directories on the way, with the file's owner.
        pub parents: bool,
    }

    /// Lists a directory, in the order of names (by bytes).
    pub struct List {
        /// The directory.
        pub path: String,
    }

    /// Asks for what is known about a file.
    pub struct Stat {
        /// The file.
        pub path: String,
        /// Whether a symbolic link stands for what it points at.
        pub follow: bool,
    }

    /// Makes a directory. Fails with `AlreadyExists` when something is there, except that with
    /// `parents` a directory in its place is success.
    pub struct MakeDir {
        /// The directory.
        pub path: String,
        /// Permission bits, 0o755 when `None`.
        pub mode: Option<u32>,
        /// Owner, the default user when `None`.
        pub user: Option<String>,
        /// Make missing directories on the way, with the same owner.
        pub parents: bool,
    }

    /// Renames within a file system, replacing a file at `to`.
    pub struct Move {
        /// What to rename.
        pub from: String,
        /// Its new path.
        pub to: String,
    }

    /// Removes a file, a link (never what it points at) or a directory.
    pub struct Remove {
        /// What to remove.
        pub path: String,
        /// Whether a directory goes with all it holds; otherwise it must be empty.
        pub recursive: bool,
    }

    /// Prepares for a snapshot: what is dirty goes to the disk, what is free goes to the kernel.
    pub struct Settle {
        /// Drop clean page cache, dentries and inodes too, and compact memory.
        pub drop_caches: bool,
    }

    /// Has the request that follows on the same connection carried out with a user's rights to files
    /// in place of root's. It must be a `ReadFile`, `List`, `Stat`, `Pack` or `Watch`, or, from generation 2
    /// on, a `WriteFile`, `MakeDir`, `Move`, `Remove` or `Unpack`; what is made is then that user's.
    pub struct As {
        /// User name or decimal uid.
        pub user: String,
    }

    /// Reads a directory with all that is in it, as a tar archive. Names in it start below the
    /// directory. Sockets, FIFOs and devices are left out, and so is what other file systems hold; a
    /// file that shrinks on the way is filled up with zeros.
    pub struct Pack {
        /// The directory.
        pub path: String,
    }

    /// Unpacks the tar archive of the `Chunk` frames that follow, up to `End`, into a directory, which is
    /// made if it is not there. Nothing is written outside of it, whatever the archive or another
    /// process says. Owners in the archive do not count.
    pub struct Unpack {
        /// The directory.
        pub path: String,
        /// Owner of what is made, the default user when `None`.
        pub user: Option<String>,
    }

    /// Tells what changes in a directory. `StatAnswer` says that what happens from now on is told.
    /// Goes on until the host closes, or until the directory is gone.
    pub struct Watch {
        /// The directory.
        pub path: String,
        /// Whether directories in it are watched too, those that come later included.
        pub recursive: bool,
    }

    /// Opens a connection to a program in the guest: to 127.0.0.1, or to ::1 when nothing listens
    /// there. After `Done` no frames follow: each side's bytes are the other's, until both have ended.
    pub struct Connect {
        /// TCP port, not 0.
        pub port: u16,
    }

    /// As [`Connect`], to a program that listens on a Unix socket, which sees the agent's root as its peer.
    pub struct ConnectUnix {
        /// Absolute path of the socket, at most 107 bytes.
        pub path: String,
    }

    /// Sends a signal to the command's process group.
    pub struct Signal {
        /// Linux signal number, 1 to 64.
        pub number: i32,
    }

    /// The command runs.
    pub struct Started {
        /// Its process id, which is its process group's and session's too.
        pub pid: u32,
    }

    /// The command is over, and all it printed was sent. Exactly one of `code` and `signal` is there.
    pub struct Exited {
        /// Exit code, 0 to 255.
        pub code: Option<i32>,
        /// The signal that ended it.
        pub signal: Option<i32>,
        /// Whether it was the time limit that ended it.
        pub timed_out: bool,
    }

    /// A process started with [`Spawn`], as it is now.
    pub struct Process {
        /// Its number: 1, 2, 3 … in a guest, never used twice, not even after a restore.
        pub id: u32,
        /// Its process id, unless it could not be started.
        pub pid: Option<u32>,
        /// Program and arguments; very long ones are cut.
        pub argv: Vec<String>,
        /// The user it runs as, by name, or by number when it has none.
        pub user: String,
        /// The directory it was started in.
        pub cwd: String,
        /// Whether it has a terminal.
        pub pty: bool,
        /// When it was started, nanoseconds since 1970 UTC.
        pub started_ns: i64,
        /// When its end was learned of.
        pub ended_ns: Option<i64>,
        /// How it ended.
        pub exited: Option<Exited>,
        /// The last event there is.
        pub last_seq: u64,
    }

    /// Number and time of the event in the next frame.
    pub struct Mark {
        /// 0, 1, 2 … in the life of a process.
        pub seq: u64,
        /// When the agent learned of it, nanoseconds since 1970 UTC.
        pub at_ns: i64,
    }

    /// Events that are not kept any more. Its `Mark` has the number of the last of them.
    pub struct Dropped {
        /// How many are missing.
        pub events: u64,
    }

    /// The agent works.
    pub struct Healthy {
        /// Generation the agent speaks.
        pub generation: u16,
        /// Version of the agent's package.
        pub agent_version: String,
        /// Monotonic time since the guest booted, in milliseconds; a restore does not reset it.
        pub uptime_ms: u64,
        /// The boot id as set by the last `Identify`, all zero before.
        pub boot_id: [u8; 16],
        /// Wall clock in the guest, nanoseconds since 1970 UTC.
        pub wall_clock_ns: i64,
    }

    /// The guest is a machine of its own now.
    pub struct Identified {
        /// Generation the agent speaks.
        pub generation: u16,
        /// What the agent spent on it, in microseconds.
        pub took_us: u32,
    }

    /// What is known about a file.
    pub struct FileStat {
        /// What it is.
        pub kind: FileKind,
        /// Bytes; 0 for what has no size.
        pub size: u64,
        /// Permission bits, 0 to 0o7777.
        pub mode: u32,
        /// Numeric owner.
        pub uid: u32,
        /// Numeric group.
        pub gid: u32,
        /// Owner's name, when it has one.
        pub user: Option<String>,
        /// Group's name, when it has one.
        pub group: Option<String>,
        /// Last change of the content, nanoseconds since 1970 UTC.
        pub modified_ns: i64,
        /// What a symbolic link holds.
        pub link_target: Option<String>,
    }

    /// A file's data follows.
    pub struct FileHead {
        /// The file as it was when opened.
        pub stat: FileStat,
    }

    /// One name in a directory.
    pub struct Entry {
        /// The name, without the directory. Bytes that are not UTF-8 are shown as U+FFFD.
        pub name: String,
        /// Of the name itself: a link is not followed.
        pub stat: FileStat,
    }

    /// Some names of a directory.
    pub struct Entries {
        /// In order, going on from the frame before.
        pub entries: Vec<Entry>,
    }

    /// Answers `Stat`.
    pub struct StatAnswer {
        /// The file.
        pub stat: FileStat,
    }

    /// Something changed in a watched directory.
    pub struct Change {
        /// When the agent learned of it, nanoseconds since 1970 UTC.
        pub at_ns: i64,
        /// What happened.
        pub what: ChangeKind,
        /// Below the watched directory; empty for itself, and for `Missed`. Bytes that are not UTF-8
        /// are shown as U+FFFD.
        pub path: String,
        /// Where it is now, when it was moved.
        pub to: Option<String>,
        /// What it is, if it is still there to be looked at.
        pub kind: Option<FileKind>,
    }

    /// The request was not carried out.
    pub struct Failed {
        /// Which kind of failure.
        pub code: FailCode,
        /// One sentence: what failed, because of what.
        pub message: String,
    }
}

impl ProcessBounds {
    /// Those of [`Spawn`].
    pub const PROTOCOL: Self =
        Self { processes: PROCESSES_MAX, output_kept_bytes: OUTPUT_KEPT_BYTES };

    /// Whether an agent holds processes to them.
    pub fn are_possible(&self) -> bool {
        PROCESSES_RANGE.contains(&self.processes)
            && OUTPUT_KEPT_BYTES_RANGE.contains(&self.output_kept_bytes)
    }
}

choices! {
    /// Kinds of failure a host may want to tell apart. Numbers are positions: append only.
    pub enum FailCode {
        /// The frames are not what the request takes, or a field is out of its range.
        InvalidRequest,
        /// The agent's generation does not know this.
        Unsupported,
        /// No such file or directory.
        NotFound,
        /// Something is already there.
        AlreadyExists,
        /// A directory was needed on the path.
        NotADirectory,
        /// A file was needed, and this is a directory.
        IsADirectory,
        /// Neither a file nor a directory, and the request needs one.
        NotAFile,
        /// The directory holds something.
        DirectoryNotEmpty,
        /// The guest's kernel refused: permission, read-only file system.
        PermissionDenied,
        /// The disk is full.
        NoSpace,
        /// The guest has no such user.
        UnknownUser,
        /// Too many requests at once.
        Busy,
        /// The clone could not be made a machine of its own; it must not be served.
        IdentityFailed,
        /// No memory or no process slot left in the guest.
        OutOfResources,
        /// Anything else the guest's kernel says.
        Io,
        /// There is no process of that number, or not any more.
        ProcessUnknown,
        /// The process is over.
        ProcessOver,
        /// Nothing listens on the port.
        NothingListens,
    }
}

choices! {
    /// What a path stands for. Numbers are positions: append only.
    pub enum FileKind {
        /// A regular file.
        File,
        /// A directory.
        Directory,
        /// A symbolic link.
        Symlink,
        /// A device, socket or FIFO.
        Other,
    }
}

choices! {
    /// What happened to a file. Numbers are positions: append only.
    pub enum ChangeKind {
        /// It is there now, made here or moved here from elsewhere.
        Created,
        /// Its content changed.
        Modified,
        /// Its mode, owner or times changed.
        Attributes,
        /// It is not there any more.
        Removed,
        /// It has another name, both in what is watched.
        Moved,
        /// So much happened that some of it was not noticed.
        Missed,
    }
}
