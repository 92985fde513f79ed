use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::check::{Check, Refused, env, env_bytes, path, refuse, user};
use crate::{
    ARGV_BYTES_MAX, ARGV_COUNT_MAX, COMMAND_BYTES_MAX, ErrorCode, Failure, PTY_SIDE_MAX,
    TIME_LIMIT_MS_MAX,
};

/// A command to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Program (looked up in PATH) and arguments. With the environment and the sandbox's own, at most
    /// 122880 bytes.
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

impl ExecRequest {
    /// The environment the command gets in a sandbox whose own is `sandboxs`.
    ///
    /// # Errors
    ///
    /// Its arguments and that are together more than a guest takes.
    pub fn env_within(
        &self,
        sandboxs: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let mut env = sandboxs.clone();
        env.extend(self.env.clone());
        let (argv, whole) = (self.argv_bytes(), env_bytes(&env));
        if argv + whole <= COMMAND_BYTES_MAX {
            return Ok(env);
        }
        let message = format!(
            "the command has {argv} bytes of arguments and {whole} bytes of environment, with the \
             sandbox's own; together at most {COMMAND_BYTES_MAX} are allowed"
        );
        Err(Failure::new(ErrorCode::InvalidRequest, message)
            .with_hint("put the rest in a file, or give it on standard input"))
    }

    /// What the arguments take, with a byte for the end of each.
    fn argv_bytes(&self) -> usize {
        self.argv.iter().map(|argument| argument.len() + 1).sum()
    }
}

impl Check for ExecRequest {
    fn check(&self) -> Result<(), Refused> {
        let bytes = self.argv_bytes();
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

/// A terminal's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PtySize {
    /// Lines, 1 to 10000.
    pub rows: u16,
    /// Characters in a line, 1 to 10000.
    pub cols: u16,
}

impl Check for PtySize {
    fn check(&self) -> Result<(), Refused> {
        for (name, value) in [("rows", self.rows), ("cols", self.cols)] {
            if !(1..=PTY_SIDE_MAX).contains(&value) {
                return refuse(format!("`{name}` is {value}; it must be 1 to {PTY_SIDE_MAX}"));
            }
        }
        Ok(())
    }
}

/// A process to start, which then lives on its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SpawnRequest {
    /// Program (looked up in PATH) and arguments. With the environment and the sandbox's own, at most
    /// 122880 bytes.
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
    /// Whether standard input will be sent; otherwise it is empty. A terminal always takes input.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stdin: bool,
    /// Give it a terminal of this size in place of pipes. All its output is `stdout` then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pty: Option<PtySize>,
}

impl SpawnRequest {
    /// What is to be run, and the terminal it is to have.
    pub fn into_parts(self) -> (ExecRequest, Option<PtySize>) {
        let Self { argv, env, cwd, user, time_limit_ms, stdin, pty } = self;
        (ExecRequest { argv, env, cwd, user, time_limit_ms, stdin }, pty)
    }
}

impl From<ExecRequest> for SpawnRequest {
    fn from(exec: ExecRequest) -> Self {
        let ExecRequest { argv, env, cwd, user, time_limit_ms, stdin } = exec;
        Self { argv, env, cwd, user, time_limit_ms, stdin, pty: None }
    }
}

impl Check for SpawnRequest {
    fn check(&self) -> Result<(), Refused> {
        let (exec, pty) = self.clone().into_parts();
        exec.check()?;
        pty.map_or(Ok(()), |pty| pty.check())
    }
}

/// A process that was started to live on its own. Kept for 10 minutes after its end, at most 32 of
/// those that ended last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Process {
    /// Its number in the sandbox.
    pub id: ProcessId,
    /// Its process id in the guest; none when it could not be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Program and arguments; very long ones are cut.
    pub argv: Vec<String>,
    /// The user it runs as.
    pub user: String,
    /// The directory it was started in.
    pub cwd: String,
    /// Whether it has a terminal.
    pub pty: bool,
    /// When it was started, in milliseconds since the Unix epoch.
    pub started_at_ms: u64,
    /// Whether it is not over.
    pub running: bool,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ProcessExit>,
    /// Number of its last event so far.
    pub last_seq: u64,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct ProcessExit {
    /// Its exit code; 128 plus the signal when one ended it; 127 when there is no such program and
    /// 126 when it is not executable.
    pub exit_code: u8,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<u8>,
    /// Whether it was killed because its time was up.
    #[serde(default)]
    pub timed_out: bool,
    /// When, in milliseconds since the Unix epoch.
    pub ended_at_ms: u64,
}

/// Processes of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct ProcessList {
    /// They, in the order they were started.
    pub processes: Vec<Process>,
}

/// Which events of a process to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "server", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// Only events after the one with this number, such as the last one the caller got. A number past
    /// the last event leaves out all there are. The end of a process is always told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
}

impl Check for EventsQuery {
    fn check(&self) -> Result<(), Refused> {
        Ok(())
    }
}

/// What a text message to a process's socket may ask for; binary messages are input. Each field is
/// optional; what is there is done in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SocketRequest {
    /// Give the terminal this size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize: Option<PtySize>,
    /// Send this signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<u8>,
    /// End standard input.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub close_stdin: bool,
}

impl Check for SocketRequest {
    fn check(&self) -> Result<(), Refused> {
        self.resize.map_or(Ok(()), |size| size.check())?;
        self.signal.map_or(Ok(()), |signal| SignalRequest { signal }.check())
    }
}

/// One command run in a sandbox, or one process started in it. Never used twice in the life of a
/// sandbox: processes are 1, 2, 3 …, commands of `exec` have numbers from 2^31.
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
    /// 0, 1, 2 … in the life of the command. A heartbeat repeats the last one.
    pub seq: u64,
    /// When the node, or for a process that lives on its own the guest's agent, learned of it, in
    /// microseconds since the Unix epoch.
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
    /// Older events are not kept any more, and were not told. `seq` is that of the last of them. Only
    /// in streams of processes that live on their own.
    Dropped {
        /// How many events are missing.
        events: u64,
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
#[cfg_attr(feature = "server", into_params(parameter_in = Query))]
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
    use crate::ENV_BYTES_MAX;

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
    fn arguments_and_environment_are_bounded_together() {
        let of = |bytes: usize| BTreeMap::from([("A".to_owned(), "x".repeat(bytes - 3))]);
        // Both at their own bounds are too much; what a variable is given anew counts once.
        let request = ExecRequest { env: of(ENV_BYTES_MAX), ..exec(&["x"]) };
        assert_eq!(request.check(), Ok(()));
        assert_eq!(request.env_within(&of(ENV_BYTES_MAX)).unwrap(), request.env);
        let rest = COMMAND_BYTES_MAX - ENV_BYTES_MAX;
        let fits = exec(&["x", &"y".repeat(rest - 3)]);
        assert!(fits.env_within(&of(ENV_BYTES_MAX)).is_ok());
        let over = exec(&["x", &"y".repeat(rest - 2)]);
        assert_eq!(over.check(), Ok(()));
        let refused = over.env_within(&of(ENV_BYTES_MAX)).unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidRequest);
        for figure in [rest + 1, ENV_BYTES_MAX, COMMAND_BYTES_MAX] {
            assert!(refused.message.contains(&figure.to_string()), "{refused}");
        }
    }

    #[test]
    fn a_terminal_has_a_size_a_program_can_draw_on() {
        let spawn = |rows, cols| {
            let pty = Some(PtySize { rows, cols });
            SpawnRequest { pty, ..exec(&["bash"]).into() }.check()
        };
        assert_eq!(spawn(1, PTY_SIDE_MAX), Ok(()));
        for (rows, cols) in [(0, 80), (24, 0), (PTY_SIDE_MAX + 1, 80), (24, u16::MAX)] {
            assert!(spawn(rows, cols).is_err(), "{rows}x{cols}");
        }
        assert!(SpawnRequest::from(exec(&[])).check().is_err());
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
