//! Telling what changes in a directory, by the kernel's inotify.
//!
//! The kernel watches single directories. For a whole tree each directory gets a watch, one that appears
//! gets it when its appearance is read, and what is in it by then is told as created. What the kernel
//! could not queue is told as missed, and the tree is gone through again.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use api_guest::{Answer, Change, ChangeKind, FailCode, FileKind, StatAnswer, Watch};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use crate::agent::Agent;
use crate::connection::{Arrival, Connection};
use crate::failure::{Failure, Stop};
use crate::tree;

/// LIMIT: directories of one watch. The kernel holds about a KiB for each, and allows about as many in
/// a small sandbox.
const DIRECTORIES_MAX: usize = 8192;
/// LIMIT: names kept of what was found in new directories, until the kernel's own word for them is
/// read. Beyond it something may be told twice.
const FOUND_MAX: usize = 16_384;
/// LIMIT: changes read at once.
const READ_BYTES: usize = 64 * 1024;
/// How long the second half of a move is waited for. The kernel queues both halves in one call.
const MOVE_WITHIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// Carries out [`Watch`].
pub(crate) fn watch(
    agent: &Agent,
    connection: &mut Connection,
    request: &Watch,
) -> Result<(), Stop> {
    let root = tree::resolve(agent, &request.path)?;
    let data = fs::metadata(&root)
        .map_err(|error| Failure::of_io(format!("cannot watch {}", root.display()), &error))?;
    if !data.is_dir() {
        let message = format!("cannot watch {}: it is not a directory", root.display());
        return Err(Failure::new(FailCode::NotADirectory, message).into());
    }
    let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
        .map_err(|error| Failure::of("cannot watch: no more can be watched at once", error))?;
    let mut watching = Watching {
        queue: &queue,
        connection,
        root,
        recursive: request.recursive,
        directories: BTreeMap::new(),
        found: HashSet::new(),
        moving: None,
    };
    watching.cover(PathBuf::new(), false)?;
    if watching.directories.is_empty() {
        return Err(watching.gone().into());
    }
    let stat = tree::describe(&agent.accounts.get(), &data, None);
    watching.connection.send(&Answer::StatAnswer(StatAnswer { stat }))?;

    let mut buffer = vec![MaybeUninit::uninit(); READ_BYTES];
    let mut events = inotify::Reader::new(&queue, &mut buffer);
    loop {
        match events.next() {
            Ok(event) => {
                let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                watching.take(event.wd(), event.events(), event.cookie(), name)?;
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                // All that was queued before something was found has been read.
                watching.found.clear();
                watching.wait()?;
            }
            Err(error) => return Err(Failure::of("cannot watch any longer", error).into()),
        }
    }
}

/// The first half of a move.
struct Moving {
    cookie: u32,
    path: PathBuf,
    directory: bool,
}

struct Watching<'a> {
    queue: &'a OwnedFd,
    connection: &'a mut Connection,
    root: PathBuf,
    recursive: bool,
    /// What is watched, below the root, by the kernel's number for it.
    directories: BTreeMap<i32, PathBuf>,
    /// What was told because it was found; the kernel's word for it may still come.
    found: HashSet<PathBuf>,
    moving: Option<Moving>,
}

impl Watching<'_> {
    /// Acts on one event.
    fn take(
        &mut self,
        number: i32,
        events: ReadFlags,
        cookie: u32,
        name: Option<&OsStr>,
    ) -> Result<(), Stop> {
        if events.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.settle_move()?;
            self.tell(ChangeKind::Missed, PathBuf::new(), None, None)?;
            return self.cover(PathBuf::new(), false);
        }
        // Of a watch that was given up meanwhile.
        let Some(directory) = self.directories.get(&number) else { return Ok(()) };
        let Some(name) = name else {
            let is_root = directory.as_os_str().is_empty();
            let over = ReadFlags::IGNORED
                | ReadFlags::DELETE_SELF
                | ReadFlags::MOVE_SELF
                | ReadFlags::UNMOUNT;
            if is_root && events.intersects(over) {
                self.settle_move()?;
                self.tell(ChangeKind::Removed, PathBuf::new(), None, Some(FileKind::Directory))?;
                return Err(self.gone().into());
            }
            if events.contains(ReadFlags::IGNORED) {
                self.directories.remove(&number);
            }
            return Ok(());
        };
        let path = directory.join(name);
        let directory = events.contains(ReadFlags::ISDIR);
        if events.contains(ReadFlags::MOVED_TO)
            && let Some(from) = self.moving.take_if(|moving| moving.cookie == cookie)
        {
            return self.moved(&from, path);
        }
        self.settle_move()?;
        if events.contains(ReadFlags::MOVED_FROM) {
            self.found.remove(&path);
            self.moving = Some(Moving { cookie, path, directory });
            return Ok(());
        }
        if events.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            if self.found.remove(&path) {
                return Ok(());
            }
            self.tell(ChangeKind::Created, path.clone(), None, self.kind(&path, directory))?;
            return if directory { self.follow(path) } else { Ok(()) };
        }
        if events.contains(ReadFlags::DELETE) {
            self.found.remove(&path);
            let kind = directory.then_some(FileKind::Directory);
            return self.tell(ChangeKind::Removed, path, None, kind);
        }
        let what = if events.contains(ReadFlags::MODIFY) {
            ChangeKind::Modified
        } else {
            ChangeKind::Attributes
        };
        let kind = self.kind(&path, directory);
        self.tell(what, path.clone(), None, kind)?;
        // It may have been kept from its watcher until now.
        if self.recursive
            && directory
            && what == ChangeKind::Attributes
            && self.add(&path, WatchFlags::MASK_CREATE)?
        {
            return self.cover(path, true);
        }
        Ok(())
    }

    /// Both halves of a move are there.
    fn moved(&mut self, from: &Moving, to: PathBuf) -> Result<(), Stop> {
        let kind = self.kind(&to, from.directory);
        self.tell(ChangeKind::Moved, from.path.clone(), Some(&to), kind)?;
        if !from.directory {
            return Ok(());
        }
        let mut known = false;
        for place in self.directories.values_mut() {
            if let Ok(rest) = place.strip_prefix(&from.path) {
                known = true;
                *place = if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
            }
        }
        // It was moved before its appearance was read.
        if known { Ok(()) } else { self.follow(to) }
    }

    /// A move without a second half led out of what is watched.
    fn settle_move(&mut self) -> Result<(), Stop> {
        let Some(Moving { path, directory, .. }) = self.moving.take() else { return Ok(()) };
        if directory {
            let left = self.directories.extract_if(.., |_, place| place.starts_with(&path));
            for (number, _) in left {
                // It may have been removed since.
                let _ = inotify::remove_watch(self.queue, number);
            }
        }
        let kind = directory.then_some(FileKind::Directory);
        self.tell(ChangeKind::Removed, path, None, kind)
    }

    /// Watches a directory that appeared, if directories in directories are watched.
    fn follow(&mut self, path: PathBuf) -> Result<(), Stop> {
        if self.recursive { self.cover(path, true) } else { Ok(()) }
    }

    /// Watches a directory, and those in it. With `tell`, what is in them is told.
    fn cover(&mut self, first: PathBuf, tell: bool) -> Result<(), Stop> {
        let mut waiting = vec![first];
        while let Some(below) = waiting.pop() {
            if !self.add(&below, WatchFlags::empty())? || !self.recursive {
                continue;
            }
            let Ok(listing) = fs::read_dir(self.root.join(&below)) else { continue };
            for entry in listing.flatten() {
                let Ok(kind) = entry.file_type() else { continue };
                let path = below.join(entry.file_name());
                if tell {
                    if self.found.len() < FOUND_MAX {
                        self.found.insert(path.clone());
                    }
                    let kind = self.kind(&path, kind.is_dir());
                    self.tell(ChangeKind::Created, path.clone(), None, kind)?;
                }
                if kind.is_dir() {
                    waiting.push(path);
                }
            }
        }
        Ok(())
    }

    /// Has the kernel watch a directory. Says whether it does; with `MASK_CREATE` among the flags, only
    /// if it did not before.
    fn add(&mut self, below: &Path, flags: WatchFlags) -> Result<bool, Stop> {
        let place = self.root.join(below);
        let is_root = below.as_os_str().is_empty();
        let mut flags = flags
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::MOVE
            | WatchFlags::ONLYDIR
            | WatchFlags::EXCL_UNLINK;
        if is_root {
            flags |= WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
        } else {
            flags |= WatchFlags::DONT_FOLLOW;
        }
        let many = || {
            let root = self.root.display();
            let message = format!("cannot watch {root}: there are too many directories in it");
            Failure::new(FailCode::OutOfResources, message)
        };
        match inotify::add_watch(self.queue, &place, flags) {
            Ok(number) => {
                self.directories.insert(number, below.to_owned());
                if self.directories.len() > DIRECTORIES_MAX { Err(many().into()) } else { Ok(true) }
            }
            Err(Errno::NOSPC) => Err(many().into()),
            // Gone again, or not for this user to read, or watched.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS | Errno::EXIST)
                if !is_root =>
            {
                Ok(false)
            }
            Err(error) => {
                Err(Failure::of(format!("cannot watch {}", place.display()), error).into())
            }
        }
    }

    /// What something is, if it is still there.
    fn kind(&self, below: &Path, directory: bool) -> Option<FileKind> {
        match fs::symlink_metadata(self.root.join(below)) {
            Ok(data) => Some(tree::kind(data.file_type())),
            Err(_) => directory.then_some(FileKind::Directory),
        }
    }

    fn tell(
        &mut self,
        what: ChangeKind,
        path: PathBuf,
        to: Option<&Path>,
        kind: Option<FileKind>,
    ) -> Result<(), Stop> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let text = |path: &Path| path.to_string_lossy().into_owned();
        self.connection.send(&Answer::Change(Change {
            at_ns: i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
            what,
            path: text(&path),
            to: to.map(text),
            kind,
        }))
    }

    fn gone(&self) -> Failure {
        let message = format!("the watched directory {} is gone", self.root.display());
        Failure::new(FailCode::NotFound, message)
    }

    /// Waits until something changed, or the host left.
    fn wait(&mut self) -> Result<(), Stop> {
        let host = PollFlags::IN | PollFlags::RDHUP;
        let mut polled = [
            PollFd::from_borrowed_fd(self.queue.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.connection.stream(), host),
        ];
        let limit = self.moving.as_ref().map(|_| MOVE_WITHIN);
        match poll(&mut polled, limit.as_ref()) {
            Ok(0) => return self.settle_move(),
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return Err(Stop::Gone),
        }
        let [_, host] = polled.map(|one| one.revents());
        if host.is_empty() {
            return Ok(());
        }
        match self.connection.receive_arrived() {
            Arrival::NothingYet => Ok(()),
            // There is nothing to say to a watch.
            Arrival::Bytes | Arrival::Closed => Err(Stop::Gone),
        }
    }
}
