//! Commands in sandboxes: their events on the way out, input and signals on the way in.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api_guest::{Exec, Exited};
use api_node::{
    ErrorCode, EventStream, ExecBody, ExecEvent, ExecRequest, Failure, ProcessId, PtySize,
};
use base_types::SandboxId;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use node_host::{ExecEvent as GuestEvent, ExecInput, ExecReader, GuestError, SandboxHandle};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::failure;

/// LIMIT: the guest ends a command at its time limit; this much later, a guest that did not is
/// taken for stuck. Killing a big process group under emulation takes a second or two.
const TIME_LIMIT_SLACK: Duration = Duration::from_secs(30);
/// Numbers of commands begin here; those below are the guest's, for processes that live on their own.
const FIRST_COMMAND: u32 = 1 << 31;
/// Exit code of a command whose sandbox was lost.
pub(crate) const EXIT_LOST: u8 = 125;

type Input = Arc<tokio::sync::Mutex<ExecInput>>;

/// The way into a running command.
#[derive(Clone, Debug)]
struct Way {
    input: Input,
    /// Cancelled when the command is over, or nobody listens to it any more.
    over: CancellationToken,
}

impl Way {
    /// Sends something in a task of its own: what has been begun is sent whole also when whoever asked
    /// for it leaves, because half a frame would spoil all that follow.
    async fn send<F>(
        self,
        send: impl FnOnce(OwnedMutexGuard<ExecInput>) -> F,
    ) -> Result<(), GuestError>
    where
        F: Future<Output = Result<(), GuestError>> + Send + 'static,
    {
        let sending = send(self.input.lock_owned().await);
        let over = self.over;
        let sent = tokio::spawn(async move {
            tokio::select! {
                sent = sending => sent,
                () = over.cancelled() => Err(GuestError::Closed),
            }
        });
        sent.await.unwrap_or(Err(GuestError::Closed))
    }
}

/// The commands that run now, each of which lives as long as its caller listens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Commands {
    running: Arc<Mutex<HashMap<(SandboxId, ProcessId), Way>>>,
    last: Arc<AtomicU32>,
}

/// A running command's place among the others, left when dropped.
struct Place {
    commands: Commands,
    key: (SandboxId, ProcessId),
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(way) = self.commands.lock().remove(&self.key) {
            way.over.cancel();
        }
    }
}

impl Commands {
    fn lock(&self) -> MutexGuard<'_, HashMap<(SandboxId, ProcessId), Way>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: SandboxId, process: ProcessId) -> Result<Way, Failure> {
        self.lock().get(&(id, process)).cloned().ok_or_else(|| {
            let message = format!("no command {process} runs in {id}; it may have ended");
            Failure::new(ErrorCode::NotFound, message)
        })
    }

    /// Whether this is a number of a command, not of a process that lives on its own.
    pub(crate) const fn is_one(process: ProcessId) -> bool {
        process.0 >= FIRST_COMMAND
    }

    /// Runs a command. Dropping the stream kills it.
    pub(crate) async fn exec(
        &self,
        sandbox: SandboxHandle,
        request: ExecRequest,
    ) -> Result<EventStream<ExecEvent>, Failure> {
        let id = sandbox.facts().id;
        let time_limit_ms = request.time_limit_ms;
        let exec = of_guest(&sandbox.facts().env, request, None)?;
        let limit = time_limit_ms.map(|ms| Duration::from_millis(ms) + TIME_LIMIT_SLACK);
        let deadline = limit.and_then(|limit| Some((Instant::now().checked_add(limit)?, limit)));
        let connection = sandbox.connect().await.map_err(|error| failure::of_ask(&error))?;
        let sent = connection.exec(exec).await;
        let (mut reader, input) = sent.map_err(|error| failure::of_guest(&error))?;
        // A request the guest refuses is refused as a whole, not in the middle of a stream.
        let first = match reader.first().await {
            Ok(event) => event,
            Err(error) => return Err(failure::of_broken(&sandbox, error).await),
        };
        let process_id = ProcessId(FIRST_COMMAND | self.last.fetch_add(1, Ordering::Relaxed));
        let input = Arc::new(tokio::sync::Mutex::new(input));
        let place = match first {
            GuestEvent::Started(_) => {
                let way = Way { input: input.clone(), over: CancellationToken::new() };
                self.lock().insert((id, process_id), way);
                Some(Place { commands: self.clone(), key: (id, process_id) })
            }
            // The program cannot be started: the agent says why and how that ends, and there is
            // nothing to give input or signals to.
            GuestEvent::Stdout(_) | GuestEvent::Stderr(_) | GuestEvent::Exited(_) => None,
        };
        let first = Some(first);
        let input = Some(input);
        let run = Run { sandbox, reader, process_id, place, input, deadline, seq: 0, first };
        Ok(stream::unfold(run, Run::next).boxed())
    }

    /// Gives a command standard input.
    pub(crate) async fn stdin(
        &self,
        id: SandboxId,
        process: ProcessId,
        data: Bytes,
        close: bool,
    ) -> Result<(), Failure> {
        let sent = self.find(id, process)?.send(move |mut input| async move {
            if !data.is_empty() {
                input.stdin(&data).await?;
            }
            if close { input.close_stdin().await } else { Ok(()) }
        });
        sent.await.map_err(|error| ended(process, &error))
    }

    /// Sends a signal to a command's process group.
    pub(crate) async fn signal(
        &self,
        id: SandboxId,
        process: ProcessId,
        number: u8,
    ) -> Result<(), Failure> {
        let way = self.find(id, process)?;
        let sent = way.send(move |mut input| async move { input.signal(number.into()).await });
        sent.await.map_err(|error| ended(process, &error))
    }
}

/// What the guest of a sandbox with the environment `own` is asked to run. It fits into one frame.
pub(crate) fn of_guest(
    own: &BTreeMap<String, String>,
    request: ExecRequest,
    pty: Option<PtySize>,
) -> Result<Exec, Failure> {
    let env = request.env_within(own)?;
    Ok(Exec {
        argv: request.argv,
        env: env.into_iter().collect(),
        cwd: request.cwd,
        user: request.user,
        time_limit_ms: request.time_limit_ms,
        stdin: request.stdin,
        pty: pty.map(size_of_guest),
    })
}

pub(crate) const fn size_of_guest(size: PtySize) -> api_guest::PtySize {
    api_guest::PtySize { rows: size.rows, columns: size.cols }
}

fn ended(process: ProcessId, error: &GuestError) -> Failure {
    match error {
        GuestError::Closed => {
            Failure::new(ErrorCode::Conflict, format!("command {process} has ended"))
        }
        other => failure::of_guest(other),
    }
}

/// A command as a stream of events.
struct Run {
    sandbox: SandboxHandle,
    reader: ExecReader,
    process_id: ProcessId,
    /// `None` when the command did not start, or is over.
    place: Option<Place>,
    /// `None` once the last event is out. Dropping its last holder withdraws the command.
    input: Option<Input>,
    /// When the guest must have ended it, and how long after the request that is.
    deadline: Option<(Instant, Duration)>,
    seq: u64,
    first: Option<GuestEvent>,
}

impl Run {
    async fn next(mut self) -> Option<(ExecEvent, Self)> {
        self.input.as_ref()?;
        let next = match self.first.take() {
            Some(first) => Ok(first),
            None => match self.deadline {
                None => self.reader.next().await,
                Some((deadline, limit)) => timeout_at(deadline, self.reader.next())
                    .await
                    .unwrap_or(Err(GuestError::Silent(limit))),
            },
        };
        let body = match next {
            // Only the first event is this one; a later one is not from an agent of ours.
            Ok(GuestEvent::Started(pid)) if self.seq == 0 => {
                ExecBody::Started { process_id: self.process_id, pid }
            }
            Ok(GuestEvent::Started(_)) => self.lost(GuestError::Unexpected).await,
            Ok(GuestEvent::Stdout(data)) => ExecBody::Stdout { data },
            Ok(GuestEvent::Stderr(data)) => ExecBody::Stderr { data },
            Ok(GuestEvent::Exited(exited)) => {
                self.over();
                exit(&exited)
            }
            Err(error) => self.lost(error).await,
        };
        let event = ExecEvent { seq: self.seq, ts: now_us(), body };
        self.seq += 1;
        Some((event, self))
    }

    fn over(&mut self) {
        self.place = None;
        self.input = None;
    }

    async fn lost(&mut self, error: GuestError) -> ExecBody {
        self.over();
        ExecBody::Error {
            failure: failure::of_broken(&self.sandbox, error).await,
            exit_code: EXIT_LOST,
        }
    }
}

pub(crate) fn exit(exited: &Exited) -> ExecBody {
    let (exit_code, signal) = code_and_signal(exited);
    ExecBody::Exit { exit_code, signal, timed_out: exited.timed_out }
}

/// As a shell says it: 128 and the signal when one ended the command.
pub(crate) fn code_and_signal(exited: &Exited) -> (u8, Option<u8>) {
    let signal = exited.signal.and_then(|signal| u8::try_from(signal).ok());
    let code = exited.code.and_then(|code| u8::try_from(code).ok());
    (code.unwrap_or_else(|| 128_u8.saturating_add(signal.unwrap_or_default())), signal)
}

/// Microseconds since 1970 UTC.
pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod test {
    use api_guest::{Message as _, Request, Spawn, decode_all};
    use api_node::{ARGV_COUNT_MAX, COMMAND_BYTES_MAX, PATH_BYTES_MAX};

    use super::*;

    #[test]
    fn the_largest_command_fits_into_a_frame_however_it_is_cut() {
        // Texts of these lengths have lengths of one, two and three bytes before them.
        for length in [1, 127, 128, 1_000, 16_383, 16_384, COMMAND_BYTES_MAX / 2] {
            let mut rest = COMMAND_BYTES_MAX - "program".len() - 1;
            let (mut argv, mut own) = (vec!["program".to_owned()], BTreeMap::new());
            while rest > length && argv.len() < ARGV_COUNT_MAX {
                argv.push("x".repeat(length));
                rest -= length + 1;
            }
            if let Some(value) = rest.checked_sub("LAST".len() + 2) {
                own.insert("LAST".to_owned(), "y".repeat(value));
            }
            let request = ExecRequest {
                argv,
                cwd: Some(format!("/{}", "d".repeat(PATH_BYTES_MAX - 1))),
                user: Some("u".repeat(32)),
                time_limit_ms: Some(u64::MAX),
                stdin: true,
                ..ExecRequest::default()
            };
            let pty = Some(PtySize { rows: u16::MAX, cols: u16::MAX });
            let exec = of_guest(&own, request.clone(), pty).unwrap();
            for asked in [Request::Exec(exec.clone()), Request::Spawn(Spawn { exec })] {
                let frame = asked.encode().unwrap();
                assert_eq!(decode_all::<Request>(&frame, 4096).unwrap(), [asked], "{length}");
            }
            let more = BTreeMap::from([("MORE".to_owned(), "z".repeat(rest))]);
            let over = of_guest(&own, ExecRequest { env: more, ..request }, pty).unwrap_err();
            assert_eq!(over.code, ErrorCode::InvalidRequest, "{length}");
        }
    }

    #[test]
    fn a_command_ends_as_in_a_shell() {
        for (code, signal, expected) in [
            (Some(0), None, 0),
            (Some(255), None, 255),
            (None, Some(9), 137),
            (None, Some(15), 143),
        ] {
            let body = exit(&Exited { code, signal, timed_out: false });
            let ExecBody::Exit { exit_code, .. } = body else { panic!("{body:?}") };
            assert_eq!(exit_code, expected);
        }
    }

    #[tokio::test]
    async fn a_command_that_does_not_run_takes_neither_input_nor_signals() {
        let (processes, id) = (Commands::default(), SandboxId::from_bits(1));
        let stdin = processes.stdin(id, ProcessId(3), Bytes::new(), true).await.unwrap_err();
        let signal = processes.signal(id, ProcessId(3), 15).await.unwrap_err();
        assert_eq!((stdin.code, signal.code), (ErrorCode::NotFound, ErrorCode::NotFound));
    }
}
