//! The operations on keys and projects.

use api_node::{
    ANSWER_KEPT_MS, AccessApi, Begun, Caller, ChangeProject, CreateKey, CreateProject, CreatedKey,
    Errand, ErrorCode, Failure, Fingerprint, KeptAnswer, Key, KeyList, PageQuery, Project,
    ProjectList, Quota, Secret,
};
use base_types::{KeyId, ProjectId};
use node_store::{KeyRow, ProjectRow, StoreError};

use crate::answers::Ticket;
use crate::{
    Access, AccessError, KEYS_MAX, PROJECTS_MAX, random_bits, random_secret, role, written,
};

impl AccessApi for Access {
    type Ticket = Ticket;

    fn wants_keys(&self) -> bool {
        self.inner.wants_keys
    }

    fn caller(&self, key: &str) -> Option<Caller> {
        let secret: Secret = key.parse().ok()?;
        let now_ms = self.inner.now_ms();
        let mut state = self.inner.lock();
        let (key, write) = state.key_use(secret.hash(), now_ms)?;
        if write {
            // Written when the store gets to it; nobody waits for that.
            drop(self.inner.store.key_used(key.id, now_ms));
        }
        let (project, role) = (key.project, role(key.admin));
        Some(Caller { project, role, key: Some(key.id), errand: None })
    }

    fn quota(&self, project: ProjectId) -> Option<Quota> {
        self.inner.lock().project(project).map(|project| project.quota)
    }

    async fn project_create(
        &self,
        caller: &Caller,
        request: CreateProject,
    ) -> Result<Project, Failure> {
        let CreateProject { name, quota } = request;
        let now_ms = self.inner.now_ms();
        let id = {
            let projects = self.inner.lock().projects();
            let known = |bits| projects.iter().find(|other| other.id.bits() == bits);
            let bits = match place(caller.errand, now_ms, |bits| Some(known(bits)?.created_at_ms)) {
                Ok(Place::Free(bits)) => bits,
                Ok(Place::Made(bits)) => {
                    let made = known(bits).cloned();
                    return made.ok_or_else(|| no_project(ProjectId::from_bits(bits)));
                }
                Err(error) => return Err(of_access(&error)),
            };
            if projects.iter().any(|project| project.name == name) {
                return Err(taken(&name));
            }
            if projects.len() >= PROJECTS_MAX {
                let message = format!("this node has {PROJECTS_MAX} projects, as many as it takes");
                return Err(Failure::new(ErrorCode::NoCapacity, message));
            }
            ProjectId::from_bits(bits)
        };
        let row = ProjectRow { id, name, quota: written(&quota), created_at_ms: now_ms };
        let inserted = self.inner.store.project_insert(row.clone()).await;
        if let Err(error) = inserted {
            // Another request of the same name may have been faster; the store keeps names apart.
            let now_taken = self.inner.lock().projects().iter().any(|other| other.name == row.name);
            return Err(if now_taken { taken(&row.name) } else { of_store(&error) });
        }
        self.inner.lock().project_add(&row, quota);
        Ok(Project { id: row.id, name: row.name, quota, created_at_ms: row.created_at_ms })
    }

    async fn project_list(&self, query: PageQuery) -> Result<ProjectList, Failure> {
        Ok(ProjectList::page(self.inner.lock().projects(), &query))
    }

    async fn project_change(
        &self,
        id: ProjectId,
        request: ChangeProject,
    ) -> Result<Project, Failure> {
        // Of two changes at once neither may undo the figures of the other.
        let _alone = self.inner.changing.lock().await;
        let before = self.inner.lock().project(id).map(|project| project.quota);
        let quota = request.quota.applied_to(before.ok_or_else(|| no_project(id))?);
        let remembered = self.inner.store.project_quota(id, written(&quota)).await;
        remembered.map_err(|error| of_store(&error))?;
        let mut state = self.inner.lock();
        let project = state.project_mut(id).ok_or_else(|| no_project(id))?;
        project.quota = quota;
        let (name, created_at_ms) = (project.name.clone(), project.created_at_ms);
        Ok(Project { id, name, quota, created_at_ms })
    }

    async fn project_delete(&self, id: ProjectId) -> Result<(), Failure> {
        if id == ProjectId::DEFAULT {
            let message = "the default project is part of the node and cannot be deleted";
            return Err(Failure::new(ErrorCode::Conflict, message));
        }
        if self.inner.lock().project(id).is_none() {
            return Err(no_project(id));
        }
        self.inner.store.project_delete(id).await.map_err(|error| of_store(&error))?;
        self.inner.lock().project_remove(id);
        Ok(())
    }

    async fn key_create(&self, caller: &Caller, request: CreateKey) -> Result<CreatedKey, Failure> {
        let CreateKey { project, name, role, expires_at_ms } = request;
        let project = project.unwrap_or(caller.project);
        let now_ms = self.inner.now_ms();
        let id = {
            let state = self.inner.lock();
            let created = |bits| Some(state.key(KeyId::from_bits(bits))?.created_at_ms);
            let bits = match place(caller.errand, now_ms, created) {
                Ok(Place::Free(bits)) => bits,
                Ok(Place::Made(bits)) => {
                    return Err(Failure::key_made_before(KeyId::from_bits(bits)));
                }
                Err(error) => return Err(of_access(&error)),
            };
            if state.project(project).is_none() {
                return Err(no_project(project));
            }
            if state.keys().count() >= KEYS_MAX {
                let message = format!("this node has {KEYS_MAX} keys, as many as it takes");
                return Err(Failure::new(ErrorCode::NoCapacity, message)
                    .with_hint("revoke some that are not needed"));
            }
            KeyId::from_bits(bits)
        };
        if expires_at_ms.is_some_and(|expires| expires <= now_ms) {
            let message = "`expires_at_ms` is in the past; the key would never work";
            return Err(Failure::new(ErrorCode::InvalidRequest, message)
                .with_hint("give milliseconds since 1970, not seconds"));
        }
        let secret = random_secret().map_err(|error| of_access(&error))?;
        let row = KeyRow {
            id,
            project,
            name,
            admin: role == api_node::Role::Admin,
            hash: *secret.hash().as_bytes(),
            created_at_ms: now_ms,
            expires_at_ms,
            last_used_at_ms: None,
        };
        let inserted = self.inner.store.key_insert(row.clone()).await;
        inserted.map_err(|error| of_store(&error))?;
        self.inner.lock().key_add(row.clone());
        Ok(CreatedKey { secret: secret.text(), facts: shown(&row) })
    }

    async fn key_list(&self, query: PageQuery) -> Result<KeyList, Failure> {
        let keys: Vec<Key> = self.inner.lock().keys().map(shown).collect();
        Ok(KeyList::page(keys, &query))
    }

    async fn key_delete(&self, id: KeyId) -> Result<(), Failure> {
        if !self.inner.lock().keys().any(|key| key.id == id) {
            return Err(Failure::new(ErrorCode::NotFound, format!("there is no key {id}"))
                .with_hint("list them with `sandflare keys ls`"));
        }
        self.inner.store.key_delete(id).await.map_err(|error| of_store(&error))?;
        self.inner.lock().key_remove(id);
        Ok(())
    }

    async fn create_begin(
        &self,
        project: ProjectId,
        key: &str,
        fingerprint: Fingerprint,
    ) -> Result<Begun<Ticket>, Failure> {
        self.begin(project, key, fingerprint).await
    }

    fn create_keep(&self, ticket: Ticket, answer: KeptAnswer) {
        self.keep(ticket, answer);
    }
}

/// Where something new is to be remembered, by the bits of its id.
enum Place {
    /// Nothing is there.
    Free(u64),
    /// What the same create made before.
    Made(u64),
}

/// What an errand makes has its id from it, so that it is found by whoever asks again when its answer was
/// lost. `created` says when what has an id was made. After a day the errand is another one.
fn place(
    errand: Option<Errand>,
    now_ms: u64,
    created: impl FnOnce(u64) -> Option<u64>,
) -> Result<Place, AccessError> {
    let Some(Errand([a, b, c, d, e, f, g, h, ..])) = errand else {
        return random_bits().map(Place::Free);
    };
    let bits = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    match created(bits) {
        None => Ok(Place::Free(bits)),
        Some(created) if now_ms.saturating_sub(created) < ANSWER_KEPT_MS => Ok(Place::Made(bits)),
        Some(_) => random_bits().map(Place::Free),
    }
}

fn shown(row: &KeyRow) -> Key {
    Key {
        id: row.id,
        project: row.project,
        name: row.name.clone(),
        role: role(row.admin),
        created_at_ms: row.created_at_ms,
        expires_at_ms: row.expires_at_ms,
        last_used_at_ms: row.last_used_at_ms,
    }
}

fn taken(name: &str) -> Failure {
    Failure::new(ErrorCode::AlreadyExists, format!("there is a project `{name}` already"))
        .with_hint("choose another name")
}

pub(crate) fn no_project(id: ProjectId) -> Failure {
    Failure::new(ErrorCode::NotFound, format!("there is no project {id}"))
        .with_hint("list them with `sandflare projects ls`")
}

pub(crate) fn of_store(error: &StoreError) -> Failure {
    match error {
        StoreError::DiskFull => Failure::new(ErrorCode::DiskFull, error.to_string()),
        _ => Failure::because(ErrorCode::Internal, "the node's memory of keys failed", error),
    }
}

fn of_access(error: &AccessError) -> Failure {
    Failure::because(ErrorCode::Internal, "a key could not be made", error)
}
