//! Connections that follow a process, or give it something.

use std::os::fd::AsFd;
use std::sync::Arc;

use api_guest::{Answer, Attach, Control, Dropped, FailCode, Input, Mark, Message, Started};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use rustix::termios::{SpecialCodeIndex, tcgetattr};

use crate::agent::Agent;
use crate::connection::{Arrival, Connection};
use crate::failure::{Failure, Stop};
use crate::process::ring::{Event, Next, What};
use crate::process::{Place, Process};

/// What ends input on a terminal that says nothing else: Ctrl-D.
const END_OF_INPUT: u8 = 4;

/// Carries out [`Attach`].
pub(crate) fn attach(
    agent: &Agent,
    connection: &mut Connection,
    request: &Attach,
) -> Result<(), Stop> {
    let process = agent.processes.find(request.process)?;
    let first = request.after.map_or(0, |after| after.saturating_add(1));
    let place = process.listen(Some(first)).map_err(|error| no_place(&error))?;
    connection.send(&Answer::Process(process.show()))?;
    let mut told = Telling { place, frames: Vec::new(), sent: 0, last: false };
    let mut giving = Giving { process, waiting: None, strict: false };
    giving.take(connection)?;
    loop {
        told.send(connection)?;
        if told.frames.is_empty() && told.last {
            return Ok(());
        }
        wait(connection, &told.place, &giving, !told.frames.is_empty())?;
        giving.take(connection)?;
    }
}

/// Carries out [`Control`].
pub(crate) fn control(
    agent: &Agent,
    connection: &mut Connection,
    request: &Control,
) -> Result<(), Stop> {
    let outcome = agent.processes.find(request.process).map_err(Stop::from).and_then(|process| {
        let place = process.listen(None).map_err(|error| no_place(&error))?;
        let mut giving = Giving { process, waiting: None, strict: true };
        while !giving.take(connection)? {
            wait(connection, &place, &giving, false)?;
        }
        Ok(())
    });
    match outcome {
        Ok(()) => connection.send(&Answer::Done),
        Err(Stop::Failed(failure)) => {
            connection.send(&failure.answer())?;
            connection.discard_input();
            Ok(())
        }
        Err(gone) => Err(gone),
    }
}

fn no_place(error: &Errno) -> Failure {
    Failure::of("cannot follow the process", *error)
}

/// Waits until the host sent something or took something, or something happened to the process.
fn wait(
    connection: &mut Connection,
    place: &Place,
    giving: &Giving,
    sending: bool,
) -> Result<(), Stop> {
    let mut wanted = PollFlags::RDHUP;
    // What comes behind input that waits has to wait too.
    let receiving = giving.waiting.is_none();
    wanted.set(PollFlags::IN, receiving);
    wanted.set(PollFlags::OUT, sending);
    let mut polled = [
        PollFd::from_borrowed_fd(connection.stream(), wanted),
        PollFd::from_borrowed_fd(place.bell.fd(), PollFlags::IN),
    ];
    match poll(&mut polled, None) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(_) => return Err(Stop::Gone),
    }
    let [stream, bell] = polled.map(|one| one.revents());
    if !bell.is_empty() {
        place.bell.hush();
    }
    if stream.contains(PollFlags::IN) {
        return match connection.receive_arrived() {
            Arrival::Bytes | Arrival::NothingYet => Ok(()),
            Arrival::Closed => Err(Stop::Gone),
        };
    }
    let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL | PollFlags::RDHUP;
    if stream.intersects(gone) { Err(Stop::Gone) } else { Ok(()) }
}

/// Events on their way to a reader.
struct Telling {
    place: Place,
    /// What is being sent, and how much of it was.
    frames: Vec<u8>,
    sent: usize,
    /// Whether that is the end.
    last: bool,
}

impl Telling {
    /// Sends what can be sent without waiting.
    fn send(&mut self, connection: &Connection) -> Result<(), Stop> {
        loop {
            while let Some(rest) = self.frames.get(self.sent..).filter(|rest| !rest.is_empty()) {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                match send(connection.stream().as_fd(), rest, flags) {
                    Ok(count) => self.sent += count,
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return Ok(()),
                    Err(_) => return Err(Stop::Gone),
                }
            }
            self.frames.clear();
            self.sent = 0;
            if self.last {
                return Ok(());
            }
            match self.place.next() {
                Next::Nothing => return Ok(()),
                Next::Dropped { events, last_seq, at_ns } => {
                    self.put(&Answer::Mark(Mark { seq: last_seq, at_ns }))?;
                    self.put(&Answer::Dropped(Dropped { events }))?;
                }
                Next::Event(Event { seq, at_ns, what }) => {
                    self.put(&Answer::Mark(Mark { seq, at_ns }))?;
                    match what {
                        What::Started(pid) => self.put(&Answer::Started(Started { pid }))?,
                        What::Output { kind, data } => {
                            let header = api_guest::raw_header(kind, data.len());
                            self.frames.extend_from_slice(&header.map_err(|_| Stop::Gone)?);
                            self.frames.extend_from_slice(&data);
                        }
                        What::Exited(exited) => {
                            self.put(&Answer::Exited(exited))?;
                            self.last = true;
                        }
                    }
                }
            }
        }
    }

    fn put(&mut self, answer: &Answer) -> Result<(), Stop> {
        answer.encode_into(&mut self.frames).map_err(|_| Stop::Gone)
    }
}

/// What the host sends for a process.
struct Giving {
    process: Arc<Process>,
    /// Input the process's standby has no room for yet.
    waiting: Option<Vec<u8>>,
    /// Whether what cannot be given is a failure, or just has no effect.
    strict: bool,
}

impl Giving {
    /// Acts on the frames that have arrived. Whether the host said that nothing more comes.
    fn take(&mut self, connection: &mut Connection) -> Result<bool, Stop> {
        loop {
            if let Some(data) = self.waiting.take() {
                self.waiting = self.offer(data)?;
                if self.waiting.is_some() {
                    return Ok(false);
                }
            }
            match connection.arrived_input()? {
                None => return Ok(false),
                Some(Input::End) => return Ok(true),
                Some(Input::Stdin(data)) => self.waiting = Some(data),
                Some(Input::CloseStdin) => self.close()?,
                Some(Input::Signal(signal)) => self.signal(signal.number)?,
                Some(Input::Resize(resize)) => {
                    self.alive()?;
                    self.process
                        .resize(&resize.size)
                        .map_err(|error| Failure::of("cannot resize the terminal", error))?;
                }
                Some(Input::Chunk(_)) => return Err(Stop::Gone),
            }
        }
    }

    /// Whether the process can still be given something; a failure where that is asked for.
    fn alive(&self) -> Result<bool, Failure> {
        let child = self.process.child.as_ref();
        let alive = child.is_some_and(|child| child.ending().is_none());
        if !alive && self.strict {
            let message = format!("process {} is over", self.process.facts.id);
            return Err(Failure::new(FailCode::ProcessOver, message));
        }
        Ok(alive)
    }

    /// Puts input where the process reads it; gives it back when there is no room.
    fn offer(&self, data: Vec<u8>) -> Result<Option<Vec<u8>>, Failure> {
        if !self.alive()? {
            return Ok(None);
        }
        let mut state = self.process.lock();
        if !state.stdin.is_open() && self.strict {
            let message = format!(
                "process {} takes no input: it was started without, or its input is closed",
                self.process.facts.id
            );
            return Err(Failure::invalid(message));
        }
        if !state.stdin.has_room() {
            return Ok(Some(data));
        }
        state.stdin.put(data);
        if state.stdin.blocked_on().is_some() {
            self.process.attention.ring();
        }
        Ok(None)
    }

    fn close(&self) -> Result<(), Failure> {
        if !self.alive()? {
            return Ok(());
        }
        let mut state = self.process.lock();
        let codes = state.terminal.as_ref().map(|terminal| {
            let codes = tcgetattr(terminal).map(|attributes| attributes.special_codes);
            codes.map_or(END_OF_INPUT, |codes| codes[SpecialCodeIndex::VEOF])
        });
        match codes {
            None => state.stdin.close(),
            Some(end) => state.stdin.put(vec![end]),
        }
        self.process.attention.ring();
        Ok(())
    }

    fn signal(&self, number: i32) -> Result<(), Failure> {
        if !(1..=64).contains(&number) {
            let message = format!("{number} is not a signal; they are numbered 1 to 64");
            return Err(Failure::invalid(message));
        }
        self.alive()?;
        let Some(child) = &self.process.child else { return Ok(()) };
        child.signal(number).map_err(|error| Failure::of("cannot signal the process", error))
    }
}
