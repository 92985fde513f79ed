use base_types::{Size, TemplateName};
use serde::{Deserialize, Serialize};

use crate::FLOOR_RUNS_MAX;
use crate::check::{Check, Refused, refuse};

/// That the node serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Health {
    /// Whether it takes new sandboxes.
    pub ready: bool,
    /// Version of the node.
    pub version: String,
}

/// What a node is and has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Node {
    /// Version of the node.
    pub version: String,
    /// Version of the kernel the node runs on.
    pub kernel_release: String,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// Processors of the machine.
    pub cpus: u32,
    /// What its KVM can do.
    pub kvm: Kvm,
    /// Sandboxes alive.
    pub sandboxes: u32,
    /// Shells kept ready for the next create.
    pub pool: Pool,
    /// How long the last creates took.
    #[serde(default)]
    pub creates: CreateTimes,
    /// Memory of the machine.
    pub memory: MemoryUsage,
    /// Disk under the node's data.
    pub data: DataUsage,
}

/// How long the last thousand creates took, from the request to an agent that answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct CreateTimes {
    /// How many there were, at most a thousand.
    pub count: u32,
    /// Median, in microseconds.
    pub p50_us: u64,
    /// 99th percentile, by nearest rank, in microseconds.
    pub p99_us: u64,
    /// The slowest, in microseconds.
    pub max_us: u64,
}

/// What a machine's KVM can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Kvm {
    /// Whether it runs Linux guests.
    pub usable: bool,
    /// What was found.
    pub kind: KvmKind,
    /// The same, for people.
    pub reason: String,
}

/// What was found when KVM was probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum KvmKind {
    /// There is no /dev/kvm.
    NoDevice,
    /// It may not be opened.
    NoPermission,
    /// It opens, but does not run the code a Linux kernel consists of.
    CannotRunLinux,
    /// It runs Linux.
    Good,
    /// A finding newer than this build. Never sent.
    #[serde(other)]
    Unknown,
}

/// Shells (machines without a guest) kept ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Pool {
    /// Ready now, over all sizes.
    pub ready: u32,
    /// How many the node keeps, over all sizes.
    pub target: u32,
}

/// Memory of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct MemoryUsage {
    /// All of it, in MiB.
    pub total_mib: u64,
    /// What a new process could get, in MiB.
    pub available_mib: u64,
}

/// Disk under a node's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct DataUsage {
    /// Taken by templates and their snapshots, in bytes.
    pub templates_bytes: u64,
    /// Taken by sandboxes, in bytes.
    pub sandboxes_bytes: u64,
    /// Free on that file system, in bytes.
    pub free_bytes: u64,
}

/// What the floor measurement builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "server", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct FloorQuery {
    /// Size of the machine that is built. Default: `nano`.
    #[serde(default = "FloorQuery::default_size")]
    #[cfg_attr(feature = "server", param(value_type = String))]
    pub size: Size,
    /// How many times, 1 to 200. Default: 20.
    #[serde(default = "FloorQuery::default_runs")]
    pub runs: u32,
}

impl FloorQuery {
    const fn default_size() -> Size {
        Size::Nano
    }

    const fn default_runs() -> u32 {
        20
    }
}

impl Check for FloorQuery {
    fn check(&self) -> Result<(), Refused> {
        if (1..=FLOOR_RUNS_MAX).contains(&self.runs) {
            Ok(())
        } else {
            refuse(format!("`runs` is {}; it must be 1 to {FLOOR_RUNS_MAX}", self.runs))
        }
    }
}

/// The least this machine needs to build a virtual machine and run its first instruction: the same
/// KVM objects and memory, by a minimal program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Floor {
    /// How many times it was measured.
    pub runs: u32,
    /// Guest memory of each, in MiB.
    pub memory_mib: u32,
    /// From nothing to code that ran.
    pub total: Spread,
    /// What it consists of, in order.
    pub phases: Vec<FloorPhase>,
}

/// One part of the floor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct FloorPhase {
    /// Its name, such as `create_vm`.
    pub phase: String,
    /// Its times.
    #[serde(flatten)]
    pub spread: Spread,
}

/// A distribution, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Spread {
    /// Fastest.
    pub min_us: u64,
    /// Median.
    pub p50_us: u64,
    /// 99th percentile, by nearest rank.
    pub p99_us: u64,
}

/// What to boot cold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "server", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct ColdBootQuery {
    /// Template whose disk is booted.
    #[cfg_attr(feature = "server", param(value_type = String))]
    pub template: TemplateName,
    /// Size of the machine.
    #[cfg_attr(feature = "server", param(value_type = String))]
    pub size: Size,
}

impl Check for ColdBootQuery {
    fn check(&self) -> Result<(), Refused> {
        Ok(())
    }
}

/// How long a machine takes from nothing to an agent that answers, without any snapshot. The
/// machine is gone again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct ColdBoot {
    /// In microseconds.
    pub ready_us: u64,
}
