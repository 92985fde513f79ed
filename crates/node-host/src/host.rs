//! The node's side of the machine it runs on, as one thing: start it, ask it, close it.

mod ahead;
mod branch;
mod network;
mod ports;
mod recover;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api_guest::ProcessBounds;
use api_node::{ANSWER_KEPT_MS, Errand, Quota, Used};
use api_vmm::MemoryPath;
use base_types::{ProjectId, SandboxId, Size, TemplateName};
use node_quota::QuotaExceeded;
use node_store::{OpenStoreError, Store, StoreError};
use rustix::fs::FlockOperation;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bounds::IoBounds;
use crate::cgroup::CgroupTree;
use crate::console;
use crate::disk;
use crate::flows::FlowLog;
use crate::images::Images;
use crate::journal::{Deed, Journal};
use crate::machine::random;
use crate::memory::{MACHINE_MIB, MemoryRoom};
use crate::network::Networks;
use crate::phase::Phase;
use crate::sandbox::{
    Birth, CreateError, CreateSpec, Origin, SandboxFacts, SandboxHandle, SandboxUsage,
    Surroundings, now_ms, own,
};
use crate::shells::{PoolStats, Shells};
use crate::snapshots::Snapshots;
use crate::template::{DeleteTemplateError, TemplateSettings, Templates, bytes_in};
use crate::vmm::VmmLauncher;

pub use branch::{Moment, WantedSnapshot};

/// LIMIT: what is left after a stop is killed processes and files; a disk under emulation may take
/// some seconds for those of many sandboxes.
const CLOSE_WITHIN: Duration = Duration::from_secs(30);

/// Everything about a node that can be chosen. Resolved before anything starts.
#[derive(Clone, Debug)]
pub struct HostSettings {
    /// Directory of everything the node writes.
    pub data_dir: PathBuf,
    /// Directory of the images it is given.
    pub images_dir: PathBuf,
    /// The `sandflare-vmm` executable.
    pub vmm: PathBuf,
    /// How many shells of each size are kept ready.
    pub pool: BTreeMap<Size, usize>,
    /// How many sandboxes may be alive at once.
    pub sandboxes_max: usize,
    /// How clean memory reaches a clone, unless a create says otherwise.
    pub memory: MemoryPath,
    /// Whether a recorded working set is brought in first, unless a create says otherwise.
    pub prefetch: bool,
    /// How long the agent of a restored guest may take to answer.
    pub ready_within: Duration,
    /// How long a kernel may take from its start until its agent answers.
    pub boot_within: Duration,
    /// Whether a root disk is compared with its manifest before a snapshot is made of it.
    pub check_roots: bool,
    /// Memory of the machine that is kept back for the node and what else runs there, in MiB: nothing
    /// begins that would take of it. 0 lets everything begin.
    pub memory_kept_mib: u64,
    /// How many disk requests a machine may make.
    pub io: IoBounds,
    /// Bounds of processes that live on their own in a sandbox.
    pub processes: ProcessBounds,
}

/// Why the host side did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory of the node's data cannot be used.
    #[error("use `{}`", path.display())]
    Dir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is nobody for the networks of sandboxes.
    #[error("make the network of sandboxes")]
    Networks(#[source] io::Error),
    /// Another node has it.
    #[error("another node uses `{}`; stop it first, or choose another directory", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] OpenStoreError),
    /// The database cannot be brought up to date.
    #[error("find the sandboxes of an earlier run")]
    Recover(#[source] StoreError),
    /// The thread that starts processes did not start.
    #[error("start the spawner thread")]
    Spawner(#[source] io::Error),
}

/// Disk the node uses, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// By snapshots, of templates and of sandboxes.
    pub templates_bytes: u64,
    /// By sandboxes.
    pub sandboxes_bytes: u64,
    /// Left on the file system.
    pub free_bytes: u64,
}

/// The host side of a node.
#[derive(Debug)]
pub struct Host {
    around: Arc<Surroundings>,
    sandboxes: Registry,
    snapshots: Arc<Snapshots>,
    sandboxes_max: usize,
    processes: ProcessBounds,
    data_dir: PathBuf,
    cgroups: CgroupTree,
    // The kernel lets go of it when this process ends, however it does.
    _lock: File,
}

/// Every sandbox there is, by id.
#[derive(Clone, Debug, Default)]
struct Registry(Arc<Mutex<BTreeMap<SandboxId, SandboxHandle>>>);

impl Registry {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SandboxId, SandboxHandle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the registry, left when dropped.
struct Registration {
    registry: Registry,
    id: SandboxId,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.id);
    }
}

impl Host {
    /// Takes over the sandboxes of an earlier run, removes what else it left behind, and starts
    /// filling the pool. Guests are on what `networks` makes, which tells the log it is given of their
    /// flows. Must be called in a runtime.
    pub async fn start(
        settings: HostSettings,
        networks: impl FnOnce(FlowLog) -> io::Result<Arc<dyn Networks>>,
    ) -> Result<Self, StartError> {
        let dir = |path: PathBuf| move |source| StartError::Dir { path, source };
        let data_dir = settings.data_dir;
        let sandboxes_dir = data_dir.join("sandboxes");
        fs::create_dir_all(&sandboxes_dir).map_err(dir(sandboxes_dir.clone()))?;
        let data_dir = fs::canonicalize(&data_dir).map_err(dir(data_dir.clone()))?;
        let lock = lock(&data_dir)?;

        let cgroups = CgroupTree::open(&data_dir, settings.io);
        let store = Store::open(&data_dir.join("node.db"))?;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let launcher = VmmLauncher::new(settings.vmm, cgroups.clone(), tasks.clone())
            .map_err(StartError::Spawner)?;
        let found = recover::find(&store, &launcher, &sandboxes_dir).await;
        let mut found = found.map_err(StartError::Recover)?;
        // Processes first, so that nothing writes to files being removed.
        found.end_others().await;
        cgroups.clear(&found.uids());
        clear_dir(&sandboxes_dir, |name| found.goes_on(name))
            .map_err(dir(sandboxes_dir.clone()))?;
        let snapshots_dir = data_dir.join("snapshots");
        let snapshots = Snapshots::open(snapshots_dir.clone()).map_err(dir(snapshots_dir))?;

        let shells = Shells::start(&launcher, settings.pool, &tasks, stop.clone());
        let templates_dir = data_dir.join("templates");
        let templates = Templates::open(
            Images::new(settings.images_dir),
            TemplateSettings {
                dir: templates_dir.clone(),
                boot_within: settings.boot_within,
                check_roots: settings.check_roots,
            },
            shells.clone(),
            tasks.clone(),
            stop.clone(),
        )
        .map_err(dir(templates_dir))?;
        let journal = Journal::default();
        let flows = FlowLog::new(journal.clone());
        let networks = networks(flows.clone()).map_err(StartError::Networks)?;
        let around = Surroundings {
            shells,
            launcher,
            templates,
            store,
            dir: sandboxes_dir,
            memory: settings.memory,
            room: MemoryRoom::new(settings.memory_kept_mib),
            prefetch: settings.prefetch,
            ready_within: settings.ready_within,
            boot_within: settings.boot_within,
            tasks,
            stop,
            flows,
            journal,
            networks,
        };
        let (around, sandboxes) = (Arc::new(around), Registry::default());
        for (facts, mut found) in found.into_sandboxes() {
            let id = facts.id;
            let registration = Registration { registry: sandboxes.clone(), id };
            if let Some(process) = &mut found.process {
                let policy = found.network.watch();
                let frames = recover::plug(process, around.networks.as_ref(), &facts, policy);
                let control = process.control().clone();
                around.tasks.spawn(recover::greet(control, frames, around.ready_within));
            }
            let birth = Birth::Found(Box::new(found));
            let (handle, task) = own(around.clone(), facts, birth, registration);
            sandboxes.lock().insert(id, handle);
            around.tasks.spawn(task);
        }
        Ok(Self {
            around,
            sandboxes,
            snapshots: Arc::new(snapshots),
            sandboxes_max: settings.sandboxes_max,
            processes: settings.processes,
            data_dir,
            cgroups,
            _lock: lock,
        })
    }

    /// Makes a sandbox; returns when its agent answers. Dropping the future undoes it.
    pub async fn create(&self, mut spec: CreateSpec) -> Result<SandboxHandle, CreateError> {
        let origin = self.origin(&mut spec)?;
        self.admit_memory(1)?;
        let (handle, ready) = self.begin(spec, origin)?;
        ready.await.map_err(|_| CreateError::Stopping)??;
        Ok(handle)
    }

    /// Whether there is memory for `count` more, beside those that are being made and have not taken theirs.
    fn admit_memory(&self, count: usize) -> Result<(), CreateError> {
        let creating = |one: &&SandboxHandle| one.phase() == Phase::Creating;
        let creating = self.sandboxes.lock().values().filter(creating).count();
        let machines = u64::try_from(creating.saturating_add(count)).unwrap_or(u64::MAX);
        self.around.room.admit(machines.saturating_mul(MACHINE_MIB))
    }

    /// Begins to make a sandbox. It is removed again when the receiver is dropped before it serves.
    fn begin(
        &self,
        spec: CreateSpec,
        origin: Origin,
    ) -> Result<(SandboxHandle, oneshot::Receiver<Result<(), CreateError>>), CreateError> {
        let facts = SandboxFacts {
            id: match spec.id {
                Some(id) => id,
                None => SandboxId::from_bits(u64::from_le_bytes(random()?)),
            },
            project: spec.project,
            name: spec.name.clone(),
            template: spec.template.clone(),
            size: spec.size,
            env: spec.env.clone(),
            metadata: spec.metadata.clone(),
            snapshot: spec.snapshot,
            secrets: spec.secrets.clone(),
            created_at_ms: now_ms(),
            errand: spec.errand,
        };
        let (ready, wait) = oneshot::channel();
        let handle = {
            let mut sandboxes = self.sandboxes.lock();
            if self.around.stop.is_cancelled() {
                return Err(CreateError::Stopping);
            }
            // What is made ahead goes before anybody is refused.
            let all = sandboxes.values().filter(|one| one.facts().project != ProjectId::NODE);
            if all.count() >= self.sandboxes_max {
                return Err(CreateError::Full(self.sandboxes_max));
            }
            admit_one_more(&sandboxes, spec.project, &spec.quota, spec.size)?;
            let id = facts.id;
            let registration = Registration { registry: self.sandboxes.clone(), id };
            let birth = Birth::New { spec: Box::new(spec), origin, ready };
            let (handle, task) = own(self.around.clone(), facts, birth, registration);
            sandboxes.insert(id, handle.clone());
            self.around.tasks.spawn(task);
            handle
        };
        Ok((handle, wait))
    }

    /// The sandbox with this id.
    pub fn sandbox(&self, id: SandboxId) -> Option<SandboxHandle> {
        self.sandboxes.lock().get(&id).cloned()
    }

    /// Every sandbox there is, oldest first.
    pub fn sandboxes(&self) -> Vec<SandboxHandle> {
        let mut all: Vec<_> = self.sandboxes.lock().values().cloned().collect();
        all.sort_by_key(|handle| (handle.facts().created_at_ms, handle.facts().id));
        all
    }

    /// The sandboxes that `errand` of `project` made, while a create is known by its errand.
    pub fn made_by(&self, project: ProjectId, errand: Errand) -> Vec<SandboxHandle> {
        let since_ms = now_ms().saturating_sub(ANSWER_KEPT_MS);
        let mut all = self.sandboxes();
        all.retain(|sandbox| {
            let (facts, phase) = (sandbox.facts(), sandbox.view().phase);
            (facts.errand, facts.project) == (Some(errand), project)
                && facts.created_at_ms >= since_ms
                && (phase.is_alive() || phase == Phase::Failed)
        });
        all
    }

    /// Bounds of processes that live on their own in a sandbox.
    pub const fn process_bounds(&self) -> &ProcessBounds {
        &self.processes
    }

    /// What the node remembers.
    pub fn store(&self) -> Store {
        self.around.store.clone()
    }

    /// What sandboxes of `project` use, without their disk.
    pub fn used_by(&self, project: ProjectId) -> Used {
        let sandboxes = self.sandboxes.lock();
        let of_project = sandboxes.values().filter(|sandbox| sandbox.facts().project == project);
        node_quota::used_by(of_project.map(|sandbox| sandbox.facts().size))
    }

    /// Disk that sandboxes of `project` take, in bytes. Looks at every file of theirs: blocks.
    pub fn disk_use_of(&self, project: ProjectId) -> u64 {
        let ids: Vec<_> = self
            .sandboxes
            .lock()
            .iter()
            .filter_map(|(id, sandbox)| (sandbox.facts().project == project).then_some(*id))
            .collect();
        ids.iter().map(|id| bytes_in(&self.around.dir.join(id.to_string()))).sum()
    }

    /// The templates.
    pub fn templates(&self) -> &Templates {
        &self.around.templates
    }

    /// Deletes what was made of a template at one size, and says whether there was anything. The next
    /// create makes it again.
    pub async fn template_delete(
        &self,
        name: &TemplateName,
        size: Size,
    ) -> Result<bool, DeleteTemplateError> {
        let users = || {
            // Held until all is counted: what begins as a moment may go on as a sandbox.
            let sandboxes = self.sandboxes.lock();
            let facts = sandboxes.values().map(|sandbox| sandbox.facts());
            let of = facts.filter(|facts| (&facts.template, facts.size) == (name, size));
            (of.count(), self.snapshots.count_of(name, size))
        };
        self.around.templates.delete(name, size, users).await
    }

    /// What the pool holds now.
    pub fn pool(&self) -> PoolStats {
        self.around.shells.stats()
    }

    /// From now on, tells `keeper` what the node does to sandboxes by itself: to which, what, and
    /// why. It must not block. Only the first one counts.
    pub fn keep_journal(&self, keeper: impl Fn(SandboxId, Deed, &str) + Send + Sync + 'static) {
        self.around.journal.keep(Box::new(keeper));
    }

    /// What a sandbox takes of this machine; nothing is known of one that is not there. Blocks.
    pub fn usage(&self, id: SandboxId) -> SandboxUsage {
        let dir = self.around.dir.join(id.to_string());
        self.sandbox(id).map_or_else(SandboxUsage::default, |sandbox| sandbox.usage(&dir))
    }

    /// The last `bytes` of what a sandbox's kernel printed; nothing when it printed nothing. Blocks.
    ///
    /// # Errors
    ///
    /// When its file cannot be read.
    pub fn console_tail(&self, id: SandboxId, bytes: u64) -> io::Result<Vec<u8>> {
        match File::open(self.around.dir.join(id.to_string()).join("console.log")) {
            Ok(file) => console::read_tail(&file, bytes),
            // It is being made, or being removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Disk the node uses. Looks at every file: blocks.
    pub fn disk_use(&self) -> DiskUse {
        let sandboxes = fs::read_dir(&self.around.dir).into_iter().flatten().flatten();
        DiskUse {
            templates_bytes: self.around.templates.bytes() + self.snapshots.bytes(),
            sandboxes_bytes: sandboxes.map(|entry| bytes_in(&entry.path())).sum(),
            free_bytes: disk::free_bytes(&self.data_dir).unwrap_or_default(),
        }
    }

    /// Cancelled when the node begins to stop.
    pub fn stopping(&self) -> CancellationToken {
        self.around.stop.clone()
    }

    /// Ends every sandbox and every shell. Returns when nothing is left, or says what is.
    pub async fn close(&self) {
        self.around.stop.cancel();
        self.around.tasks.close();
        let shells = self.around.shells.drain();
        let ending = async {
            for process in &shells {
                process.kill();
            }
            for process in &shells {
                process.gone().await;
            }
            self.around.tasks.wait().await;
        };
        if timeout(CLOSE_WITHIN, ending).await.is_err() {
            let left = self.sandboxes.lock().len();
            tracing::error!("{left} sandboxes are not gone; the next start removes what is left");
        }
        self.cgroups.close();
    }
}

/// Whether a project may have one more sandbox, of `size`.
fn admit_one_more(
    sandboxes: &BTreeMap<SandboxId, SandboxHandle>,
    project: ProjectId,
    quota: &Quota,
    size: Size,
) -> Result<(), QuotaExceeded> {
    let of_project = sandboxes.values().filter(|one| one.facts().project == project);
    let used = node_quota::used_by(of_project.map(|one| one.facts().size));
    node_quota::admit(quota, &used, size, 1)
}

/// Makes sure that no other node removes what this one makes in `data_dir`.
fn lock(data_dir: &Path) -> Result<File, StartError> {
    let path = data_dir.join("lock");
    let file = File::options().create(true).append(true).open(&path);
    let file = file.map_err(|source| StartError::Dir { path: path.clone(), source })?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StartError::InUse { path: data_dir.into() }),
        Err(errno) => Err(StartError::Dir { path, source: errno.into() }),
    }
}

/// Removes everything in `dir` whose name is not to be kept.
fn clear_dir(dir: &Path, keep: impl Fn(&str) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if keep(&entry.file_name().to_string_lossy()) {
            continue;
        }
        tracing::info!("removing {} of an earlier run", path.display());
        if path.is_dir() {
            fs::remove_dir_all(&path)?;
        } else {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}
