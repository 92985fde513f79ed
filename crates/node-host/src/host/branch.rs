//! Forks and snapshots: sandboxes made from one moment of another.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api_node::{ANSWER_KEPT_MS, Errand, Policy, Quota, SANDBOX_SECRETS_MAX};
use base_types::{DatabaseId, ProjectId, SnapshotId};

use tokio::time::timeout;

use super::Host;
use crate::machine::{Gate, Held, random};
use crate::sandbox::{
    CreateError, CreateSpec, OrderError, Origin, Removal, SandboxFacts, SandboxHandle, check_room,
    failed, now_ms,
};
use crate::snapshots::{Begun, Kept, SnapshotFacts};

/// LIMIT: how long a sandbox stands still for the moments of others, which take as long as their memory
/// takes to write.
const HELD_MAX: Duration = Duration::from_secs(30);

/// One moment of a sandbox, to make others from. On disk for as long as somebody has it.
#[derive(Debug)]
pub struct Moment {
    kept: Arc<Kept>,
    /// The sandbox it is of.
    of: SandboxFacts,
    /// How long that stood still for it, in microseconds; 0 when it was paused.
    pub held_us: u64,
    /// It counts as using its template.
    _begun: Begun,
}

/// What a snapshot is to be known by.
#[derive(Clone, Debug, Default)]
pub struct WantedSnapshot {
    /// The name its owner gives it.
    pub name: Option<String>,
    /// The create it is made by, where that must not happen twice.
    pub errand: Option<Errand>,
    /// The database whose machine the sandbox is, if it is one's.
    pub database: Option<DatabaseId>,
}

impl Host {
    /// Writes down one moment of `sandbox`, which goes on.
    pub async fn moment(&self, sandbox: &SandboxHandle) -> Result<Moment, OrderError> {
        self.moment_at(sandbox, None).await
    }

    /// Writes down one moment of `sandbox` and of `others`: it stands still before the first of them
    /// does, and goes on when the last of them has. So whatever it heard from one of them is in that
    /// one's moment, and nothing is that it said later.
    pub async fn moment_with(
        &self,
        sandbox: &SandboxHandle,
        others: &[SandboxHandle],
    ) -> Result<(Moment, Vec<Moment>), OrderError> {
        if others.is_empty() {
            return Ok((self.moment(sandbox).await?, Vec::new()));
        }
        let (gate, Held { stands, go }) = Gate::new();
        let meanwhile = async {
            let mut moments = Vec::with_capacity(others.len());
            // When it does not come to stand still there is a reason, which it tells itself.
            if stands.await.is_ok() {
                let writing = async {
                    for other in others {
                        moments.push(self.moment(other).await?);
                    }
                    Ok::<_, OrderError>(())
                };
                timeout(HELD_MAX, writing).await.map_err(|_| OrderError::Slow(HELD_MAX))??;
            }
            // It may be gone.
            let _ = go.send(());
            Ok(moments)
        };
        tokio::try_join!(self.moment_at(sandbox, Some(gate)), meanwhile)
    }

    async fn moment_at(
        &self,
        sandbox: &SandboxHandle,
        gate: Option<Gate>,
    ) -> Result<Moment, OrderError> {
        let of = sandbox.facts().clone();
        let dir = self.place(SnapshotId::from_bits(bits()?))?;
        let begun = self.snapshots.begin(of.template.clone(), of.size);
        let mut removal = Removal::of(dir.clone());
        fs::create_dir(&dir).map_err(|source| failed(&dir, source))?;
        let held_us = sandbox.branch(dir.clone(), gate).await?;
        let kept = Kept::for_now(dir.clone()).map_err(|source| failed(&dir, source))?;
        removal.disarm();
        Ok(Moment { kept: Arc::new(kept), of, held_us, _begun: begun })
    }

    /// Makes `count` sandboxes as `spec` says from `moment`. Their template, size and snapshot are those
    /// of the sandbox it is of, whatever `spec` says. When one of them cannot be made, none is. Dropping
    /// the future undoes it.
    pub async fn children(
        &self,
        moment: &Moment,
        count: usize,
        spec: CreateSpec,
    ) -> Result<Vec<SandboxHandle>, OrderError> {
        let of = &moment.of;
        let spec = CreateSpec {
            template: of.template.clone(),
            size: of.size,
            snapshot: of.snapshot,
            cold: false,
            ..spec
        };
        self.admit_memory(count)?;
        let mut unfinished = Unfinished::default();
        let mut waits = Vec::with_capacity(count);
        for _ in 0..count {
            let origin = Origin::Moment(Arc::clone(&moment.kept));
            let (handle, ready) = self.begin(spec.clone(), origin)?;
            unfinished.0.push(handle);
            waits.push(ready);
        }
        for ready in waits {
            ready.await.map_err(|_| CreateError::Stopping)??;
        }
        Ok(std::mem::take(&mut unfinished.0))
    }

    /// Keeps one moment of `sandbox`, which goes on, if its project's `quota` has room for it. Dropping
    /// the future undoes it.
    pub async fn snapshot_create(
        &self,
        sandbox: &SandboxHandle,
        wanted: WantedSnapshot,
        quota: &Quota,
    ) -> Result<SnapshotFacts, OrderError> {
        let WantedSnapshot { name, errand, database } = wanted;
        let of = sandbox.facts();
        let begun = self.snapshots.begin_kept(of.project, quota, of.template.clone(), of.size);
        let begun = begun.map_err(CreateError::from)?;
        let id = SnapshotId::from_bits(bits()?);
        let dir = self.place(id)?;
        let mut removal = Removal::of(dir.clone());
        fs::create_dir(&dir).map_err(|source| failed(&dir, source))?;
        sandbox.branch(dir.clone(), None).await?;
        let facts = SnapshotFacts {
            id,
            project: of.project,
            name,
            sandbox: of.id,
            template: of.template.clone(),
            size: of.size,
            created_at_ms: now_ms(),
            network: Policy::clone(&sandbox.policy()),
            secrets: of.secrets.clone(),
            bytes: 0,
            errand,
            database,
        };
        // From here on it is either kept or removed by whoever keeps it.
        removal.disarm();
        let snapshots = Arc::clone(&self.snapshots);
        let keeping = self.around.tasks.spawn_blocking(move || {
            let kept = snapshots.keep(facts);
            drop(begun);
            kept
        });
        let kept = keeping.await.map_err(|_| CreateError::Stopping)?;
        Ok(kept.map_err(|source| failed(&dir, source))?)
    }

    /// What is known about a snapshot.
    pub fn snapshot(&self, id: SnapshotId) -> Option<SnapshotFacts> {
        self.snapshots.get(id).map(|(facts, _)| facts)
    }

    /// The snapshot that `errand` of `project` made, while a create is known by its errand.
    pub fn snapshot_made_by(&self, project: ProjectId, errand: Errand) -> Option<SnapshotFacts> {
        let since_ms = now_ms().saturating_sub(ANSWER_KEPT_MS);
        let mut all = self.snapshots().into_iter();
        all.find(|facts| {
            (facts.errand, facts.project) == (Some(errand), project)
                && facts.created_at_ms >= since_ms
        })
    }

    /// All snapshots, oldest first.
    pub fn snapshots(&self) -> Vec<SnapshotFacts> {
        self.snapshots.list()
    }

    /// Deletes a snapshot, and says whether there was one. Sandboxes made from it stand as they did.
    pub async fn snapshot_delete(&self, id: SnapshotId) -> Result<bool, OrderError> {
        let snapshots = Arc::clone(&self.snapshots);
        let deleting = self.around.tasks.spawn_blocking(move || snapshots.delete(id));
        let deleted = deleting.await.map_err(|_| CreateError::Stopping)?;
        Ok(deleted.map_err(|source| failed(&self.snapshots.place(id), source))?)
    }

    /// Where the moment `id` is made, when there is room.
    fn place(&self, id: SnapshotId) -> Result<PathBuf, CreateError> {
        check_room(&self.data_dir)?;
        Ok(self.snapshots.place(id))
    }

    /// What the snapshot `spec` names is made from, and what is then known of the sandbox.
    pub(super) fn origin(&self, spec: &mut CreateSpec) -> Result<Origin, CreateError> {
        let Some(id) = spec.snapshot else { return Ok(Origin::Template) };
        let (facts, kept) = self.snapshots.get(id).ok_or(CreateError::NoSnapshot(id))?;
        (spec.template, spec.size, spec.cold) = (facts.template, facts.size, false);
        spec.network.get_or_insert(facts.network);
        // Its processes hold these placeholders. A variable that is given anew is for new processes.
        for grant in facts.secrets {
            if spec.secrets.len() < SANDBOX_SECRETS_MAX {
                spec.secrets.push(grant);
            }
        }
        Ok(Origin::Moment(kept))
    }
}

fn bits() -> Result<u64, CreateError> {
    Ok(u64::from_le_bytes(random()?))
}

/// Children of a fork that is not done: removed when it ends before.
#[derive(Default)]
struct Unfinished(Vec<SandboxHandle>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        for child in std::mem::take(&mut self.0) {
            tokio::spawn(async move { child.kill().await });
        }
    }
}
