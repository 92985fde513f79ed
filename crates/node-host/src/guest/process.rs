//! Processes that live on their own in a guest.

use api_guest::{
    Answer, Attach, CHUNK_BYTES_MAX, Control, ENDED_KEPT_MAX, Exec, GENERATION_OF_BOUNDS, Input,
    Mark, PROCESSES_RANGE, Process, ProcessBounds, PtySize, Request, Resize, Signal, Spawn,
    SpawnWithin,
};
use tokio::time::timeout;

use crate::guest::{ANSWER_WITHIN, Answers, ExecEvent, ExecInput, GuestConnection, GuestError};

/// LIMIT: processes of one guest the node holds in memory; an agent of ours never has more.
pub const PROCESSES_SHOWN_MAX: usize = *PROCESSES_RANGE.end() as usize + ENDED_KEPT_MAX;

impl GuestConnection {
    /// Starts a process that lives on its own, with the bounds of the protocol.
    pub async fn spawn(self, exec: Exec) -> Result<Process, GuestError> {
        self.spawned(Request::Spawn(Spawn { exec })).await
    }

    /// Starts a process that lives on its own. An agent of before
    /// [`GENERATION_OF_BOUNDS`](api_guest::GENERATION_OF_BOUNDS) starts nothing and closes.
    pub async fn spawn_within(
        self,
        exec: Exec,
        bounds: ProcessBounds,
    ) -> Result<Process, GuestError> {
        self.spawned(Request::SpawnWithin(SpawnWithin { exec, bounds })).await
    }

    async fn spawned(mut self, request: Request) -> Result<Process, GuestError> {
        match self.ask(request, ANSWER_WITHIN).await? {
            Answer::Process(process) => Ok(process),
            _ => Err(GuestError::Unexpected),
        }
    }

    /// The processes that live on their own, at most [`PROCESSES_SHOWN_MAX`].
    pub async fn processes(mut self) -> Result<Vec<Process>, GuestError> {
        let mut all = Vec::new();
        let mut answer = self.ask(Request::Processes, ANSWER_WITHIN).await?;
        loop {
            match answer {
                Answer::Process(process) if all.len() < PROCESSES_SHOWN_MAX => all.push(process),
                Answer::Done => return Ok(all),
                _ => return Err(GuestError::Unexpected),
            }
            answer = timeout(ANSWER_WITHIN, self.answers.next())
                .await
                .map_err(|_| GuestError::Silent(ANSWER_WITHIN))??;
        }
    }

    /// Follows a process from the event after `after` on: what it is now, its events, and the way to it.
    pub async fn attach(
        mut self,
        process: u32,
        after: Option<u64>,
    ) -> Result<(Process, AttachReader, ExecInput), GuestError> {
        match self.ask(Request::Attach(Attach { process, after }), ANSWER_WITHIN).await? {
            Answer::Process(process) => {
                let reader = AttachReader { answers: self.answers, mark: None };
                Ok((process, reader, ExecInput { inputs: self.inputs }))
            }
            _ => Err(GuestError::Unexpected),
        }
    }

    /// Gives a process `input`, then perhaps the end of its input. Returns when it was taken, which
    /// may be never: a process need not read.
    pub async fn feed(
        self,
        process: u32,
        data: impl AsRef<[u8]>,
        close: bool,
    ) -> Result<(), GuestError> {
        let mut frames: Vec<Input> = data
            .as_ref()
            .chunks(CHUNK_BYTES_MAX)
            .map(|piece| Input::Stdin(piece.to_vec()))
            .collect();
        if close {
            frames.push(Input::CloseStdin);
        }
        self.control(process, frames).await
    }

    /// Sends a process's group a signal, 1 to 64.
    pub async fn signal(self, process: u32, number: i32) -> Result<(), GuestError> {
        let signal = self.control(process, vec![Input::Signal(Signal { number })]);
        timeout(ANSWER_WITHIN, signal).await.map_err(|_| GuestError::Silent(ANSWER_WITHIN))?
    }

    /// Gives a process's terminal another size.
    pub async fn resize(self, process: u32, size: PtySize) -> Result<(), GuestError> {
        let resize = self.control(process, vec![Input::Resize(Resize { size })]);
        timeout(ANSWER_WITHIN, resize).await.map_err(|_| GuestError::Silent(ANSWER_WITHIN))?
    }

    async fn control(mut self, process: u32, frames: Vec<Input>) -> Result<(), GuestError> {
        self.inputs.send(&Request::Control(Control { process })).await?;
        let inputs = &mut self.inputs;
        let sending = async {
            for frame in frames {
                inputs.send(&frame).await?;
            }
            inputs.send(&Input::End).await
        };
        let answer = tokio::select! {
            biased;
            // The agent speaks before the end only to refuse.
            answer = self.answers.next() => answer?,
            sent = sending => match sent {
                Ok(()) | Err(GuestError::Closed) => self.answers.next().await?,
                Err(error) => return Err(error),
            },
        };
        match answer {
            Answer::Done => Ok(()),
            _ => Err(GuestError::Unexpected),
        }
    }
}

/// Starts a process that lives on its own over a connection of `open`, whatever the guest's agent knows:
/// one of an older snapshot has bounds of its own.
pub async fn spawn_within<E, F>(
    open: impl Fn() -> F,
    exec: Exec,
    bounds: ProcessBounds,
) -> Result<Result<Process, GuestError>, E>
where
    F: Future<Output = Result<GuestConnection, E>>,
{
    let spawned = open().await?.spawn_within(exec.clone(), bounds).await;
    if !matches!(spawned, Err(GuestError::Closed)) {
        return Ok(spawned);
    }
    match open().await?.health(ANSWER_WITHIN).await {
        // It did not understand, so it started nothing.
        Ok(healthy) if healthy.generation < GENERATION_OF_BOUNDS => {
            Ok(open().await?.spawn(exec).await)
        }
        _ => Ok(spawned),
    }
}

/// One event of a process that lives on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachEvent {
    /// Its number in the life of the process.
    pub seq: u64,
    /// When the agent learned of it, nanoseconds since 1970 UTC.
    pub at_ns: i64,
    /// What.
    pub body: AttachBody,
}

/// What happened to a process that lives on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachBody {
    /// What happens to every command.
    Exec(ExecEvent),
    /// So many events are not kept any more.
    Dropped(u64),
}

/// The events of a process. Dropping this and its [`ExecInput`] leaves the process as it is.
#[derive(Debug)]
pub struct AttachReader {
    answers: Answers,
    /// Of the event that is coming: what `next` had when it was given up.
    mark: Option<Mark>,
}

impl AttachReader {
    /// The next event, waited for as long as it takes. May be called again after being cancelled.
    pub async fn next(&mut self) -> Result<AttachEvent, GuestError> {
        let Mark { seq, at_ns } = match self.mark.clone() {
            Some(mark) => mark,
            None => match self.answers.next().await? {
                Answer::Mark(mark) => self.mark.insert(mark).clone(),
                _ => return Err(GuestError::Unexpected),
            },
        };
        let body = match self.answers.next().await? {
            Answer::Started(started) => AttachBody::Exec(ExecEvent::Started(started.pid)),
            Answer::Stdout(data) => AttachBody::Exec(ExecEvent::Stdout(data)),
            Answer::Stderr(data) => AttachBody::Exec(ExecEvent::Stderr(data)),
            Answer::Exited(exited) => AttachBody::Exec(ExecEvent::Exited(exited)),
            Answer::Dropped(dropped) => AttachBody::Dropped(dropped.events),
            _ => return Err(GuestError::Unexpected),
        };
        self.mark = None;
        Ok(AttachEvent { seq, at_ns, body })
    }
}
