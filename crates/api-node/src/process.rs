use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::check::{Check, Refused, env, path, refuse, user};
use crate::{ARGV_BYTES_MAX, ARGV_COUNT_MAX, Failure, TIME_LIMIT_MS_MAX};

/// A command to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Program (looked up in PATH) and arguments.
    pub argv: Vec<String>,
    /// Environment added to the sandbox's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory. Default: the user's home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// User, by name. Default: `agent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Kill it, and all it started, after this many milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_limit_ms: Option<u64>,
    /// Whether standard input will be sent; otherwise it is empty.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stdin: bool,
}

impl Check for ExecRequest {
    fn check(&self) -> Result<(), Refused> {
        let bytes: usize = self.argv.iter().map(|argument| argument.len() + 1).sum();
        if self.argv.first().is_none_or(String::is_empty) {
            return refuse("`argv` must name a program");
        }
        if bytes > ARGV_BYTES_MAX || self.argv.len() > ARGV_COUNT_MAX {
            return refuse(format!(
                "`argv` is {} arguments of {bytes} bytes; at most {ARGV_COUNT_MAX} of \
                 {ARGV_BYTES_MAX} are allowed, so put the rest in a file",
                self.argv.len(),
            ));
        }
        if self.argv.iter().any(|argument| argument.contains('\0')) {
            return refuse("`argv` contains a zero byte");
        }
        if let Some(cwd) = &self.cwd {
            path("cwd", cwd)?;
        }
        if self.time_limit_ms.is_some_and(|ms| ms == 0 || ms > TIME_LIMIT_MS_MAX) {
            return refuse(format!("`time_limit_ms` must be 1 to {TIME_LIMIT_MS_MAX}"));
        }
        user(self.user.as_deref())?;
        env(&self.env)
    }
}

/// One command run in a sandbox. Never used twice in the life of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct ProcessId(pub u32);

impl std::fmt::Display for ProcessId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// One thing that happened to a running command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct ExecEvent {
    /// 0, 1, 2 … within one stream. A heartbeat repeats the last one.
    pub seq: u64,
    /// When the node learned of it, in microseconds since the Unix epoch.
    pub ts: u64,
    /// What.
    #[serde(flatten)]
    pub body: ExecBody,
}

/// What happened to a running command. The first event is `started`, unless it could not be started:
/// then there is none. The last is `exit` or `error`; all output comes before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ExecBody {
    /// It runs.
    Started {
        /// What to send its standard input and signals to.
        process_id: ProcessId,
        /// Its process id in the guest.
        pid: u32,
    },
    /// It wrote to its standard output.
    Stdout {
        /// The bytes, exactly, in base64.
        #[serde(with = "base64_bytes")]
        #[cfg_attr(feature = "server", schema(value_type = String, format = Byte))]
        data: Vec<u8>,
    },
    /// It wrote to its standard error.
    Stderr {
        /// The bytes, exactly, in base64.
        #[serde(with = "base64_bytes")]
        #[cfg_attr(feature = "server", schema(value_type = String, format = Byte))]
        data: Vec<u8>,
    },
    /// It ended.
    Exit {
        /// Its exit code; 128 plus the signal when one ended it; 127 when there is no such program
        /// and 126 when it is not executable.
        exit_code: u8,
        /// The signal that ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<u8>,
        /// Whether it was killed because its time was up.
        #[serde(default)]
        timed_out: bool,
    },
    /// It could not be started, or the sandbox was lost.
    Error {
        /// Why.
        failure: Failure,
        /// The exit code a shell would give; 125 when the sandbox was lost.
        exit_code: u8,
    },
    /// Nothing happened for a while; the stream is alive.
    Heartbeat,
    /// An event newer than this build. Never sent.
    #[serde(other)]
    Unknown,
}

/// How to send standard input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields)]
pub struct StdinQuery {
    /// Whether this is the end of the input.
    #[serde(default)]
    pub close: bool,
}

/// A signal to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SignalRequest {
    /// Its Linux number, 1 to 64: 2 is SIGINT, 9 is SIGKILL, 15 is SIGTERM.
    pub signal: u8,
}

impl Check for SignalRequest {
    fn check(&self) -> Result<(), Refused> {
        if (1..=64).contains(&self.signal) {
            Ok(())
        } else {
            refuse(format!("`signal` is {}; signals are 1 to 64", self.signal))
        }
    }
}

mod base64_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(data: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(data))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        STANDARD.decode(text.as_bytes()).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    fn exec(argv: &[&str]) -> ExecRequest {
        let argv = argv.iter().map(|&text| text.to_owned()).collect();
        ExecRequest { argv, ..ExecRequest::default() }
    }

    #[test]
    fn a_command_must_name_a_program_and_stay_in_bounds() {
        assert_eq!(exec(&["true"]).check(), Ok(()));
        let many = vec!["x"; ARGV_COUNT_MAX + 1];
        let long = "x".repeat(ARGV_BYTES_MAX);
        for argv in [&[][..], &[""], &["a\0b"], &many, &[&long]] {
            assert!(exec(argv).check().is_err());
        }
        for cwd in ["", "relative", "/a\0b", &format!("/{}", "x".repeat(5000))] {
            let request = ExecRequest { cwd: Some(cwd.into()), ..exec(&["true"]) };
            assert!(request.check().is_err(), "{cwd:?}");
        }
        for ms in [0, TIME_LIMIT_MS_MAX + 1] {
            let request = ExecRequest { time_limit_ms: Some(ms), ..exec(&["true"]) };
            assert!(request.check().is_err(), "{ms}");
        }
        for user in ["", "a:b", "../x", &"u".repeat(33)] {
            let request = ExecRequest { user: Some(user.into()), ..exec(&["true"]) };
            assert!(request.check().is_err(), "{user:?}");
        }
    }

    #[test]
    fn an_event_is_one_flat_object() {
        let event =
            ExecEvent { seq: 3, ts: 9, body: ExecBody::Stdout { data: vec![0, 255, b'\n'] } };
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(text, r#"{"seq":3,"ts":9,"type":"stdout","data":"AP8K"}"#);
    }

    #[test]
    fn an_event_from_the_future_is_not_an_error() {
        let text = r#"{"seq":1,"ts":2,"type":"resized","columns":80}"#;
        let event: ExecEvent = serde_json::from_str(text).unwrap();
        assert_eq!(event.body, ExecBody::Unknown);
    }

    proptest! {
        #[test]
        fn bytes_survive_the_wire_exactly(data: Vec<u8>, seq: u64) {
            let event = ExecEvent { seq, ts: 1, body: ExecBody::Stderr { data } };
            let text = serde_json::to_string(&event).unwrap();
            prop_assert!(!text.contains('\n'));
            prop_assert_eq!(serde_json::from_str::<ExecEvent>(&text).unwrap(), event);
        }
    }
}
