//! Machines that the node makes ahead for whoever will want one: its own until they are given away.

use api_node::Quota;
use base_types::{ProjectId, SandboxId};

use super::{Host, admit_one_more};
use crate::sandbox::{CreateError, Lease, OrderError, SandboxFacts, SandboxHandle};

impl Host {
    /// Gives a machine of the node's own that runs to `project`, which may have it beside what it has, under `name`.
    /// It counts among that project's from the moment it is asked for.
    ///
    /// # Errors
    ///
    /// As for a create; the machine is then nobody's, and to be killed.
    pub async fn give(
        &self,
        id: SandboxId,
        (project, quota): (ProjectId, &Quota),
        name: Option<String>,
        lease: Lease,
    ) -> Result<SandboxHandle, OrderError> {
        let (machine, facts) = {
            let mut sandboxes = self.sandboxes.lock();
            let gone = || OrderError::Failed(CreateError::Killed);
            let machine = sandboxes.get(&id).cloned().ok_or_else(gone)?;
            let facts = SandboxFacts { project, name, ..machine.facts().clone() };
            admit_one_more(&sandboxes, project, quota, facts.size).map_err(CreateError::from)?;
            sandboxes.insert(id, machine.of(facts.clone()));
            (machine, facts)
        };
        machine.give(facts, lease).await?;
        self.sandbox(id).ok_or(OrderError::Failed(CreateError::Killed))
    }

    /// Whether `mib` MiB of memory are free beside what is kept back.
    pub fn has_room(&self, mib: u64) -> bool {
        self.around.room.admit(mib).is_ok()
    }
}
