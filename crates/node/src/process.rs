//! Processes that live on their own. The guest's agent keeps all there is to know about them, so they
//! and their events are there after the node was restarted, or the sandbox paused.

use std::sync::Arc;

use api_guest::{Exec, Process as GuestProcess, ProcessBounds};
use api_node::{
    ErrorCode, EventsQuery, ExecBody, ExecEvent, Failure, Process, ProcessExit, ProcessId,
    ProcessInput, ProcessLine,
};
use futures_util::{StreamExt, stream};
use node_host::{
    AttachBody, AttachEvent, AttachReader, ExecEvent as GuestEvent, ExecInput, GuestError,
    SandboxHandle,
};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use crate::agent::{self, Resumes};
use crate::exec::{EXIT_LOST, code_and_signal, exit, now_us, size_of_guest};
use crate::failure;

/// LIMIT: input of one line that waits for the connection to the guest; the caller waits then too.
const INPUTS_PENDING_MAX: usize = 4;

/// A process, as the API shows it.
pub(crate) fn shown(process: GuestProcess) -> Process {
    let ms = |ns: i64| u64::try_from(ns / 1_000_000).unwrap_or_default();
    let exit = process.exited.as_ref().map(|exited| {
        let (exit_code, signal) = code_and_signal(exited);
        let ended_at_ms = ms(process.ended_ns.unwrap_or(process.started_ns));
        ProcessExit { exit_code, signal, timed_out: exited.timed_out, ended_at_ms }
    });
    Process {
        id: ProcessId(process.id),
        pid: process.pid,
        argv: process.argv,
        user: process.user,
        cwd: process.cwd,
        pty: process.pty,
        started_at_ms: ms(process.started_ns),
        running: exit.is_none(),
        exit,
        last_seq: process.last_seq,
    }
}

/// The one of this number among them.
pub(crate) fn find(all: Vec<GuestProcess>, id: ProcessId) -> Result<Process, Failure> {
    let found = all.into_iter().find(|process| process.id == id.0);
    found.map(shown).ok_or_else(|| {
        Failure::new(ErrorCode::NotFound, format!("there is no process {id}"))
            .with_hint("list them; one that is over is forgotten after 10 minutes")
    })
}

/// Opens a line to a process.
pub(crate) async fn line(
    sandbox: SandboxHandle,
    process: ProcessId,
    query: EventsQuery,
) -> Result<ProcessLine, Failure> {
    let (reader, guest) = attach(&sandbox, process, query.after).await?;
    let (input, inputs) = mpsc::channel(INPUTS_PENDING_MAX);
    let inputs = Arc::new(Mutex::new(inputs));
    let passing = Passing::begin(inputs.clone(), guest);
    let last_seq = query.after;
    let line = Line {
        sandbox,
        process,
        reader,
        inputs,
        passing,
        last_seq,
        resumes: Resumes::default(),
        over: false,
    };
    Ok(ProcessLine { events: stream::unfold(line, Line::next).boxed(), input })
}

/// Starts one, if `bounds` allow it.
pub(crate) async fn spawn(
    sandbox: &SandboxHandle,
    exec: Exec,
    bounds: ProcessBounds,
) -> Result<Process, Failure> {
    let open = async || sandbox.connect().await.map_err(|error| failure::of_ask(&error));
    match node_host::spawn_within(open, exec, bounds).await? {
        Ok(process) => Ok(shown(process)),
        Err(error) => Err(failure::of_broken(sandbox, error).await),
    }
}

async fn attach(
    sandbox: &SandboxHandle,
    process: ProcessId,
    after: Option<u64>,
) -> Result<(AttachReader, ExecInput), Failure> {
    let attached = agent::ask(sandbox, |agent| agent.attach(process.0, after)).await;
    attached.map(|(_, reader, input)| (reader, input))
}

type Inputs = Arc<Mutex<mpsc::Receiver<ProcessInput>>>;

/// A line, as a stream of events.
struct Line {
    sandbox: SandboxHandle,
    process: ProcessId,
    reader: AttachReader,
    inputs: Inputs,
    passing: Passing,
    /// Of the last event that was passed on.
    last_seq: Option<u64>,
    resumes: Resumes,
    over: bool,
}

impl Line {
    async fn next(mut self) -> Option<(ExecEvent, Self)> {
        if self.over {
            return None;
        }
        let (seq, ts, body) = loop {
            match self.reader.next().await {
                Ok(event) => break self.told(event),
                Err(error) => {
                    if let Some(lost) = self.resume(error).await {
                        self.over = true;
                        let seq = self.last_seq.map_or(0, |last| last.saturating_add(1));
                        break (seq, now_us(), lost);
                    }
                }
            }
        };
        Some((ExecEvent { seq, ts, body }, self))
    }

    fn told(&mut self, event: AttachEvent) -> (u64, u64, ExecBody) {
        let AttachEvent { seq, at_ns, body } = event;
        let body = match body {
            AttachBody::Exec(GuestEvent::Started(pid)) => {
                ExecBody::Started { process_id: self.process, pid }
            }
            AttachBody::Exec(GuestEvent::Stdout(data)) => ExecBody::Stdout { data },
            AttachBody::Exec(GuestEvent::Stderr(data)) => ExecBody::Stderr { data },
            AttachBody::Exec(GuestEvent::Exited(exited)) => {
                self.over = true;
                exit(&exited)
            }
            AttachBody::Dropped(events) => ExecBody::Dropped { events },
        };
        self.last_seq = Some(seq);
        self.resumes.came();
        (seq, u64::try_from(at_ns / 1000).unwrap_or_default(), body)
    }

    /// Connects again where the sandbox runs and only the connection is gone, as after a snapshot:
    /// nothing is missed by that. Otherwise the last event.
    async fn resume(&mut self, error: GuestError) -> Option<ExecBody> {
        let attached = attach(&self.sandbox, self.process, self.last_seq);
        let paused = || {
            let message = format!("the sandbox was paused; process {} is kept", self.process);
            Failure::new(ErrorCode::Conflict, message)
                .with_hint("follow it again, with `after`, which resumes the sandbox")
        };
        match self.resumes.again(&self.sandbox, error, attached, paused).await {
            Ok((reader, guest)) => {
                self.reader = reader;
                self.passing = Passing::begin(self.inputs.clone(), guest);
                None
            }
            Err(failure) => Some(ExecBody::Error { failure, exit_code: EXIT_LOST }),
        }
    }
}

/// The task that passes input on over one connection. A task of its own, because a frame must be sent
/// whole whatever comes the other way. Ends with this.
struct Passing(JoinHandle<()>);

impl Passing {
    fn begin(inputs: Inputs, mut guest: ExecInput) -> Self {
        Self(tokio::spawn(async move {
            let mut inputs = inputs.lock().await;
            while let Some(input) = inputs.recv().await {
                let sent = match input {
                    ProcessInput::Stdin(data) => guest.stdin(&data).await,
                    ProcessInput::CloseStdin => guest.close_stdin().await,
                    ProcessInput::Signal(number) => guest.signal(number.into()).await,
                    ProcessInput::Resize(size) => guest.resize(size_of_guest(size)).await,
                };
                if sent.is_err() {
                    // Why is for the reader of this connection to find out.
                    break;
                }
            }
            // Closing this direction would end the other one.
            std::future::pending::<()>().await;
        }))
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod test {
    use api_guest::Exited;

    use super::*;

    #[test]
    fn a_process_is_shown_as_running_until_its_end_is_known() {
        let mut process = GuestProcess {
            id: 4,
            pid: Some(77),
            argv: vec!["sleep".into()],
            user: "agent".into(),
            cwd: "/home/agent".into(),
            pty: false,
            started_ns: 5_000_000,
            ended_ns: None,
            exited: None,
            last_seq: 0,
        };
        let running = shown(process.clone());
        assert_eq!((running.running, running.exit, running.started_at_ms), (true, None, 5));
        process.ended_ns = Some(9_000_000);
        process.exited = Some(Exited { code: None, signal: Some(9), timed_out: true });
        let over = shown(process);
        let exit = ProcessExit { exit_code: 137, signal: Some(9), timed_out: true, ended_at_ms: 9 };
        assert_eq!((over.running, over.exit), (false, Some(exit)));
    }
}
