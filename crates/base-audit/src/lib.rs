//! The audit log's form: lines that name the one before them, so that a change shows.
//!
//! A log is a directory of files, each of one JSON object per line. Every line ends with the BLAKE3
//! hash of its own bytes before that hash, and contains the hash of the line before it and its own
//! index. [`Chain`] takes lines one after the other and says what is wrong with the first bad one;
//! [`verify_log`] and [`verify_file`] do that for what is on disk, in bounded memory whatever is
//! there. Nothing here writes, and nothing asks the time.
//!
//! What this shows: an edited, removed, inserted or moved line, a missing file, a missing end as
//! far back as the head that the writer keeps. What it cannot show: that someone who may write the
//! files made *all* lines from some point on anew, with their hashes and the head. Against that,
//! note a head elsewhere and give it to [`verify_log`].
#![warn(missing_docs)]

mod chain;
mod files;
mod line;
mod verify;

pub use chain::{Chain, Fault, Hash, Link, ParseHashError, ParseLinkError, Record, seal};
pub use files::{HEAD_FILE, Head, HeadError, Segment, read_head, segment_name, segments};
pub use line::{Line, Lines};
pub use verify::{Verified, VerifyError, verify_file, verify_log};

use serde::{Deserialize, Serialize};

/// LIMIT: one line with its line feed. Eight texts of [`TEXT_BYTES_MAX`], each byte escaped to six,
/// and what is around them.
pub const LINE_BYTES_MAX: usize = 16 * 1024;
/// LIMIT: one text of an event; ids, actions and program names are far shorter.
pub const TEXT_BYTES_MAX: usize = 256;

/// What happened, before it has a place in a log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Who: the id of a key, or `local` (a node without keys), `node` (the node itself) or `unknown`
    /// (who was refused).
    pub actor: String,
    /// The project of that key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Address the request came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Id of the request; the same as in the node's log and in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// What was done, such as `sandbox_create`.
    pub action: String,
    /// To what: the id of a sandbox, key, project or snapshot, perhaps with more of the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// `ok`, or the code of the failure.
    pub result: String,
    /// More, for people. Never what a caller may keep secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Event {
    /// Cuts every text to [`TEXT_BYTES_MAX`], so that the line has a bound.
    pub fn cut(&mut self) {
        let optional = [
            &mut self.project,
            &mut self.source,
            &mut self.request,
            &mut self.object,
            &mut self.detail,
        ];
        let required = [&mut self.actor, &mut self.action, &mut self.result];
        for text in optional.into_iter().flatten().chain(required) {
            text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        }
    }
}
