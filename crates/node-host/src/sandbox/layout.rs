//! What a directory of a sandbox or a snapshot holds: its `files.json`.
//!
//! ```text
//!   console.log   files.json   disk-0 … disk-n   memory-m …   state-m
//! ```
//!
//! Files are numbered as they are made and named by `files.json` alone; what it does not name is
//! left over. It is replaced by a rename, so a directory is always in one state or the next. All
//! files but the console and the topmost overlay of a running sandbox are never written again, and
//! are shared between directories by hard links: every directory is whole by itself, removing one
//! breaks no other, and the file system frees what nobody refers to any more.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use api_vmm::{DISK_FILES_MAX, MEMORY_LAYERS_MAX};
use base_types::{Size, TemplateName};
use serde::{Deserialize, Serialize};

/// Name of the file.
pub(crate) const LAYOUT_FILE: &str = "files.json";
/// The version this build writes and reads.
const FORMAT: u32 = 1;
/// LIMIT: some fifty names of twenty bytes.
const LAYOUT_BYTES_MAX: u64 = 64 * 1024;
/// LIMIT: files of a disk in a directory: all but the root image and the template's overlay.
pub(crate) const OVERLAYS_MAX: usize = DISK_FILES_MAX - 2;

/// The template a machine was restored from, down to its very snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub(crate) name: TemplateName,
    pub(crate) size: Size,
    /// Of the template.
    pub(crate) key: String,
    /// Of the template. A template made again has the same key and other pages.
    pub(crate) built_at_ms: u64,
}

/// What a directory holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layout {
    format: u32,
    /// What lies under all layers and overlays; none for a machine that was booted.
    pub(crate) template: Option<Stamp>,
    /// Memory layers over the template's memory, top first. While a machine runs, only those it
    /// still reads from.
    pub(crate) memory: Vec<String>,
    /// Overlays over the template's disk, lowest first. In a sandbox's directory the last is its
    /// own, in a snapshot's all are frozen.
    pub(crate) disk: Vec<String>,
    /// Processor and device state: there exactly while no machine runs.
    pub(crate) state: Option<String>,
    /// Number of the next file.
    pub(crate) next: u32,
    /// Whether its disk outlives a power cut also while a machine runs on it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) durable: bool,
}

impl Layout {
    /// Of a directory with nothing in it.
    pub(crate) const fn new(template: Option<Stamp>) -> Self {
        Self {
            format: FORMAT,
            template,
            memory: Vec::new(),
            disk: Vec::new(),
            state: None,
            next: 0,
            durable: false,
        }
    }

    /// The same, with a disk that outlives a power cut at any moment, or not.
    pub(crate) fn durable(self, durable: bool) -> Self {
        Self { durable, ..self }
    }

    /// What is left of it once a machine runs from it, which reads from its memory layers when
    /// `lazy`.
    pub(crate) fn running(&self, lazy: bool) -> Self {
        let memory = if lazy { self.memory.clone() } else { Vec::new() };
        Self { state: None, memory, ..self.clone() }
    }

    /// A name that no file of the directory had before.
    pub(crate) fn fresh(&mut self, kind: &str) -> String {
        let name = format!("{kind}-{}", self.next);
        self.next += 1;
        name
    }

    /// Every file it names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.memory.iter().chain(&self.disk).chain(&self.state)
    }

    /// What `dir` holds.
    pub(crate) fn read(dir: &Path) -> io::Result<Self> {
        let mut text = Vec::new();
        File::open(dir.join(LAYOUT_FILE))?.take(LAYOUT_BYTES_MAX).read_to_end(&mut text)?;
        let layout: Self = serde_json::from_slice(&text)?;
        layout.check().map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))?;
        Ok(layout)
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.format != FORMAT {
            return Err("written by another version of the node");
        }
        if self.memory.len() > MEMORY_LAYERS_MAX || self.disk.len() > OVERLAYS_MAX {
            return Err("more layers than a machine can have");
        }
        let plain = |name: &String| {
            !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if !self.names().all(plain) {
            return Err("a name that is none of a layer");
        }
        Ok(())
    }

    /// Makes `dir` hold this from now on. With `whole` it does so after a power cut, too: every
    /// file it names is on stable storage before it is. One that is durable does so in any case, with
    /// its disk.
    pub(crate) fn write(&self, dir: &Path, whole: bool) -> io::Result<()> {
        let synced: Option<Vec<&String>> = match (whole, self.durable) {
            (true, _) => Some(self.names().collect()),
            (false, true) => Some(self.disk.iter().collect()),
            (false, false) => None,
        };
        let new = dir.join("files.json.new");
        let written = self.write_to(&new, dir, synced.as_deref());
        if let Err(error) = written.and_then(|()| fs::rename(&new, dir.join(LAYOUT_FILE))) {
            // On a full disk even this is room.
            let _ = fs::remove_file(&new);
            return Err(error);
        }
        if synced.is_none() {
            return Ok(());
        }
        File::open(dir)?.sync_all()?;
        // The directory itself may be as new as what it holds.
        dir.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    }

    fn write_to(&self, new: &Path, dir: &Path, synced: Option<&[&String]>) -> io::Result<()> {
        let mut file = File::create(new)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        if let Some(names) = synced {
            for name in names {
                File::open(dir.join(name))?.sync_all()?;
            }
            file.sync_all()?;
        }
        Ok(())
    }

    /// Removes numbered files of `dir` that it does not name.
    pub(crate) fn sweep(&self, dir: &Path) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let numbered = ["disk-", "memory-", "state-"].iter().any(|kind| name.starts_with(kind));
            if numbered && !self.names().any(|known| *known == name) {
                fs::remove_file(dir.join(name))?;
            }
        }
        Ok(())
    }
}

/// One moment of a machine on disk: a directory that nobody changes while this is used.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) dir: PathBuf,
    pub(crate) layout: Layout,
}

/// The files a machine is restored from, open for reading.
#[derive(Debug)]
pub(crate) struct MomentFiles {
    pub(crate) state: File,
    /// Top first.
    pub(crate) memory: Vec<File>,
    /// Bytes of all memory layers.
    pub(crate) memory_bytes: u64,
}

impl Moment {
    /// The moment in `dir`.
    pub(crate) fn read(dir: PathBuf) -> io::Result<Self> {
        let layout = Layout::read(&dir)?;
        Ok(Self { dir, layout })
    }

    /// Opens what a machine's memory and registers are restored from.
    pub(crate) fn open(&self) -> io::Result<MomentFiles> {
        let open = |name: &String| File::open(self.dir.join(name));
        let state = self.layout.state.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let memory = self.layout.memory.iter().map(open).collect::<io::Result<Vec<_>>>()?;
        let mut memory_bytes = 0;
        for layer in &memory {
            memory_bytes += layer.metadata()?.len();
        }
        Ok(MomentFiles { state: open(state)?, memory, memory_bytes })
    }

    /// Gives `dir` the files named `names`, by hard links.
    pub(crate) fn link<'n>(
        &self,
        names: impl Iterator<Item = &'n String>,
        dir: &Path,
    ) -> io::Result<()> {
        names.into_iter().try_for_each(|name| fs::hard_link(self.dir.join(name), dir.join(name)))
    }
}

#[cfg(test)]
mod test;
