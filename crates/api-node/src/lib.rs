//! The HTTP API of a node: what `sandflare` and SDKs say to `sandflared`.
//!
//! Everything here is a promise to users. Without features this crate is types only; feature
//! `server` adds [`NodeApi`] (the operations, as a trait), [`router`] (the same over HTTP) and
//! [`openapi`] (the document, made without any implementation). The router holds no logic: it
//! parses, checks, bounds, calls the trait and renders. It never touches KVM, files or processes.
//!
//! Conventions: the prefix is [`PREFIX`]; requests refuse unknown fields, responses may grow some;
//! enums are `snake_case`; every response that is not a success carries a [`Failure`]; streams are
//! one JSON object per line (`application/x-ndjson`); units are the last word of a field's name.
#![warn(missing_docs)]

mod check;
mod failure;
mod file;
mod node;
mod process;
mod sandbox;
mod template;

#[cfg(feature = "server")]
mod server;

pub use check::{Check, Refused};
pub use failure::{ErrorCode, Failure};
pub use file::{
    DirectoryList, FileEntry, FileKind, FileQuery, FileReadQuery, FileWriteQuery, MakeDirectory,
    MoveFile, RemoveQuery,
};
pub use node::{
    ColdBoot, ColdBootQuery, DataUsage, Floor, FloorPhase, FloorQuery, Health, Kvm, KvmKind,
    MemoryUsage, Node, Pool, Spread,
};
pub use process::{ExecBody, ExecEvent, ExecRequest, ProcessId, SignalRequest, StdinQuery};
pub use sandbox::{
    CreateOptions, CreateSandbox, MemoryPath, PhaseTimes, Sandbox, SandboxList, SandboxState,
    SandboxStats,
};
pub use template::{BuildBody, BuildEvent, Template, TemplateList, TemplateState};

#[cfg(feature = "server")]
pub use server::{
    ByteStream, EventStream, FileContent, NodeApi, UploadError, UploadStream, openapi, router,
};

/// What every path of this API starts with.
pub const PREFIX: &str = "/v1";
/// Content type of a stream of events: one JSON object per line.
pub const NDJSON: &str = "application/x-ndjson";
/// Header that carries the id of the request on every response.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// LIMIT: a JSON request. The largest is an exec with a full environment ([`ENV_BYTES_MAX`] plus
/// [`ARGV_BYTES_MAX`]), escaped.
pub const JSON_BYTES_MAX: usize = 1024 * 1024;
/// LIMIT: one chunk of standard input; it is held in memory whole, so that it arrives whole or not.
pub const STDIN_BYTES_MAX: usize = 1024 * 1024;
/// LIMIT: one uploaded file. Bigger than any sandbox's disk would hold, small enough that a client
/// that never stops is stopped.
pub const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;
/// LIMIT: arguments of one command, all together; half of what Linux takes for arguments and
/// environment with the usual 8 MiB stack would fit, but nobody types that.
pub const ARGV_BYTES_MAX: usize = 256 * 1024;
/// LIMIT: number of arguments of one command.
pub const ARGV_COUNT_MAX: usize = 4096;
/// LIMIT: environment of one command or sandbox, names and values together.
pub const ENV_BYTES_MAX: usize = 128 * 1024;
/// LIMIT: Linux's `PATH_MAX`, without the closing zero.
pub const PATH_BYTES_MAX: usize = 4095;
/// LIMIT: the longest a command may be asked to run under a limit, one day.
pub const TIME_LIMIT_MS_MAX: u64 = 24 * 60 * 60 * 1000;
/// LIMIT: the longest a create may wait for its guest's agent. A cold boot under emulation takes
/// half a minute; ten minutes is a machine that is not coming.
pub const READY_TIMEOUT_MS_MAX: u32 = 10 * 60 * 1000;
/// LIMIT: samples of one floor measurement; each one builds and drops a virtual machine.
pub const FLOOR_RUNS_MAX: u32 = 200;
/// Seconds without an event after which a stream of events gets a heartbeat, so that a broken
/// connection is noticed at both ends.
pub const HEARTBEAT_SECS: u64 = 15;
