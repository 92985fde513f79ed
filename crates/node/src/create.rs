//! Creates, and what processes of the sandbox get because of them.

use std::collections::BTreeMap;

use api_node::{Caller, CreateSandbox, Failure, Sandbox};
use base_types::SandboxId;
use node_host::{CreateSpec, Phase, SandboxHandle};

use crate::api::Node;
use crate::view::sandbox;
use crate::wanted::spec;
use crate::{failure, lifecycle, quota, trust, vault};

impl Node {
    /// Makes a sandbox, unless the caller's errand did before.
    pub(crate) async fn create(
        &self,
        caller: &Caller,
        request: CreateSandbox,
    ) -> Result<Sandbox, Failure> {
        if let Some(made) = lifecycle::made(self.host(), caller) {
            // The daemon may have died before the guest trusted it.
            let found = self.sandbox(made.id)?;
            if found.view().phase == Phase::Running {
                self.trusted(&found).await?;
            }
            return Ok(made);
        }
        let mut request = request;
        if let Some(id) = request.snapshot {
            let found = self.host().snapshot(id).filter(lifecycle::is_of_sandbox);
            let found = found.filter(|facts| caller.sees(facts.project));
            let found = found.ok_or_else(|| Failure::no_snapshot(id))?;
            (request.template, request.size) = (found.template, found.size);
        }
        let quota = quota::admit(&self.access, self.host(), caller.project, 1).await?;
        self.check_template(&request.template, request.size)?;
        let secrets = self.vault.grant(caller.project, std::mem::take(&mut request.secrets))?;
        let errand = caller.errand;
        let spec = CreateSpec { errand, secrets, ..spec(request, caller.project, quota) };
        let created = self.host().create(spec).await.map_err(|error| failure::of_create(&error))?;
        let unfinished = Unfinished::new(created.clone());
        self.trusted(&created).await?;
        unfinished.keep();
        Ok(sandbox(&created))
    }

    /// Makes a guest with secrets trust who vouches to it for their hosts; others are not asked.
    async fn trusted(&self, sandbox: &SandboxHandle) -> Result<(), Failure> {
        match sandbox.facts().secrets.is_empty() {
            true => Ok(()),
            false => trust::install(sandbox, &self.authority).await,
        }
    }

    /// `env` of a process in a sandbox, with the variables of what is wired to it and of its secrets.
    /// Those of the process win.
    pub(crate) fn environment(
        &self,
        id: SandboxId,
        env: BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let mut all = vault::variables(&self.sandbox(id)?.facts().secrets);
        all.extend(self.databases().with_wired(id, env));
        Ok(all)
    }
}

/// A sandbox that is not what was asked for yet: it goes when this is dropped.
struct Unfinished(Option<SandboxHandle>);

impl Unfinished {
    fn new(sandbox: SandboxHandle) -> Self {
        Self(Some(sandbox))
    }

    /// It is.
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(sandbox) = self.0.take() {
            tokio::spawn(async move { sandbox.kill().await });
        }
    }
}
