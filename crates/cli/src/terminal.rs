//! A command on a terminal that is this one: keys go there as they are, and its screen is ours.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use api_node::{
    EventsQuery, ExecBody, ExecRequest, ProcessId, PtySize, SocketRequest, SpawnRequest,
};
use base_types::SandboxId;
use bytes::Bytes;
use client::{Client, ClientError, SocketEvent, SocketReader, SocketWriter};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::complaint::{End, SIGNAL_BASE, advise};
use crate::exec;
use crate::signals::Signals;

/// SIGHUP: what a command gets when its terminal goes away.
const SIGHUP: u8 = 1;
/// LIMIT: how long telling a command that its terminal is gone may take.
const HANGUP_WITHIN: Duration = Duration::from_secs(5);
/// What a terminal without a size has, as those of a serial line.
const USUAL_SIZE: PtySize = PtySize { rows: 24, cols: 80 };

/// Runs a command on this terminal, to its end.
pub(crate) async fn session(
    client: &Client,
    id: SandboxId,
    request: ExecRequest,
    signals: &mut Signals,
) -> Result<End> {
    if !io::stdin().is_terminal() {
        return Err(advise(
            "standard input is not a terminal",
            "use `sandflare exec` without -t for a command that is not interactive",
        ));
    }
    let time_limit_ms = request.time_limit_ms;
    let mut spawn = SpawnRequest { pty: Some(size()), ..request.into() };
    if let Ok(term) = std::env::var("TERM") {
        spawn.env.entry("TERM".to_owned()).or_insert(term);
    }
    let process = client.process_spawn(id, &spawn).await?.id;
    let end = carried(client, id, process, time_limit_ms, signals).await;
    if !matches!(end, Ok((_, true))) {
        // Nobody sees it any more. When this does not get through either, it is gone.
        let hangup = client.process_signal(id, process, SIGHUP);
        let _ = timeout(HANGUP_WITHIN, hangup).await;
    }
    end.map(|(end, _)| end)
}

/// Carries keys and screen. Says also whether the command itself ended.
async fn carried(
    client: &Client,
    id: SandboxId,
    process: ProcessId,
    time_limit_ms: Option<u64>,
    signals: &mut Signals,
) -> Result<(End, bool)> {
    let mut resized = signal(SignalKind::window_change()).context("listen for signals")?;
    let (mut writer, mut reader) =
        client.process_socket(id, process, EventsQuery::default()).await?;
    let raw = Raw::enter()?;
    // It may have changed while the command was started.
    let request = SocketRequest { resize: Some(size()), ..SocketRequest::default() };
    writer.request(&request).await?;
    let mut keys = exec::stdin_pieces()?;
    let giving = async {
        // It fails when the connection does; why is for the other direction to say, which has read
        // all that came before.
        let _ = give(&mut writer, &mut keys, &mut resized).await;
        std::future::pending::<()>().await;
    };
    let last = tokio::select! {
        last = shown(&mut reader) => last,
        () = giving => unreachable!("it never ends"),
        signal = signals.next() => return Ok((End::Code(SIGNAL_BASE + signal), false)),
    };
    // What is said from here on is for a terminal as it was.
    drop(raw);
    let end = exec::end(last?, time_limit_ms).expect("`shown` returns a last event");
    Ok((end, true))
}

/// Passes keys on, and the size of this terminal whenever it changes.
async fn give(
    writer: &mut SocketWriter,
    keys: &mut mpsc::Receiver<Bytes>,
    resized: &mut Signal,
) -> Result<(), ClientError> {
    let mut open = true;
    loop {
        tokio::select! {
            piece = keys.recv(), if open => match piece {
                Some(piece) => writer.input(piece).await?,
                None => {
                    open = false;
                    let close = SocketRequest { close_stdin: true, ..SocketRequest::default() };
                    writer.request(&close).await?;
                }
            },
            _ = resized.recv() => {
                let resize = SocketRequest { resize: Some(size()), ..SocketRequest::default() };
                writer.request(&resize).await?;
            }
        }
    }
}

/// Shows output up to the last event.
async fn shown(reader: &mut SocketReader) -> Result<ExecBody> {
    let mut stdout = tokio::io::stdout();
    while let Some(event) = reader.next().await.context("follow the command")? {
        match event {
            SocketEvent::Output(data) => {
                exec::write(&mut stdout, &data).await.context("pass the command's output on")?;
            }
            SocketEvent::Event(event) => {
                if let last @ (ExecBody::Exit { .. } | ExecBody::Error { .. }) = event.body {
                    return Ok(last);
                }
            }
        }
    }
    Err(reader.cut_short().into())
}

/// The size of this terminal.
fn size() -> PtySize {
    match tcgetwinsize(io::stdin()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => {
            let most = api_node::PTY_SIDE_MAX;
            PtySize { rows: size.ws_row.min(most), cols: size.ws_col.min(most) }
        }
        _ => USUAL_SIZE,
    }
}

/// How the terminal was, while it is not.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal gives every key as it is, until this is dropped or the program panics.
struct Raw;

impl Raw {
    fn enter() -> Result<Self> {
        let before = tcgetattr(io::stdin()).context("look at the terminal")?;
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before.clone());
        // A panic ends the program without dropping anything.
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            usual(panic);
        }));
        let raw = Self;
        let mut attributes = before;
        attributes.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &attributes).context("set up the terminal")?;
        Ok(raw)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    // A panic of this very thread may hold the lock.
    let Ok(mut before) = BEFORE.try_lock() else { return };
    if let Some(before) = before.take() {
        // Nothing can be done when this fails: the terminal is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &before);
    }
}
