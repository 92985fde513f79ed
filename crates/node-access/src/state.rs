//! What is known in memory.

use std::collections::{BTreeMap, HashMap, HashSet};

use api_node::{Project, Quota, SecretHash};
use base_types::{KeyId, ProjectId};
use node_quota::Rate;
use node_store::{KeyRow, ProjectRow};

/// How precisely the last use of a key is known: one write a minute, however busy it is.
const USED_EVERY_MS: u64 = 60_000;

#[derive(Debug)]
pub(crate) struct KnownProject {
    pub(crate) name: String,
    pub(crate) quota: Quota,
    pub(crate) created_at_ms: u64,
    pub(crate) creates: Rate,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    projects: BTreeMap<ProjectId, KnownProject>,
    keys: BTreeMap<KeyId, KeyRow>,
    /// Keys by the first bytes of their hash; the rest is compared in constant time.
    by_hash: HashMap<[u8; 8], Vec<KeyId>>,
    /// Creates under way that must not happen twice.
    pub(crate) under_way: HashSet<(ProjectId, String)>,
}

/// Whether a key works at that time.
pub(crate) fn is_good(key: &KeyRow, now_ms: u64) -> bool {
    key.expires_at_ms.is_none_or(|expires| now_ms < expires)
}

impl State {
    pub(crate) fn project_add(&mut self, row: &ProjectRow, quota: Quota) {
        let project = KnownProject {
            name: row.name.clone(),
            quota,
            created_at_ms: row.created_at_ms,
            creates: Rate::default(),
        };
        self.projects.insert(row.id, project);
    }

    pub(crate) fn project(&self, id: ProjectId) -> Option<&KnownProject> {
        self.projects.get(&id)
    }

    pub(crate) fn project_mut(&mut self, id: ProjectId) -> Option<&mut KnownProject> {
        self.projects.get_mut(&id)
    }

    /// All projects.
    pub(crate) fn projects(&self) -> Vec<Project> {
        self.projects
            .iter()
            .map(|(id, project)| Project {
                id: *id,
                name: project.name.clone(),
                quota: project.quota,
                created_at_ms: project.created_at_ms,
            })
            .collect()
    }

    /// Forgets a project and its keys.
    pub(crate) fn project_remove(&mut self, id: ProjectId) {
        self.projects.remove(&id);
        let of_project: Vec<_> =
            self.keys.values().filter(|key| key.project == id).map(|key| key.id).collect();
        for key in of_project {
            self.key_remove(key);
        }
    }

    pub(crate) fn key_add(&mut self, row: KeyRow) {
        self.by_hash.entry(beginning(&row.hash)).or_default().push(row.id);
        self.keys.insert(row.id, row);
    }

    pub(crate) fn key_remove(&mut self, id: KeyId) {
        let Some(row) = self.keys.remove(&id) else { return };
        let beginning = beginning(&row.hash);
        if let Some(ids) = self.by_hash.get_mut(&beginning) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_hash.remove(&beginning);
            }
        }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &KeyRow> {
        self.keys.values()
    }

    pub(crate) fn key(&self, id: KeyId) -> Option<&KeyRow> {
        self.keys.get(&id)
    }

    /// The good key with this hash, and whether its use is to be written down now.
    pub(crate) fn key_use(&mut self, hash: SecretHash, now_ms: u64) -> Option<(&KeyRow, bool)> {
        let ids = self.by_hash.get(&beginning(hash.as_bytes()))?;
        let is_it = |id: &&KeyId| {
            self.keys.get(id).is_some_and(|key| SecretHash::from_bytes(key.hash) == hash)
        };
        let id = *ids.iter().find(is_it)?;
        let key = self.keys.get_mut(&id).filter(|key| is_good(key, now_ms))?;
        let due = |last: u64| now_ms.saturating_sub(last) >= USED_EVERY_MS;
        let write = key.last_used_at_ms.is_none_or(due);
        if write {
            key.last_used_at_ms = Some(now_ms);
        }
        Some((key, write))
    }
}

fn beginning(hash: &[u8; 32]) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = *hash;
    [a, b, c, d, e, f, g, h]
}
