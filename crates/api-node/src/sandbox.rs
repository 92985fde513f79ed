use std::collections::BTreeMap;

use base_types::{SandboxId, Size, TemplateName};
use serde::{Deserialize, Serialize};

use crate::READY_TIMEOUT_MS_MAX;
use crate::check::{Check, Refused, env, refuse};

/// A sandbox to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateSandbox {
    /// The template it is a clone of. Default: `agent`.
    #[serde(default = "default_template")]
    #[cfg_attr(feature = "server", schema(value_type = String, default = "agent"))]
    pub template: TemplateName,
    /// How big it is. Default: `nano`.
    #[serde(default = "default_size")]
    #[cfg_attr(feature = "server", schema(value_type = String, default = "nano"))]
    pub size: Size,
    /// A name for people: 1 to 63 of `a-z A-Z 0-9 . _ -`. Need not be unique.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Environment of every command run in it; a command's own variables win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// How it is made; for measurements and odd machines.
    #[serde(default)]
    pub options: CreateOptions,
}

fn default_template() -> TemplateName {
    "agent".parse().expect("`agent` is a legal template name")
}

const fn default_size() -> Size {
    Size::Nano
}

impl Default for CreateSandbox {
    fn default() -> Self {
        Self {
            template: default_template(),
            size: default_size(),
            name: None,
            env: BTreeMap::new(),
            options: CreateOptions::default(),
        }
    }
}

impl Check for CreateSandbox {
    fn check(&self) -> Result<(), Refused> {
        if let Some(name) = &self.name {
            let legal = (1..=63).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
            if !legal {
                return refuse("`name` must be 1 to 63 of a-z, A-Z, 0-9, `.`, `_` and `-`");
            }
        }
        if self.options.ready_timeout_ms.is_some_and(|ms| ms == 0 || ms > READY_TIMEOUT_MS_MAX) {
            return refuse(format!("`ready_timeout_ms` must be 1 to {READY_TIMEOUT_MS_MAX}"));
        }
        env(&self.env)
    }
}

/// How a sandbox is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateOptions {
    /// How clean memory reaches the clone. Default: the node's setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_path: Option<MemoryPath>,
    /// Whether the recorded working set is brought in before the guest runs. Default: the node's
    /// setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefetch: Option<bool>,
    /// Boot the kernel instead of restoring the snapshot.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cold: bool,
    /// How long the guest's agent may take to answer, 1 to 600000 milliseconds. Default: the
    /// node's setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_timeout_ms: Option<u32>,
}

/// How clean memory reaches a clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum MemoryPath {
    /// A plain private mapping of the template's memory.
    Private,
    /// Page by page, by userfaultfd.
    Userfault,
}

impl MemoryPath {
    /// The name as it is written in a request.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Userfault => "userfault",
        }
    }
}

/// A sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Sandbox {
    /// Its id, for ever.
    #[cfg_attr(feature = "server", schema(value_type = String, example = "sbx_0123456789abcdef"))]
    pub id: SandboxId,
    /// The name given at create.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The template it is a clone of.
    #[cfg_attr(feature = "server", schema(value_type = String))]
    pub template: TemplateName,
    /// How big it is.
    #[cfg_attr(feature = "server", schema(value_type = String))]
    pub size: Size,
    /// Where it is in its life.
    pub state: SandboxState,
    /// Why it is over, in one sentence, when its state is `failed` or it was before it was killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was asked for, in milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// How long each step of its making took.
    pub phases: PhaseTimes,
}

/// Where a sandbox is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum SandboxState {
    /// Being made.
    Creating,
    /// Serving.
    Running,
    /// Being destroyed.
    Stopping,
    /// Over; kept for its reason until it is killed.
    Failed,
    /// A state newer than this build. Never sent.
    #[serde(other)]
    Unknown,
}

/// How long each step of making a sandbox took, in microseconds, seen by the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct PhaseTimes {
    /// Taking a shell from the pool (or building one).
    pub claim_us: u64,
    /// Parsing and checking the snapshot's state.
    pub parse_us: u64,
    /// Mapping memory and bringing in the working set.
    pub map_us: u64,
    /// Setting vCPU, interrupt and clock state.
    pub state_us: u64,
    /// Opening the disk and waking the devices.
    pub devices_us: u64,
    /// Letting the vCPUs run.
    pub resume_us: u64,
    /// From there until the guest has a new identity and its agent said so.
    pub reseed_us: u64,
    /// From request to an agent that answers.
    pub total_us: u64,
    /// Whether the shell had to be built because the pool was empty.
    pub pool_empty: bool,
}

/// The sandboxes of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct SandboxList {
    /// Oldest first.
    pub sandboxes: Vec<Sandbox>,
}

/// Counters of one sandbox's machine, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct SandboxStats {
    /// Page faults served by userfaultfd.
    pub faults: u64,
    /// Pages copied into private memory by the fault handler.
    pub pages_copied: u64,
    /// Pages brought in from the working set before the guest ran.
    pub pages_prefetched: u64,
    /// Pages of guest memory that are this sandbox's own now (4 KiB each).
    pub private_pages: u64,
    /// Memory of its VMM process beside guest memory, in KiB.
    pub overhead_kib: u64,
    /// Bytes written to its disk.
    pub disk_written_bytes: u64,
    /// VM exits handled in user space.
    pub exits: u64,
}

impl SandboxStats {
    /// Guest memory that is this sandbox's own, in KiB.
    pub const fn private_kib(&self) -> u64 {
        self.private_pages.saturating_mul(base_types::PAGE_SIZE / 1024)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn an_empty_create_is_a_nano_agent() {
        let create: CreateSandbox = serde_json::from_str("{}").unwrap();
        assert_eq!(create, CreateSandbox::default());
        assert_eq!((create.template.as_str(), create.size), ("agent", Size::Nano));
    }

    #[test]
    fn an_unknown_field_is_refused_rather_than_ignored() {
        let error = serde_json::from_str::<CreateSandbox>(r#"{"tempalte":"x"}"#).unwrap_err();
        assert!(error.to_string().contains("tempalte"), "{error}");
    }

    #[test]
    fn names_and_timeouts_have_bounds() {
        for name in ["", "a b", "é", &"x".repeat(64)] {
            let create = CreateSandbox { name: Some(name.into()), ..CreateSandbox::default() };
            assert!(create.check().is_err(), "{name}");
        }
        for ms in [0, READY_TIMEOUT_MS_MAX + 1] {
            let mut create = CreateSandbox::default();
            create.options.ready_timeout_ms = Some(ms);
            assert!(create.check().is_err(), "{ms}");
        }
    }

    #[test]
    fn an_environment_no_process_can_have_is_refused() {
        for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "\0")] {
            let mut create = CreateSandbox::default();
            create.env.insert(name.into(), value.into());
            assert!(create.check().is_err(), "{name:?}={value:?}");
        }
    }
}
