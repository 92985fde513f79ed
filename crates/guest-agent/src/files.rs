//! File contents, in and out, one chunk in memory at a time.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use api_guest::{Answer, CHUNK_BYTES_MAX, FailCode, FileHead, Input, ReadFile, WriteFile};
use rustix::fs::{
    Access, AtFlags, CWD, Gid, Mode, OFlags, Uid, accessat, fchmod, fchown, open, rename,
};
use rustix::io::Errno;

use crate::agent::Agent;
use crate::connection::Connection;
use crate::failure::{Failure, Stop};
use crate::tree;

/// Permission bits of a new file when the request names none.
const NEW_FILE_MODE: u32 = 0o644;
/// LIMIT: tries to find a name for the temporary file that is free.
const NAMES_MAX: u32 = 16;

/// Streams a file to the host.
pub(crate) fn read(
    agent: &Agent,
    connection: &mut Connection,
    request: &ReadFile,
) -> Result<(), Stop> {
    let path = tree::resolve(agent, &request.path)?;
    let cannot = |error| Failure::of(format!("cannot read {}", path.display()), error);
    // Not waiting, so that a FIFO without a writer is recognised rather than waited for.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(open(&path, flags, Mode::empty()).map_err(cannot)?);
    let data =
        file.metadata().map_err(|error| Failure::of_io("cannot look at the file", &error))?;
    need_file(&data, &path, "read")?;
    let stat = tree::describe(&agent.accounts.get(), &data, None);
    connection.send(&Answer::FileHead(FileHead { stat }))?;

    let mut offset = request.offset;
    let mut left = request.length.unwrap_or(u64::MAX);
    loop {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES_MAX);
        let count = connection.send_data(Answer::CHUNK, most, |room| {
            if room.is_empty() {
                return Ok(0);
            }
            file.read_at(room, offset)
                .map_err(|error| Failure::of_io(format!("cannot read {}", path.display()), &error))
        })?;
        if count == 0 {
            return connection.send(&Answer::End);
        }
        offset = offset.saturating_add(count as u64);
        left = left.saturating_sub(count as u64);
    }
}

/// Takes a file from the host. It appears under its name when it is complete, or not at all.
pub(crate) fn write(
    agent: &Agent,
    connection: &mut Connection,
    request: &WriteFile,
) -> Result<(), Stop> {
    let outcome = take(agent, connection, request);
    connection.taken(outcome)
}

fn take(agent: &Agent, connection: &mut Connection, request: &WriteFile) -> Result<(), Stop> {
    if request.mode.is_some_and(|mode| mode > 0o7777) {
        return Err(Failure::invalid("the mode has bits above 0o7777").into());
    }
    let path = tree::resolve(agent, &request.path)?;
    let owner = tree::owner(agent, request.user.as_deref())?;
    // A link is written through, as an editor would; one that points nowhere is replaced.
    let path = fs::canonicalize(&path).unwrap_or(path);
    let before = fs::symlink_metadata(&path).ok().filter(|data| !data.is_symlink());
    if let Some(data) = &before {
        need_file(data, &path, "write")?;
        may_write(&path)?;
    }
    if request.parents
        && let Some(parent) = path.parent()
    {
        tree::make_parents(parent, &owner)?;
    }
    let cannot = |error| Failure::of(format!("cannot write {}", path.display()), error);
    let mut draft = Draft::create(&path).map_err(cannot)?;
    loop {
        match connection.input()? {
            Input::Chunk(data) => draft.file.write_all(&data).map_err(|error| {
                Failure::of_io(format!("cannot write {}", path.display()), &error)
            })?,
            Input::End => break,
            Input::Stdin(_) | Input::CloseStdin | Input::Signal(_) | Input::Resize(_) => {
                return Err(Stop::Gone);
            }
        }
    }
    let (uid, gid) = match (&before, &request.user) {
        (Some(data), None) => (data.uid(), data.gid()),
        _ => (owner.uid, owner.gid),
    };
    let mode = request.mode.or(before.map(|data| data.mode() & 0o7777)).unwrap_or(NEW_FILE_MODE);
    // Owner first: changing it takes the set-id bits away.
    fchown(&draft.file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(cannot)?;
    fchmod(&draft.file, Mode::from_raw_mode(mode)).map_err(cannot)?;
    draft.publish(&path).map_err(cannot)?;
    connection.send(&Answer::Done)
}

/// A file is replaced by another one, which takes rights to its directory; rights to the file itself count
/// too, as they would for a program that opens it.
fn may_write(path: &Path) -> Result<(), Failure> {
    match accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS) {
        Err(error @ (Errno::ACCESS | Errno::PERM)) => {
            Err(Failure::of(format!("cannot write {}", path.display()), error))
        }
        // Anything else shows when it is replaced.
        _ => Ok(()),
    }
}

fn need_file(data: &fs::Metadata, path: &Path, verb: &str) -> Result<(), Failure> {
    let path = path.display();
    if data.is_file() {
        Ok(())
    } else if data.is_dir() {
        Err(Failure::new(
            FailCode::IsADirectory,
            format!("cannot {verb} {path}: it is a directory"),
        ))
    } else {
        Err(Failure::new(
            FailCode::NotAFile,
            format!("cannot {verb} {path}: it is not a regular file"),
        ))
    }
}

/// A file on its way, beside the place it will take. Dropped unpublished, it vanishes.
#[derive(Debug)]
struct Draft {
    file: File,
    place: PathBuf,
    published: bool,
}

impl Draft {
    fn create(target: &Path) -> Result<Self, Errno> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let directory = target.parent().ok_or(Errno::ISDIR)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut tried = 0;
        loop {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let place = directory.join(format!(".sandflare-{number}.part"));
            match open(&place, flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => return Ok(Self { file: file.into(), place, published: false }),
                Err(Errno::EXIST) if tried < NAMES_MAX => tried += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn publish(mut self, target: &Path) -> Result<(), Errno> {
        rename(&self.place, target)?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published {
            // If even this fails there is nobody left to tell.
            let _ = fs::remove_file(&self.place);
        }
    }
}
