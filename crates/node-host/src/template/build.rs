//! Making a template's snapshot: boot, warm up, freeze, and record what a clone touches first.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use api_guest::{Request, SetClock, Settle};
use api_vmm::{Answer, Command, MemoryPath, SnapshotSpec};
use base_types::{Chain, SandboxId, Size};
use tokio::sync::watch;

use super::{
    BUILDING_PREFIX, Manifest, Shared, Template, TemplateError, TemplateState, load, warm,
};
use crate::control::ControlError;
use crate::images::{Kernel, RootImage, checksum, open, snapshot_key};
use crate::machine::{
    self, Identity, MachineError, MachineFiles, Memory, RestoreOptions, micros, wall_clock_ns,
};
use crate::network::unplugged;
use crate::vmm::VmmProcess;

/// LIMIT: flushing a guest's dirty pages to an emulated disk.
const SETTLE_WITHIN: Duration = Duration::from_secs(120);
/// LIMIT: writing all memory of the largest size to a slow disk.
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(300);
/// LIMIT: pausing finishes the guest's disk requests.
const PAUSE_WITHIN: Duration = Duration::from_secs(60);
/// LIMIT: first restore of a snapshot, page by page, under emulation.
const RECORD_WITHIN: Duration = Duration::from_secs(60);
/// What a snapshot takes on disk beside guest memory: overlay, state, room to breathe.
const SLACK_MIB: u64 = 256;
/// LIMIT: a build that failed with less than this left failed because of it; writes come in pieces of
/// at most a few MiB.
const FULL_MIB: u64 = 16;
/// LIMIT: a freshly booted guest has used less than this part of its memory.
const MEMORY_USED_PART: u64 = 4;

/// The directory a template is made in. Removed when it is dropped before it was renamed.
#[derive(Debug)]
struct Scratch {
    dir: PathBuf,
    renamed: bool,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.renamed
            && let Err(error) = fs::remove_dir_all(&self.dir)
        {
            tracing::warn!("cannot remove {}: {error}", self.dir.display());
        }
    }
}

impl Scratch {
    fn create(beside: &Path) -> Result<Self, TemplateError> {
        let name = beside.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let dir = beside.with_file_name(format!("{BUILDING_PREFIX}{name}"));
        let file = |source| TemplateError::File { path: dir.clone(), source };
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file(error)),
            Ok(()) | Err(_) => fs::create_dir(&dir).map_err(file)?,
        }
        Ok(Self { dir, renamed: false })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn create_file(&self, name: &str) -> Result<File, TemplateError> {
        let path = self.path(name);
        File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|source| TemplateError::File { path, source })
    }

    fn create_overlay(&self, name: &str, bytes: u64) -> Result<File, TemplateError> {
        let file = self.create_file(name)?;
        base_overlay::create(&file, bytes).map_err(|source| TemplateError::File {
            path: self.path(name),
            source: io::Error::other(Chain(&source).to_string()),
        })?;
        Ok(file)
    }

    /// Puts the whole directory in its place, on stable storage.
    fn publish(mut self, place: &Path) -> Result<(), TemplateError> {
        let file = |path: &Path| {
            let path = path.to_path_buf();
            move |source| TemplateError::File { path, source }
        };
        for entry in fs::read_dir(&self.dir).map_err(file(&self.dir))? {
            let path = entry.map_err(file(&self.dir))?.path();
            File::open(&path).and_then(|f| f.sync_all()).map_err(file(&path))?;
        }
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(file(&self.dir))?;
        fs::rename(&self.dir, place).map_err(file(place))?;
        self.renamed = true;
        let above = place.parent().unwrap_or(place);
        File::open(above).and_then(|dir| dir.sync_all()).map_err(file(above))
    }
}

/// Reports the steps of one build.
pub(super) struct Steps<'a> {
    progress: &'a watch::Sender<TemplateState>,
    title: String,
}

impl Steps<'_> {
    pub(super) fn at(&self, percent: u8, message: &str) {
        tracing::info!("{}: {message}", self.title);
        let message = format!("{}: {message}", self.title);
        self.progress.send_replace(TemplateState::Building { message, percent });
    }
}

pub(super) async fn build(
    shared: &Shared,
    kernel: &Kernel,
    root: &RootImage,
    size: Size,
    place: &Path,
    progress: &watch::Sender<TemplateState>,
) -> Result<Template, TemplateError> {
    let begun = Instant::now();
    let steps = Steps { progress, title: format!("{} {size}", root.manifest.name) };
    steps.at(1, "check the kernel and the disk");
    check_space(&shared.dir, size)?;
    let (checked, disk) = (kernel.clone(), shared.check_roots.then(|| root.clone()));
    let verified = shared.tasks.spawn_blocking(move || {
        checked.verify()?;
        disk.map_or(Ok(()), |disk| disk.verify())
    });
    verified.await.map_err(|_| TemplateError::Stopping)??;
    let scratch = Scratch::create(place)?;
    let made = make(shared, kernel, root, size, &scratch, begun, &steps).await;
    let template = made.map_err(|error| match room(&shared.dir, size) {
        // Whatever failed for it, this is what to do something about.
        Ok(Room { free_mib, .. }) if free_mib >= FULL_MIB => error,
        Ok(Room { free_mib, needed_mib }) => {
            tracing::warn!("{}: {}", steps.title, Chain(&error));
            TemplateError::DiskFull { path: shared.dir.clone(), free_mib, needed_mib }
        }
        Err(_) => error,
    })?;
    scratch.publish(place)?;
    tracing::info!("{}: ready after {} ms", steps.title, template.manifest.took_ms);
    Ok(template)
}

/// Makes the snapshot in `scratch`, all but its place.
async fn make(
    shared: &Shared,
    kernel: &Kernel,
    root: &RootImage,
    size: Size,
    scratch: &Scratch,
    begun: Instant,
    steps: &Steps<'_>,
) -> Result<Template, TemplateError> {
    let disk = scratch.create_overlay("disk.qcow2", root.manifest.root_bytes)?;
    let console = scratch.create_file("console.log")?;
    let base = open(&root.root)?;
    let frames = no_frames()?;
    let files = MachineFiles {
        root: &base,
        frozen: &[],
        overlay: &disk,
        console: &console,
        frames: frames.as_fd(),
    };

    steps.at(5, "boot the kernel");
    let shell = shared.shells.claim(size, None).await?;
    let machine = |doing| move |source| TemplateError::Machine { doing, source };
    let booting = Instant::now();
    machine::boot(&shell.process, kernel, files, shared.boot_within)
        .await
        .map_err(machine("boot the kernel"))?;
    let boot_us = micros(booting);
    // A booted guest has no clock of its own; what its programs write should not be from 1970.
    let clock = SetClock { wall_clock_ns: wall_clock_ns() };
    tell(&shell.process, Request::SetClock(clock), "set the guest's clock").await?;
    warm::warm(&shell.process, root, steps).await?;

    steps.at(60, "bring the machine to rest");
    tell(&shell.process, Request::Settle(Settle { drop_caches: false }), "settle the guest")
        .await?;
    steps.at(65, "write the snapshot");
    let memory_pages = snapshot(&shell.process, scratch).await?;
    drop(shell);
    drop(disk);
    let path = scratch.path("disk.qcow2");
    let frozen = open(&path)?;
    let summing = shared.tasks.spawn_blocking(move || checksum(frozen));
    let disk_blake3 = summing
        .await
        .map_err(|_| TemplateError::Stopping)?
        .map_err(|source| TemplateError::File { path, source })?;

    steps.at(80, "load the snapshot");
    let mut manifest = Manifest {
        name: root.manifest.name.clone(),
        size,
        key: snapshot_key(kernel, root, size),
        kernel_release: kernel.manifest.release.clone(),
        built_at_ms: now_ms(),
        took_ms: 0,
        boot_us,
        memory_pages,
        disk_blake3,
        working_set: false,
    };
    write_manifest(scratch, &manifest)?;
    let load_again = || {
        let (dir, root, key) = (scratch.dir.clone(), root.clone(), manifest.key.clone());
        shared.tasks.spawn_blocking(move || load::load(&dir, &root, size, &key))
    };
    let mut template = load_again().await.map_err(|_| TemplateError::Stopping)??;

    steps.at(90, "record what a clone touches first");
    match record(shared, &template, root, size, scratch).await {
        Ok(working_set) => template.working_set = Some(working_set),
        // Clones work without it, only slower, so a template is not refused for it.
        Err(error) => {
            tracing::warn!("no working set for {}: {}", steps.title, Chain(&error));
            remove(&scratch.path("working-set"))?;
        }
    }
    remove(&scratch.path("record.qcow2"))?;
    remove(&scratch.path("console.log"))?;
    manifest.took_ms = micros(begun) / 1000;
    manifest.working_set = template.working_set.is_some();
    remove(&scratch.path("manifest.json"))?;
    write_manifest(scratch, &manifest)?;
    template.manifest = manifest;
    template.bytes = super::bytes_in(&scratch.dir);
    Ok(template)
}

/// Sends a request that is answered by a single `Done`.
async fn tell(
    process: &VmmProcess,
    request: Request,
    doing: &'static str,
) -> Result<(), TemplateError> {
    let connection = machine::connect(process.control())
        .await
        .map_err(|source| TemplateError::Machine { doing, source })?;
    connection
        .simple_within(request, SETTLE_WITHIN)
        .await
        .map_err(|source| TemplateError::Guest { doing, source })
}

/// Pauses the machine and writes it to the scratch directory. Returns the pages of memory written.
async fn snapshot(process: &VmmProcess, scratch: &Scratch) -> Result<u64, TemplateError> {
    let failed = |doing| {
        move |source: ControlError| TemplateError::Machine {
            doing: "take the snapshot",
            source: MachineError::Vmm { doing, source },
        }
    };
    let control = process.control();
    control.order(Command::Pause, &[], PAUSE_WITHIN).await.map_err(failed("pause the machine"))?;
    let (state, memory) = (scratch.create_file("state")?, scratch.create_file("memory")?);
    let spec = SnapshotSpec { disk: None, only_dirty: false };
    let answer = control
        .request(Command::Snapshot(spec), &[state.as_fd(), memory.as_fd()], SNAPSHOT_WITHIN)
        .await
        .map_err(failed("write its state and memory"))?;
    let Answer::Snapshotted { pages, .. } = answer else {
        return Err(failed("write its state and memory")(ControlError::Protocol));
    };
    control.order(Command::Stop, &[], PAUSE_WITHIN).await.map_err(failed("stop the machine"))?;
    process.gone().await;
    Ok(pages)
}

/// Restores the snapshot once, page by page, and writes down which pages were touched until the
/// clone was a machine of its own and had done what its services are first asked for.
async fn record(
    shared: &Shared,
    template: &Template,
    root: &RootImage,
    size: Size,
    scratch: &Scratch,
) -> Result<File, TemplateError> {
    let machine = |source| TemplateError::Machine { doing: "record the working set", source };
    let overlay = scratch.create_overlay("record.qcow2", template.root_bytes)?;
    let console = scratch.create_file("record.log")?;
    remove(&scratch.path("record.log"))?;
    let shell = shared.shells.claim(size, None).await?;
    let identity = Identity::random(SandboxId::from_bits(0), "template".to_owned());
    let frames = no_frames()?;
    let files = MachineFiles {
        root: &template.root,
        frozen: &[&template.disk],
        overlay: &overlay,
        console: &console,
        frames: frames.as_fd(),
    };
    let options = RestoreOptions { memory: MemoryPath::Userfault, prefetch: false, record: true };
    let identity = identity.map_err(machine)?;
    machine::prime(&shell.process, Memory::of(template), options).await.map_err(machine)?;
    machine::restore(&shell.process, files, &identity, RECORD_WITHIN).await.map_err(machine)?;
    warm::touch(&shell.process, &root.manifest.services).await?;
    let working_set = scratch.create_file("working-set")?;
    shell
        .process
        .control()
        .order(Command::TakeWorkingSet, &[working_set.as_fd()], PAUSE_WITHIN)
        .await
        .map_err(|source| machine(MachineError::Vmm { doing: "write the working set", source }))?;
    Ok(working_set)
}

/// What a template is made with: nobody is there who could tell it something that all clones then know.
fn no_frames() -> Result<OwnedFd, TemplateError> {
    let failed = |source| TemplateError::Machine {
        doing: "prepare a machine",
        source: MachineError::Prepare(source),
    };
    unplugged().map_err(failed)
}

/// Room on the disk.
struct Room {
    free_mib: u64,
    needed_mib: u64,
}

fn room(dir: &Path, size: Size) -> io::Result<Room> {
    let needed_mib = SLACK_MIB + u64::from(size.memory_mib()) / MEMORY_USED_PART;
    Ok(Room { free_mib: crate::disk::free_bytes(dir)? >> 20, needed_mib })
}

fn check_space(dir: &Path, size: Size) -> Result<(), TemplateError> {
    let Room { free_mib, needed_mib } =
        room(dir, size).map_err(|source| TemplateError::File { path: dir.into(), source })?;
    if free_mib < needed_mib {
        return Err(TemplateError::DiskFull { path: dir.into(), free_mib, needed_mib });
    }
    Ok(())
}

fn write_manifest(scratch: &Scratch, manifest: &Manifest) -> Result<(), TemplateError> {
    let path = scratch.path("manifest.json");
    let text = serde_json::to_vec_pretty(manifest)
        .map_err(|source| TemplateError::File { path: path.clone(), source: source.into() })?;
    fs::write(&path, text).map_err(|source| TemplateError::File { path, source })
}

fn remove(path: &Path) -> Result<(), TemplateError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(TemplateError::File { path: path.into(), source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn now_ms() -> u64 {
    u64::try_from(wall_clock_ns() / 1_000_000).unwrap_or_default()
}
