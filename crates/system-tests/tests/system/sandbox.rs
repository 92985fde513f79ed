//! A sandbox as tests handle it: commands to their end, killed when it is dropped.

use std::process::{Command, Stdio};

use api_node::{ExecBody, ExecRequest, Failure, LogsQuery, ProcessId, Sandbox as Made};
use base_types::SandboxId;
use client::{Client, ClientError, Events};
use tokio::time::timeout;

use crate::host::{Host, PATIENCE, program};

/// A sandbox on a host.
#[derive(Debug)]
pub(crate) struct Sandbox<'host> {
    host: &'host Host,
    pub(crate) client: Client,
    pub(crate) made: Made,
}

/// A command that was run to its end.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) end: End,
}

/// The last event of a command's stream.
#[derive(Debug)]
pub(crate) enum End {
    Exit { code: u8, signal: Option<u8>, timed_out: bool },
    Error { failure: Failure, code: u8 },
}

impl Done {
    /// Exit code, whoever gave it.
    pub(crate) fn code(&self) -> u8 {
        match self.end {
            End::Exit { code, .. } | End::Error { code, .. } => code,
        }
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// `words` as a command of the user `agent`.
pub(crate) fn command(words: &[&str]) -> ExecRequest {
    let argv = words.iter().map(|&word| word.to_owned()).collect();
    ExecRequest { argv, ..ExecRequest::default() }
}

/// `script` in a shell, as the user `agent`.
pub(crate) fn shell(script: &str) -> ExecRequest {
    command(&["sh", "-c", script])
}

/// Follows a stream, which must not break, to its last event. Events must be numbered without a gap.
pub(crate) async fn follow(events: Events<api_node::ExecEvent>) -> Done {
    follow_while_there(events).await.unwrap()
}

/// Follows a stream of a node that may go: to its last event, or until it breaks.
pub(crate) async fn follow_while_there(
    mut events: Events<api_node::ExecEvent>,
) -> Result<Done, ClientError> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut next = None;
    loop {
        let event = events.next().await?.expect("the last event is `exit` or `error`");
        if !matches!(event.body, ExecBody::Heartbeat) {
            // Of a stream whose beginning was read elsewhere, the first number is as good as any.
            let expected = next.replace(event.seq + 1).unwrap_or(event.seq);
            assert_eq!(event.seq, expected, "events are numbered without a gap");
        }
        let end = match event.body {
            ExecBody::Stdout { data } => {
                stdout.extend(data);
                continue;
            }
            ExecBody::Stderr { data } => {
                stderr.extend(data);
                continue;
            }
            ExecBody::Exit { exit_code: code, signal, timed_out } => {
                End::Exit { code, signal, timed_out }
            }
            ExecBody::Error { failure, exit_code: code } => End::Error { failure, code },
            _ => continue,
        };
        assert!(events.next().await?.is_none(), "nothing comes after the last event");
        return Ok(Done { stdout, stderr, end });
    }
}

impl<'host> Sandbox<'host> {
    pub(crate) fn new(host: &'host Host, made: Made) -> Self {
        Self { host, client: host.client(), made }
    }

    pub(crate) fn id(&self) -> SandboxId {
        self.made.id
    }

    /// Runs a command to its end.
    pub(crate) async fn exec(&self, request: &ExecRequest) -> Done {
        let run = async {
            let events = self.client.process_exec(self.id(), request).await;
            follow(events.unwrap_or_else(|error| panic!("exec {:?}: {error}", request.argv))).await
        };
        let done = timeout(PATIENCE, run).await;
        let done = done.unwrap_or_else(|_| panic!("{:?} hangs", request.argv));
        if matches!(done.end, End::Error { .. }) {
            // Shown when the test fails, after which the sandbox and its console are gone.
            let console = self.client.sandbox_logs(self.id(), LogsQuery::default()).await;
            eprintln!(
                "--- {} {:?}, its console:\n{}",
                self.id(),
                done.end,
                console.unwrap_or_default()
            );
        }
        done
    }

    /// Runs a shell script as the user `agent`.
    pub(crate) async fn sh(&self, script: &str) -> Done {
        self.exec(&shell(script)).await
    }

    /// Output of a shell script that must succeed, without its last newlines.
    pub(crate) async fn text(&self, script: &str) -> String {
        self.text_of(&shell(script)).await
    }

    /// As [`Self::text`], as root.
    pub(crate) async fn root(&self, script: &str) -> String {
        self.text_of(&ExecRequest { user: Some("root".to_owned()), ..shell(script) }).await
    }

    async fn text_of(&self, request: &ExecRequest) -> String {
        let done = self.exec(request).await;
        assert_eq!(done.code(), 0, "{:?}: {} {:?}", request.argv, done.stderr(), done.end);
        done.stdout().trim_end().to_owned()
    }

    /// Begins a command and waits until it runs.
    pub(crate) async fn start(
        &self,
        request: &ExecRequest,
    ) -> (Events<api_node::ExecEvent>, ProcessId) {
        let begin = async {
            let mut events = self.client.process_exec(self.id(), request).await.unwrap();
            loop {
                match events.next().await.unwrap().unwrap().body {
                    ExecBody::Started { process_id, .. } => return (events, process_id),
                    ExecBody::Heartbeat => {}
                    other => panic!("{:?} did not start: {other:?}", request.argv),
                }
            }
        };
        timeout(PATIENCE, begin).await.unwrap()
    }

    /// Kills it now.
    pub(crate) async fn kill(&self) -> Result<(), ClientError> {
        timeout(PATIENCE, self.client.sandbox_kill(self.id())).await.unwrap()
    }
}

impl Drop for Sandbox<'_> {
    fn drop(&mut self) {
        // Fails when the test has killed it, or its host.
        let _ = Command::new(program("sandflare"))
            .args(["kill", &self.made.id.to_string()])
            .env("SANDFLARE_HOME", self.host.home())
            .env("SANDFLARE_API_URL", self.host.url())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}
