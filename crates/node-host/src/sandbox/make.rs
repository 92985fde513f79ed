//! Making a sandbox's machine: a clone of a template, of a moment of another sandbox, or, for
//! measurements, a booted kernel; and making it again after a pause.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api_vmm::{MemoryPath, PrimeTimes};
use node_store::{SandboxRow, StoreError};

use super::files::{SandboxFiles, failed};
use super::layout::{Layout, Moment, MomentFiles, Stamp};
use super::owner::Surroundings;
use super::{CreateError, CreateSpec, CreateTimes, SandboxFacts};
use crate::images::{ImageError, open};
use crate::machine::{self, Identity, MachineFiles, Memory, RestoreOptions, Restored, micros};
use crate::memory::MACHINE_MIB;
use crate::network::PolicyWatch;
use crate::shells::{Recipe, Shell};
use crate::snapshots::Kept;
use crate::step;
use crate::template::{Template, TemplateError};
use crate::vmm::{Keeping, VmmProcess};

/// Memory layers of up to this many bytes are copied before the guest runs; those of more are left
/// in their files until they are touched. Copying 16 MiB takes as long as some hundred faults.
const EAGER_BYTES_MAX: u64 = 16 << 20;
/// LIMIT: layers that are left in their files. Each pause of such a machine adds one, and each is
/// asked for every page that no layer above it has; past this, all are copied, which makes them one.
const LAZY_LAYERS_MAX: usize = 8;

/// What a machine was made of.
pub(super) struct Made {
    pub(super) process: VmmProcess,
    pub(super) files: SandboxFiles,
    pub(super) times: CreateTimes,
}

/// What a new sandbox begins with, beside what is wanted.
pub(super) struct New {
    /// What is remembered of it.
    pub(super) row: SandboxRow,
    /// What it may reach.
    pub(super) policy: PolicyWatch,
}

/// A machine whose agent has answered, and what was begun while it woke.
pub(super) struct Making {
    pub(super) made: Made,
    /// It was told to outlive this daemon.
    pub(super) keeping: Keeping,
    /// The database was told of it.
    pub(super) remembered: Remembered,
}

/// The database's answer.
type Remembered = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;

/// What a sandbox is made from.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// The template its spec names.
    Template,
    /// One moment of another sandbox, kept until this one is made.
    Moment(Arc<Kept>),
}

/// Makes a new sandbox's machine. Whatever was made is undone when this fails or is dropped.
pub(super) async fn make(
    around: &Arc<Surroundings>,
    facts: &SandboxFacts,
    spec: &CreateSpec,
    origin: &Origin,
    new: New,
) -> Result<Making, CreateError> {
    match origin {
        Origin::Moment(kept) => make_branch(around, facts, spec, kept, new).await,
        Origin::Template if spec.cold => make_cold(around, facts, spec, new).await,
        Origin::Template => make_warm(around, facts, spec, new).await,
    }
}

async fn make_warm(
    around: &Arc<Surroundings>,
    facts: &SandboxFacts,
    spec: &CreateSpec,
    new: New,
) -> Result<Making, CreateError> {
    let template = around.templates.ready(&spec.template, spec.size).await?;
    let begun = Instant::now();
    let _busy = around.shells.busy();
    let options = RestoreOptions {
        memory: spec.memory.unwrap_or(around.memory),
        prefetch: spec.prefetch.unwrap_or(around.prefetch),
        record: false,
    };
    let recipe = Recipe { template: Arc::clone(&template), options };
    if (options.memory, options.prefetch) == (around.memory, around.prefetch) {
        around.shells.expect(facts.size, &recipe);
    }
    let (dir, id, disk_bytes) = (around.dir.clone(), facts.id, template.root_bytes);
    let layout = Layout::new(Some(template.stamp())).durable(spec.durable);
    let making = move || SandboxFiles::create(&dir, id, disk_bytes, layout);
    let (shell, files, claim_us) = gather(around, facts, Some(&recipe), making).await?;
    let Shell { process, built_for_claim, primed } = shell;
    let primed = match primed {
        Some(_) => PrimeTimes::default(),
        None => machine::prime(&process, Memory::of(&template), options).await?,
    };
    let lazy = options.memory == MemoryPath::Userfault;
    let primed = Primed { process, template, lazy, claim_us, primed, built_for_claim, begun };
    begin(around, facts, spec, primed, files, new).await
}

/// A machine that goes on from one moment of another sandbox's, as a machine of its own.
async fn make_branch(
    around: &Arc<Surroundings>,
    facts: &SandboxFacts,
    spec: &CreateSpec,
    kept: &Arc<Kept>,
    new: New,
) -> Result<Making, CreateError> {
    let moment = &kept.moment;
    let template = template_of(around, &moment.layout).await?;
    let begun = Instant::now();
    let _busy = around.shells.busy();
    let from = moment.open().map_err(|source| failed(&moment.dir, source))?;
    admit_memory(around, &from)?;
    let options = options(around, spec.memory, &from);
    let lazy = options.memory == MemoryPath::Userfault;
    let (dir, id, disk_bytes) = (around.dir.clone(), facts.id, template.root_bytes);
    let kept = Arc::clone(kept);
    let making = move || SandboxFiles::branch(&dir, id, disk_bytes, &kept.moment, lazy);
    let (shell, files, claim_us) = gather(around, facts, None, making).await?;
    let Shell { process, built_for_claim, .. } = shell;
    let primed = machine::prime(&process, memory(&template, &from), options).await?;
    let primed = Primed { process, template, lazy, claim_us, primed, built_for_claim, begun };
    begin(around, facts, spec, primed, files, new).await
}

/// Lets a machine that was prepared begin as the sandbox of `facts`.
async fn begin(
    around: &Surroundings,
    facts: &SandboxFacts,
    spec: &CreateSpec,
    primed: Primed,
    files: SandboxFiles,
    new: New,
) -> Result<Making, CreateError> {
    let Primed { mut process, template, claim_us, primed, built_for_claim, begun, .. } = primed;
    let identity = identity_of(facts)?;
    let limit = spec.ready_within.unwrap_or(around.ready_within);
    let frozen = frozen(&template, &files);
    let frames = plug(around, facts, new.policy, &mut process)?;
    let machine_files = machine_files(&template, &frozen, &files, frames.as_fd());
    let restoring = machine::begin_restore(&process, machine_files, &identity).await?;
    // While the guest wakes. Until it is remembered that the sandbox serves, the next daemon ends it.
    let keeping = process.keep_soon(files.dir()).await;
    let remembered = Box::pin(around.store.sandbox_insert(new.row));
    let restored = restoring.finish(&identity, limit).await?;
    let times = times(begun, claim_us, primed, restored, built_for_claim);
    let made = Made { process, files, times };
    Ok(Making { made, keeping: keeping?, remembered })
}

async fn make_cold(
    around: &Arc<Surroundings>,
    facts: &SandboxFacts,
    spec: &CreateSpec,
    new: New,
) -> Result<Making, CreateError> {
    let image = |error: ImageError| Arc::new(TemplateError::Image(error));
    let kernel = around.templates.images().kernel().map_err(image)?;
    let root = around.templates.images().root(&spec.template).map_err(image)?;
    let base = open(&root.root).map_err(image)?;
    let begun = Instant::now();
    let (dir, id, disk_bytes) = (around.dir.clone(), facts.id, root.manifest.root_bytes);
    let making = move || SandboxFiles::create(&dir, id, disk_bytes, Layout::new(None));
    let (shell, files, claim_us) = gather(around, facts, None, making).await?;
    let Shell { mut process, built_for_claim, .. } = shell;
    let frames = plug(around, facts, new.policy, &mut process)?;
    let machine_files = MachineFiles {
        root: &base,
        frozen: &[],
        overlay: &files.overlay,
        console: &files.console,
        frames: frames.as_fd(),
    };
    let limit = spec.ready_within.unwrap_or(around.boot_within);
    let remembered = Box::pin(around.store.sandbox_insert(new.row));
    let booting = Instant::now();
    machine::boot(&process, &kernel, machine_files, limit).await?;
    machine::identify(&process, &identity_of(facts)?, around.ready_within).await?;
    let times = CreateTimes {
        claim_us,
        reseed_us: micros(booting),
        total_us: micros(begun),
        pool_empty: built_for_claim,
        ..CreateTimes::default()
    };
    let keeping = process.keep_soon(files.dir()).await?;
    let made = Made { process, files, times };
    Ok(Making { made, keeping, remembered })
}

/// A machine that has its memory, and waits to begin or to go on.
pub(super) struct Primed {
    process: VmmProcess,
    template: Arc<Template>,
    /// Whether it reads from the memory layers as long as it runs.
    pub(super) lazy: bool,
    claim_us: u64,
    primed: PrimeTimes,
    built_for_claim: bool,
    begun: Instant,
}

/// Why a paused sandbox does not go on.
pub(super) enum ThawError {
    /// Its guest did not run: it can be tried again.
    Before(CreateError),
    /// Its guest ran, and may have written to its disk: what was paused is over.
    After(CreateError),
}

/// Gets a machine for the paused sandbox of `moment`. Changes nothing on disk.
pub(super) async fn prepare(
    around: &Arc<Surroundings>,
    facts: &SandboxFacts,
    moment: &Moment,
) -> Result<Primed, CreateError> {
    let template = template_of(around, &moment.layout).await?;
    let begun = Instant::now();
    let _busy = around.shells.busy();
    let from = moment.open().map_err(|source| failed(&moment.dir, source))?;
    admit_memory(around, &from)?;
    let options = options(around, None, &from);
    let shell = around.shells.claim(facts.size, None).await?;
    let claim_us = micros(begun);
    let Shell { process, built_for_claim, .. } = shell;
    let primed = machine::prime(&process, memory(&template, &from), options).await?;
    let lazy = options.memory == MemoryPath::Userfault;
    Ok(Primed { process, template, lazy, claim_us, primed, built_for_claim, begun })
}

/// A machine that is what a paused sandbox was, and does not run yet.
pub(super) struct Standing {
    pub(super) process: VmmProcess,
    /// Whether it reads from the memory layers as long as it runs.
    pub(super) lazy: bool,
    times: CreateTimes,
    begun: Instant,
}

/// Makes a machine that was prepared what it was. Its guest does not run yet.
pub(super) async fn stand(
    around: &Surroundings,
    facts: &SandboxFacts,
    policy: PolicyWatch,
    primed: Primed,
    files: &SandboxFiles,
) -> Result<Standing, CreateError> {
    let Primed { mut process, template, lazy, claim_us, primed, built_for_claim, begun } = primed;
    let frozen = frozen(&template, files);
    let frames = plug(around, facts, policy, &mut process)?;
    let machine_files = machine_files(&template, &frozen, files, frames.as_fd());
    let restored = machine::stand(&process, machine_files).await?;
    let restored = Restored { times: restored, reseed_us: 0 };
    let times = times(begun, claim_us, primed, restored, built_for_claim);
    Ok(Standing { process, lazy, times, begun })
}

/// Lets a machine that stands go on.
pub(super) async fn wake(
    standing: Standing,
    files: &SandboxFiles,
    limit: Duration,
) -> Result<(VmmProcess, CreateTimes), CreateError> {
    let Standing { process, times, begun, .. } = standing;
    let reseed_us = machine::wake(&process, &files.console, limit).await?;
    Ok((process, CreateTimes { reseed_us, total_us: micros(begun), ..times }))
}

pub(super) async fn template_of(
    around: &Arc<Surroundings>,
    layout: &Layout,
) -> Result<Arc<Template>, CreateError> {
    let stamp = layout.template.as_ref().ok_or(CreateError::Booted)?;
    Ok(around.templates.exact(stamp).await?)
}

fn memory<'a>(template: &'a Template, from: &'a MomentFiles) -> Memory<'a> {
    Memory {
        state: &from.state,
        template: template.memory.as_fd(),
        layers: &from.memory,
        working_set: template.working_set.as_ref(),
    }
}

/// Whether there is memory for what a moment's machine had changed of its own, which it gets back sooner
/// or later.
fn admit_memory(around: &Surroundings, from: &MomentFiles) -> Result<(), CreateError> {
    around.room.admit(MACHINE_MIB.saturating_add(from.memory_bytes >> 20))
}

/// How the memory of a moment reaches a machine.
fn options(around: &Surroundings, asked: Option<MemoryPath>, from: &MomentFiles) -> RestoreOptions {
    let memory = asked.unwrap_or_else(|| path(from.memory_bytes, from.memory.len()));
    RestoreOptions { memory, prefetch: around.prefetch, record: false }
}

fn path(memory_bytes: u64, layers: usize) -> MemoryPath {
    if memory_bytes <= EAGER_BYTES_MAX || layers > LAZY_LAYERS_MAX {
        MemoryPath::Private
    } else {
        MemoryPath::Userfault
    }
}

/// The overlays a machine reads through, lowest first.
pub(super) fn frozen<'a>(template: &'a Template, files: &'a SandboxFiles) -> Vec<&'a File> {
    std::iter::once(&template.disk).chain(&files.frozen).collect()
}

pub(super) fn machine_files<'a>(
    template: &'a Template,
    frozen: &'a [&'a File],
    files: &'a SandboxFiles,
    frames: BorrowedFd<'a>,
) -> MachineFiles<'a> {
    let (overlay, console) = (&files.overlay, &files.console);
    MachineFiles { root: &template.root, frozen, overlay, console, frames }
}

/// A frame socket for the machine `process`, which has the sandbox's network from now on.
pub(super) fn plug(
    around: &Surroundings,
    facts: &SandboxFacts,
    policy: PolicyWatch,
    process: &mut VmmProcess,
) -> Result<OwnedFd, CreateError> {
    let (frames, network) = around.networks.open(facts, policy).map_err(CreateError::Network)?;
    process.plug(network);
    Ok(frames)
}

fn times(
    begun: Instant,
    claim_us: u64,
    primed: PrimeTimes,
    restored: Restored,
    pool_empty: bool,
) -> CreateTimes {
    let steps = restored.times;
    CreateTimes {
        claim_us,
        parse_us: primed.parse_us.into(),
        map_us: primed.map_us.into(),
        state_us: steps.state_us.into(),
        devices_us: steps.devices_us.into(),
        resume_us: steps.resume_us.into(),
        reseed_us: restored.reseed_us,
        total_us: micros(begun),
        pool_empty,
    }
}

/// A shell and, meanwhile, the sandbox's files.
async fn gather(
    around: &Arc<Surroundings>,
    facts: &SandboxFacts,
    recipe: Option<&Recipe>,
    making: impl FnOnce() -> Result<SandboxFiles, CreateError> + Send + 'static,
) -> Result<(Shell, SandboxFiles, u64), CreateError> {
    let making = around.tasks.spawn_blocking(making);
    let claiming = async {
        let begun = Instant::now();
        let shell = around.shells.claim(facts.size, recipe).await?;
        Ok::<_, CreateError>((shell, micros(begun)))
    };
    let files = async { making.await.unwrap_or(Err(CreateError::Stopping)) };
    let ((shell, claim_us), files) = tokio::try_join!(claiming, files)?;
    step::reached("create: machine claimed");
    Ok((shell, files, claim_us))
}

pub(super) fn identity_of(facts: &SandboxFacts) -> Result<Identity, CreateError> {
    let short = facts.id.bits() >> 32;
    let hostname = match &facts.name {
        Some(name) => name.chars().map(host_character).collect(),
        None => format!("sandbox-{short:08x}"),
    };
    Ok(Identity::random(facts.id, hostname)?)
}

/// Names may hold what host names may not.
fn host_character(c: char) -> char {
    if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '-' }
}

impl Template {
    /// Which snapshot of a template this is.
    fn stamp(&self) -> Stamp {
        let manifest = &self.manifest;
        Stamp {
            name: manifest.name.clone(),
            size: manifest.size,
            key: manifest.key.clone(),
            built_at_ms: manifest.built_at_ms,
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn little_memory_is_copied_at_once_and_much_is_left_until_it_is_touched() {
        assert_eq!(path(EAGER_BYTES_MAX, 1), MemoryPath::Private);
        assert_eq!(path(EAGER_BYTES_MAX + 1, 1), MemoryPath::Userfault);
    }

    #[test]
    fn a_machine_paused_again_and_again_never_has_more_layers_than_it_can_be_restored_from() {
        let mut layers = 1;
        for _ in 0..100 {
            layers = match path(u64::MAX, layers) {
                MemoryPath::Private => 1,
                MemoryPath::Userfault => layers + 1,
            };
            assert!(layers <= api_vmm::MEMORY_LAYERS_MAX, "{layers}");
        }
    }
}
