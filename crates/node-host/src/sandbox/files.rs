//! The directory of one sandbox.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use base_overlay::OverlayError;
use base_types::{Chain, SandboxId};

use super::CreateError;
use super::layout::{Layout, Moment};
use crate::control::ControlError;
use crate::disk;
use crate::machine::MachineError;
use crate::step;

/// LIMIT: a sandbox that cannot write at least this much is not worth starting, and the node's own
/// database needs room as well.
pub(super) const FREE_BYTES_MIN: u64 = 64 << 20;
/// A machine is written in steps of a few MiB: one that did not fit leaves less than this.
const FREE_BYTES_SPENT: u64 = 16 << 20;
/// What its kernel prints.
const CONSOLE: &str = "console.log";

/// What a sandbox has on disk. Removed with all it holds when dropped, unless it was let go. Of one
/// that is paused or durable there is nothing else: [`Self::remove`] alone removes it.
#[derive(Debug)]
pub(crate) struct SandboxFiles {
    /// What the directory holds.
    pub(crate) layout: Layout,
    /// Overlays under its own, lowest first.
    pub(crate) frozen: Vec<File>,
    /// Everything the sandbox wrote to its disk since the last of those.
    pub(crate) overlay: File,
    /// What its kernel printed.
    pub(crate) console: File,
    disk_bytes: u64,
    /// Whether no machine can have files other than these.
    known: bool,
    removal: Removal,
}

/// Removes a directory with all it holds when dropped.
#[derive(Debug)]
pub(crate) struct Removal {
    dir: PathBuf,
    armed: bool,
}

impl Drop for Removal {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!("cannot remove {}: {error}", self.dir.display());
            }
            Ok(()) | Err(_) => {}
        }
    }
}

impl Removal {
    /// Of `dir`.
    pub(crate) const fn of(dir: PathBuf) -> Self {
        Self { dir, armed: true }
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Keeps the directory.
    pub(crate) fn disarm(&mut self) {
        self.armed = false;
    }
}

impl SandboxFiles {
    /// Makes the directory of `id` in `parent`, which is to hold `layout` and an overlay for a disk of
    /// `disk_bytes`.
    pub(crate) fn create(
        parent: &Path,
        id: SandboxId,
        disk_bytes: u64,
        layout: Layout,
    ) -> Result<Self, CreateError> {
        Self::fill(parent, id, disk_bytes, layout, None)
    }

    /// Makes the directory of `id` in `parent` for a machine that goes on from `moment`, and keeps
    /// reading from its memory when `lazy`.
    pub(crate) fn branch(
        parent: &Path,
        id: SandboxId,
        disk_bytes: u64,
        moment: &Moment,
        lazy: bool,
    ) -> Result<Self, CreateError> {
        let layout = moment.layout.running(lazy);
        Self::fill(parent, id, disk_bytes, layout, Some(moment))
    }

    fn fill(
        parent: &Path,
        id: SandboxId,
        disk_bytes: u64,
        mut layout: Layout,
        from: Option<&Moment>,
    ) -> Result<Self, CreateError> {
        check_room(parent)?;
        let dir = parent.join(id.to_string());
        fs::create_dir(&dir).map_err(|source| failed(&dir, source))?;
        step::reached("create: directory made");
        let removal = Removal::of(dir);
        let dir = removal.dir();
        let mut frozen = Vec::new();
        if let Some(moment) = from {
            let linked = moment.link(layout.names(), dir);
            linked.map_err(|source| failed(dir, source))?;
            for name in &layout.disk {
                let path = dir.join(name);
                frozen.push(File::open(&path).map_err(|source| failed(&path, source))?);
            }
        }
        let console = create_file(&dir.join(CONSOLE))?;
        let own = layout.fresh("disk");
        let overlay = create_overlay(&dir.join(&own), disk_bytes)?;
        layout.disk.push(own);
        layout.write(dir, false).map_err(|source| failed(dir, source))?;
        step::reached("create: files made");
        Ok(Self { layout, frozen, overlay, console, disk_bytes, known: true, removal })
    }

    /// The directory of `id` in `parent`, made by a node before this one. Left as it is unless all
    /// of it can be used.
    pub(crate) fn open(parent: &Path, id: SandboxId) -> Result<Self, CreateError> {
        let dir = parent.join(id.to_string());
        let layout = Layout::read(&dir).map_err(|source| failed(&dir, source))?;
        layout.sweep(&dir).map_err(|source| failed(&dir, source))?;
        let (frozen, overlay) = open_disk(&dir, &layout)?;
        let console = open(&dir.join(CONSOLE), true)?;
        let disk_bytes = base_overlay::virtual_size(&overlay)
            .map_err(|source| failed(&dir, io::Error::other(source)))?;
        // A node that died in a branch may have named an overlay that the machine never had.
        let known = layout.state.is_some();
        let removal = Removal { dir, armed: !stays(&layout) };
        Ok(Self { layout, frozen, overlay, console, disk_bytes, known, removal })
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        self.removal.dir()
    }

    /// Bytes of the disk.
    pub(crate) const fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Makes the directory hold `layout` from now on, and removes what it does not name. After an
    /// error it holds what it held before.
    pub(crate) fn commit(&mut self, layout: Layout, durable: bool) -> Result<(), CreateError> {
        if let Err(source) = layout.write(self.dir(), durable) {
            let error = failed(self.dir(), source);
            // A full disk says so before anything is replaced; a broken one may say so afterwards.
            let replaced = Layout::read(self.dir()).is_ok_and(|found| found == layout);
            if !replaced || self.layout.write(self.dir(), false).is_ok() {
                self.sweep();
                return Err(error);
            }
            tracing::error!("a power cut may undo this: {}", Chain(&error));
        }
        self.known |= layout.state.is_some();
        self.removal.armed = !stays(&layout);
        self.layout = layout;
        self.sweep();
        Ok(())
    }

    /// A machine has begun with exactly these, and its sandbox is remembered: only [`Self::remove`]
    /// removes those that are durable from now on.
    pub(crate) fn serve(&mut self) {
        self.known = true;
        self.removal.armed = !stays(&self.layout);
    }

    /// Removes what the directory should not hold.
    pub(crate) fn sweep(&self) {
        if let Err(error) = self.layout.sweep(self.dir()) {
            tracing::warn!("cannot remove what is left over in {}: {error}", self.dir().display());
        }
    }

    /// Opens the disk that the directory holds now. Which of it a machine that runs writes to is not
    /// known then.
    pub(crate) fn reopen(&mut self) -> Result<(), CreateError> {
        (self.frozen, self.overlay) = open_disk(self.dir(), &self.layout)?;
        self.known = self.layout.state.is_some();
        Ok(())
    }

    /// Whether a machine that runs writes to its own overlay alone, for sure.
    pub(crate) const fn is_known(&self) -> bool {
        self.known
    }

    /// Its own overlay once more, for reading, as one that is to be frozen.
    pub(crate) fn own_for_reading(&self) -> Result<File, CreateError> {
        let path = self.layout.disk.last().map(|name| self.dir().join(name)).unwrap_or_default();
        File::open(&path).map_err(|source| failed(&path, source))
    }

    /// Goes on over `overlay`, with its own before that among the frozen ones, as `own`. `known` is
    /// whether a machine that runs does so as well, for sure.
    pub(crate) fn push(&mut self, own: File, overlay: File, known: bool) {
        self.frozen.push(own);
        self.overlay = overlay;
        self.known = known;
    }

    /// Leaves the directory as it is, for the next node.
    pub(crate) fn let_go(mut self) {
        self.removal.disarm();
    }

    /// Removes the directory with all it holds. Blocks.
    pub(crate) fn remove(mut self) {
        self.removal.armed = true;
    }
}

/// Whether what `layout` names is of use when no machine runs.
const fn stays(layout: &Layout) -> bool {
    layout.state.is_some() || layout.durable
}

/// Whether there is room under `parent` for something new.
pub(crate) fn check_room(parent: &Path) -> Result<(), CreateError> {
    let free = disk::free_bytes(parent)
        .map_err(|source| CreateError::File { path: parent.into(), source })?;
    if free < FREE_BYTES_MIN {
        return Err(CreateError::DiskFull { path: parent.into(), free_mib: free >> 20 });
    }
    Ok(())
}

/// Why a machine could not be written to `dir`: a full disk, when that is it. To be asked before
/// anything of it is removed.
pub(crate) fn blame(dir: &Path, error: MachineError) -> CreateError {
    let refused = matches!(error, MachineError::Vmm { source: ControlError::Refused(_), .. });
    match disk::free_bytes(dir) {
        Ok(free) if refused && free < FREE_BYTES_SPENT => {
            CreateError::DiskFull { path: dir.into(), free_mib: free >> 20 }
        }
        _ => error.into(),
    }
}

/// The disk of `layout` in `dir`: what is frozen, lowest first, and its own overlay.
fn open_disk(dir: &Path, layout: &Layout) -> Result<(Vec<File>, File), CreateError> {
    let Some((own, lower)) = layout.disk.split_last() else {
        let source = io::Error::new(io::ErrorKind::InvalidData, "it has no disk");
        return Err(failed(dir, source));
    };
    let frozen = lower.iter().map(|name| open(&dir.join(name), false)).collect::<Result<_, _>>()?;
    Ok((frozen, open(&dir.join(own), true)?))
}

fn open(path: &Path, write: bool) -> Result<File, CreateError> {
    let opened = File::options().read(true).write(write).open(path);
    opened.map_err(|source| failed(path, source))
}

/// Makes a file that must not be there yet.
pub(crate) fn create_file(path: &Path) -> Result<File, CreateError> {
    let options = File::options().read(true).write(true).create_new(true).open(path);
    options.map_err(|source| failed(path, source))
}

/// Makes an empty overlay for a disk of `disk_bytes`.
pub(crate) fn create_overlay(path: &Path, disk_bytes: u64) -> Result<File, CreateError> {
    let overlay = create_file(path)?;
    base_overlay::create(&overlay, disk_bytes).map_err(|error| {
        let source = match error {
            OverlayError::Write(source) | OverlayError::Read(source) => source,
            other => io::Error::other(other),
        };
        failed(path, source)
    })?;
    Ok(overlay)
}

/// Why `path` cannot be used: a full disk is told apart.
pub(crate) fn failed(path: &Path, source: io::Error) -> CreateError {
    if disk::is_full(&source) {
        let dir = path.parent().unwrap_or(path);
        let free_mib = disk::free_bytes(dir).unwrap_or_default() >> 20;
        return CreateError::DiskFull { path: dir.into(), free_mib };
    }
    CreateError::File { path: path.into(), source }
}

#[cfg(test)]
mod test;
