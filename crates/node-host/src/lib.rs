//! Everything the node does to the machine it runs on: VMM processes and their resource groups,
//! the pool of shells, templates, and one owner task per sandbox.
//!
//! ```text
//!   Host ──▶ owner task per sandbox ──▶ machine: restore or boot ──▶ VMM process
//!     │                 │                                   ▲             │
//!     │                 └──▶ Templates ── snapshot once ────┤             ▼
//!     └──▶ Store        └──▶ Shells ─── process + VM ───────┘           guest
//! ```
//!
//! Linux, root. No HTTP here, and no KVM: only `sandflare-vmm` touches that.

mod bounds;
mod cgroup;
mod console;
mod control;
mod device;
mod disk;
mod flows;
mod guest;
mod host;
mod images;
mod journal;
mod keeper;
mod machine;
mod measure;
mod memory;
mod network;
mod phase;
mod sandbox;
mod shells;
mod snapshots;
mod spawn;
mod step;
mod template;
mod uid;
mod vmm;
mod watched;

pub use bounds::IoBounds;
pub use control::ControlError;
pub use flows::FlowLog;
pub use guest::{
    AttachBody, AttachEvent, AttachReader, ENTRIES_MAX, ExecEvent, ExecInput, ExecReader,
    FileReader, FileWriter, GuestConnection, GuestError, PROCESSES_SHOWN_MAX, PortStream,
    WatchReader, spawn_within,
};
pub use host::{DiskUse, Host, HostSettings, Moment, StartError, WantedSnapshot};
pub use images::{ImageError, Images};
pub use journal::Deed;
pub use machine::MachineError;
pub use measure::{FloorReport, KvmKind, MeasureError, PhaseSpread, Spread, Verdict, floor, probe};
pub use network::{NetworkGuard, Networks, PolicyWatch, Unplugged};
pub use phase::Phase;
pub use sandbox::{
    AskError, CreateError, CreateSpec, CreateTimes, Lease, OnTimeout, OrderError, PolicyError,
    PortsError, PortsRule, SandboxFacts, SandboxHandle, SandboxUsage, SandboxView, Use,
};
pub use shells::{PoolStats, ShellError};
pub use snapshots::SnapshotFacts;
pub use spawn::SpawnError;
pub use template::{
    DamageError, DeleteTemplateError, Manifest, Template, TemplateError, TemplateState, Templates,
};
pub use vmm::VmmStartError;
