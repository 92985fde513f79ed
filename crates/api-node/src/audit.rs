//! The audit log, as the API shows it.

use serde::{Deserialize, Serialize};

use crate::check::{Check, Refused, refuse};

/// LIMIT: entries in one answer; some hundred KiB.
pub const AUDIT_LIMIT_MAX: u32 = 1000;

/// Which entries of the audit log are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "server", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct AuditQuery {
    /// Those after the entry with this index; without it, the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// At most this many, 1 to 1000. Default: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", param(minimum = 1, maximum = 1000))]
    pub limit: Option<u32>,
}

impl AuditQuery {
    /// How many entries are wanted.
    pub fn limit(&self) -> usize {
        self.limit.unwrap_or(100) as usize
    }
}

impl Check for AuditQuery {
    fn check(&self) -> Result<(), Refused> {
        if self.limit.is_some_and(|limit| !(1..=AUDIT_LIMIT_MAX).contains(&limit)) {
            return refuse(format!("`limit` must be 1 to {AUDIT_LIMIT_MAX}"));
        }
        if self.after.is_some_and(|after| i64::try_from(after).is_err()) {
            return refuse("`after` must be below 2^63");
        }
        Ok(())
    }
}

/// What the audit log is held against.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "server", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct AuditVerifyQuery {
    /// A place the log must still have: the `head` of an earlier answer, noted elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", param(pattern = "^[0-9]{1,18}:[0-9a-f]{64}$"))]
    pub head: Option<String>,
}

impl Check for AuditVerifyQuery {
    fn check(&self) -> Result<(), Refused> {
        let is_place = |head: &str| {
            head.split_once(':').is_some_and(|(index, hash)| {
                (1..=18).contains(&index.len())
                    && index.bytes().all(|b| b.is_ascii_digit())
                    && hash.len() == 64
                    && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            })
        };
        match &self.head {
            Some(head) if !is_place(head) => {
                refuse("`head` must be INDEX:HASH, as an earlier answer has it")
            }
            _ => Ok(()),
        }
    }
}

/// What every line of the audit log says, held against the one before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct AuditVerified {
    /// Whether every line is there and as it was written.
    pub whole: bool,
    /// How many entries that is, up to the first that is not.
    pub entries: u64,
    /// Index of the first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// Index of the last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
    /// The last of them as INDEX:HASH, when all are whole: what to note elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    /// Bytes of an entry at the end that is being written now.
    #[serde(default)]
    pub torn_bytes: u64,
    /// What is wrong, and with which line of which file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// One entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct AuditEntry {
    /// Its place; the first of a log is 0.
    pub index: u64,
    /// When, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Who: the id of a key, or `local` (a node without keys), `node` (the node itself), `unknown`
    /// (somebody who was not let in).
    pub actor: String,
    /// The project of that key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Address the request came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Id of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// What was done, such as `sandbox_create`.
    pub action: String,
    /// To what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// `ok`, the code of the failure, or `abandoned` when the caller left before the answer.
    pub result: String,
    /// More, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Hash of the entry before it, in hexadecimal digits.
    pub previous: String,
    /// Its own hash.
    pub hash: String,
}

/// Some entries of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct AuditList {
    /// Oldest first.
    pub entries: Vec<AuditEntry>,
    /// Whether there are more after the last of them.
    pub more: bool,
}
