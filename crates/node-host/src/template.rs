//! Templates: one snapshot per template and size, made on first need and used ever after.
//!
//! ```text
//!   DATA/templates/.building-…   rename when whole   <name>-<size>-<key>/
//!       state  memory  disk.qcow2  working-set  manifest.json
//! ```
//!
//! The key says what the snapshot depends on, so another kernel, agent or root disk gives another
//! snapshot beside the old one. A snapshot is read once and compared with its checksums before
//! anything of it is used. One that is damaged is worth nothing and can be made again from the
//! images, so that is what happens. Whoever needs a template that is not there starts its build; all
//! others wait for the same one. A loaded template is a handful of open files, one of them a sealed
//! memory file that all clones map.

mod build;
mod delete;
mod load;
mod warm;

pub use delete::DeleteTemplateError;
pub(crate) use warm::start_services;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base_snapshot::{LayerReadError, OpenError};
use base_types::{Chain, Size, TemplateName};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::guest::GuestError;
use crate::images::{ImageError, Images, Kernel, RootImage, snapshot_key};
use crate::machine::MachineError;
use crate::sandbox::Stamp;
use crate::shells::{ShellError, Shells};

/// What a half-made template's directory begins with.
const BUILDING_PREFIX: &str = ".building-";

/// Why a template cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// Its image is unknown, missing or damaged.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A file of its snapshot is damaged.
    #[error("`{}` is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: DamageError,
    },
    /// A file of its snapshot, or of one being made, cannot be read or written.
    #[error("use `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk is full.
    #[error("the disk is full: `{}` has {free_mib} MiB left, a snapshot of this size needs {needed_mib} MiB; free some space", path.display())]
    DiskFull {
        /// A directory of that file system.
        path: PathBuf,
        /// What is left.
        free_mib: u64,
        /// What is needed.
        needed_mib: u64,
    },
    /// No memory file for the clones.
    #[error("load the template's memory")]
    Memory(#[source] io::Error),
    /// No machine to build it with.
    #[error("get a machine to build the template with")]
    Shell(#[from] ShellError),
    /// The machine it is built with failed.
    #[error("{doing}")]
    Machine {
        /// Step of the build.
        doing: &'static str,
        /// Why.
        source: MachineError,
    },
    /// The guest did not do what it was told.
    #[error("{doing}")]
    Guest {
        /// Step of the build.
        doing: &'static str,
        /// Why.
        source: GuestError,
    },
    /// A command of the template's manifest failed in the guest.
    #[error("the template's warm-up command `{command}` {ending}{output}")]
    Warm {
        /// The command.
        command: String,
        /// How it ended.
        ending: String,
        /// End of what it printed, after `: `; may be empty.
        output: String,
    },
    /// What stands on it was made with another snapshot of it.
    #[error(
        "template {name}, size {size}, was made again since; what was paused or kept before cannot go on"
    )]
    Replaced {
        /// The template.
        name: TemplateName,
        /// Its size.
        size: Size,
    },
    /// The node is stopping.
    #[error("the node is shutting down")]
    Stopping,
}

/// What is wrong with a file of a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum DamageError {
    /// It is not a snapshot's file.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its content does not match its checksums.
    #[error(transparent)]
    Read(LayerReadError),
    /// It is not JSON of the right kind.
    #[error("it does not parse")]
    Json(#[from] serde_json::Error),
    /// It is another snapshot's.
    #[error("it belongs to another snapshot")]
    Foreign,
    /// Its content does not match the checksum in the manifest.
    #[error("its checksum is wrong")]
    Checksum,
    /// It is not there.
    #[error("it is missing")]
    Missing,
}

/// A template ready to be cloned.
#[derive(Debug)]
pub struct Template {
    /// Raw base image, for reading.
    pub(crate) root: File,
    /// Bytes of the disk.
    pub(crate) root_bytes: u64,
    /// Frozen overlay the snapshot's disk ended with.
    pub(crate) disk: File,
    /// Processor and device state.
    pub(crate) state: File,
    /// Sealed memory all clones map.
    pub(crate) memory: OwnedFd,
    /// Pages a clone touches first, when they were recorded.
    pub(crate) working_set: Option<File>,
    /// What is known about it.
    pub manifest: Manifest,
    /// Bytes it takes on disk.
    pub bytes: u64,
}

/// What is written beside a snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Name of the template.
    pub name: TemplateName,
    /// Size of its machine.
    pub size: Size,
    /// What it depends on.
    pub key: String,
    /// Kernel in it.
    pub kernel_release: String,
    /// When it was finished, milliseconds since 1970 UTC.
    pub built_at_ms: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// How long its kernel took from nothing to an agent that answers, in microseconds.
    pub boot_us: u64,
    /// Pages of memory in it.
    pub memory_pages: u64,
    /// BLAKE3 of the frozen overlay, in hex; the other files carry their own checksums.
    pub disk_blake3: String,
    /// Whether the pages a clone touches first were recorded.
    pub working_set: bool,
}

/// How far a template is.
#[derive(Clone, Debug, Default)]
pub enum TemplateState {
    /// Nobody asked for it since the node started.
    #[default]
    Unloaded,
    /// On its way: what is being done, and how much of the whole is done, 0 to 100.
    Building {
        /// A line for people.
        message: String,
        /// How much was done before this.
        percent: u8,
    },
    /// There.
    Ready(Arc<Template>),
    /// The last attempt failed; the next request tries again.
    Failed(Arc<TemplateError>),
}

/// All templates of a node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Templates {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    images: Images,
    dir: PathBuf,
    shells: Shells,
    boot_within: Duration,
    check_roots: bool,
    tasks: TaskTracker,
    stop: CancellationToken,
    entries: Mutex<HashMap<(TemplateName, Size), watch::Sender<TemplateState>>>,
}

/// Where and how templates are made.
#[derive(Clone, Debug)]
pub(crate) struct TemplateSettings {
    /// Directory they are kept in.
    pub(crate) dir: PathBuf,
    /// How long a kernel may take until its agent answers.
    pub(crate) boot_within: Duration,
    /// Whether a root disk is compared with its manifest before a snapshot is made of it.
    pub(crate) check_roots: bool,
}

impl Templates {
    /// Removes what a daemon before this one left half made, and takes `dir` into use.
    pub(crate) fn open(
        images: Images,
        settings: TemplateSettings,
        shells: Shells,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        let TemplateSettings { dir, boot_within, check_roots } = settings;
        fs::create_dir_all(&dir)?;
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(BUILDING_PREFIX) {
                tracing::info!("removing half-made template {}", entry.path().display());
                fs::remove_dir_all(entry.path())?;
            }
        }
        let entries = Mutex::default();
        let shared = Shared { images, dir, shells, boot_within, check_roots, tasks, stop, entries };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The images templates are made from.
    pub fn images(&self) -> &Images {
        &self.shared.images
    }

    /// The template, made now if it has to be.
    pub async fn ready(
        &self,
        name: &TemplateName,
        size: Size,
    ) -> Result<Arc<Template>, Arc<TemplateError>> {
        let mut state = self.start(name, size);
        loop {
            let now = state.borrow_and_update().clone();
            match now {
                TemplateState::Ready(template) => return Ok(template),
                TemplateState::Failed(error) => return Err(error),
                TemplateState::Building { .. } => {}
                // It was being deleted when this began.
                TemplateState::Unloaded => {
                    state = self.start(name, size);
                    continue;
                }
            }
            if state.changed().await.is_err() {
                return Err(Arc::new(TemplateError::Stopping));
            }
        }
    }

    /// The very snapshot of a template that something stands on.
    pub(crate) async fn exact(&self, stamp: &Stamp) -> Result<Arc<Template>, Arc<TemplateError>> {
        let template = self.ready(&stamp.name, stamp.size).await?;
        let manifest = &template.manifest;
        if manifest.key != stamp.key || manifest.built_at_ms != stamp.built_at_ms {
            let (name, size) = (stamp.name.clone(), stamp.size);
            return Err(Arc::new(TemplateError::Replaced { name, size }));
        }
        Ok(template)
    }

    /// Starts loading or making the template unless it is there or on its way, and shows how far it
    /// is. It goes on when nobody watches.
    pub fn start(&self, name: &TemplateName, size: Size) -> watch::Receiver<TemplateState> {
        let mut entries = self.shared.lock();
        let sender = entries.entry((name.clone(), size)).or_default();
        let idle = matches!(*sender.borrow(), TemplateState::Unloaded | TemplateState::Failed(_));
        if idle {
            let message = format!("load template {name}, size {size}");
            sender.send_replace(TemplateState::Building { message, percent: 0 });
            let (templates, name, progress) = (self.clone(), name.clone(), sender.clone());
            self.shared.tasks.spawn(async move {
                let made = templates.provide(&name, size, &progress).await;
                progress.send_replace(match made {
                    Ok(template) => TemplateState::Ready(Arc::new(template)),
                    Err(error) => {
                        tracing::warn!("template {name}, size {size}: {}", Chain(&error));
                        TemplateState::Failed(Arc::new(error))
                    }
                });
            });
        }
        sender.subscribe()
    }

    /// How far the template is; starts nothing.
    pub fn state(&self, name: &TemplateName, size: Size) -> TemplateState {
        let entries = self.shared.lock();
        entries.get(&(name.clone(), size)).map(|s| s.borrow().clone()).unwrap_or_default()
    }

    /// The manifest of a snapshot on disk that would be used, and its bytes on disk.
    pub fn on_disk(&self, name: &TemplateName, size: Size) -> Option<(Manifest, u64)> {
        let kernel = self.shared.images.kernel().ok()?;
        let root = self.shared.images.root(name).ok()?;
        let dir = self.shared.dir_of(&kernel, &root, size);
        let manifest = load::manifest(&dir).ok()?;
        Some((manifest, bytes_in(&dir)))
    }

    /// Bytes all snapshots take on disk.
    pub fn bytes(&self) -> u64 {
        let Ok(entries) = fs::read_dir(&self.shared.dir) else { return 0 };
        entries.flatten().map(|entry| bytes_in(&entry.path())).sum()
    }

    async fn provide(
        &self,
        name: &TemplateName,
        size: Size,
        progress: &watch::Sender<TemplateState>,
    ) -> Result<Template, TemplateError> {
        let shared = &self.shared;
        let kernel = shared.images.kernel()?;
        let root = shared.images.root(name)?;
        let dir = shared.dir_of(&kernel, &root, size);
        if dir.is_dir() {
            let (place, root, key) =
                (dir.clone(), root.clone(), snapshot_key(&kernel, &root, size));
            let loading =
                shared.tasks.spawn_blocking(move || load::load(&place, &root, size, &key));
            match loading.await.map_err(|_| TemplateError::Stopping)? {
                Err(error @ TemplateError::Damaged { .. }) => {
                    tracing::warn!("making a snapshot again: {}", Chain(&error));
                }
                loaded => return loaded,
            }
            let place = dir.clone();
            let removing = shared.tasks.spawn_blocking(move || fs::remove_dir_all(&place));
            removing
                .await
                .map_err(|_| TemplateError::Stopping)?
                .map_err(|source| TemplateError::File { path: dir.clone(), source })?;
        }
        tokio::select! {
            built = build::build(shared, &kernel, &root, size, &dir, progress) => built,
            () = shared.stop.cancelled() => Err(TemplateError::Stopping),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<(TemplateName, Size), watch::Sender<TemplateState>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dir_of(&self, kernel: &Kernel, root: &RootImage, size: Size) -> PathBuf {
        let key = snapshot_key(kernel, root, size);
        self.dir.join(format!("{}-{size}-{key}", root.manifest.name))
    }
}

/// Bytes the files in `dir` take on disk: holes do not count.
pub(crate) fn bytes_in(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries.flatten().filter_map(|e| e.metadata().ok()).map(|m| m.blocks() * 512).sum()
}
