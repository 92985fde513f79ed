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

mod access;
mod audit;
mod check;
mod database;
mod failure;
mod file;
mod flow;
mod listing;
mod measure;
mod node;
mod paging;
mod policy;
mod port;
mod process;
mod range;
mod sandbox;
mod secret;
mod snapshot;
mod template;
mod vault;
mod watch;

#[cfg(feature = "server")]
mod server;

pub use access::{
    ANSWER_KEPT_MS, Caller, ChangeProject, CreateKey, CreateProject, CreatedKey, Errand, Key,
    KeyList, NAME_BYTES_MAX, Project, ProjectList, QUOTA_MAX, Quota, QuotaChange, Role, Usage,
    Used,
};
pub use audit::{
    AUDIT_LIMIT_MAX, AuditEntry, AuditList, AuditQuery, AuditVerified, AuditVerifyQuery,
};
pub use check::{Check, Refused};
pub use database::{
    ClientNetwork, Column, CreateDatabase, CreateDatabaseSnapshot, DATABASE_DISK_MIB_MAX,
    DATABASE_DISK_MIB_MIN, Database, DatabaseCache, DatabaseConnections, DatabaseList,
    DatabaseListQuery, DatabaseSnapshot, DatabaseSnapshotList, DatabaseStats, DatabaseStatus,
    DatabaseTransactions, EXTENSIONS_MAX, ForkDatabase, OUTSIDE_NETWORKS_MAX, Outside,
    PASSWORD_BYTES_MAX, QUERY_ROWS_MAX, QUERY_TIMEOUT_MS_DEFAULT, QUERY_TIMEOUT_MS_MAX,
    QueryAnswer, QueryDatabase, RestoreDatabase, SQL_BYTES_MAX, SetOutside, SetPassword, SlowQuery,
    WireDatabase, WireRole, Wired, WiredList,
};
pub use failure::{ErrorCode, Failure};
pub use file::{
    DirectoryList, FileEntry, FileKind, FileQuery, FileWriteQuery, MakeDirectory, MoveFile,
    RemoveQuery, UnpackQuery,
};
pub use flow::{FLOW_LIMIT_MAX, Flow, FlowEntry, FlowList, FlowProtocol, FlowQuery, Verdict};
pub use listing::{LogsQuery, SandboxList, SandboxListQuery};
pub use measure::{MEASURE_MIB_MAX, MEASURE_RUNS_MAX, Measure, Measured};
pub use node::{
    ColdBoot, ColdBootQuery, CreateTimes, DataUsage, Floor, FloorPhase, FloorQuery, Health, Kvm,
    KvmKind, MemoryUsage, Node, Pool, Spread,
};
pub use paging::{LIST_LIMIT_DEFAULT, LIST_LIMIT_MAX, PageQuery};
pub use policy::{
    Base, Cidr, DomainName, POLICY_RULE_BYTES_MAX, POLICY_RULES_MAX, ParseRuleError, Policy, Ports,
    Protocol, Rule, Target,
};
pub use port::{
    PORT_HEADER, PORT_SANDBOX_HEADER, PORT_TOKEN_HEADER, PORT_TOKEN_NAME, PUBLIC_PORTS_MAX,
    ParseTokenError, Port, PortList, PortToken, SetPort,
};
pub use process::{
    EventsQuery, ExecBody, ExecEvent, ExecRequest, Process, ProcessExit, ProcessId, ProcessList,
    PtySize, SignalRequest, SocketRequest, SpawnRequest, StdinQuery,
};
pub use range::{ByteRange, Extent};
pub use sandbox::{
    CreateOptions, CreateSandbox, MemoryPath, OnTimeout, PhaseTimes, Sandbox, SandboxState,
    SandboxStats, SetTimeout,
};
pub use secret::{ParseSecretError, SECRET_BYTES, Secret, SecretHash};
pub use snapshot::{CreateSnapshot, Fork, ForkDatabases, Forked, Snapshot, SnapshotList};
pub use template::{BuildBody, BuildEvent, Template, TemplateList, TemplateState};
pub use vault::{
    AUTHORITY_VARIABLES, ParsePlaceholderError, ParseSecretHostError, ParseSecretNameError,
    Placeholder, SANDBOX_SECRETS_MAX, SECRET_HOSTS_MAX, SECRET_NAME_BYTES_MAX,
    SECRET_VALUE_BYTES_MAX, SECRETS_MAX, SecretGrant, SecretHost, SecretList, SecretName,
    SecretValue, SetSecret, StoredSecret,
};
pub use watch::{WatchBody, WatchEvent, WatchQuery};

#[cfg(feature = "server")]
pub use server::{
    AccessApi, Addresses, AtPort, Begun, ByteStream, DatabasesApi, Domain, EventStream,
    FileContent, Fingerprint, KeptAnswer, Limits, Made, NodeApi, Noted, Origin, ParseDomainError,
    PolicyApi, PortIo, PortsAccess, PortsApi, ProcessInput, ProcessLine, RequestId, SecretsApi,
    UploadError, UploadStream, openapi, router, serve,
};

/// What every path of this API starts with.
pub const PREFIX: &str = "/v1";
/// Content type of a stream of events: one JSON object per line.
pub const NDJSON: &str = "application/x-ndjson";
/// Content type of a directory with all that is in it.
pub const TAR: &str = "application/x-tar";
/// Content type of the figures at `/metrics`.
pub const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Header that carries the id of the request on every response.
pub const REQUEST_ID_HEADER: &str = "x-request-id";
/// Header that makes a create happen once, however often it is asked for: the same request with the
/// same value gets the same answer, for a day.
pub const IDEMPOTENCY_KEY_HEADER: &str = "idempotency-key";

/// LIMIT: a JSON request. The largest is a query or the seed of a database, [`SQL_BYTES_MAX`] and what
/// escaping its line breaks and quotes adds.
pub const JSON_BYTES_MAX: usize = 2 * 1024 * 1024;
/// LIMIT: one chunk of standard input; it is held in memory whole, so that it arrives whole or not.
pub const STDIN_BYTES_MAX: usize = 1024 * 1024;
/// LIMIT: arguments and environment of one command together, with its sandbox's environment. They reach
/// the guest in one frame of 128 KiB, which also holds a path, a user and the lengths of all texts.
pub const COMMAND_BYTES_MAX: usize = 120 * 1024;
/// LIMIT: arguments of one command, all together, each with a byte for its end.
pub const ARGV_BYTES_MAX: usize = COMMAND_BYTES_MAX;
/// LIMIT: number of arguments of one command.
pub const ARGV_COUNT_MAX: usize = 4096;
/// LIMIT: environment of one command or sandbox, names and values together, each with a byte for its
/// end. A sandbox that has all of it can still be given commands.
pub const ENV_BYTES_MAX: usize = 112 * 1024;
/// LIMIT: lines, and characters in a line, of a terminal; more than any screen has, and programs
/// allocate by them.
pub const PTY_SIDE_MAX: u16 = 10_000;
/// LIMIT: a message of a process's socket; input as it is typed or pasted.
pub const SOCKET_MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// LIMIT: Linux's `PATH_MAX`, without the closing zero.
pub const PATH_BYTES_MAX: usize = 4095;
/// LIMIT: the longest a command may be asked to run under a limit, one day.
pub const TIME_LIMIT_MS_MAX: u64 = 24 * 60 * 60 * 1000;
/// LIMIT: the longest a create may wait for its guest's agent. A cold boot under emulation takes
/// half a minute; ten minutes is a machine that is not coming.
pub const READY_TIMEOUT_MS_MAX: u32 = 10 * 60 * 1000;
/// LIMIT: the longest lifetime that can be asked for, a year; 0 is how to say for ever.
pub const TIMEOUT_S_MAX: u32 = 365 * 24 * 60 * 60;
/// Seconds a sandbox lives when nothing is said.
pub const TIMEOUT_S_DEFAULT: u32 = 3600;
/// LIMIT: entries of a sandbox's metadata; lists are filtered by them one by one.
pub const METADATA_ENTRIES_MAX: usize = 32;
/// LIMIT: bytes of a name in metadata; it is a word.
pub const METADATA_NAME_BYTES_MAX: usize = 64;
/// LIMIT: bytes of a value in metadata; it is a phrase, and sent with every list.
pub const METADATA_VALUE_BYTES_MAX: usize = 512;
/// LIMIT: children of one fork; each is a machine of its own.
pub const FORK_COUNT_MAX: u32 = 16;
/// LIMIT: samples of one floor measurement; each one builds and drops a virtual machine.
pub const FLOOR_RUNS_MAX: u32 = 200;
/// Seconds without an event after which a stream of events gets a heartbeat, so that a broken
/// connection is noticed at both ends.
pub const HEARTBEAT_SECS: u64 = 15;
