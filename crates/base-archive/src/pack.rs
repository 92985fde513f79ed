use std::ffi::{CString, OsStr};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use crate::{DEPTH_MAX, PIECE_BYTES};

/// Why a directory is not packed, or only in part.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Something in it cannot be read.
    #[error("cannot read `{}`", .path.display())]
    Read {
        /// What, from the directory on; empty for itself.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// It is nested too deep.
    #[error("`{}` is below {DEPTH_MAX} directories, more than are packed", .path.display())]
    Deep {
        /// Where that is.
        path: PathBuf,
    },
    /// The archive cannot be written.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
}

/// A directory being packed.
struct Level {
    /// From the packed directory on.
    path: PathBuf,
    handle: OwnedFd,
    listing: Dir,
}

impl Level {
    fn open(above: impl AsFd, name: &std::ffi::CStr, path: PathBuf) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = openat(above, name, flags, Mode::empty())?;
        let listing = Dir::read_from(&handle)?;
        Ok(Self { path, handle, listing })
    }
}

/// Writes all that is in `directory` to `out` as a tar stream, with its owners' numbers if `owners`.
///
/// Links are kept as they are and never followed. What vanishes on the way is left out; a file that
/// shrinks on the way is filled up with zeros to the length it had, and one that grows is cut off
/// there. Other file systems mounted in it are packed as empty directories.
///
/// # Errors
///
/// When something cannot be read or `out` not be written. What was written until then is not a whole
/// archive.
pub fn pack(directory: impl AsFd, owners: bool, out: impl Write) -> Result<(), PackError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| PackError::Read { path, source }
    };
    let top = Level::open(directory, c".", PathBuf::new()).map_err(unreadable(Path::new("")))?;
    let device = fstat(&top.handle).map_err(unreadable(Path::new("")))?.st_dev;
    let mut archive = Builder::new(out);
    let mut levels = vec![top];
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.listing.read() else {
            levels.pop();
            continue;
        };
        let entry = entry.map_err(unreadable(&level.path))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let path = level.path.join(OsStr::from_bytes(name.to_bytes()));
        let stat = match statat(&level.handle, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(source) => return Err(PackError::Read { path, source }),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let inner = match Level::open(&level.handle, name, path.clone()) {
                    Ok(inner) => inner,
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                    Err(source) => return Err(PackError::Read { path, source }),
                };
                let mut header = header(&stat, EntryType::Directory, owners);
                let added = archive.append_data(&mut header, &path, io::empty());
                added.map_err(PackError::Write)?;
                if stat.st_dev == device {
                    if levels.len() >= DEPTH_MAX {
                        return Err(PackError::Deep { path });
                    }
                    levels.push(inner);
                }
            }
            FileType::RegularFile => add_file(&mut archive, level, name.to_owned(), path, owners)?,
            FileType::Symlink => {
                let target = match readlinkat(&level.handle, name, Vec::new()) {
                    Ok(target) => target,
                    Err(Errno::NOENT | Errno::INVAL) => continue,
                    Err(source) => return Err(PackError::Read { path, source }),
                };
                let mut header = header(&stat, EntryType::Symlink, owners);
                let target = Path::new(OsStr::from_bytes(target.to_bytes()));
                let added = archive.append_link(&mut header, &path, target);
                added.map_err(PackError::Write)?;
            }
            _ => {}
        }
    }
    archive.into_inner().and_then(|mut out| out.flush()).map_err(PackError::Write)
}

fn add_file(
    archive: &mut Builder<impl Write>,
    level: &Level,
    name: CString,
    path: PathBuf,
    owners: bool,
) -> Result<(), PackError> {
    // Not waiting, in case it has become a FIFO.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = openat(&level.handle, &name, flags | OFlags::CLOEXEC, Mode::empty());
    let file = match opened {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(()),
        Err(source) => return Err(PackError::Read { path, source }),
    };
    let stat = match fstat(&file) {
        Ok(stat) => stat,
        Err(source) => return Err(PackError::Read { path, source }),
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(());
    }
    let mut header = header(&stat, EntryType::Regular, owners);
    let size = u64::try_from(stat.st_size).unwrap_or_default();
    header.set_size(size);
    let mut content = Exactly { file, left: size, ended: false, failed: None };
    let added = archive.append_data(
        &mut header,
        &path,
        io::BufReader::with_capacity(PIECE_BYTES, &mut content),
    );
    match (content.failed, added) {
        (Some(source), _) => Err(PackError::Read { path, source }),
        (None, added) => added.map_err(PackError::Write),
    }
}

fn header(stat: &Stat, kind: EntryType, owners: bool) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or_default());
    let (uid, gid) = if owners { (stat.st_uid, stat.st_gid) } else { (0, 0) };
    header.set_uid(uid.into());
    header.set_gid(gid.into());
    header
}

/// A file as long as its header says, whatever happens to it meanwhile.
struct Exactly {
    file: OwnedFd,
    left: u64,
    /// Whether it ended early; from there on it is zeros.
    ended: bool,
    failed: Option<Errno>,
}

impl Read for Exactly {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(room.len());
        let room = room.get_mut(..most).unwrap_or_default();
        let mut count = 0;
        if !self.ended {
            count = rustix::io::read(&self.file, &mut *room).map_err(|error| {
                self.failed = Some(error);
                io::Error::from(error)
            })?;
            self.ended = count == 0;
        }
        if self.ended {
            room.fill(0);
            count = room.len();
        }
        self.left = self.left.saturating_sub(count as u64);
        Ok(count)
    }
}
