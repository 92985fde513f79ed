//! Moments of sandboxes that are kept to make others from.
//!
//! ```text
//!   DATA/snapshots/<id>/    files.json  state-…  memory-…  disk-…      snapshot.json
//!                           one moment: see `sandbox/layout.rs`         written last, removed first
//! ```
//!
//! `snapshot.json` says that a snapshot is there: a directory without it is half made or half
//! removed, and goes at the next start. Sandboxes made from a snapshot share its files by hard links,
//! so a snapshot may be deleted at any time: they stand as they did, and the file system frees what
//! nobody refers to any more. A directory is removed only when nobody is making a sandbox from it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api_node::{Errand, Policy, Quota, SecretGrant};
use base_types::{DatabaseId, ProjectId, SandboxId, Size, SnapshotId, TemplateName};
use node_quota::QuotaExceeded;
use serde::{Deserialize, Serialize};

use crate::sandbox::{Moment, nothing};
use crate::step;
use crate::template::bytes_in;

/// What says that a snapshot is there.
const FACTS_FILE: &str = "snapshot.json";
/// LIMIT: short fields, and one policy with as many rules of as many bytes as it may have.
const FACTS_BYTES_MAX: u64 = 256 * 1024;

/// A moment of a sandbox on disk.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) moment: Moment,
    /// Whether its directory goes when nobody uses it any more.
    doomed: AtomicBool,
}

impl Kept {
    /// The moment in `dir`, which is removed when this is dropped.
    pub(crate) fn for_now(dir: PathBuf) -> io::Result<Self> {
        Ok(Self { moment: Moment::read(dir)?, doomed: AtomicBool::new(true) })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.doomed.load(Ordering::Relaxed)
            && let Err(error) = fs::remove_dir_all(&self.moment.dir)
        {
            tracing::error!("cannot remove {}: {error}", self.moment.dir.display());
        }
    }
}

/// What never changes about a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFacts {
    /// Its id.
    pub id: SnapshotId,
    /// The project it belongs to.
    pub project: ProjectId,
    /// Name its owner gave it.
    pub name: Option<String>,
    /// The sandbox it is of.
    pub sandbox: SandboxId,
    /// Template that sandbox is a clone of.
    pub template: TemplateName,
    /// Size of machines made from it.
    pub size: Size,
    /// When it was taken, milliseconds since 1970 UTC.
    pub created_at_ms: u64,
    /// What that sandbox might reach.
    #[serde(default = "nothing")]
    pub network: Policy,
    /// The secrets that sandbox was granted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretGrant>,
    /// Bytes its files take on disk.
    pub bytes: u64,
    /// The create it was made by, where that must not happen twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errand: Option<Errand>,
    /// The database whose machine that sandbox is. Such a snapshot is the database's, and no sandbox is
    /// made from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseId>,
}

#[derive(Debug)]
struct Entry {
    facts: SnapshotFacts,
    kept: Arc<Kept>,
}

/// All snapshots of a node.
#[derive(Debug)]
pub(crate) struct Snapshots {
    dir: PathBuf,
    all: Mutex<BTreeMap<SnapshotId, Entry>>,
    /// The moments that are being made.
    begun: Mutex<Vec<Standing>>,
}

/// What a moment stands on, and whose snapshot it will be, when it is to be one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Standing {
    template: TemplateName,
    size: Size,
    project: Option<ProjectId>,
}

/// A moment that is being made. It counts as a snapshot until this is dropped.
#[derive(Debug)]
pub(crate) struct Begun {
    snapshots: Arc<Snapshots>,
    of: Standing,
}

impl Drop for Begun {
    fn drop(&mut self) {
        let mut begun = self.snapshots.begun();
        if let Some(at) = begun.iter().position(|of| *of == self.of) {
            begun.swap_remove(at);
        }
    }
}

impl Snapshots {
    /// Takes `dir` into use: finds the snapshots in it, and removes everything else.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            match read(&path) {
                Ok(entry) => drop(all.insert(entry.facts.id, entry)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    tracing::info!("removing half-made snapshot {}", path.display());
                    fs::remove_dir_all(&path)?;
                }
                // Somebody's memory may be in there: it is not ours to throw away.
                Err(error) => {
                    tracing::error!("cannot use snapshot {}: {error}", path.display());
                }
            }
        }
        Ok(Self { dir, all: Mutex::new(all), begun: Mutex::default() })
    }

    fn begun(&self) -> MutexGuard<'_, Vec<Standing>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a moment of a sandbox of this template and size, from before it is made: that sandbox
    /// may be gone before the moment is listed.
    pub(crate) fn begin(self: &Arc<Self>, template: TemplateName, size: Size) -> Begun {
        let of = Standing { template, size, project: None };
        self.begun().push(of.clone());
        Begun { snapshots: Arc::clone(self), of }
    }

    /// As [`Self::begin`], for a moment that `project` is to keep, if its quota has room for it and for
    /// those it began before. One that gets there meanwhile may count twice, and never not at all.
    pub(crate) fn begin_kept(
        self: &Arc<Self>,
        project: ProjectId,
        quota: &Quota,
        template: TemplateName,
        size: Size,
    ) -> Result<Begun, QuotaExceeded> {
        let of = Standing { template, size, project: Some(project) };
        let mut begun = self.begun();
        let coming = begun.iter().filter(|of| of.project == Some(project)).count();
        let listed = self.lock().values().filter(|entry| entry.facts.project == project).count();
        node_quota::admit_snapshot(quota, (coming + listed) as u64)?;
        begun.push(of.clone());
        Ok(Begun { snapshots: Arc::clone(self), of })
    }

    /// How many snapshots stand on a template at one size, and on the way to be such. One that gets
    /// there meanwhile may count twice, and never not at all.
    pub(crate) fn count_of(&self, template: &TemplateName, size: Size) -> usize {
        let stands = |of: &&Standing| (&of.template, of.size) == (template, size);
        let begun = self.begun().iter().filter(stands).count();
        let all = self.lock();
        let listed = all.values().map(|entry| (&entry.facts.template, entry.facts.size));
        begun + listed.filter(|of| *of == (template, size)).count()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SnapshotId, Entry>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the snapshot `id` is made.
    pub(crate) fn place(&self, id: SnapshotId) -> PathBuf {
        self.dir.join(id.to_string())
    }

    /// Keeps the moment in the directory of the snapshot `facts.id`, on stable storage. Blocks.
    pub(crate) fn keep(&self, mut facts: SnapshotFacts) -> io::Result<SnapshotFacts> {
        let dir = self.place(facts.id);
        let kept = Kept::for_now(dir.clone()).inspect_err(|_| drop(fs::remove_dir_all(&dir)))?;
        kept.moment.layout.write(&dir, true)?;
        facts.bytes = bytes_in(&dir);
        let new = dir.join("snapshot.json.new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(&facts)?)?;
        file.sync_all()?;
        fs::rename(&new, dir.join(FACTS_FILE))?;
        step::reached("snapshot: named");
        File::open(&dir)?.sync_all()?;
        File::open(&self.dir)?.sync_all()?;
        step::reached("snapshot: kept");
        kept.doomed.store(false, Ordering::Relaxed);
        let entry = Entry { facts: facts.clone(), kept: Arc::new(kept) };
        self.lock().insert(facts.id, entry);
        Ok(facts)
    }

    /// What is known about a snapshot, and its moment, which stays while it is held.
    pub(crate) fn get(&self, id: SnapshotId) -> Option<(SnapshotFacts, Arc<Kept>)> {
        let all = self.lock();
        all.get(&id).map(|entry| (entry.facts.clone(), Arc::clone(&entry.kept)))
    }

    /// All snapshots, oldest first.
    pub(crate) fn list(&self) -> Vec<SnapshotFacts> {
        let mut all: Vec<_> = self.lock().values().map(|entry| entry.facts.clone()).collect();
        all.sort_by_key(|facts| (facts.created_at_ms, facts.id));
        all
    }

    /// Deletes a snapshot. Says whether there was one. Blocks.
    pub(crate) fn delete(&self, id: SnapshotId) -> io::Result<bool> {
        let Some((_, kept)) = self.get(id) else { return Ok(false) };
        let dir = &kept.moment.dir;
        step::reached("snapshot delete: begun");
        match fs::remove_file(dir.join(FACTS_FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        step::reached("snapshot delete: name removed");
        File::open(dir)?.sync_all()?;
        kept.doomed.store(true, Ordering::Relaxed);
        let found = self.lock().remove(&id).is_some();
        step::reached("snapshot delete: forgotten");
        drop(kept);
        step::reached("snapshot delete: files removed");
        Ok(found)
    }

    /// Bytes all snapshots take on disk. Looks at every file: blocks.
    pub(crate) fn bytes(&self) -> u64 {
        let dirs: Vec<_> = self.lock().values().map(|e| e.kept.moment.dir.clone()).collect();
        dirs.iter().map(|dir| bytes_in(dir)).sum()
    }
}

fn read(dir: &Path) -> io::Result<Entry> {
    let mut text = Vec::new();
    File::open(dir.join(FACTS_FILE))?.take(FACTS_BYTES_MAX).read_to_end(&mut text)?;
    let facts = serde_json::from_slice(&text)?;
    let moment = Moment::read(dir.to_owned()).map_err(|error| match error.kind() {
        // Whoever sees that its facts are there must not take it for half made.
        io::ErrorKind::NotFound => io::Error::other("its files are missing"),
        _ => error,
    })?;
    Ok(Entry { facts, kept: Arc::new(Kept { moment, doomed: AtomicBool::new(false) }) })
}

#[cfg(test)]
mod test;
