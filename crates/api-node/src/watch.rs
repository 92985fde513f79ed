use serde::{Deserialize, Serialize};

use crate::check::{Check, Refused, path, user};
use crate::{Failure, FileKind};

/// What to watch, as whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "server", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct WatchQuery {
    /// Absolute path of a directory in the sandbox.
    pub path: String,
    /// Whether directories in it are watched too, those that come later included.
    #[serde(default)]
    pub recursive: bool,
    /// User whose rights count. Default: `root`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl Check for WatchQuery {
    fn check(&self) -> Result<(), Refused> {
        path("path", &self.path)?;
        user(self.user.as_deref())
    }
}

/// One thing that happened in a watched directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct WatchEvent {
    /// 0, 1, 2 … in the life of the watch. A heartbeat repeats the last one.
    pub seq: u64,
    /// When the guest's agent learned of it, in microseconds since the Unix epoch.
    pub ts: u64,
    /// What.
    #[serde(flatten)]
    pub body: WatchBody,
}

/// What happened in a watched directory. The first event is `started`; a last one, if any, is `error`.
/// Paths are absolute, and go on from the path that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum WatchBody {
    /// What happens from now on is told.
    Started,
    /// It is there now: made here, or moved here from where nothing is watched.
    Created {
        /// Where.
        path: String,
        /// What it is, if it could still be looked at.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kind: Option<FileKind>,
    },
    /// Its content changed.
    Modified {
        /// Where.
        path: String,
        /// What it is, if it could still be looked at.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kind: Option<FileKind>,
    },
    /// Its mode, owner or times changed.
    Attributes {
        /// Where.
        path: String,
        /// What it is, if it could still be looked at.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kind: Option<FileKind>,
    },
    /// It is not there any more: removed, or moved to where nothing is watched.
    Removed {
        /// Where it was.
        path: String,
        /// `directory` if it was one; otherwise not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kind: Option<FileKind>,
    },
    /// It is somewhere else in what is watched. What stood there before is gone.
    Moved {
        /// Where it was.
        path: String,
        /// Where it is.
        to: String,
        /// What it is, if it could still be looked at.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kind: Option<FileKind>,
    },
    /// Some of what happened was not noticed: look for yourself. What follows is told again.
    Overflow,
    /// The watch is over.
    Error {
        /// Why.
        failure: Failure,
    },
    /// Nothing happened for a while; the stream is alive.
    Heartbeat,
    /// An event newer than this build. Never sent.
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn an_event_is_one_flat_object() {
        let (path, to) = ("/a/b".to_owned(), "/a/c".to_owned());
        let body = WatchBody::Moved { path, to, kind: Some(FileKind::File) };
        let text = serde_json::to_string(&WatchEvent { seq: 3, ts: 9, body }).unwrap();
        let expected = r#"{"seq":3,"ts":9,"type":"moved","path":"/a/b","to":"/a/c","kind":"file"}"#;
        assert_eq!(text, expected);
        let text = r#"{"seq":1,"ts":2,"type":"renamed","path":"/x"}"#;
        let event: WatchEvent = serde_json::from_str(text).unwrap();
        assert_eq!(event.body, WatchBody::Unknown);
    }
}
