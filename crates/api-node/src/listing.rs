//! Lists of sandboxes: which, and a page of them.

use base_types::ProjectId;
use serde::{Deserialize, Serialize};

use crate::check::{Check, Refused, refuse};
use crate::paging::page_of;
use crate::{
    Caller, METADATA_NAME_BYTES_MAX, METADATA_VALUE_BYTES_MAX, PageQuery, Sandbox, SandboxState,
};

/// LIMIT: names are shorter; a longer one matches nothing.
const NAME_BYTES_MAX: usize = 63;

impl SandboxState {
    /// Every state a node sends.
    pub const ALL: [Self; 7] = [
        Self::Creating,
        Self::Running,
        Self::Pausing,
        Self::Paused,
        Self::Resuming,
        Self::Stopping,
        Self::Failed,
    ];

    /// The state as it is written in a response.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Resuming => "resuming",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// Which sandboxes are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "server", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct SandboxListQuery {
    /// Only those in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", param(inline))]
    pub state: Option<SandboxState>,
    /// Only those of exactly this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only those with this entry in their metadata, as `key:value`. The key has no colon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<String>,
    /// At most this many, 1 to 100. Default: 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", param(minimum = 1, maximum = 100))]
    pub limit: Option<u32>,
    /// Go on after the last sandbox of an earlier answer: its `next_cursor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Only those of the project that the key is for, also when it is an administrator's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own: bool,
}

impl SandboxListQuery {
    /// Whether the sandboxes of `project` are among those asked for.
    pub fn shows(&self, caller: &Caller, project: ProjectId) -> bool {
        caller.sees(project) && (!self.own || caller.project == project)
    }
}

impl SandboxListQuery {
    fn page(&self) -> PageQuery {
        PageQuery { limit: self.limit, cursor: self.cursor.clone() }
    }
}

impl Check for SandboxListQuery {
    fn check(&self) -> Result<(), Refused> {
        if self.state == Some(SandboxState::Unknown) {
            return refuse("`state` is not a state of a sandbox, such as running or paused");
        }
        if self.name.as_ref().is_some_and(|name| name.len() > NAME_BYTES_MAX) {
            return refuse(format!("`name` is longer than any name, {NAME_BYTES_MAX} bytes"));
        }
        if let Some(metadata) = &self.metadata {
            match metadata.split_once(':') {
                None => return refuse("`metadata` must be `key:value`"),
                Some((key, value))
                    if key.len() > METADATA_NAME_BYTES_MAX
                        || value.len() > METADATA_VALUE_BYTES_MAX =>
                {
                    return refuse("`metadata` is longer than any entry can be");
                }
                Some(_) => {}
            }
        }
        self.page().check()
    }
}

/// Some sandboxes of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct SandboxList {
    /// Oldest first.
    pub sandboxes: Vec<Sandbox>,
    /// Give this as `cursor` to get those after them; absent when there are none now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

impl SandboxList {
    /// The page of `all` that `query` asks for, whatever the order of `all` is. Sandboxes that are
    /// made or killed between two pages move no other from one page to another.
    pub fn page(all: Vec<Sandbox>, query: &SandboxListQuery) -> Self {
        let all = all.into_iter().filter(|sandbox| matches(sandbox, query)).collect();
        let (sandboxes, next_cursor) = page_of(all, &query.page());
        Self { sandboxes, next_cursor }
    }
}

fn matches(sandbox: &Sandbox, query: &SandboxListQuery) -> bool {
    let state = query.state.is_none_or(|state| sandbox.state == state);
    let name = query.name.as_ref().is_none_or(|name| sandbox.name.as_ref() == Some(name));
    let entry = query.metadata.as_ref().and_then(|entry| entry.split_once(':'));
    let metadata = entry
        .is_none_or(|(key, value)| sandbox.metadata.get(key).is_some_and(|found| found == value));
    state && name && metadata
}

/// How much of a console is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "server", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct LogsQuery {
    /// At most this many bytes of its end, 1 to 1048576. Default: 65536.
    #[serde(default = "LogsQuery::default_bytes")]
    #[cfg_attr(feature = "server", param(minimum = 1, maximum = 1_048_576))]
    pub bytes: u32,
}

impl LogsQuery {
    /// LIMIT: the largest console the node keeps.
    pub const BYTES_MAX: u32 = 1 << 20;

    const fn default_bytes() -> u32 {
        64 << 10
    }
}

impl Default for LogsQuery {
    fn default() -> Self {
        Self { bytes: Self::default_bytes() }
    }
}

impl Check for LogsQuery {
    fn check(&self) -> Result<(), Refused> {
        if (1..=Self::BYTES_MAX).contains(&self.bytes) {
            Ok(())
        } else {
            refuse(format!("`bytes` must be 1 to {}", Self::BYTES_MAX))
        }
    }
}

#[cfg(test)]
mod test;
