//! What the node and the agent inside a guest say to each other.
//!
//! The agent listens on vsock port [`AGENT_PORT`]. **One connection is one request**: the host sends
//! one [`Request`], then the [`Input`] frames that request takes, and reads [`Answer`] frames until
//! the last one of that request. Then both sides close. The host keeps its side open, for writing too,
//! until then: closing early, or shutting down the sending half, withdraws the request: a
//! running command is killed with its process group, a half-written file vanishes.
//!
//! | request | host sends then | guest answers |
//! |---|---|---|
//! | `Health` | | `Healthy` |
//! | `Identify` | | `Identified` |
//! | `SetClock` | | `Done` |
//! | `Exec` | (`Stdin` \| `CloseStdin` \| `Signal`)* | `Started`, (`Stdout` \| `Stderr`)*, `Exited` |
//! | `ReadFile` | | `FileHead`, `Chunk`*, `End` |
//! | `WriteFile` | `Chunk`*, `End` | `Done` |
//! | `List` | | `Entries`*, `Done` |
//! | `Stat` | | `StatAnswer` |
//! | `MakeDir`, `Move`, `Remove`, `Settle` | | `Done` |
//! | `Spawn`, `SpawnWithin` | | `Process` |
//! | `Processes` | | `Process`*, `Done` |
//! | `Attach` | (`Stdin` \| `CloseStdin` \| `Signal` \| `Resize`)* | `Process`, (`Mark`, (`Started` \| `Stdout` \| `Stderr` \| `Dropped` \| `Exited`))* |
//! | `Control` | (`Stdin` \| `CloseStdin` \| `Signal` \| `Resize`)*, `End` | `Done` |
//! | `As` | another request | what that one answers |
//! | `Pack` | | `FileHead`, `Chunk`*, `End` |
//! | `Unpack` | `Chunk`*, `End` | `Done` |
//! | `Watch` | | `StatAnswer`, `Change`* |
//! | `Connect`, `ConnectUnix` | bytes, after `Done` | `Done`, then bytes |
//!
//! In place of any answer may come [`Answer::Failed`]; it is always the last.
//!
//! A command that is not there exits with code [`EXIT_NOT_FOUND`], one that may not be run with
//! [`EXIT_NOT_EXECUTABLE`], each after one line on its standard error, like a shell's, and without a
//! `Started`. What a command leaves in the background lives on after its `Exited`. `Failed` is
//! the answer to an `Exec` only when the request itself is wrong: no such user, no such directory.
//!
//! **Processes.** What `Spawn` starts belongs to the guest, not to a connection: closing an `Attach`
//! leaves it as it is. The agent keeps its last [`OUTPUT_KEPT_BYTES`] of output for those who come
//! later, or as much as a `SpawnWithin` says, and its end for [`ENDED_KEPT_SECS`]. Who attaches and reads misses nothing; who attaches
//! and does not read is waited for [`READER_WAIT_SECS`], and then told with `Dropped` how many
//! events it missed. The last frame of an `Attach` is `Exited`.
//!
//! **Order after a restore.** A guest cannot know that it was restored. The node must send
//! [`Identify`] on the first connection after a restore and open no other before it got
//! [`Answer::Identified`]; a guest that answers anything else, or nothing in time, is destroyed.
//!
//! # Frames
//!
//! `u32` little endian length of what follows (1 to [`FRAME_BYTES_MAX`]), one kind byte, payload. The
//! payload of bulk data is the data itself; all others are postcard.
//!
//! # Growing
//!
//! A guest's [`GENERATION`] is frozen the day its snapshot was taken, so the newer side, the host,
//! adapts: it never sends what the guest cannot know. Kind numbers, fields and enum variants are only
//! ever appended: a message that needs another field gets a new kind. The surface is written down in
//! `wire/guest-1.txt`, and a test compares.
//!
//! **Ports.** After the `Done` of a `Connect` or `ConnectUnix` the connection is a pipe to the program's: bytes, no
//! frames. Ending one direction does not end the other; the pipe is gone when both have ended, or one
//! side is.
//!
//! This crate is data only: no clock, no files, no sockets. Neither side trusts the other's bytes.

use std::ops::RangeInclusive;

mod codec;
mod frames;
mod message;
pub mod network;
mod surface;

pub use codec::{Decoder, FrameError, HEADER_BYTES, Message, decode_all, raw_header};
pub use frames::{Answer, Input, Request};
pub use message::{
    As, Attach, Change, ChangeKind, Connect, ConnectUnix, Control, Dropped, Entries, Entry, Exec,
    Exited, FailCode, Failed, FileHead, FileKind, FileStat, Healthy, Identified, Identify, List,
    MakeDir, Mark, Move, Pack, Process, ProcessBounds, PtySize, ReadFile, Remove, Resize, SetClock,
    Settle, Signal, Spawn, SpawnWithin, Started, Stat, StatAnswer, Unpack, Watch, WriteFile,
};
pub use surface::surface;

/// The step in this protocol's history that this code speaks. The only version number there is.
pub const GENERATION: u16 = 2;
/// The step that brought [`SpawnWithin`]. An agent of before closes the connection at it.
pub const GENERATION_OF_BOUNDS: u16 = 2;
/// The step from which on [`As`] covers what changes files. An agent of before refuses it.
pub const GENERATION_OF_ACTS: u16 = 2;
/// The vsock port the agent listens on.
pub const AGENT_PORT: u32 = 1024;

/// LIMIT: kind byte and payload of one frame. Holds a whole argument list and environment as people
/// write them, and keeps a connection's memory small on both sides.
pub const FRAME_BYTES_MAX: usize = 128 * 1024;
/// LIMIT: data a sender puts in one bulk frame; one pipe's worth, so that no read is split.
pub const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// LIMIT: fewer bytes of entropy do not fill a 256 bit state.
pub const ENTROPY_BYTES_MIN: usize = 32;
/// LIMIT: more entropy than this adds nothing and costs time on every create.
pub const ENTROPY_BYTES_MAX: usize = 512;
/// LIMIT: the kernel's own bound on a host name (`HOST_NAME_MAX`).
pub const HOSTNAME_BYTES_MAX: usize = 64;

/// LIMIT: output of one process kept for those who attach later, unless the host chooses; a screenful
/// many times over, and small in a sandbox of 256 MiB with tens of processes.
pub const OUTPUT_KEPT_BYTES: u32 = 1024 * 1024;
/// LIMIT: what a host may choose for that. With less, one round of a process that writes to both its
/// streams would not be kept whole; more is for a file.
pub const OUTPUT_KEPT_BYTES_RANGE: RangeInclusive<u32> = 256 << 10..=64 << 20;
/// LIMIT: processes of `Spawn` that run at once, unless the host chooses. Each costs a thread of the
/// agent's, and its output.
pub const PROCESSES_MAX: u32 = 64;
/// LIMIT: what a host may choose for that: with more, threads that only wait fill a small guest.
pub const PROCESSES_RANGE: RangeInclusive<u32> = 1..=512;
/// LIMIT: processes that are over and still known; beyond it the first to end is forgotten.
pub const ENDED_KEPT_MAX: usize = 32;
/// LIMIT: how long a process that is over is still known: long enough to come back for its end.
pub const ENDED_KEPT_SECS: u64 = 600;
/// LIMIT: how long a process waits for an attached reader that takes nothing. A reader that was slow
/// for a moment loses nothing; one that is stuck does not hold the process up for ever.
pub const READER_WAIT_SECS: u64 = 5;

/// The user a command runs as, and a file belongs to, when the request names none.
pub const DEFAULT_USER: &str = "agent";
/// Exit code of a command that was not found.
pub const EXIT_NOT_FOUND: i32 = 127;
/// Exit code of a command that is there and cannot be executed.
pub const EXIT_NOT_EXECUTABLE: i32 = 126;
