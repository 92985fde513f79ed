use std::collections::BTreeMap;

use base_types::{SandboxId, Size, SnapshotId, TemplateName};
use serde::{Deserialize, Serialize};

use crate::check::{Check, Refused, env, metadata, refuse};
use crate::vault::wanted;
use crate::{Policy, READY_TIMEOUT_MS_MAX, SecretName, TIMEOUT_S_DEFAULT, TIMEOUT_S_MAX};

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
    /// Make it from this snapshot instead: its template and size are the snapshot's, whatever
    /// `template` and `size` say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, example = "snap_0123456789abcdef"))]
    pub snapshot: Option<SnapshotId>,
    /// What its owner wants to find it by: at most 32 entries, names of at most 64 bytes, values of
    /// at most 512.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Seconds from now until `on_timeout` happens; 0 is never. Default: 3600. The time stands still
    /// while a sandbox is paused; a resume begins it anew.
    #[serde(default = "default_timeout_s")]
    pub timeout_s: u32,
    /// Seconds without a request or an open stream until `on_timeout` happens; 0, the default, is
    /// never.
    #[serde(default)]
    pub idle_timeout_s: u32,
    /// What happens when one of the two is over. Default: `kill`.
    #[serde(default)]
    pub on_timeout: OnTimeout,
    /// What it may reach. Default: what its `snapshot` might, or else the internet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Policy>,
    /// Variables that hold placeholders of secrets, and the names of these. Where a request of the
    /// sandbox goes to a host of the secret, the node puts the value in. At most 32.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "server", schema(value_type = BTreeMap<String, String>, example = json!({"OPENAI_API_KEY": "openai"})))]
    pub secrets: BTreeMap<String, SecretName>,
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

const fn default_timeout_s() -> u32 {
    TIMEOUT_S_DEFAULT
}

impl Default for CreateSandbox {
    fn default() -> Self {
        Self {
            template: default_template(),
            size: default_size(),
            name: None,
            env: BTreeMap::new(),
            snapshot: None,
            metadata: BTreeMap::new(),
            timeout_s: default_timeout_s(),
            idle_timeout_s: 0,
            on_timeout: OnTimeout::default(),
            network: None,
            secrets: BTreeMap::new(),
            options: CreateOptions::default(),
        }
    }
}

impl Check for CreateSandbox {
    fn check(&self) -> Result<(), Refused> {
        name(self.name.as_deref())?;
        timeout("timeout_s", self.timeout_s)?;
        timeout("idle_timeout_s", self.idle_timeout_s)?;
        metadata(&self.metadata)?;
        if self.snapshot.is_some() && self.options.cold {
            return refuse(
                "`cold` boots a kernel, a `snapshot` is restored; leave one of them out",
            );
        }
        if self.options.ready_timeout_ms.is_some_and(|ms| ms == 0 || ms > READY_TIMEOUT_MS_MAX) {
            return refuse(format!("`ready_timeout_ms` must be 1 to {READY_TIMEOUT_MS_MAX}"));
        }
        self.network.as_ref().map_or(Ok(()), Policy::check)?;
        wanted(&self.secrets, &self.env)?;
        env(&self.env)
    }
}

/// A name for people.
pub(crate) fn name(name: Option<&str>) -> Result<(), Refused> {
    let legal = |name: &str| {
        (1..=63).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    match name {
        Some(name) if !legal(name) => {
            refuse("`name` must be 1 to 63 of a-z, A-Z, 0-9, `.`, `_` and `-`")
        }
        _ => Ok(()),
    }
}

fn timeout(field: &str, seconds: u32) -> Result<(), Refused> {
    if seconds > TIMEOUT_S_MAX {
        return refuse(format!(
            "`{field}` is {seconds}; at most {TIMEOUT_S_MAX} seconds are allowed, 0 is never"
        ));
    }
    Ok(())
}

/// What happens to a sandbox whose time is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    /// It is destroyed.
    #[default]
    Kill,
    /// It is paused, and resumes when it is used again.
    Pause,
}

/// A new lifetime for a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetTimeout {
    /// Seconds from now until its `on_timeout` happens; 0 is never.
    pub timeout_s: u32,
}

impl Check for SetTimeout {
    fn check(&self) -> Result<(), Refused> {
        timeout("timeout_s", self.timeout_s)
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
    /// The snapshot it was made from, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>))]
    pub snapshot: Option<SnapshotId>,
    /// What was given at create.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// When its time is over, in milliseconds since the Unix epoch; absent when it has no end, and
    /// while it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_at_ms: Option<u64>,
    /// Seconds without use until its time is over; 0 is never.
    #[serde(default)]
    pub idle_timeout_s: u32,
    /// What happens then.
    #[serde(default)]
    pub on_timeout: OnTimeout,
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
    /// On its way to `paused`.
    Pausing,
    /// Its processes, memory and files are on disk, and cost nothing else. Any use resumes it.
    Paused,
    /// On its way back to `running`.
    Resuming,
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

/// Counters of one sandbox's machine since it was made, and what it takes now.
///
/// What the node cannot tell is left out: without cgroup v2, or their controllers, processor time and
/// memory; of a sandbox that an earlier daemon started, the time it runs.
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
    /// Processor time its machine has taken, in microseconds; all its vCPUs and its devices together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_time_us: Option<u64>,
    /// Memory that is charged to its machine now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// As much may be charged to it; when it would be more, it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// What its disk takes on the node, with what it shares with its snapshots and forks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// How long its guest runs, since it was made or last resumed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_ms: Option<u64>,
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
    fn a_network_is_a_policy_or_left_to_the_node() {
        let create = |network: &str| {
            serde_json::from_str::<CreateSandbox>(&format!(r#"{{"network": {network}}}"#))
        };
        assert_eq!(create("null").unwrap(), CreateSandbox::default());
        let nothing = create(r#"{"base": "none", "allow": ["pypi.org:443"]}"#).unwrap();
        assert_eq!(nothing.network.as_ref().unwrap().allow[0].to_string(), "pypi.org:443");
        assert!(create(r#"{"base": "some"}"#).is_err());
        let mut many = nothing;
        let rules = vec!["*".parse().unwrap(); crate::POLICY_RULES_MAX + 1];
        many.network = Some(Policy { deny: rules, ..Policy::default() });
        assert!(many.check().is_err());
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
