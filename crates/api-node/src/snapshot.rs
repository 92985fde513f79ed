use base_types::{SandboxId, Size, SnapshotId, TemplateName};
use serde::{Deserialize, Serialize};

use crate::check::{Check, Refused, refuse};
use crate::sandbox::name;
use crate::{FORK_COUNT_MAX, Sandbox};

/// Children to make of a sandbox, all from one moment of its memory and disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Fork {
    /// How many, 1 to 16.
    pub count: u32,
    /// What they are called; the sandbox's own name when absent. Names need not be unique.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What becomes of the databases it is wired to.
    #[serde(default)]
    pub databases: ForkDatabases,
}

/// What the children of a fork have of the databases their parent is wired to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ForkDatabases {
    /// None of them.
    #[default]
    None,
    /// Each is wired to the same databases, with a role of its own.
    Share,
    /// Each is wired to a fork of each database, from the same moment as it is itself. They are called as the
    /// database, a `-`, and the last eight digits of the child's id.
    Fork,
}

impl Fork {
    /// `count` children, wired to nothing.
    pub const fn of(count: u32) -> Self {
        Self { count, name: None, databases: ForkDatabases::None }
    }
}

impl Check for Fork {
    fn check(&self) -> Result<(), Refused> {
        if !(1..=FORK_COUNT_MAX).contains(&self.count) {
            return refuse(format!("`count` is {}; it must be 1 to {FORK_COUNT_MAX}", self.count));
        }
        name(self.name.as_deref())
    }
}

/// The children of a fork.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Forked {
    /// They, all serving.
    pub sandboxes: Vec<Sandbox>,
    /// How long the sandbox they are from stood still, in microseconds; 0 when it was paused.
    pub held_us: u64,
}

/// A snapshot to take of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateSnapshot {
    /// A name for people: 1 to 63 of `a-z A-Z 0-9 . _ -`. Need not be unique.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Check for CreateSnapshot {
    fn check(&self) -> Result<(), Refused> {
        name(self.name.as_deref())
    }
}

/// One moment of a sandbox, kept to make others from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Snapshot {
    /// Its id, for ever.
    #[cfg_attr(feature = "server", schema(value_type = String, example = "snap_0123456789abcdef"))]
    pub id: SnapshotId,
    /// The name given to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The sandbox it was taken of, which may be gone.
    #[cfg_attr(feature = "server", schema(value_type = String))]
    pub sandbox: SandboxId,
    /// The template that sandbox is a clone of.
    #[cfg_attr(feature = "server", schema(value_type = String))]
    pub template: TemplateName,
    /// The size of machines made from it.
    #[cfg_attr(feature = "server", schema(value_type = String))]
    pub size: Size,
    /// When it was taken, in milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// Disk its files take, in bytes; sandboxes made from it share them.
    pub bytes: u64,
}

/// Some snapshots of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct SnapshotList {
    /// Oldest first.
    pub snapshots: Vec<Snapshot>,
    /// Give this as `cursor` to get those after them; absent when there are none now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_fork_has_at_least_one_child_and_a_bounded_number() {
        for (count, legal) in [(0, false), (1, true), (FORK_COUNT_MAX, true), (17, false)] {
            assert_eq!(Fork::of(count).check().is_ok(), legal, "{count}");
        }
        assert!(serde_json::from_str::<Fork>("{}").is_err());
    }

    #[test]
    fn names_of_snapshots_have_the_bounds_of_all_names() {
        assert!(CreateSnapshot { name: Some("before upgrade".into()) }.check().is_err());
        assert!(CreateSnapshot { name: Some("before-upgrade".into()) }.check().is_ok());
    }
}
