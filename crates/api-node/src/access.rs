//! Who may do what: keys, projects, and what a project may use.

use base_types::{KeyId, ProjectId};
use serde::{Deserialize, Serialize};

use crate::check::{Check, Refused, refuse};

/// LIMIT: a name is read by people and printed in tables.
pub const NAME_BYTES_MAX: usize = 63;
/// LIMIT: figures of a quota. Far over any machine, far under what overflows when added up.
pub const QUOTA_MAX: u64 = 1_000_000_000;

/// What a key is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// What belongs to its project.
    User,
    /// Everything on the node, and all projects.
    Admin,
}

impl Role {
    /// The name as it is written in a request.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Admin => "admin",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How long a create with an idempotency key is known by it, in milliseconds.
pub const ANSWER_KEPT_MS: u64 = 24 * 60 * 60 * 1000;

/// A create that must not happen twice: a hash of its project, its idempotency key and what is asked
/// for. Kept with what it makes, so that this is found again when nobody heard of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errand(pub [u8; 32]);

/// Whoever makes a request, as the door found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The project what it makes belongs to.
    pub project: ProjectId,
    /// What it may do.
    pub role: Role,
    /// Its key; `None` on a node without keys.
    pub key: Option<KeyId>,
    /// The create it is about, when that must not happen twice.
    pub errand: Option<Errand>,
}

impl Caller {
    /// Anybody, on a node without keys.
    pub const ANYBODY: Self =
        Self { project: ProjectId::DEFAULT, role: Role::Admin, key: None, errand: None };

    /// Whether what belongs to `project` is there for this caller.
    pub fn sees(&self, project: ProjectId) -> bool {
        self.role == Role::Admin || self.project == project
    }
}

/// What a project may use at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    /// Sandboxes that are there, in whatever state.
    pub sandboxes: u64,
    /// Virtual CPUs of those sandboxes together.
    pub vcpus: u64,
    /// Memory of those sandboxes together, in MiB.
    pub memory_mib: u64,
    /// Disk that those sandboxes take on the node, in MiB. Over it nothing new is made.
    pub disk_mib: u64,
    /// Sandboxes asked for within any minute.
    pub creates_per_minute: u64,
    /// Snapshots that are kept.
    pub snapshots: u64,
}

impl Default for Quota {
    /// The default plan.
    fn default() -> Self {
        Self {
            sandboxes: 10,
            vcpus: 20,
            memory_mib: 20 * 1024,
            disk_mib: 50 * 1024,
            creates_per_minute: 120,
            snapshots: 100,
        }
    }
}

/// Figures of a quota that are to be others. Those left out stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct QuotaChange {
    /// Sandboxes that are there, in whatever state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandboxes: Option<u64>,
    /// Virtual CPUs of those sandboxes together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u64>,
    /// Memory of those sandboxes together, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Disk that those sandboxes take on the node, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_mib: Option<u64>,
    /// Sandboxes asked for within any minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creates_per_minute: Option<u64>,
    /// Snapshots that are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<u64>,
}

impl QuotaChange {
    /// `quota` with the figures that change.
    pub fn applied_to(&self, quota: Quota) -> Quota {
        let Self { sandboxes, vcpus, memory_mib, disk_mib, creates_per_minute, snapshots } = *self;
        Quota {
            sandboxes: sandboxes.unwrap_or(quota.sandboxes),
            vcpus: vcpus.unwrap_or(quota.vcpus),
            memory_mib: memory_mib.unwrap_or(quota.memory_mib),
            disk_mib: disk_mib.unwrap_or(quota.disk_mib),
            creates_per_minute: creates_per_minute.unwrap_or(quota.creates_per_minute),
            snapshots: snapshots.unwrap_or(quota.snapshots),
        }
    }
}

/// What a project uses now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Used {
    /// Sandboxes that are there.
    pub sandboxes: u64,
    /// Their virtual CPUs.
    pub vcpus: u64,
    /// Their memory in MiB, whether they touched it or not.
    pub memory_mib: u64,
    /// What they take on the node's disk, in MiB.
    pub disk_mib: u64,
    /// Sandboxes asked for within the last minute.
    pub creates_per_minute: u64,
    /// Snapshots that are kept.
    pub snapshots: u64,
}

/// What a project may use and what it uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Usage {
    /// The project of the caller's key.
    #[cfg_attr(feature = "server", schema(value_type = String, example = "prj_0123456789abcdef"))]
    pub project: ProjectId,
    /// What it may use.
    pub quota: Quota,
    /// What it uses.
    pub used: Used,
}

/// A project to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateProject {
    /// 1 to 63 of `a-z A-Z 0-9 . _ -`; no other project has it.
    pub name: String,
    /// What it may use. Default: the default plan, also for each figure left out.
    #[serde(default)]
    pub quota: Quota,
}

impl Check for CreateProject {
    fn check(&self) -> Result<(), Refused> {
        name(&self.name)?;
        figures(&self.quota)
    }
}

/// What is to be different about a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ChangeProject {
    /// What it may use from now on, at least one figure.
    pub quota: QuotaChange,
}

impl Check for ChangeProject {
    fn check(&self) -> Result<(), Refused> {
        if self.quota == QuotaChange::default() {
            return refuse("`quota` has no figure: nothing would change");
        }
        figures(&self.quota.applied_to(Quota::default()))
    }
}

/// A project: what sandboxes, snapshots and keys belong to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Project {
    /// Its id, for ever.
    #[cfg_attr(feature = "server", schema(value_type = String, example = "prj_0123456789abcdef"))]
    pub id: ProjectId,
    /// Its name.
    pub name: String,
    /// What it may use.
    pub quota: Quota,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_at_ms: u64,
}

/// Some projects of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct ProjectList {
    /// Oldest first.
    pub projects: Vec<Project>,
    /// Give this as `cursor` to get those after them; absent when there are none now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// A key to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// The project it is for. Default: the project of the key this is asked with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>))]
    pub project: Option<ProjectId>,
    /// A name for people: 1 to 63 of `a-z A-Z 0-9 . _ -`. Need not be unique.
    pub name: String,
    /// What it is good for. Default: `user`.
    #[serde(default = "default_role")]
    pub role: Role,
    /// When it stops working, in milliseconds since the Unix epoch. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<u64>,
}

const fn default_role() -> Role {
    Role::User
}

impl Check for CreateKey {
    fn check(&self) -> Result<(), Refused> {
        if self.expires_at_ms.is_some_and(|ms| i64::try_from(ms).is_err()) {
            return refuse("`expires_at_ms` must be below 2^63");
        }
        name(&self.name)
    }
}

/// A key, without what makes it one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Key {
    /// Its id, for ever.
    #[cfg_attr(feature = "server", schema(value_type = String, example = "key_0123456789abcdef"))]
    pub id: KeyId,
    /// The project it is for.
    #[cfg_attr(feature = "server", schema(value_type = String))]
    pub project: ProjectId,
    /// Its name.
    pub name: String,
    /// What it is good for.
    pub role: Role,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// When it stops working, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<u64>,
    /// When it was last used, to a minute, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at_ms: Option<u64>,
}

/// Some keys of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct KeyList {
    /// Oldest first.
    pub keys: Vec<Key>,
    /// Give this as `cursor` to get those after them; absent when there are none now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// A key that was just made.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct CreatedKey {
    /// The key itself: `sfk_` and 64 hex digits. Nobody can show it again.
    #[serde(rename = "key")]
    pub secret: String,
    /// What is known of it.
    #[serde(flatten)]
    pub facts: Key,
}

impl std::fmt::Debug for CreatedKey {
    /// Without the secret, which must not reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedKey").field("facts", &self.facts).finish_non_exhaustive()
    }
}

fn figures(quota: &Quota) -> Result<(), Refused> {
    let Quota { sandboxes, vcpus, memory_mib, disk_mib, creates_per_minute, snapshots } = *quota;
    let all = [sandboxes, vcpus, memory_mib, disk_mib, creates_per_minute, snapshots];
    if all.iter().any(|&figure| figure > QUOTA_MAX) {
        return refuse(format!("a figure of `quota` is over {QUOTA_MAX}"));
    }
    Ok(())
}

fn name(name: &str) -> Result<(), Refused> {
    let legal = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if legal {
        return Ok(());
    }
    refuse(format!("`name` must be 1 to {NAME_BYTES_MAX} of a-z, A-Z, 0-9, `.`, `_` and `-`"))
}
