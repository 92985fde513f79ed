//! Forks and snapshots: sandboxes made from one moment of another.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use api_node::{ANSWER_KEPT_MS, Errand, Policy, Quota, SANDBOX_SECRETS_MAX};
use base_types::{ProjectId, SnapshotId};

use super::Host;
use crate::machine::random;
use crate::sandbox::{
    CreateError, CreateSpec, OrderError, Origin, Removal, SandboxHandle, check_room, failed, now_ms,
};
use crate::snapshots::{Kept, SnapshotFacts};

/// The children of a fork.
#[derive(Debug)]
pub struct Forked {
    /// They, all serving.
    pub children: Vec<SandboxHandle>,
    /// How long the sandbox they are from stood still, in microseconds; 0 when it was paused.
    pub held_us: u64,
}

impl Host {
    /// Makes `count` sandboxes as `spec` says from one moment of `parent`, which goes on. Its
    /// template, size and snapshot are those of the parent, whatever `spec` says. When one of them
    /// cannot be made, none is. Dropping the future undoes it.
    pub async fn fork(
        &self,
        parent: &SandboxHandle,
        count: usize,
        spec: CreateSpec,
    ) -> Result<Forked, OrderError> {
        let facts = parent.facts();
        let spec = CreateSpec {
            template: facts.template.clone(),
            size: facts.size,
            snapshot: facts.snapshot,
            cold: false,
            ..spec
        };
        let dir = self.place(SnapshotId::from_bits(bits()?))?;
        let begun = self.snapshots.begin(facts.template.clone(), facts.size);
        let (kept, held_us) = self.branch(parent, dir).await?;
        let mut unfinished = Unfinished::default();
        let mut waits = Vec::with_capacity(count);
        for _ in 0..count {
            let (handle, ready) = self.begin(spec.clone(), Origin::Moment(Arc::clone(&kept)))?;
            unfinished.0.push(handle);
            waits.push(ready);
        }
        // Its children count from here on.
        drop(begun);
        for ready in waits {
            ready.await.map_err(|_| CreateError::Stopping)??;
        }
        Ok(Forked { children: std::mem::take(&mut unfinished.0), held_us })
    }

    /// Keeps one moment of `sandbox`, which goes on, if its project's `quota` has room for it. Dropping
    /// the future undoes it.
    pub async fn snapshot_create(
        &self,
        sandbox: &SandboxHandle,
        name: Option<String>,
        errand: Option<Errand>,
        quota: &Quota,
    ) -> Result<SnapshotFacts, OrderError> {
        let of = sandbox.facts();
        let begun = self.snapshots.begin_kept(of.project, quota, of.template.clone(), of.size);
        let begun = begun.map_err(CreateError::from)?;
        let id = SnapshotId::from_bits(bits()?);
        let dir = self.place(id)?;
        let mut removal = Removal::of(dir.clone());
        fs::create_dir(&dir).map_err(|source| failed(&dir, source))?;
        sandbox.branch(dir.clone()).await?;
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

    /// Writes one moment of `parent` to `dir`, which goes with what is returned.
    async fn branch(
        &self,
        parent: &SandboxHandle,
        dir: PathBuf,
    ) -> Result<(Arc<Kept>, u64), OrderError> {
        let mut removal = Removal::of(dir.clone());
        fs::create_dir(&dir).map_err(|source| failed(&dir, source))?;
        let held_us = parent.branch(dir.clone()).await?;
        let kept = Kept::for_now(dir.clone()).map_err(|source| failed(&dir, source))?;
        removal.disarm();
        Ok((Arc::new(kept), held_us))
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
