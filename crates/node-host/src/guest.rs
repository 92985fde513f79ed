//! Requests to the agent inside a guest.
//!
//! One connection is one request. The connection is one end of a Unix socket pair; the VMM splices
//! the other onto the guest's vsock. A guest is hostile: every frame is bounded by its decoder, and
//! nothing it sends is kept beyond what the caller asked for. A caller that goes away closes the
//! connection, which withdraws the request.

mod directory;
mod port;
mod process;

use std::io;
use std::time::Duration;

use api_guest::{
    Answer, CHUNK_BYTES_MAX, Decoder, Entry, Exec, Exited, FailCode, FileStat, FrameError, Healthy,
    Identified, Identify, Input, List, Message, PtySize, ReadFile, Request, Resize, Signal, Stat,
    WriteFile,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::control::{ControlError, PendingReply, shown};

use crate::sandbox::Use;
pub use directory::WatchReader;
pub use port::PortStream;
pub use process::{AttachBody, AttachEvent, AttachReader, PROCESSES_SHOWN_MAX, spawn_within};

/// LIMIT: entries of one directory the node holds in memory; the rest is cut off.
pub const ENTRIES_MAX: usize = 10_000;
/// LIMIT: what is read from the connection at once.
const READ_BYTES: usize = 64 * 1024;
/// LIMIT: a VMM opens a connection from memory; this is for a machine with twenty creates at once.
const OPENED_WITHIN: Duration = Duration::from_secs(20);
/// LIMIT: a healthy agent answers what touches only its own file system within seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Why a request to a guest has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The agent did not carry it out, for this reason.
    #[error("{message}")]
    Failed {
        /// Kind of failure.
        code: FailCode,
        /// The agent's sentence.
        message: String,
    },
    /// The guest closed the connection: the agent is not listening, or it is gone.
    #[error("the guest closed the connection")]
    Closed,
    /// No answer in time.
    #[error("the guest's agent did not answer within {} ms", .0.as_millis())]
    Silent(Duration),
    /// Bytes that are no frames, or frames out of place.
    #[error("the guest broke the agent protocol")]
    Protocol(#[source] FrameError),
    /// An answer that does not belong to the request.
    #[error("the guest's agent gave an answer of the wrong kind")]
    Unexpected,
    /// The connection failed.
    #[error("talk to the guest's agent")]
    Io(#[source] io::Error),
    /// The request does not fit the protocol.
    #[error("the request is too large for the guest's agent")]
    TooLarge(#[source] FrameError),
    /// The VMM did not open the connection.
    #[error("open a connection to the guest")]
    Unopened(#[source] ControlError),
}

impl From<io::Error> for GuestError {
    fn from(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Io(source),
        }
    }
}

/// One connection, before or while its request is carried out.
#[derive(Debug)]
pub struct GuestConnection {
    answers: Answers,
    inputs: Inputs,
}

/// What the guest sends.
#[derive(Debug)]
struct Answers {
    stream: OwnedReadHalf,
    decoder: Decoder,
    buffer: Box<[u8]>,
    /// The VMM's word that it opens the connection, until that was looked at.
    opening: Option<PendingReply>,
}

/// What the guest gets.
#[derive(Debug)]
struct Inputs {
    stream: OwnedWriteHalf,
    /// What the sandbox is in use by, for as long as this lives.
    held_by: Option<Use>,
}

impl Answers {
    async fn next(&mut self) -> Result<Answer, GuestError> {
        if let Some(opening) = self.opening.take() {
            opening.within(OPENED_WITHIN).await.map_err(GuestError::Unopened)?;
        }
        loop {
            if let Some(answer) = self.decoder.take::<Answer>().map_err(GuestError::Protocol)? {
                return match answer {
                    Answer::Failed(failed) => Err(GuestError::Failed {
                        code: failed.code,
                        message: shown(&failed.message),
                    }),
                    other => Ok(other),
                };
            }
            let length = self.stream.read(&mut self.buffer).await?;
            if length == 0 {
                return Err(GuestError::Closed);
            }
            let bytes = self.buffer.get(..length).unwrap_or_default();
            self.decoder.push(bytes).map_err(GuestError::Protocol)?;
        }
    }
}

impl Inputs {
    async fn send(&mut self, message: &impl Message) -> Result<(), GuestError> {
        let frame = message.encode().map_err(GuestError::TooLarge)?;
        Ok(self.stream.write_all(&frame).await?)
    }

    /// Sends `data` in frames of legal size.
    async fn send_data(
        &mut self,
        data: &[u8],
        wrap: fn(Vec<u8>) -> Input,
    ) -> Result<(), GuestError> {
        for piece in data.chunks(CHUNK_BYTES_MAX) {
            self.send(&wrap(piece.to_vec())).await?;
        }
        Ok(())
    }
}

impl GuestConnection {
    /// Takes the node's end of the pair.
    pub fn over(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        let buffer = vec![0; READ_BYTES].into_boxed_slice();
        Self {
            answers: Answers { stream: reader, decoder: Decoder::new(), buffer, opening: None },
            inputs: Inputs { stream: writer, held_by: None },
        }
    }

    /// Looks at the VMM's word that it opens this connection before the first answer, and not before
    /// the request: that one is on its way meanwhile.
    pub(crate) fn opened_by(mut self, opening: PendingReply) -> Self {
        self.answers.opening = Some(opening);
        self
    }

    /// Keeps `in_use` until the connection, and whatever becomes of it, is closed.
    pub(crate) fn held_by(mut self, in_use: Use) -> Self {
        self.inputs.held_by = Some(in_use);
        self
    }

    async fn ask(&mut self, request: Request, limit: Duration) -> Result<Answer, GuestError> {
        let exchange = async {
            self.inputs.send(&request).await?;
            self.answers.next().await
        };
        timeout(limit, exchange).await.map_err(|_| GuestError::Silent(limit))?
    }

    /// Whether the agent works.
    pub async fn health(mut self, limit: Duration) -> Result<Healthy, GuestError> {
        match self.ask(Request::Health, limit).await? {
            Answer::Healthy(healthy) => Ok(healthy),
            _ => Err(GuestError::Unexpected),
        }
    }

    /// Sends a new identity. The answer is taken by [`Self::identified`], so that the request can
    /// be on its way before the guest runs.
    pub async fn identify(&mut self, identify: Identify) -> Result<(), GuestError> {
        self.inputs.send(&Request::Identify(identify)).await
    }

    /// Waits for the guest's word that it is a machine of its own.
    pub async fn identified(mut self, limit: Duration) -> Result<Identified, GuestError> {
        let answer = timeout(limit, self.answers.next());
        match answer.await.map_err(|_| GuestError::Silent(limit))?? {
            Answer::Identified(identified) => Ok(identified),
            _ => Err(GuestError::Unexpected),
        }
    }

    /// Carries out a request that is answered by a single `Done`: make, move, remove.
    pub async fn simple(self, request: Request) -> Result<(), GuestError> {
        self.simple_within(request, ANSWER_WITHIN).await
    }

    /// As [`Self::simple`], for what may take longer.
    pub async fn simple_within(
        mut self,
        request: Request,
        limit: Duration,
    ) -> Result<(), GuestError> {
        match self.ask(request, limit).await? {
            Answer::Done => Ok(()),
            _ => Err(GuestError::Unexpected),
        }
    }

    /// What is known about a file.
    pub async fn stat(mut self, stat: Stat) -> Result<FileStat, GuestError> {
        match self.ask(Request::Stat(stat), ANSWER_WITHIN).await? {
            Answer::StatAnswer(answer) => Ok(answer.stat),
            _ => Err(GuestError::Unexpected),
        }
    }

    /// The entries of a directory, at most [`ENTRIES_MAX`], and whether there were more.
    pub async fn list(mut self, list: List) -> Result<(Vec<Entry>, bool), GuestError> {
        let mut all: Vec<Entry> = Vec::new();
        let mut answer = self.ask(Request::List(list), ANSWER_WITHIN).await?;
        loop {
            match answer {
                Answer::Entries(entries) => {
                    let room = ENTRIES_MAX - all.len();
                    let more = entries.entries.len() > room;
                    all.extend(entries.entries.into_iter().take(room));
                    if more {
                        return Ok((all, true));
                    }
                }
                Answer::Done => return Ok((all, false)),
                _ => return Err(GuestError::Unexpected),
            }
            answer = timeout(ANSWER_WITHIN, self.answers.next())
                .await
                .map_err(|_| GuestError::Silent(ANSWER_WITHIN))??;
        }
    }

    /// Opens a file for reading.
    pub async fn read(mut self, read: ReadFile) -> Result<(FileStat, FileReader), GuestError> {
        match self.ask(Request::ReadFile(read), ANSWER_WITHIN).await? {
            Answer::FileHead(head) => {
                Ok((head.stat, FileReader { answers: self.answers, _inputs: self.inputs }))
            }
            _ => Err(GuestError::Unexpected),
        }
    }

    /// Begins to write a file. Nothing of it is seen until [`FileWriter::finish`].
    pub async fn write(mut self, write: WriteFile) -> Result<FileWriter, GuestError> {
        self.inputs.send(&Request::WriteFile(write)).await?;
        Ok(FileWriter { answers: self.answers, inputs: self.inputs })
    }

    /// Runs a command: its events, and the way to its standard input.
    pub async fn exec(mut self, exec: Exec) -> Result<(ExecReader, ExecInput), GuestError> {
        self.inputs.send(&Request::Exec(exec)).await?;
        Ok((ExecReader { answers: self.answers }, ExecInput { inputs: self.inputs }))
    }
}

/// A file's data as it comes.
#[derive(Debug)]
pub struct FileReader {
    answers: Answers,
    // Closing this direction would withdraw the request.
    _inputs: Inputs,
}

impl FileReader {
    /// The next piece, or `None` when the file is complete.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, GuestError> {
        let answer = timeout(ANSWER_WITHIN, self.answers.next());
        match answer.await.map_err(|_| GuestError::Silent(ANSWER_WITHIN))?? {
            Answer::Chunk(data) => Ok(Some(data)),
            Answer::End => Ok(None),
            _ => Err(GuestError::Unexpected),
        }
    }
}

/// A file being written. Dropping it leaves the old content as it was.
#[derive(Debug)]
pub struct FileWriter {
    answers: Answers,
    inputs: Inputs,
}

impl FileWriter {
    /// Appends `data`. Returns when the guest has taken it, so memory stays bounded.
    pub async fn write(&mut self, data: &[u8]) -> Result<(), GuestError> {
        tokio::select! {
            biased;
            // The agent speaks first only to refuse.
            refusal = self.answers.next() => match refusal {
                Err(error) => Err(error),
                Ok(_) => Err(GuestError::Unexpected),
            },
            sent = self.inputs.send_data(data, Input::Chunk) => match sent {
                Err(GuestError::Closed) => Err(self.reason().await),
                other => other,
            },
        }
    }

    /// Puts the file in its place.
    pub async fn finish(mut self) -> Result<(), GuestError> {
        match self.inputs.send(&Input::End).await {
            Err(GuestError::Closed) => return Err(self.reason().await),
            other => other?,
        }
        let answer = timeout(ANSWER_WITHIN, self.answers.next());
        match answer.await.map_err(|_| GuestError::Silent(ANSWER_WITHIN))?? {
            Answer::Done => Ok(()),
            _ => Err(GuestError::Unexpected),
        }
    }

    /// Why the guest closed: what it said before is still to be read.
    async fn reason(&mut self) -> GuestError {
        match timeout(ANSWER_WITHIN, self.answers.next()).await {
            Ok(Err(error)) => error,
            Ok(Ok(_)) => GuestError::Unexpected,
            Err(_) => GuestError::Silent(ANSWER_WITHIN),
        }
    }
}

/// What happens to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecEvent {
    /// It runs, with this process id in the guest.
    Started(u32),
    /// Bytes of its standard output.
    Stdout(Vec<u8>),
    /// Bytes of its standard error.
    Stderr(Vec<u8>),
    /// It is over; nothing follows.
    Exited(Exited),
}

/// The events of a command. Dropping this and its [`ExecInput`] kills the command.
#[derive(Debug)]
pub struct ExecReader {
    answers: Answers,
}

impl ExecReader {
    /// The first event, which tells whether the command started. An agent that works gives it at
    /// once.
    pub async fn first(&mut self) -> Result<ExecEvent, GuestError> {
        let first = timeout(ANSWER_WITHIN, self.next());
        first.await.map_err(|_| GuestError::Silent(ANSWER_WITHIN))?
    }

    /// The next event. There is no limit: a command may be silent for as long as it runs.
    pub async fn next(&mut self) -> Result<ExecEvent, GuestError> {
        match self.answers.next().await? {
            Answer::Started(started) => Ok(ExecEvent::Started(started.pid)),
            Answer::Stdout(data) => Ok(ExecEvent::Stdout(data)),
            Answer::Stderr(data) => Ok(ExecEvent::Stderr(data)),
            Answer::Exited(exited) => Ok(ExecEvent::Exited(exited)),
            _ => Err(GuestError::Unexpected),
        }
    }
}

/// The way to a command's standard input and process group.
#[derive(Debug)]
pub struct ExecInput {
    inputs: Inputs,
}

impl ExecInput {
    /// Sends standard input; returns when the connection has taken it.
    pub async fn stdin(&mut self, data: &[u8]) -> Result<(), GuestError> {
        self.inputs.send_data(data, Input::Stdin).await
    }

    /// Ends standard input.
    pub async fn close_stdin(&mut self) -> Result<(), GuestError> {
        self.inputs.send(&Input::CloseStdin).await
    }

    /// Gives the terminal of a process that lives on its own another size.
    pub async fn resize(&mut self, size: PtySize) -> Result<(), GuestError> {
        self.inputs.send(&Input::Resize(Resize { size })).await
    }

    /// Sends a signal, 1 to 64, to the command's process group.
    pub async fn signal(&mut self, number: i32) -> Result<(), GuestError> {
        self.inputs.send(&Input::Signal(Signal { number })).await
    }
}
