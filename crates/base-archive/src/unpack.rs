use std::cell::Cell;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, chownat, fchmod,
    fchown, futimens, linkat, mkdirat, openat, openat2, symlinkat, unlinkat,
};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use crate::{DEPTH_MAX, PIECE_BYTES};

/// LIMIT: entries of one archive; whoever made it could make more than a file system has room to name.
const ENTRIES_MAX: u64 = 1_000_000;
/// LIMIT: bytes of an archive between the content of one entry and that of the next: headers, long names
/// and the table of a sparse file, which are held in memory.
const HEADERS_BYTES_MAX: u64 = 256 * 1024;
/// LIMIT: directories that their owner may not write to, whose modes are kept until all is in them. Those
/// past it get theirs at once, which only root can then still fill.
const CLOSED_MAX: usize = 4096;
/// LIMIT: names kept of what was left out.
pub const LEFT_OUT_NAMED_MAX: usize = 100;
/// An archive ends with blocks of zeros, of which the first one counts.
const BLOCK_BYTES: u64 = 512;

/// What becomes of the entries of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Files, directories and links are made, with all their permission bits, and belong to this user
    /// and group. Links are never followed out of the directory. Anything else ends it.
    Everything {
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// Files and directories are made by whoever asks: without set-id bits, less the umask, and never
    /// for others to write. Directories that were there keep their mode. Anything else is left out.
    Plain,
}

/// What was made of an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files made.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// The first [`LEFT_OUT_NAMED_MAX`] of those left out.
    pub left_out: Vec<PathBuf>,
    /// How many were left out.
    pub left_out_count: u64,
}

/// Why an archive is not unpacked, or only in part.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// A name would be outside of the directory.
    #[error("the archive has an entry named {name:?}, which leads out of the directory")]
    Outside {
        /// It.
        name: String,
    },
    /// A hard link would be to something outside of the directory.
    #[error(
        "the archive has {name:?} as a hard link to {target:?}, which leads out of the directory"
    )]
    LinkOutside {
        /// The link.
        name: String,
        /// What it is to.
        target: String,
    },
    /// An entry is of a kind that is not made.
    #[error("the archive has {name:?}, which is neither a file nor a directory nor a link")]
    Kind {
        /// It.
        name: String,
    },
    /// A file has holes, which a few bytes of an archive can make any number of zeros.
    #[error(
        "the archive has {name:?} as a sparse file, which is not made; pack it without `--sparse`"
    )]
    Sparse {
        /// It.
        name: String,
    },
    /// A name is too deep.
    #[error("the archive has {name:?}, which is below more than {DEPTH_MAX} directories")]
    Deep {
        /// It.
        name: String,
    },
    /// There are too many.
    #[error("the archive has more than {ENTRIES_MAX} entries")]
    Entries,
    /// It is no archive, or is damaged.
    #[error("the archive is damaged, or is no tar archive")]
    Damaged(#[source] io::Error),
    /// It broke off.
    #[error("the archive ends before its last entry does")]
    Cut,
    /// Something cannot be made.
    #[error("cannot make `{}` of the archive", .path.display())]
    Make {
        /// It, from the directory on.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The stream failed.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
}

/// Makes in `directory` what the tar stream `from` holds. Reads to the end of the archive, which may
/// be before the end of the stream.
///
/// What stands where a file or link goes is replaced, unless it is a directory. Missing directories on
/// the way are made.
///
/// # Errors
///
/// When the archive is hostile, damaged or cut off, or the file system refuses. What was made until
/// then stays.
pub fn unpack(
    from: impl Read,
    directory: impl AsFd,
    rules: Rules,
) -> Result<Unpacked, UnpackError> {
    let meter = Rc::new(Meter::default());
    let mut archive = Archive::new(Metered { from, meter: meter.clone() });
    let directory = directory.as_fd();
    let mut target = Target { directory, rules, closed: Vec::new(), made: Unpacked::default() };
    let mut entries = archive.entries().map_err(UnpackError::Damaged)?;
    let mut count = 0;
    loop {
        meter.headers_left.set(Some(HEADERS_BYTES_MAX));
        // Zeros a file ends with are no end of the archive.
        meter.zeros.set(0);
        let entry = entries.next().transpose().map_err(|error| meter.blame(error))?;
        meter.headers_left.set(None);
        let Some(mut entry) = entry else { break };
        count += 1;
        if count > ENTRIES_MAX {
            return Err(UnpackError::Entries);
        }
        target.add(&mut entry, &meter)?;
        // What is not used of an entry is no header of the next one.
        io::copy(&mut entry, &mut io::sink()).map_err(|error| meter.blame(error))?;
    }
    if meter.zeros.get() < BLOCK_BYTES {
        return Err(UnpackError::Cut);
    }
    target.close()?;
    Ok(target.made)
}

/// What is known of the stream beside its content.
#[derive(Default)]
struct Meter {
    /// Bytes that may come before the next entry, while it is looked for.
    headers_left: Cell<Option<u64>>,
    /// Zeros the stream ends with so far, content of files apart.
    zeros: Cell<u64>,
    /// Whether an error came from the stream, and not from what is in it.
    broken: Cell<bool>,
}

impl Meter {
    fn blame(&self, error: io::Error) -> UnpackError {
        if self.broken.get() { UnpackError::Read(error) } else { UnpackError::Damaged(error) }
    }
}

struct Metered<R> {
    from: R,
    meter: Rc<Meter>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let most = match self.meter.headers_left.get() {
            Some(0) => return Err(io::Error::other("its headers are too long")),
            Some(left) => usize::try_from(left).unwrap_or(usize::MAX).min(room.len()),
            None => room.len(),
        };
        let room = room.get_mut(..most).unwrap_or_default();
        let count = self.from.read(room).inspect_err(|_| self.meter.broken.set(true))?;
        let came = room.get(..count).unwrap_or_default();
        let zeros = came.iter().rev().take_while(|byte| **byte == 0).count();
        let before = if zeros == count { self.meter.zeros.get() } else { 0 };
        self.meter.zeros.set(before.saturating_add(zeros as u64));
        let left = self.meter.headers_left.get();
        self.meter.headers_left.set(left.map(|left| left.saturating_sub(count as u64)));
        Ok(count)
    }
}

/// The directory that is written to.
struct Target<'a> {
    directory: BorrowedFd<'a>,
    rules: Rules,
    /// Directories that get these modes at the end, because their owner cannot fill them then.
    closed: Vec<(PathBuf, u32)>,
    made: Unpacked,
}

/// A name split at its slashes: the directories on the way, and the last part.
type Parts<'a> = (Vec<&'a OsStr>, &'a OsStr);

impl Target<'_> {
    fn add(&mut self, entry: &mut Entry<'_, impl Read>, meter: &Meter) -> Result<(), UnpackError> {
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            return Ok(());
        }
        let name = entry.path_bytes().into_owned();
        let outside = || UnpackError::Outside { name: shown(&name) };
        let Some((above, last)) = split(&name).map_err(|alien| match alien {
            Alien::Outside => outside(),
            Alien::Deep => UnpackError::Deep { name: shown(&name) },
        })?
        else {
            // The directory itself, which is there.
            return if kind.is_dir() { Ok(()) } else { Err(outside()) };
        };
        let path: PathBuf = above.iter().chain([&last]).collect();
        let refused = |error| match error {
            // The kernel's word for a way that leads out.
            Errno::XDEV => outside(),
            source => UnpackError::Make { path: path.clone(), source },
        };
        if kind.is_gnu_sparse() {
            return Err(UnpackError::Sparse { name: shown(&name) });
        }
        let is_link = kind.is_symlink() || kind.is_hard_link();
        let is_file = kind.is_file() || kind.is_contiguous();
        if !(is_file || kind.is_dir() || is_link) || (is_link && self.rules == Rules::Plain) {
            if self.rules != Rules::Plain {
                return Err(UnpackError::Kind { name: shown(&name) });
            }
            self.made.left_out_count += 1;
            if self.made.left_out.len() < LEFT_OUT_NAMED_MAX {
                self.made.left_out.push(path);
            }
            return Ok(());
        }
        let mode = entry.header().mode().map_err(UnpackError::Damaged)?;
        let parent = self.enter(&above).map_err(refused)?;
        if is_file {
            return self.file(entry, meter, &parent, last, mode, &path);
        }
        if kind == EntryType::Symlink {
            let link = entry.link_name_bytes().unwrap_or_default();
            clear(&parent, last).map_err(refused)?;
            symlinkat(OsStr::from_bytes(&link), &parent, last).map_err(refused)?;
            return self.own_link(&parent, last).map_err(refused);
        }
        if kind == EntryType::Link {
            let link = entry.link_name_bytes().unwrap_or_default().into_owned();
            let outside = || UnpackError::LinkOutside { name: shown(&name), target: shown(&link) };
            let Ok(Some((way, original))) = split(&link) else { return Err(outside()) };
            if (&way, original) == (&above, last) {
                return Ok(());
            }
            let from = match self.open(&way) {
                Err(Errno::XDEV) => return Err(outside()),
                from => from.map_err(refused)?,
            };
            clear(&parent, last).map_err(refused)?;
            return linkat(&from, original, &parent, last, AtFlags::empty()).map_err(refused);
        }
        let shut = mode & 0o700 != 0o700 && matches!(self.rules, Rules::Everything { .. });
        if !shut || self.closed.len() >= CLOSED_MAX {
            return self.make_directory(&parent, last, mode).map_err(refused);
        }
        self.make_directory(&parent, last, mode | 0o700).map_err(refused)?;
        self.closed.push((path, mode));
        Ok(())
    }

    /// Gives directories the modes that were held back.
    fn close(&self) -> Result<(), UnpackError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        // Those below first: there is no way in to them afterwards.
        for (path, mode) in self.closed.iter().rev() {
            let refused = |source| UnpackError::Make { path: path.clone(), source };
            match openat2(self.directory, path, flags, Mode::empty(), resolve) {
                Ok(directory) => chmod_own(&directory, *mode).map_err(refused)?,
                // A link stands for it, or it is gone.
                Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT | Errno::XDEV) => {}
                Err(error) => return Err(refused(error)),
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        meter: &Meter,
        parent: &OwnedFd,
        name: &OsStr,
        mode: u32,
        path: &Path,
    ) -> Result<(), UnpackError> {
        let refused = |source| UnpackError::Make { path: path.to_owned(), source };
        let modified = entry.header().mtime().map_err(UnpackError::Damaged)?;
        clear(parent, name).map_err(refused)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let first = self.first_mode(mode);
        let file = openat(parent, name, flags | OFlags::CLOEXEC, first).map_err(refused)?;
        let mut file = std::fs::File::from(file);
        let mut buffer = vec![0; PIECE_BYTES];
        let mut left = entry.size();
        while left > 0 {
            let count = entry.read(&mut buffer).map_err(|error| meter.blame(error))?;
            let Some(piece) = buffer.get(..count).filter(|piece| !piece.is_empty()) else {
                return Err(UnpackError::Cut);
            };
            file.write_all(piece)
                .map_err(|error| refused(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
            left = left.saturating_sub(count as u64);
            self.made.bytes += count as u64;
        }
        // Owner first: changing it takes the set-id bits away.
        self.own(&file, mode).map_err(refused)?;
        let time = Timespec { tv_sec: i64::try_from(modified).unwrap_or(i64::MAX), tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        futimens(&file, &times).map_err(refused)?;
        self.made.files += 1;
        Ok(())
    }

    fn make_directory(&self, parent: &OwnedFd, name: &OsStr, mode: u32) -> Result<(), Errno> {
        // Its maker has to be able to put files into it.
        let made = match mkdirat(parent, name, self.first_mode(mode | 0o700)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(error),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match openat(parent, name, flags, Mode::empty()) {
            // A link to a directory may stand for one.
            Err(Errno::NOTDIR | Errno::LOOP) if self.leads_to_directory(parent, name) => {
                return Ok(());
            }
            opened => opened?,
        };
        match self.rules {
            Rules::Everything { .. } if made => self.own(&opened, mode),
            Rules::Everything { .. } => chmod_own(&opened, mode),
            Rules::Plain => Ok(()),
        }
    }

    fn leads_to_directory(&self, parent: &OwnedFd, name: &OsStr) -> bool {
        let stat = rustix::fs::statat(parent, name, AtFlags::empty());
        stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }

    /// What something is made with: plain, that is all it gets, so that the umask counts.
    fn first_mode(&self, mode: u32) -> Mode {
        match self.rules {
            Rules::Everything { .. } => Mode::RWXU,
            Rules::Plain => Mode::from_raw_mode(mode & 0o755),
        }
    }

    fn own(&self, file: impl AsFd, mode: u32) -> Result<(), Errno> {
        let Rules::Everything { uid, gid } = self.rules else { return Ok(()) };
        fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        fchmod(&file, Mode::from_raw_mode(mode & 0o7777))
    }

    fn own_link(&self, parent: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
        let Rules::Everything { uid, gid } = self.rules else { return Ok(()) };
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// A directory below the target, by a way that stays below it.
    fn open(&self, way: &[&OsStr]) -> Result<OwnedFd, Errno> {
        let path: PathBuf = [OsStr::new(".")].iter().chain(way).collect();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        openat2(self.directory, &path, flags, Mode::empty(), resolve)
    }

    /// As [`Self::open`], making what is missing.
    fn enter(&self, way: &[&OsStr]) -> Result<OwnedFd, Errno> {
        match self.open(way) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let mut here = self.open(&[])?;
        for (depth, name) in (1..).zip(way) {
            here = match self.open(way.get(..depth).unwrap_or(way)) {
                Err(Errno::NOENT) => {
                    self.make_directory(&here, name, 0o755)?;
                    self.open(way.get(..depth).unwrap_or(way))?
                }
                other => other?,
            };
        }
        Ok(here)
    }
}

/// Gives a directory that was there a mode, unless it belongs to somebody else.
fn chmod_own(directory: impl AsFd, mode: u32) -> Result<(), Errno> {
    match fchmod(directory, Mode::from_raw_mode(mode & 0o7777)) {
        Err(Errno::PERM) => Ok(()),
        changed => changed,
    }
}

/// Takes away what stands where a file or link goes, so that it is not written through.
fn clear(parent: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

enum Alien {
    Outside,
    Deep,
}

/// The parts of a name; `None` when it stands for the directory itself.
fn split(name: &[u8]) -> Result<Option<Parts<'_>>, Alien> {
    if name.starts_with(b"/") || name.contains(&0) {
        return Err(Alien::Outside);
    }
    let mut parts = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(Alien::Outside),
            _ if parts.len() >= DEPTH_MAX => return Err(Alien::Deep),
            _ => parts.push(OsStr::from_bytes(part)),
        }
    }
    Ok(parts.pop().map(|last| (parts, last)))
}

/// A name, short enough for a sentence.
fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(200).collect()
}
