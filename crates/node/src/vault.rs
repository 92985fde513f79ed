//! Secrets that sandboxes have placeholders of: what is remembered of them, and what each network
//! puts in.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use api_node::{
    AUTHORITY_VARIABLES, Caller, ErrorCode, Failure, Placeholder, SECRETS_MAX, SecretGrant,
    SecretHost, SecretList, SecretName, SecretValue, SecretsApi, SetSecret, StoredSecret,
};
use base_types::ProjectId;
use node_gateway::{Granted, Secrets};
use node_store::{SecretRow, Store, StoreError};

use crate::api::Node;
use crate::{failure, system};

/// Where guests look for the certificate of this node's authority, and for all they trust.
pub(crate) const CERTIFICATE: &str = "/usr/local/share/ca-certificates/sandflare.crt";
pub(crate) const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// The one of the variables whose file is added to what a program trusts already.
const ADDED: &str = "NODE_EXTRA_CA_CERTS";

/// The secrets of a node, as soon as they are found: sandboxes have their networks before.
pub(crate) type FoundVault = Arc<OnceLock<Vault>>;

/// The secrets of a node. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Vault(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Store,
    kept: Mutex<BTreeMap<(ProjectId, SecretName), Kept>>,
    /// Held by whoever changes them: what is remembered last is what holds.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug)]
struct Kept {
    value: SecretValue,
    hosts: Arc<[SecretHost]>,
    created_at_ms: u64,
    updated_at_ms: u64,
}

impl Vault {
    /// What an earlier daemon remembered.
    pub(crate) async fn open(store: Store) -> Result<Self, StoreError> {
        let mut kept = BTreeMap::new();
        for row in store.secret_list().await? {
            let unreadable = |what| StoreError::Unreadable { what, value: row.name.clone() };
            let name = row.name.parse().map_err(|_| unreadable("name of a secret"))?;
            let hosts: Vec<SecretHost> =
                serde_json::from_str(&row.hosts).map_err(|_| unreadable("hosts of the secret"))?;
            let SecretRow { project, created_at_ms, updated_at_ms, .. } = row;
            let value = SecretValue::new(row.value);
            let one = Kept { value, hosts: hosts.into(), created_at_ms, updated_at_ms };
            kept.insert((project, name), one);
        }
        Ok(Self(Arc::new(Shared {
            store,
            kept: Mutex::new(kept),
            turn: tokio::sync::Mutex::default(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(ProjectId, SecretName), Kept>> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn list(&self, project: ProjectId) -> Vec<StoredSecret> {
        let kept = self.lock();
        let of_project = kept.iter().filter(|((of, _), _)| *of == project);
        of_project.map(|((_, name), one)| shown(name, one)).collect()
    }

    async fn set(
        &self,
        project: ProjectId,
        name: SecretName,
        request: SetSecret,
        now_ms: u64,
    ) -> Result<(StoredSecret, bool), Failure> {
        let _turn = self.0.turn.lock().await;
        let key = (project, name);
        let before = self.lock().get(&key).map(|kept| kept.created_at_ms);
        if before.is_none() && self.list(project).len() >= SECRETS_MAX {
            let message = format!("the project has {SECRETS_MAX} secrets, as many as it may");
            return Err(Failure::new(ErrorCode::Conflict, message).with_hint("delete one first"));
        }
        let SetSecret { value, hosts } = request;
        let created_at_ms = before.unwrap_or(now_ms);
        let row = SecretRow {
            project,
            name: key.1.to_string(),
            value: value.expose().to_owned(),
            hosts: serde_json::to_string(&hosts).expect("hosts are texts in a list"),
            created_at_ms,
            updated_at_ms: now_ms,
        };
        self.0.store.secret_set(row).await.map_err(|error| of_store(&error))?;
        let kept = Kept { value, hosts: hosts.into(), created_at_ms, updated_at_ms: now_ms };
        let set = shown(&key.1, &kept);
        self.lock().insert(key, kept);
        Ok((set, before.is_none()))
    }

    async fn delete(&self, project: ProjectId, name: SecretName) -> Result<(), Failure> {
        let _turn = self.0.turn.lock().await;
        let key = (project, name);
        if !self.lock().contains_key(&key) {
            return Err(Failure::no_secret(&key.1));
        }
        let deleted = self.0.store.secret_delete(project, key.1.to_string()).await;
        deleted.map_err(|error| of_store(&error))?;
        self.lock().remove(&key);
        Ok(())
    }

    /// Placeholders for a sandbox to be made, of the secrets of its project that it asks for.
    pub(crate) fn grant(
        &self,
        project: ProjectId,
        wanted: BTreeMap<String, SecretName>,
    ) -> Result<Vec<SecretGrant>, Failure> {
        let kept = self.lock();
        let grant = |(variable, secret): (String, SecretName)| {
            let key = (project, secret);
            let one = kept.get(&key).ok_or_else(|| Failure::no_secret(&key.1))?;
            let placeholder = Placeholder::from_random(system::random()?);
            Ok(SecretGrant { variable, secret: key.1, placeholder, hosts: one.hosts.to_vec() })
        };
        wanted.into_iter().map(grant).collect()
    }
}

fn shown(name: &SecretName, kept: &Kept) -> StoredSecret {
    StoredSecret {
        name: name.clone(),
        hosts: kept.hosts.to_vec(),
        created_at_ms: kept.created_at_ms,
        updated_at_ms: kept.updated_at_ms,
    }
}

fn of_store(error: &StoreError) -> Failure {
    failure::of_store(error, "the secret could not be remembered")
}

/// The variables that a sandbox's processes have because of what it was granted. Where two grants have
/// one variable the first holds: it was asked for last.
pub(crate) fn variables(granted: &[SecretGrant]) -> BTreeMap<String, String> {
    if granted.is_empty() {
        return BTreeMap::new();
    }
    let file = |name: &str| if name == ADDED { CERTIFICATE } else { BUNDLE };
    let trust = AUTHORITY_VARIABLES.map(|name| (name.to_owned(), file(name).to_owned()));
    let placeholders = granted.iter().rev();
    let placeholders =
        placeholders.map(|grant| (grant.variable.clone(), grant.placeholder.to_string()));
    trust.into_iter().chain(placeholders).collect()
}

/// What one sandbox was granted, for its network.
pub(crate) struct SecretsOf {
    pub(crate) project: ProjectId,
    pub(crate) grants: Vec<SecretGrant>,
    pub(crate) vault: FoundVault,
}

impl Secrets for SecretsOf {
    fn granted(&self) -> Vec<Granted> {
        let kept = self.vault.get().map(Vault::lock);
        let granted = |grant: &SecretGrant| {
            let key = (self.project, grant.secret.clone());
            let one = kept.as_ref().and_then(|kept| kept.get(&key));
            Granted {
                variable: grant.variable.clone(),
                name: grant.secret.clone(),
                placeholder: grant.placeholder.clone(),
                hosts: one.map_or_else(|| grant.hosts.clone().into(), |one| one.hosts.clone()),
                value: one.map(|one| one.value.clone()),
            }
        };
        self.grants.iter().map(granted).collect()
    }
}

impl SecretsApi for Node {
    async fn secret_list(&self, caller: &Caller) -> Result<SecretList, Failure> {
        Ok(SecretList { secrets: self.vault.list(caller.project) })
    }

    async fn secret_set(
        &self,
        caller: &Caller,
        name: SecretName,
        request: SetSecret,
    ) -> Result<(StoredSecret, bool), Failure> {
        self.vault.set(caller.project, name, request, system::now_ms()).await
    }

    async fn secret_delete(&self, caller: &Caller, name: SecretName) -> Result<(), Failure> {
        self.vault.delete(caller.project, name).await
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const PROJECT: ProjectId = ProjectId::from_bits(1);

    fn set(value: &str, host: &str) -> SetSecret {
        SetSecret { value: SecretValue::new(value), hosts: vec![host.parse().unwrap()] }
    }

    fn of_sandbox(vault: &Vault, grants: &[SecretGrant]) -> SecretsOf {
        let found = FoundVault::default();
        found.set(vault.clone()).unwrap();
        SecretsOf { project: PROJECT, grants: grants.to_vec(), vault: found }
    }

    fn value(granted: &[Granted]) -> Option<&str> {
        granted[0].value.as_ref().map(SecretValue::expose)
    }

    #[tokio::test]
    async fn a_secret_is_granted_replaced_deleted_and_set_again_under_a_sandbox() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("node.db")).unwrap();
        let vault = Vault::open(store.clone()).await.unwrap();
        let name: SecretName = "key".parse().unwrap();
        let wanted = BTreeMap::from([("API_KEY".to_owned(), name.clone())]);
        let failure = vault.grant(PROJECT, wanted.clone()).unwrap_err();
        assert_eq!(failure.code, ErrorCode::NotFound);
        let (made, is_new) =
            vault.set(PROJECT, name.clone(), set("first", "a.example"), 7).await.unwrap();
        assert_eq!((made.created_at_ms, made.updated_at_ms, is_new), (7, 7, true));
        // Another project has none of it.
        assert!(vault.grant(ProjectId::from_bits(2), wanted.clone()).is_err());
        let grants = vault.grant(PROJECT, wanted.clone()).unwrap();
        assert_ne!(grants, vault.grant(PROJECT, wanted).unwrap(), "each sandbox has its own");
        let sandbox = of_sandbox(&vault, &grants);
        assert_eq!(value(&sandbox.granted()), Some("first"));
        let (set_again, is_new) =
            vault.set(PROJECT, name.clone(), set("second", "b.example"), 9).await.unwrap();
        assert_eq!((set_again.created_at_ms, set_again.updated_at_ms, is_new), (7, 9, false));
        let granted = sandbox.granted();
        assert_eq!(
            (value(&granted), granted[0].hosts[0].to_string().as_str()),
            (Some("second"), "b.example")
        );
        // The next daemon, and a child of the sandbox under it.
        let vault = Vault::open(store).await.unwrap();
        let child = of_sandbox(&vault, &grants);
        assert_eq!(value(&child.granted()), Some("second"));
        vault.delete(PROJECT, name.clone()).await.unwrap();
        assert!(vault.delete(PROJECT, name.clone()).await.is_err());
        let granted = child.granted();
        // Where it went is known all the same, so that a request that wants it is.
        assert_eq!(
            (value(&granted), granted[0].hosts[0].to_string().as_str()),
            (None, "a.example")
        );
        assert!(vault.list(PROJECT).is_empty());
    }

    #[tokio::test]
    async fn a_project_has_so_many_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("node.db")).unwrap();
        let vault = Vault::open(store).await.unwrap();
        let name = |index: usize| format!("n{index}").parse::<SecretName>().unwrap();
        for index in 0..SECRETS_MAX {
            vault.set(PROJECT, name(index), set("x", "a.example"), 1).await.unwrap();
        }
        let more = vault.set(PROJECT, name(SECRETS_MAX), set("x", "a.example"), 1).await;
        assert_eq!(more.unwrap_err().code, ErrorCode::Conflict);
        vault.set(PROJECT, name(0), set("y", "a.example"), 1).await.unwrap();
        let other = ProjectId::from_bits(2);
        vault.set(other, name(0), set("x", "a.example"), 1).await.unwrap();
    }

    #[test]
    fn what_was_asked_for_last_has_the_variable() {
        let grant = |digit: char| SecretGrant {
            variable: "API_KEY".to_owned(),
            secret: "key".parse().unwrap(),
            placeholder: format!("sfsecret_{}", digit.to_string().repeat(32)).parse().unwrap(),
            hosts: Vec::new(),
        };
        let env = variables(&[grant('a'), grant('b')]);
        assert_eq!(env["API_KEY"], grant('a').placeholder.as_str());
        assert_eq!(env["NODE_EXTRA_CA_CERTS"], CERTIFICATE);
        assert_eq!(env["SSL_CERT_FILE"], BUNDLE);
        assert_eq!(env.len(), 5);
        assert_eq!(variables(&[]), BTreeMap::new());
    }
}
