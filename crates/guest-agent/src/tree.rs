//! Names and directories.

use std::ffi::CString;
use std::fs::{self, DirBuilder, FileType, Metadata};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use api_guest::{
    Answer, Entries, Entry, FailCode, FileKind, FileStat, List, MakeDir, Move, Remove, Stat,
    StatAnswer,
};
use rustix::fs::{
    AtFlags, CWD, Dir, Gid, Mode, OFlags, Uid, chmod, chown, openat, rename, unlinkat,
};
use rustix::io::Errno;

use crate::accounts::{Accounts, User};
use crate::agent::Agent;
use crate::connection::Connection;
use crate::failure::{Failure, Stop};

/// Permission bits of a new directory when the request names none.
const NEW_DIRECTORY_MODE: u32 = 0o755;
/// LIMIT: names in one listing; a larger directory would not fit in the agent's small memory.
const LISTING_NAMES_MAX: usize = 65_536;
/// LIMIT: levels a removal descends, each of which holds a descriptor open.
const REMOVE_DEPTH_MAX: usize = 1024;
/// LIMIT: rough bytes of one frame of a listing, far below the frame's own bound.
const LISTING_FRAME_BYTES: usize = 32 * 1024;

/// The path a request means: absolute, or from the default user's home.
pub(crate) fn resolve(agent: &Agent, path: &str) -> Result<PathBuf, Failure> {
    if path.is_empty() || path.contains('\0') {
        return Err(Failure::invalid("the path is empty or holds a zero byte"));
    }
    if path.starts_with('/') {
        return Ok(PathBuf::from(path));
    }
    let home = agent.accounts.get().find(&agent.settings.user)?.home;
    Ok(Path::new("/").join(home).join(path))
}

/// Whom a new file belongs to.
pub(crate) fn owner(agent: &Agent, asked: Option<&str>) -> Result<User, Failure> {
    agent.accounts.get().find(asked.unwrap_or(&agent.settings.user))
}

/// What a file is, in the protocol's words.
pub(crate) fn kind(kind: FileType) -> FileKind {
    if kind.is_file() {
        FileKind::File
    } else if kind.is_dir() {
        FileKind::Directory
    } else if kind.is_symlink() {
        FileKind::Symlink
    } else {
        FileKind::Other
    }
}

/// What is told about a file.
pub(crate) fn describe(
    accounts: &Accounts,
    data: &Metadata,
    link_target: Option<PathBuf>,
) -> FileStat {
    FileStat {
        kind: kind(data.file_type()),
        size: data.size(),
        mode: data.mode() & 0o7777,
        uid: data.uid(),
        gid: data.gid(),
        user: accounts.by_uid(data.uid()).map(|user| user.name.clone()),
        group: accounts.group_name(data.gid()).map(str::to_owned),
        modified_ns: data.mtime().saturating_mul(1_000_000_000).saturating_add(data.mtime_nsec()),
        link_target: link_target.map(|target| target.to_string_lossy().into_owned()),
    }
}

/// Answers [`Stat`].
pub(crate) fn stat(agent: &Agent, request: &Stat) -> Result<Answer, Failure> {
    let path = resolve(agent, &request.path)?;
    let data = if request.follow { fs::metadata(&path) } else { fs::symlink_metadata(&path) };
    let data =
        data.map_err(|error| Failure::of_io(format!("cannot look at {}", path.display()), &error))?;
    let target = data.is_symlink().then(|| fs::read_link(&path).ok()).flatten();
    let stat = describe(&agent.accounts.get(), &data, target);
    Ok(Answer::StatAnswer(StatAnswer { stat }))
}

/// Answers [`List`].
pub(crate) fn list(agent: &Agent, connection: &mut Connection, request: &List) -> Result<(), Stop> {
    let path = resolve(agent, &request.path)?;
    let cannot =
        |error: std::io::Error| Failure::of_io(format!("cannot list {}", path.display()), &error);
    let mut names = Vec::new();
    for entry in fs::read_dir(&path).map_err(cannot)? {
        names.push(entry.map_err(cannot)?.file_name());
        if names.len() > LISTING_NAMES_MAX {
            let message = format!(
                "cannot list {}: it holds more than {LISTING_NAMES_MAX} names",
                path.display()
            );
            return Err(Failure::new(FailCode::OutOfResources, message).into());
        }
    }
    names.sort_unstable();
    let accounts = agent.accounts.get();
    let mut entries = Vec::new();
    let mut bytes = 0;
    for name in names {
        let place = path.join(&name);
        // Gone since it was listed: then it is not in the directory.
        let Ok(data) = fs::symlink_metadata(&place) else { continue };
        let target = data.is_symlink().then(|| fs::read_link(&place).ok()).flatten();
        let stat = describe(&accounts, &data, target);
        let name = name.to_string_lossy().into_owned();
        bytes += 128 + name.len() + stat.link_target.as_ref().map_or(0, String::len);
        entries.push(Entry { name, stat });
        if bytes >= LISTING_FRAME_BYTES {
            bytes = 0;
            connection.send(&Answer::Entries(Entries { entries: std::mem::take(&mut entries) }))?;
        }
    }
    if !entries.is_empty() {
        connection.send(&Answer::Entries(Entries { entries }))?;
    }
    connection.send(&Answer::Done)
}

/// Carries out [`MakeDir`].
pub(crate) fn make(agent: &Agent, request: &MakeDir) -> Result<Answer, Failure> {
    let mode = request.mode.unwrap_or(NEW_DIRECTORY_MODE);
    if mode > 0o7777 {
        return Err(Failure::invalid("the mode has bits above 0o7777"));
    }
    let path = resolve(agent, &request.path)?;
    let owner = owner(agent, request.user.as_deref())?;
    if request.parents {
        if let Some(parent) = path.parent() {
            make_parents(parent, &owner)?;
        }
        if path.is_dir() {
            return Ok(Answer::Done);
        }
    }
    make_one(&path, mode, &owner)?;
    Ok(Answer::Done)
}

/// Makes what is missing on the way to and including `path`.
pub(crate) fn make_parents(path: &Path, owner: &User) -> Result<(), Failure> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|part| !part.as_os_str().is_empty() && !part.exists())
        .collect();
    for part in missing.into_iter().rev() {
        match make_one(part, NEW_DIRECTORY_MODE, owner) {
            // Somebody else was faster; `a/..` is there once `a` is.
            Err(failure) if failure.code == FailCode::AlreadyExists && part.is_dir() => {}
            other => other?,
        }
    }
    Ok(())
}

fn make_one(path: &Path, mode: u32, owner: &User) -> Result<(), Failure> {
    let attempt = || format!("cannot make directory {}", path.display());
    DirBuilder::new().mode(mode).create(path).map_err(|error| Failure::of_io(attempt(), &error))?;
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    chown(path, Some(uid), Some(gid)).map_err(|error| Failure::of(attempt(), error))?;
    // Again, because the mask took bits away.
    chmod(path, Mode::from_raw_mode(mode)).map_err(|error| Failure::of(attempt(), error))
}

/// Carries out [`Move`].
pub(crate) fn relocate(agent: &Agent, request: &Move) -> Result<Answer, Failure> {
    let from = resolve(agent, &request.from)?;
    let to = resolve(agent, &request.to)?;
    rename(&from, &to).map_err(|error| {
        Failure::of(format!("cannot move {} to {}", from.display(), to.display()), error)
    })?;
    Ok(Answer::Done)
}

/// Carries out [`Remove`].
pub(crate) fn remove(agent: &Agent, request: &Remove) -> Result<Answer, Failure> {
    let path = resolve(agent, &request.path)?;
    let cannot = |error| Failure::of(format!("cannot remove {}", path.display()), error);
    if fs::canonicalize(&path).is_ok_and(|real| real.parent().is_none()) {
        return Err(Failure::invalid("cannot remove /: it is the root of the file system"));
    }
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| cannot(Errno::INVAL))?;
    match unlinkat(CWD, &name, AtFlags::empty()) {
        Ok(()) => return Ok(Answer::Done),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(cannot(error)),
    }
    match unlinkat(CWD, &name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY) if request.recursive => remove_all(name).map_err(cannot)?,
        other => other.map_err(cannot)?,
    }
    Ok(Answer::Done)
}

/// A directory being emptied.
struct Level {
    /// Its name in the level above.
    name: CString,
    handle: OwnedFd,
    listing: Dir,
}

/// Removes a directory with all it holds. Never follows a link, and keeps its own stack, so a deep
/// tree cannot exhaust the thread's.
fn remove_all(name: CString) -> Result<(), Errno> {
    let mut levels = vec![enter(CWD, name)?];
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.listing.read() else {
            let Some(done) = levels.pop() else { break };
            let above = levels.last().map_or(CWD, |level| level.handle.as_fd());
            unlinkat(above, &done.name, AtFlags::REMOVEDIR)?;
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(&level.handle, name, AtFlags::empty()) {
            // Gone already is as good.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => {
                let inner = enter(level.handle.as_fd(), name.to_owned())?;
                if levels.len() >= REMOVE_DEPTH_MAX {
                    return Err(Errno::MFILE);
                }
                levels.push(inner);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn enter(above: impl AsFd, name: CString) -> Result<Level, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = openat(above, &name, flags, Mode::empty())?;
    let listing = Dir::read_from(&handle)?;
    Ok(Level { name, handle, listing })
}
