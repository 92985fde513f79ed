//! Lists of sandboxes: which, how many, and where the next ones begin.

use base_types::{ProjectId, SandboxId};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::check::{Check, Refused, refuse};
use crate::{Caller, METADATA_NAME_BYTES_MAX, METADATA_VALUE_BYTES_MAX, Sandbox, SandboxState};

/// LIMIT: sandboxes in one answer; with all their metadata some MiB.
pub const LIST_LIMIT_MAX: u32 = 100;
/// Sandboxes in one answer when nothing is said.
pub const LIST_LIMIT_DEFAULT: u32 = 50;
/// LIMIT: names are shorter; a longer one matches nothing.
const NAME_BYTES_MAX: usize = 63;
/// First byte of a cursor; another order of the list would get another one.
const CURSOR_VERSION: u8 = 1;
/// Version, time, id.
const CURSOR_BYTES: usize = 17;

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
        if self.limit.is_some_and(|limit| !(1..=LIST_LIMIT_MAX).contains(&limit)) {
            return refuse(format!("`limit` must be 1 to {LIST_LIMIT_MAX}"));
        }
        match &self.cursor {
            Some(cursor) if Place::parse(cursor).is_none() => {
                refuse("`cursor` is not the `next_cursor` of an earlier answer")
            }
            _ => Ok(()),
        }
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
        let after = query.cursor.as_deref().and_then(Place::parse);
        let mut found: Vec<Sandbox> = all
            .into_iter()
            .filter(|sandbox| after.is_none_or(|after| Place::of(sandbox) > after))
            .filter(|sandbox| matches(sandbox, query))
            .collect();
        found.sort_by_key(Place::of);
        let limit = query.limit.unwrap_or(LIST_LIMIT_DEFAULT) as usize;
        let more = found.len() > limit;
        found.truncate(limit);
        let last = found.last().filter(|_| more);
        let next_cursor = last.map(|sandbox| Place::of(sandbox).to_cursor());
        Self { sandboxes: found, next_cursor }
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

/// Where a sandbox is in the list: by age, then by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    created_at_ms: u64,
    id: SandboxId,
}

impl Place {
    fn of(sandbox: &Sandbox) -> Self {
        Self { created_at_ms: sandbox.created_at_ms, id: sandbox.id }
    }

    fn to_cursor(self) -> String {
        let mut bytes = vec![CURSOR_VERSION];
        bytes.extend_from_slice(&self.created_at_ms.to_be_bytes());
        bytes.extend_from_slice(&self.id.bits().to_be_bytes());
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    fn parse(cursor: &str) -> Option<Self> {
        // LIMIT: nothing longer than a cursor is decoded.
        if cursor.len() > CURSOR_BYTES * 2 {
            return None;
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let bytes: [u8; CURSOR_BYTES] = bytes.try_into().ok()?;
        let (version, rest) = bytes.split_first()?;
        let (created_at_ms, id) = rest.split_first_chunk()?;
        let id = id.first_chunk()?;
        (*version == CURSOR_VERSION).then(|| Self {
            created_at_ms: u64::from_be_bytes(*created_at_ms),
            id: SandboxId::from_bits(u64::from_be_bytes(*id)),
        })
    }
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
