//! Processes that live on their own: the same programs, and all they said.

use api_node::{
    ErrorCode, EventsQuery, ExecBody, ExecEvent, Failure, Process, ProcessExit, ProcessId,
    ProcessInput, ProcessLine, SpawnRequest,
};
use base_types::SandboxId;
use futures_util::{StreamExt, stream};
use tokio::sync::{mpsc, watch};

use crate::api::EVENTS_PENDING_MAX;
use crate::{Input, SimNode, program};

/// A process and its events so far.
#[derive(Debug)]
pub(crate) struct Kept {
    process: Process,
    events: watch::Receiver<Vec<ExecEvent>>,
}

impl Kept {
    pub(crate) fn show(&self) -> Process {
        let mut process = self.process.clone();
        let events = self.events.borrow();
        process.last_seq = events.last().map_or(0, |event| event.seq);
        process.exit = events.last().and_then(|event| match event.body {
            ExecBody::Exit { exit_code, signal, timed_out } => {
                let ended_at_ms = event.ts / 1000;
                Some(ProcessExit { exit_code, signal, timed_out, ended_at_ms })
            }
            _ => None,
        });
        process.running = process.exit.is_none();
        process
    }
}

fn is_last(event: &ExecEvent) -> bool {
    matches!(event.body, ExecBody::Exit { .. } | ExecBody::Error { .. })
}

impl SimNode {
    pub(crate) async fn give(
        &self,
        id: SandboxId,
        process: ProcessId,
        what: Input,
    ) -> Result<(), Failure> {
        let gone = || no_process(process);
        let to_program = self.with_sandbox(id, |sandbox| {
            sandbox.processes.get(&process).cloned().ok_or_else(gone)
        })?;
        to_program.send(what).await.map_err(|_| gone())
    }

    pub(crate) fn spawn(&self, id: SandboxId, request: SpawnRequest) -> Result<Process, Failure> {
        let (request, pty) = request.into_parts();
        let (out, mut said) = mpsc::channel(EVENTS_PENDING_MAX);
        let (to_program, input) = mpsc::channel(EVENTS_PENDING_MAX);
        let process_id = {
            let mut state = self.lock();
            state.processes_made += 1;
            ProcessId(state.processes_made)
        };
        let process = Process {
            id: process_id,
            pid: Some(100 + process_id.0),
            argv: request.argv.clone(),
            user: request.user.clone().unwrap_or_else(|| "agent".into()),
            cwd: request.cwd.clone().unwrap_or_else(|| "/home/agent".into()),
            pty: pty.is_some(),
            started_at_ms: 1_750_000_000_000,
            running: true,
            exit: None,
            last_seq: 0,
        };
        let event = |seq, body| ExecEvent { seq, ts: 1_750_000_000_000_000 + seq, body };
        let started = ExecBody::Started { process_id, pid: 100 + process_id.0 };
        let (events, follow) = watch::channel(vec![event(0, started)]);
        let env = self.with_sandbox(id, |sandbox| {
            let env = request.env_within(&sandbox.env)?;
            sandbox.processes.insert(process_id, to_program);
            sandbox.kept.insert(process_id, Kept { process: process.clone(), events: follow });
            Ok(env)
        })?;
        let env = self.lock().databases.with_wired(id, env);
        tokio::spawn(program::run(request, pty, env, input, out));
        tokio::spawn(async move {
            while let Some(body) = said.recv().await {
                events.send_modify(|events| events.push(event(events.len() as u64, body)));
            }
        });
        Ok(process)
    }

    pub(crate) fn kept(&self, id: SandboxId, process: ProcessId) -> Result<Process, Failure> {
        self.with_guest(id, |sandbox| {
            let kept = sandbox.kept.get(&process).map(Kept::show);
            kept.ok_or_else(|| no_process(process))
        })
    }

    pub(crate) fn line(
        &self,
        id: SandboxId,
        process: ProcessId,
        query: EventsQuery,
    ) -> Result<ProcessLine, Failure> {
        let (events, to_program) = self.with_sandbox(id, |sandbox| {
            let kept = sandbox.kept.get(&process);
            let to_program = sandbox.processes.get(&process).cloned();
            let found = kept.map(|kept| kept.events.clone()).zip(to_program);
            found.ok_or_else(|| no_process(process))
        })?;
        let (input, mut inputs) = mpsc::channel(EVENTS_PENDING_MAX);
        tokio::spawn(async move {
            while let Some(one) = inputs.recv().await {
                let one = match one {
                    ProcessInput::Stdin(data) => Input::Stdin(data.to_vec()),
                    ProcessInput::CloseStdin => Input::Close,
                    ProcessInput::Signal(signal) => Input::Signal(signal),
                    ProcessInput::Resize(size) => Input::Resize(size),
                };
                if to_program.send(one).await.is_err() {
                    return;
                }
            }
        });
        // As a real guest does: past the end stands for the end, and the end is always told.
        let told = {
            let events = events.borrow();
            let count = events.len() - usize::from(events.last().is_some_and(is_last));
            query.after.map_or(0, |after| {
                usize::try_from(after).map_or(count, |after| after.saturating_add(1).min(count))
            })
        };
        let events = stream::unfold((events, told, false), |(mut events, told, over)| async move {
            if over {
                return None;
            }
            let next = events.wait_for(|events| events.len() > told).await.ok()?;
            let event = next.get(told).cloned()?;
            drop(next);
            let over = is_last(&event);
            Some((event, (events, told + 1, over)))
        });
        Ok(ProcessLine { events: events.boxed(), input })
    }
}

pub(crate) fn no_process(process: ProcessId) -> Failure {
    Failure::new(ErrorCode::NotFound, format!("there is no process {process}"))
}
