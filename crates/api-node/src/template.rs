use base_types::{Size, TemplateName};
use serde::{Deserialize, Serialize};

use crate::Failure;

/// A template at one size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Template {
    /// Its name.
    #[cfg_attr(feature = "server", schema(value_type = String))]
    pub name: TemplateName,
    /// Its size.
    #[cfg_attr(feature = "server", schema(value_type = String))]
    pub size: Size,
    /// Whether its snapshot is there.
    pub state: TemplateState,
    /// Bytes its snapshot takes on disk; 0 when there is none.
    #[serde(default)]
    pub snapshot_bytes: u64,
    /// When the snapshot was made, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built_at_ms: Option<u64>,
    /// Why the last build failed, for [`TemplateState::Failed`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Whether a template's snapshot is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum TemplateState {
    /// Not yet; the first create makes it.
    Missing,
    /// Being made now.
    Building,
    /// There.
    Ready,
    /// The last build failed; the next create tries again.
    Failed,
    /// A state newer than this build. Never sent.
    #[serde(other)]
    Unknown,
}

/// The templates of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct TemplateList {
    /// By name, then by size. Every template is listed in every size.
    pub templates: Vec<Template>,
}

/// One thing that happened while a snapshot was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct BuildEvent {
    /// 0, 1, 2 … within one stream. A heartbeat repeats the last one.
    pub seq: u64,
    /// When, in microseconds since the Unix epoch.
    pub ts: u64,
    /// What.
    #[serde(flatten)]
    pub body: BuildBody,
}

/// What happened while a snapshot was made. The stream ends with `done` or `error`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum BuildBody {
    /// A step began.
    Step {
        /// What is being done, as a line for people.
        message: String,
        /// How much of the whole was done before this step, 0 to 100.
        percent: u8,
    },
    /// The snapshot is there (at once, when it was there before).
    Done {
        /// How long the making took, in milliseconds; 0 when it was there before.
        took_ms: u64,
    },
    /// It could not be made.
    Error {
        /// Why.
        #[cfg_attr(feature = "server", schema(inline = false))]
        failure: Failure,
    },
    /// Nothing happened for a while; the stream is alive.
    Heartbeat,
    /// An event newer than this build. Never sent.
    #[serde(other)]
    Unknown,
}
