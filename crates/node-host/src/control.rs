//! The node's end of a VMM's control socket.
//!
//! Requests are pipelined: [`Control::send`] returns as soon as the packet is out, and the reply
//! is found by its number. One task reads; it ends with the socket. What the VMM sends is not
//! trusted: a packet that does not decode, or a reply to nothing, ends the connection, and every
//! text is cut before it is shown. A VMM that lets a deadline pass is stuck: whatever it would still
//! answer, nobody waits for it, so its machine is declared failed and its owner kills it.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api_vmm::{
    Answer, Command, Message, PACKET_BYTES_MAX, PACKET_FDS_MAX, Progress, Request, StopReason,
};
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::cgroup::Cgroup;
use crate::watched::watched;

/// LIMIT: a create has fewer than ten requests under way; more is a mistake of ours.
const PENDING_MAX: usize = 64;
/// LIMIT: a text from a VMM that may be hijacked, as shown to people.
const TEXT_CHARS_MAX: usize = 400;
/// LIMIT: a guest can break each device once; more reports are noise.
const BROKEN_MAX: usize = 16;

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The VMM tried and failed; the text is its reason.
    #[error("{0}")]
    Refused(String),
    /// No reply in time.
    #[error("the VMM did not answer within {} ms", .0.as_millis())]
    Late(Duration),
    /// The process is gone.
    #[error("the VMM process is gone")]
    Gone,
    /// The VMM sent an answer of the wrong kind, or something that is no message.
    #[error("the VMM broke the control protocol")]
    Protocol,
    /// The packet could not be sent.
    #[error("send a command to the VMM")]
    Send(#[source] io::Error),
}

/// How a machine ended, as far as its socket told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MachineEnd {
    /// The guest shut down, reset or panicked.
    Guest,
    /// KVM or the VMM failed; one sentence.
    Failed(String),
    /// The socket closed without a word: killed, or crashed.
    Silent,
}

/// What is known of the process by its socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SocketState {
    /// The VMM is jailed and speaks our protocol; how far it had come when it said so.
    pub hello: Option<Progress>,
    /// Set once, when the machine is over.
    pub end: Option<MachineEnd>,
    /// Devices the guest broke: name and what it did.
    pub broken: Vec<(String, String)>,
}

type Reply = Result<Answer, ControlError>;

/// A way to ask one VMM. Cheap to clone. Keeping a clone keeps the socket open, and an open socket
/// keeps the VMM alive, until its machine is [kept](api_vmm::Command::Keep) anyway.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    shared: Arc<Shared>,
    group: Option<Cgroup>,
}

#[derive(Debug)]
struct Shared {
    socket: AsyncFd<Arc<OwnedFd>>,
    pending: Mutex<Pending>,
    state: watch::Sender<SocketState>,
}

#[derive(Debug, Default)]
struct Pending {
    last_seq: u32,
    closed: bool,
    replies: HashMap<u32, oneshot::Sender<Reply>>,
}

/// A request that is on its way.
#[derive(Debug)]
pub(crate) struct PendingReply {
    shared: Arc<Shared>,
    reply: oneshot::Receiver<Reply>,
}

impl PendingReply {
    /// Waits for the reply, at most `limit`. When that passes, the machine is over.
    pub(crate) async fn within(self, limit: Duration) -> Reply {
        match timeout(limit, self.reply).await {
            Err(_) => {
                let late = ControlError::Late(limit);
                self.shared.give_up(late.to_string());
                Err(late)
            }
            Ok(Err(_)) => Err(ControlError::Gone),
            Ok(Ok(reply)) => reply,
        }
    }
}

impl Control {
    /// Takes `socket` (a `SOCK_SEQPACKET` end) and starts reading. Must be called in a runtime.
    pub(crate) fn start(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let state = watch::Sender::new(SocketState::default());
        let socket = watched(Arc::new(socket), Interest::READABLE | Interest::WRITABLE)?;
        let shared = Arc::new(Shared { socket, pending: Mutex::default(), state });
        tokio::spawn(read_all(shared.clone()));
        Ok(Self { shared, group: None })
    }

    /// The same, of a VMM in `group`.
    pub(crate) fn within(self, group: Option<Cgroup>) -> Self {
        Self { group, ..self }
    }

    /// The resource group its VMM is in.
    pub(crate) fn group(&self) -> Option<&Cgroup> {
        self.group.as_ref()
    }

    /// What is known; changes as the VMM reports.
    pub(crate) fn state(&self) -> watch::Receiver<SocketState> {
        self.shared.state.subscribe()
    }

    /// Sends `command` with `files` and does not wait for the reply.
    pub(crate) async fn send(
        &self,
        command: Command,
        files: &[BorrowedFd<'_>],
    ) -> Result<PendingReply, ControlError> {
        let (sender, reply) = oneshot::channel();
        let seq = self.shared.register(sender)?;
        let sent = match api_vmm::encode(&Request { seq, command }) {
            Ok(packet) => self.shared.send_packet(&packet, files).await,
            Err(error) => Err(io::Error::other(error)),
        };
        match sent {
            Ok(()) => Ok(PendingReply { shared: self.shared.clone(), reply }),
            Err(source) => {
                self.shared.lock().replies.remove(&seq);
                match source.kind() {
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                        Err(ControlError::Gone)
                    }
                    _ => Err(ControlError::Send(source)),
                }
            }
        }
    }

    /// Sends `command` and waits for its reply, at most `limit`.
    pub(crate) async fn request(
        &self,
        command: Command,
        files: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Reply {
        self.send(command, files).await?.within(limit).await
    }

    /// As [`Self::request`], for commands that only answer [`Answer::Done`].
    pub(crate) async fn order(
        &self,
        command: Command,
        files: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<(), ControlError> {
        match self.request(command, files, limit).await? {
            Answer::Done => Ok(()),
            Answer::Primed(_)
            | Answer::Restored(_)
            | Answer::Snapshotted { .. }
            | Answer::Stats(_) => Err(ControlError::Protocol),
        }
    }

    /// Declares the machine failed, unless it is over already; its owner ends it.
    pub(crate) fn give_up(&self, reason: &str) {
        self.shared.give_up(reason.to_owned());
    }

    /// Waits until the VMM has said hello, at most `limit`, and says how far it had come then.
    pub(crate) async fn hello(&self, limit: Duration) -> Result<Progress, ControlError> {
        let mut state = self.state();
        let known = timeout(limit, state.wait_for(|s| s.hello.is_some() || s.end.is_some()))
            .await
            .map_err(|_| ControlError::Late(limit))?
            .map_err(|_| ControlError::Gone)?;
        match (&known.end, known.hello) {
            (None, Some(progress)) => Ok(progress),
            (Some(MachineEnd::Failed(reason)), _) => Err(ControlError::Refused(reason.clone())),
            (Some(MachineEnd::Guest | MachineEnd::Silent) | None, _) => Err(ControlError::Gone),
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, sender: oneshot::Sender<Reply>) -> Result<u32, ControlError> {
        let mut pending = self.lock();
        if pending.closed {
            return Err(ControlError::Gone);
        }
        if pending.replies.len() >= PENDING_MAX {
            return Err(ControlError::Send(io::Error::other("too many requests under way")));
        }
        pending.last_seq = pending.last_seq.wrapping_add(1);
        let seq = pending.last_seq;
        pending.replies.insert(seq, sender);
        Ok(seq)
    }

    async fn send_packet(&self, packet: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let attempt = |socket: &Arc<OwnedFd>| {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PACKET_FDS_MAX))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let fits = files.len() <= PACKET_FDS_MAX
                && (files.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(files)));
            if !fits {
                return Err(io::Error::other("too many file descriptors in one command"));
            }
            rustix::net::sendmsg(
                socket,
                &[IoSlice::new(packet)],
                &mut ancillary,
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            )?;
            Ok(())
        };
        self.socket.async_io(Interest::WRITABLE, attempt).await
    }

    /// Declares the machine failed, unless it is over already.
    fn give_up(&self, reason: String) {
        end(&self.state, MachineEnd::Failed(reason));
        // The VMM sees this as the end of its node, and exits when it can, unless it is kept.
        let _ = rustix::net::shutdown(self.socket.get_ref(), rustix::net::Shutdown::Both);
    }

    /// The next packet, or `None` at the end of the socket.
    async fn recv_packet(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let length = self
            .socket
            .async_io(Interest::READABLE, |socket| {
                // The VMM passes no descriptors; without room for any the kernel drops them.
                let mut ancillary = RecvAncillaryBuffer::default();
                let mut slices = [IoSliceMut::new(buffer)];
                let received = rustix::net::recvmsg(
                    socket,
                    &mut slices,
                    &mut ancillary,
                    RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
                )?;
                Ok(received.bytes)
            })
            .await?;
        Ok((length > 0).then_some(length))
    }
}

async fn read_all(shared: Arc<Shared>) {
    let state = &shared.state;
    // One byte more than may come, so that a longer packet is noticed.
    let mut buffer = vec![0; PACKET_BYTES_MAX + 1];
    loop {
        let packet = match shared.recv_packet(&mut buffer).await {
            Ok(Some(length)) => buffer.get(..length).unwrap_or_default(),
            Ok(None) => break,
            Err(error) => {
                tracing::debug!("control socket: {error}");
                break;
            }
        };
        let taken = api_vmm::decode::<Message>(packet)
            .map_err(|_| ControlError::Protocol)
            .and_then(|message| take(message, &shared));
        if taken.is_err() {
            shared.give_up("the VMM broke the control protocol".to_owned());
            break;
        }
    }
    end(state, MachineEnd::Silent);
    let mut pending = shared.lock();
    pending.closed = true;
    pending.replies.clear();
}

fn take(message: Message, shared: &Shared) -> Result<(), ControlError> {
    let state = &shared.state;
    match message {
        Message::Hello { protocol: api_vmm::PROTOCOL, progress } => {
            state.send_modify(|state| state.hello = Some(progress));
        }
        Message::Hello { protocol, .. } => {
            let ours = api_vmm::PROTOCOL;
            end(
                state,
                MachineEnd::Failed(format!(
                    "the VMM speaks control protocol {protocol}, this node speaks {ours}; \
                     install both from one build"
                )),
            );
            return Err(ControlError::Protocol);
        }
        Message::Reply { seq, result } => {
            let sender = shared.lock().replies.remove(&seq).ok_or(ControlError::Protocol)?;
            // Whoever asked may have given up waiting.
            let _ = sender.send(result.map_err(|text| ControlError::Refused(shown(&text))));
        }
        Message::Stopped(StopReason::GuestShutdown) => end(state, MachineEnd::Guest),
        Message::Stopped(StopReason::KvmFailure(text) | StopReason::VmmFailure(text)) => {
            end(state, MachineEnd::Failed(shown(&text)));
        }
        Message::DeviceBroken { device, reason } => {
            tracing::info!(
                device = shown(&device),
                reason = shown(&reason),
                "a guest broke a device"
            );
            state.send_if_modified(|state| {
                let room = state.broken.len() < BROKEN_MAX;
                if room {
                    state.broken.push((shown(&device), shown(&reason)));
                }
                room
            });
        }
    }
    Ok(())
}

/// The first reason given stands.
fn end(state: &watch::Sender<SocketState>, reason: MachineEnd) {
    state.send_if_modified(|state| {
        let first = state.end.is_none();
        if first {
            state.end = Some(reason);
        }
        first
    });
}

/// `text` from an untrusted process, fit for a log line or a terminal.
pub(crate) fn shown(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(TEXT_CHARS_MAX).map(printable).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod test;
