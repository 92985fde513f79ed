//! Directories as tar streams, out of the guest and into it.

use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use api_guest::{Answer, CHUNK_BYTES_MAX, FileHead, Input, Pack, Unpack};
use base_archive::{PackError, Rules, UnpackError};
use rustix::fs::{Mode, OFlags, open};

use crate::agent::Agent;
use crate::connection::Connection;
use crate::failure::{Failure, Stop};
use crate::tree;

/// Streams a directory to the host.
pub(crate) fn pack(agent: &Agent, connection: &mut Connection, request: &Pack) -> Result<(), Stop> {
    let path = tree::resolve(agent, &request.path)?;
    let directory = open_directory(&path, "read")?;
    let data = directory
        .metadata()
        .map_err(|error| Failure::of_io("cannot look at the directory", &error))?;
    let stat = tree::describe(&agent.accounts.get(), &data, None);
    connection.send(&Answer::FileHead(FileHead { stat }))?;
    let out = BufWriter::with_capacity(CHUNK_BYTES_MAX, Outgoing { connection: &mut *connection });
    match base_archive::pack(&directory, true, out) {
        Ok(()) => connection.send(&Answer::End),
        // There is nobody to write to.
        Err(PackError::Write(_)) => Err(Stop::Gone),
        Err(PackError::Read { path: inner, source }) => {
            let place = path.join(inner);
            Err(Failure::of(format!("cannot read {}", place.display()), source).into())
        }
        Err(error @ PackError::Deep { .. }) => {
            Err(Failure::invalid(format!("cannot read {}: {error}", path.display())).into())
        }
    }
}

/// Takes a directory from the host.
pub(crate) fn unpack(
    agent: &Agent,
    connection: &mut Connection,
    request: &Unpack,
) -> Result<(), Stop> {
    let outcome = take(agent, connection, request);
    connection.taken(outcome)
}

fn take(agent: &Agent, connection: &mut Connection, request: &Unpack) -> Result<(), Stop> {
    let path = tree::resolve(agent, &request.path)?;
    let owner = tree::owner(agent, request.user.as_deref())?;
    tree::make_parents(&path, &owner)?;
    let directory = open_directory(&path, "write")?;
    let mut incoming = Incoming { connection, piece: Vec::new(), used: 0, ended: false };
    let rules = Rules::Everything { uid: owner.uid, gid: owner.gid };
    match base_archive::unpack(&mut incoming, &directory, rules) {
        Ok(_) => {
            // What follows the end of an archive is padding.
            io::copy(&mut incoming, &mut io::sink()).map_err(|_| Stop::Gone)?;
            connection.send(&Answer::Done)
        }
        // The stream from the host is all that can fail so.
        Err(UnpackError::Read(_)) => Err(Stop::Gone),
        Err(UnpackError::Make { path: inner, source }) => {
            let place = path.join(inner);
            Err(Failure::of(format!("cannot write {}", place.display()), source).into())
        }
        Err(UnpackError::Damaged(cause)) => {
            let message = format!("the archive is damaged, or is no tar archive: {cause}");
            Err(Failure::invalid(message).into())
        }
        Err(error) => Err(Failure::invalid(error.to_string()).into()),
    }
}

fn open_directory(path: &Path, verb: &str) -> Result<std::fs::File, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = open(path, flags, Mode::empty());
    let opened =
        opened.map_err(|error| Failure::of(format!("cannot {verb} {}", path.display()), error));
    Ok(opened?.into())
}

/// Sends what is written, one chunk at a time.
struct Outgoing<'a> {
    connection: &'a mut Connection,
}

impl Write for Outgoing<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let sent = self.connection.send_data(Answer::CHUNK, data.len(), |room| {
            let count = room.len().min(data.len());
            for (place, byte) in room.iter_mut().zip(data) {
                *place = *byte;
            }
            Ok(count)
        });
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The data of an upload, to its end.
struct Incoming<'a> {
    connection: &'a mut Connection,
    piece: Vec<u8>,
    used: usize,
    ended: bool,
}

impl Read for Incoming<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        while self.used == self.piece.len() && !self.ended {
            match self.connection.input() {
                Ok(Input::Chunk(piece)) => (self.piece, self.used) = (piece, 0),
                Ok(Input::End) => self.ended = true,
                Ok(_) | Err(_) => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
        let mut rest = self.piece.get(self.used..).unwrap_or_default();
        let count = rest.read(room)?;
        self.used += count;
        Ok(count)
    }
}
