use std::error::Error;
use std::fmt;

use base_types::{Chain, KeyId, SandboxId, Size, SnapshotId, TemplateName};
use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Serialize, Serializer};

use crate::SecretName;

/// LIMIT: characters of what was asked for that are said back; names are shorter.
const NAME_CHARS_SHOWN_MAX: usize = 64;

/// What went wrong, for programs. New codes are only ever added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request itself is wrong; the message says which part.
    InvalidRequest,
    /// No such operation, sandbox or process (or it is not yours).
    NotFound,
    /// There is no template of this name.
    TemplateUnknown,
    /// No such file or directory in the sandbox.
    PathNotFound,
    /// The sandbox refused access to a file, or this API refused the caller.
    PermissionDenied,
    /// It is there already.
    AlreadyExists,
    /// Not possible in the present state of the thing asked for.
    Conflict,
    /// The body is over this operation's limit.
    BodyTooLarge,
    /// Another method, or another content type, is needed.
    Unsupported,
    /// The sandbox is over: its guest shut down, crashed or was killed.
    SandboxOver,
    /// The guest's agent did not answer in time.
    AgentSilent,
    /// The node has no memory, CPU or slot left; later may work.
    NoCapacity,
    /// The disk (the node's or the sandbox's) is full.
    DiskFull,
    /// This machine's KVM cannot run guests.
    KvmUnusable,
    /// A kernel, template or snapshot file is damaged or not of this version.
    ImageBroken,
    /// The guest could not be booted or restored.
    GuestFailed,
    /// The node is stopping; it takes no new work.
    Stopping,
    /// The node failed in a way the caller cannot mend.
    Internal,
    /// The request has no key, or one that is not good here.
    Unauthenticated,
    /// The project may not use more; the message has the figures.
    QuotaExceeded,
    /// Nothing in the sandbox listens on that port.
    PortUnreachable,
    /// The program on that port broke its answer off, or gave one that is not HTTP.
    PortBroken,
    /// The range begins where the file has ended.
    RangeNotSatisfiable,
    /// Postgres refused the SQL; the message is its own.
    SqlFailed,
    /// A code newer than this build. Never sent.
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// Every code a node sends, in the order they were added.
    pub const ALL: [Self; 24] = [
        Self::InvalidRequest,
        Self::NotFound,
        Self::TemplateUnknown,
        Self::PathNotFound,
        Self::PermissionDenied,
        Self::AlreadyExists,
        Self::Conflict,
        Self::BodyTooLarge,
        Self::Unsupported,
        Self::SandboxOver,
        Self::AgentSilent,
        Self::NoCapacity,
        Self::DiskFull,
        Self::KvmUnusable,
        Self::ImageBroken,
        Self::GuestFailed,
        Self::Stopping,
        Self::Internal,
        Self::Unauthenticated,
        Self::QuotaExceeded,
        Self::PortUnreachable,
        Self::PortBroken,
        Self::RangeNotSatisfiable,
        Self::SqlFailed,
    ];

    /// The HTTP status it is sent with.
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidRequest => 400,
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::NotFound | Self::TemplateUnknown | Self::PathNotFound => 404,
            Self::Unsupported => 415,
            Self::RangeNotSatisfiable => 416,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::SandboxOver => 410,
            Self::BodyTooLarge => 413,
            Self::SqlFailed => 422,
            Self::QuotaExceeded => 429,
            Self::PortUnreachable | Self::PortBroken => 502,
            Self::NoCapacity | Self::KvmUnusable | Self::Stopping => 503,
            Self::AgentSilent => 504,
            Self::DiskFull => 507,
            Self::ImageBroken | Self::GuestFailed | Self::Internal | Self::Unknown => 500,
        }
    }

    /// Whether the same request may succeed a moment later, unchanged, with nothing done about it.
    pub const fn retryable(self) -> bool {
        match self {
            Self::NoCapacity | Self::AgentSilent | Self::PortUnreachable => true,
            Self::InvalidRequest
            | Self::NotFound
            | Self::TemplateUnknown
            | Self::PathNotFound
            | Self::PermissionDenied
            | Self::AlreadyExists
            | Self::Conflict
            | Self::BodyTooLarge
            | Self::Unsupported
            | Self::SandboxOver
            | Self::DiskFull
            | Self::KvmUnusable
            | Self::ImageBroken
            | Self::GuestFailed
            | Self::Stopping
            | Self::QuotaExceeded
            | Self::Internal
            | Self::Unauthenticated
            | Self::PortBroken
            | Self::RangeNotSatisfiable
            | Self::SqlFailed
            | Self::Unknown => false,
        }
    }

    /// What a caller can do about it that is told nothing more precise.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::InvalidRequest => "mend what the message names",
            Self::NotFound => "check the path and the id; lists show what is there for your key",
            Self::TemplateUnknown => "`GET /v1/templates` lists those there are",
            Self::PathNotFound => "check the name; it is one inside of the sandbox",
            Self::PermissionDenied => {
                "inside a sandbox, use a user who may do this; else, a key with the role admin"
            }
            Self::AlreadyExists => "use what is there, or another name",
            Self::Conflict => "look at the present state of what is asked for, then ask again",
            Self::BodyTooLarge => "send less, or in parts",
            Self::Unsupported => "`/docs` has the methods and content types of every path",
            Self::SandboxOver => "make another sandbox",
            Self::AgentSilent => "try again; a guest that stays silent can only be killed",
            Self::NoCapacity => "try again later, or kill what is not needed",
            Self::DiskFull => "free some disk, in the sandbox or on the node",
            Self::KvmUnusable => "run `sandflare doctor` on the node's machine",
            Self::ImageBroken | Self::Internal => {
                "tell the node's operator, with the `request_id` of this answer"
            }
            Self::GuestFailed => {
                "try again; if it stays so, tell the node's operator, with the `request_id`"
            }
            Self::Stopping => "try again when the node is up again",
            Self::Unauthenticated => "send a key that works, as `Authorization: Bearer sfk_…`",
            Self::QuotaExceeded => {
                "kill, delete or wait, or ask the node's administrator for a larger quota"
            }
            Self::PortUnreachable => "start a program in the sandbox that listens on that port",
            Self::PortBroken => "see to the program on that port of the sandbox",
            Self::RangeNotSatisfiable => "ask for a range that begins within the file",
            Self::SqlFailed => "read what the server says, correct the SQL and ask again",
            Self::Unknown => "bring what you ask with up to date; the node is newer",
        }
    }

    /// The code as it is written in a response.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::NotFound => "not_found",
            Self::TemplateUnknown => "template_unknown",
            Self::PathNotFound => "path_not_found",
            Self::PermissionDenied => "permission_denied",
            Self::AlreadyExists => "already_exists",
            Self::Conflict => "conflict",
            Self::BodyTooLarge => "body_too_large",
            Self::Unsupported => "unsupported",
            Self::SandboxOver => "sandbox_over",
            Self::AgentSilent => "agent_silent",
            Self::NoCapacity => "no_capacity",
            Self::DiskFull => "disk_full",
            Self::KvmUnusable => "kvm_unusable",
            Self::ImageBroken => "image_broken",
            Self::GuestFailed => "guest_failed",
            Self::Stopping => "stopping",
            Self::Internal => "internal",
            Self::Unauthenticated => "unauthenticated",
            Self::QuotaExceeded => "quota_exceeded",
            Self::PortUnreachable => "port_unreachable",
            Self::PortBroken => "port_broken",
            Self::RangeNotSatisfiable => "range_not_satisfiable",
            Self::SqlFailed => "sql_failed",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The body of every response that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Failure {
    /// What went wrong, for programs.
    pub code: ErrorCode,
    /// What went wrong, for people: one sentence.
    pub message: String,
    /// What to do about it, in the imperative. Always there in an answer of a node.
    #[serde(default)]
    #[cfg_attr(feature = "server", schema(value_type = String, required))]
    pub hint: Option<String>,
    /// Names this request in the node's log. Filled in by the router.
    #[serde(default)]
    pub request_id: String,
    /// Written for the operator. Logged once, where the response is made; never sent.
    #[serde(skip)]
    internal: String,
}

/// Failures leave a node in answers, in events of streams and over sockets. All of them are written
/// here, so that none is without a hint.
impl Serialize for Failure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { code, message, hint, request_id, internal: _ } = self;
        let mut fields = serializer.serialize_struct("Failure", 4)?;
        fields.serialize_field("code", code)?;
        fields.serialize_field("message", message)?;
        fields.serialize_field("hint", hint.as_deref().unwrap_or(code.hint()))?;
        fields.serialize_field("request_id", request_id)?;
        fields.end()
    }
}

impl Failure {
    /// A failure with a message for the caller.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
            request_id: String::new(),
            internal: String::new(),
        }
    }

    /// There is no sandbox with this id, or the caller must not know that there is.
    pub fn no_sandbox(id: SandboxId) -> Self {
        Self::new(ErrorCode::NotFound, format!("there is no sandbox {id}"))
            .with_hint("`sandflare ps` shows those there are")
    }

    /// There is no database that this stands for, or the caller must not know that there is.
    pub fn no_database(which: &str) -> Self {
        let which: String = which.chars().take(NAME_CHARS_SHOWN_MAX).collect();
        Self::new(ErrorCode::NotFound, format!("there is no database `{which}`"))
            .with_hint("`GET /v1/databases` lists those there are")
    }

    /// The database has no snapshot of this name or id.
    pub fn no_database_snapshot(which: &str) -> Self {
        let which: String = which.chars().take(NAME_CHARS_SHOWN_MAX).collect();
        Self::new(ErrorCode::NotFound, format!("the database has no snapshot `{which}`"))
            .with_hint("`GET /v1/databases/{id}/snapshots` lists those it has")
    }

    /// The project has no secret of this name.
    pub fn no_secret(name: &SecretName) -> Self {
        Self::new(ErrorCode::NotFound, format!("there is no secret `{name}`"))
            .with_hint("`PUT /v1/secrets/{name}` makes one")
    }

    /// There is no snapshot with this id, or it is somebody else's.
    pub fn no_snapshot(id: SnapshotId) -> Self {
        Self::new(ErrorCode::NotFound, format!("there is no snapshot {id}"))
            .with_hint("`GET /v1/snapshots` lists those there are")
    }

    /// A key is not made again, and not shown again either.
    pub fn key_made_before(id: KeyId) -> Self {
        let message = format!("this request made the key {id} before, which was shown only then");
        Self::new(ErrorCode::Conflict, message).with_hint(format!(
            "if that answer was lost, revoke it with `sandflare keys rm {id}`, and make another with \
             another idempotency key"
        ))
    }

    /// A template has no snapshot at this size.
    pub fn no_template_snapshot(name: &TemplateName, size: Size) -> Self {
        Self::new(ErrorCode::NotFound, format!("template {name} has no snapshot, size {size}"))
            .with_hint("`GET /v1/templates` lists those there are")
    }

    /// A failure of ours, with the whole chain of `error` kept for the log and out of the response.
    pub fn because(code: ErrorCode, message: impl Into<String>, error: &dyn Error) -> Self {
        Self::new(code, message).with_internal(Chain(error).to_string())
    }

    /// Adds what the caller may do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a text for the log only.
    #[must_use]
    pub fn with_internal(mut self, internal: impl Into<String>) -> Self {
        self.internal = internal.into();
        self
    }

    /// The text for the log; empty when there is none.
    pub fn internal(&self) -> &str {
        &self.internal
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_code_is_written_the_way_it_is_serialised() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
            assert!((400..600).contains(&code.status()), "{code}");
        }
    }

    #[test]
    fn the_guide_has_every_code_with_its_status_and_what_is_worth_a_second_try() {
        let guide = include_str!("../../../docs/guides/api.md");
        let worth = guide.lines().find_map(|line| line.strip_prefix("Worth a second try"));
        for code in ErrorCode::ALL {
            let (name, status) = (format!("`{code}`"), code.status().to_string());
            let told = guide.lines().filter(|line| line.starts_with('|')).any(|line| {
                let mut cells = line.split('|').skip(1);
                let (statuses, codes) = (cells.next(), cells.next());
                statuses.is_some_and(|cell| cell.contains(&status))
                    && codes.is_some_and(|cell| cell.contains(&name))
            });
            assert!(told, "{code} {status}");
            assert_eq!(worth.unwrap().contains(&name), code.retryable(), "{code}");
        }
    }

    #[test]
    fn a_code_from_the_future_is_still_a_failure() {
        let text = r#"{"code":"moon_phase_wrong","message":"no","request_id":"r","more":1}"#;
        let failure: Failure = serde_json::from_str(text).unwrap();
        assert_eq!(failure.code, ErrorCode::Unknown);
        assert_eq!(failure.message, "no");
    }

    #[test]
    fn every_failure_that_is_written_has_a_hint() {
        for code in ErrorCode::ALL.into_iter().chain([ErrorCode::Unknown]) {
            let written = serde_json::to_value(Failure::new(code, "no")).unwrap();
            let hint = written["hint"].as_str().unwrap();
            // One sentence in the imperative, as all of them: no capital, no full stop.
            assert!(hint.len() > 10 && !hint.ends_with('.'), "{code}: {hint}");
            assert!(!hint.starts_with(char::is_uppercase), "{code}: {hint}");
            let own = Failure::new(code, "no").with_hint("do this");
            assert_eq!(serde_json::to_value(own).unwrap()["hint"], "do this", "{code}");
        }
    }

    #[test]
    fn the_internal_text_never_leaves() {
        let failure = Failure::new(ErrorCode::Internal, "the create failed")
            .with_internal("open /secret/place: EACCES");
        let text = serde_json::to_string(&failure).unwrap();
        assert!(!text.contains("secret"), "{text}");
        assert_eq!(failure.internal(), "open /secret/place: EACCES");
    }
}
