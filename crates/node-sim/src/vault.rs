//! Secrets here: they are listed, and nobody puts them in.

use std::collections::BTreeMap;

use api_node::{Caller, Failure, SecretList, SecretName, SecretsApi, SetSecret, StoredSecret};
use base_types::ProjectId;

use crate::{NOW_MS, SimNode, State};

impl SecretsApi for SimNode {
    async fn secret_list(&self, caller: &Caller) -> Result<SecretList, Failure> {
        let state = self.lock();
        let all = state.secrets.iter().filter(|((project, _), _)| *project == caller.project);
        Ok(SecretList { secrets: all.map(|(_, secret)| secret.clone()).collect() })
    }

    async fn secret_set(
        &self,
        caller: &Caller,
        name: SecretName,
        request: SetSecret,
    ) -> Result<(StoredSecret, bool), Failure> {
        let hosts = request.hosts;
        let set = StoredSecret {
            name: name.clone(),
            hosts,
            created_at_ms: NOW_MS,
            updated_at_ms: NOW_MS,
        };
        let before = self.lock().secrets.insert((caller.project, name), set.clone());
        Ok((set, before.is_none()))
    }

    async fn secret_delete(&self, caller: &Caller, name: SecretName) -> Result<(), Failure> {
        let key = (caller.project, name);
        let deleted = self.lock().secrets.remove(&key);
        deleted.map(drop).ok_or_else(|| Failure::no_secret(&key.1))
    }
}

impl State {
    /// Whether the project has all of these secrets.
    pub(crate) fn check_secrets(
        &self,
        project: ProjectId,
        wanted: &BTreeMap<String, SecretName>,
    ) -> Result<(), Failure> {
        let missing = |name: &&SecretName| !self.secrets.contains_key(&(project, (*name).clone()));
        wanted.values().find(missing).map_or(Ok(()), |name| Err(Failure::no_secret(name)))
    }
}

/// Adds those of a snapshot's sandbox that are not given anew.
pub(crate) fn inherit(
    secrets: &mut BTreeMap<String, SecretName>,
    before: &BTreeMap<String, SecretName>,
) {
    for (variable, secret) in before {
        secrets.entry(variable.clone()).or_insert_with(|| secret.clone());
    }
}
