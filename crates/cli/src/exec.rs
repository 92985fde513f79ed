//! Running a command: its streams are ours, its exit code is ours.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read};
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result};
use api_node::{CreateSandbox, ExecBody, ExecEvent, ExecRequest, ProcessId};
use base_types::SandboxId;
use bytes::Bytes;
use client::{Client, ClientError, Events};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::args::{Exec, Process, Run, Shell, Surroundings};
use crate::complaint::{End, SIGNAL_BASE, TIMED_OUT, advise};
use crate::duration::shown;
use crate::signals::Signals;
use crate::steps::Steps;
use crate::{snapshot, terminal};

/// LIMIT: one piece of standard input; the node takes 1 MiB at most, and small pieces keep typing
/// and pipes lively.
const STDIN_PIECE_BYTES: usize = 64 * 1024;
/// LIMIT: pieces of standard input read ahead of the node.
const STDIN_PIECES_MAX: usize = 4;
/// LIMIT: how long a create that is not wanted any more may take; giving it up makes the node undo
/// it, unless it is just done.
const CREATE_TIMEOUT: Duration = Duration::from_secs(10);
/// LIMIT: how long a command may take to end by a signal passed on to it.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(5);
/// LIMIT: how long the end waits for a sandbox to be gone. Killing takes milliseconds on an idle
/// node; after this the node does it alone.
const KILL_TIMEOUT: Duration = Duration::from_secs(30);
/// SIGPIPE, which this program gets as a failing write.
const SIGPIPE: u8 = 13;

/// `sandflare run`
pub(crate) async fn run(client: &Client, args: Run) -> Result<End> {
    let mut signals = Signals::take()?;
    let request = request(&args.process)?;
    let Run { template, size, network, .. } = args;
    let create =
        CreateSandbox { template, size, network: network.policy(), ..CreateSandbox::default() };
    let steps = Steps::new();
    tokio::select! {
        signal = signals.next() => return Ok(End::Code(SIGNAL_BASE + signal)),
        there = snapshot::ensure(client, &steps, &create.template, create.size) => there?,
    }
    let mut creating = pin!(client.sandbox_create(&create));
    let sandbox = tokio::select! {
        sandbox = &mut creating => sandbox?,
        signal = signals.next() => {
            // Its answer may be on the way, and then only we can kill it.
            let created = timeout(CREATE_TIMEOUT, creating);
            tokio::select! {
                _ = signals.next() => {}
                created = created => if let Ok(Ok(sandbox)) = created {
                    kill(client, sandbox.id).await;
                }
            }
            return Ok(End::Code(SIGNAL_BASE + signal));
        }
    };
    let end = watched(client, sandbox.id, &request, &mut signals).await;
    tokio::select! {
        // Asked twice: the caller does not want to wait. The node finishes without us.
        signal = signals.next() => return Ok(End::Code(SIGNAL_BASE + signal)),
        () = kill(client, sandbox.id) => {}
    }
    end
}

/// The command's own end is worth more than a failure of this; but nobody may miss it.
async fn kill(client: &Client, id: SandboxId) {
    match timeout(KILL_TIMEOUT, client.sandbox_kill(id)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => eprintln!("warning: sandbox {id} could not be killed: {error}"),
        Err(_) => eprintln!("warning: sandbox {id} is still being killed"),
    }
}

/// `sandflare exec`
pub(crate) async fn exec(client: &Client, args: Exec) -> Result<End> {
    let mut signals = Signals::take()?;
    let request = request(&args.process)?;
    if args.tty {
        return terminal::session(client, args.id, request, &mut signals).await;
    }
    watched(client, args.id, &request, &mut signals).await
}

/// `sandflare shell`
pub(crate) async fn shell(client: &Client, args: Shell) -> Result<End> {
    let mut signals = Signals::take()?;
    let Shell { surroundings, id } = args;
    // Which shell is the user's is known in the sandbox.
    let argv = ["sh", "-c", "exec \"${SHELL:-/bin/sh}\" -l"].map(str::to_owned).into();
    let process = Process { surroundings, timeout: None, stdin: true, argv };
    terminal::session(client, id, request(&process)?, &mut signals).await
}

/// The variables that `-e` gives, those without a value as they are here.
pub(crate) fn variables(given: &[String]) -> Result<BTreeMap<String, String>> {
    let variable = |text: &String| match text.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => match std::env::var(text) {
            Ok(value) => Ok((text.clone(), value)),
            Err(_) => Err(advise(
                format!("`-e {text}` names a variable that is not set here"),
                format!("set it, or give its value: -e {text}=VALUE"),
            )),
        },
    };
    given.iter().map(variable).collect()
}

fn request(process: &Process) -> Result<ExecRequest> {
    let Surroundings { env, workdir, user } = &process.surroundings;
    Ok(ExecRequest {
        argv: process.argv.clone(),
        env: variables(env)?,
        cwd: workdir.clone(),
        user: user.clone(),
        time_limit_ms: process.timeout.map(|timeout| {
            u64::try_from(timeout.as_millis()).expect("the parser allows at most a day")
        }),
        stdin: process.stdin || !std::io::stdin().is_terminal(),
    })
}

/// Runs the command to its end. A signal is passed on to it; when it does not end by that, or
/// another signal comes, going away closes the connection, by which the node knows to kill it.
async fn watched(
    client: &Client,
    id: SandboxId,
    request: &ExecRequest,
    signals: &mut Signals,
) -> Result<End> {
    let (process, started) = watch::channel(None);
    let mut streaming = pin!(stream(client, id, request, &process));
    let signal = tokio::select! {
        end = &mut streaming => return end,
        signal = signals.next() => signal,
    };
    let process = *started.borrow();
    if let Some(process) = process
        && client.process_signal(id, process, signal).await.is_ok()
    {
        tokio::select! {
            end = timeout(SIGNAL_TIMEOUT, &mut streaming) => if let Ok(end) = end {
                return end;
            },
            _ = signals.next() => {}
        }
    }
    Ok(End::Code(SIGNAL_BASE + signal))
}

async fn stream(
    client: &Client,
    id: SandboxId,
    request: &ExecRequest,
    process: &watch::Sender<Option<ProcessId>>,
) -> Result<End> {
    let mut events = client.process_exec(id, request).await?;
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    let mut feeding = Feeding::default();
    while let Some(ExecEvent { body, .. }) = next(&mut events).await? {
        let written = match body {
            ExecBody::Started { process_id, .. } => {
                process.send_replace(Some(process_id));
                if request.stdin {
                    feeding.begin(client.clone(), id, process_id)?;
                }
                Ok(())
            }
            ExecBody::Stdout { data } => write(&mut stdout, &data).await,
            ExecBody::Stderr { data } => write(&mut stderr, &data).await,
            other => match end(other, request.time_limit_ms) {
                Some(end) => return Ok(end),
                None => Ok(()),
            },
        };
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                return Ok(End::Code(SIGNAL_BASE + SIGPIPE));
            }
            Err(error) => return Err(error).context("pass the command's output on"),
        }
    }
    Err(events.cut_short().into())
}

/// What a command's last event means for this program. `None` for all others.
pub(crate) fn end(event: ExecBody, time_limit_ms: Option<u64>) -> Option<End> {
    match event {
        ExecBody::Exit { timed_out: true, .. } => {
            let limit = Duration::from_millis(time_limit_ms.unwrap_or_default());
            eprintln!(
                "sandflare: the command was killed because its time limit of {} was up",
                shown(limit),
            );
            Some(End::Code(TIMED_OUT))
        }
        ExecBody::Exit { exit_code, .. } => Some(End::Code(exit_code)),
        ExecBody::Error { failure, exit_code } => {
            crate::complaint::print(&ClientError::Refused(Box::new(failure)).into());
            Some(End::Code(exit_code))
        }
        ExecBody::Started { .. }
        | ExecBody::Stdout { .. }
        | ExecBody::Stderr { .. }
        | ExecBody::Dropped { .. }
        | ExecBody::Heartbeat
        | ExecBody::Unknown => None,
    }
}

async fn next(events: &mut Events<ExecEvent>) -> Result<Option<ExecEvent>> {
    events.next().await.context("follow the command")
}

pub(crate) async fn write(to: &mut (impl AsyncWrite + Unpin), data: &[u8]) -> std::io::Result<()> {
    to.write_all(data).await?;
    to.flush().await
}

/// Passing standard input on, which ends with this.
#[derive(Default)]
struct Feeding(Option<tokio::task::JoinHandle<()>>);

impl Feeding {
    fn begin(&mut self, client: Client, id: SandboxId, process: ProcessId) -> Result<()> {
        let mut input = stdin_pieces()?;
        let feeding = tokio::spawn(async move {
            loop {
                let piece = input.recv().await;
                let close = piece.is_none();
                let data = piece.unwrap_or_default();
                // The command may have ended or closed its input; its events tell the rest.
                if client.process_stdin(id, process, data, close).await.is_err() || close {
                    return;
                }
            }
        });
        self.0 = Some(feeding);
        Ok(())
    }
}

impl Drop for Feeding {
    fn drop(&mut self) {
        if let Some(feeding) = self.0.take() {
            feeding.abort();
        }
    }
}

/// Standard input as it comes; ends with it.
pub(crate) fn stdin_pieces() -> Result<mpsc::Receiver<Bytes>> {
    let (pieces, input) = mpsc::channel::<Bytes>(STDIN_PIECES_MAX);
    // A thread of its own: a read from a terminal cannot be given up, and must not keep the
    // program from ending.
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || read_stdin(&pieces))
        .context("start the thread that reads standard input")?;
    Ok(input)
}

fn read_stdin(pieces: &mpsc::Sender<Bytes>) {
    let mut stdin = std::io::stdin().lock();
    let mut piece = vec![0; STDIN_PIECE_BYTES];
    loop {
        match stdin.read(&mut piece) {
            Ok(0) => return,
            Ok(count) => {
                let read = piece.get(..count).unwrap_or_default();
                if pieces.blocking_send(Bytes::copy_from_slice(read)).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                eprintln!("warning: standard input cannot be read: {error}");
                return;
            }
        }
    }
}
