//! Pausing, resuming and branching of what sandboxes are here.

use api_node::{Failure, Fork, Forked, Measured, Sandbox, SandboxState, Spread};
use base_types::SandboxId;

use crate::{NOW_MS, SimNode, SimSandbox};

impl SimSandbox {
    /// Makes it run, as any use does.
    pub(crate) fn wake(&mut self) {
        if self.shown.state == SandboxState::Paused {
            self.shown.state = SandboxState::Running;
            self.shown.timeout_at_ms = timeout_at(self.timeout_s);
        }
    }

    /// A sandbox that is as this one is now, and runs.
    pub(crate) fn moment(&self) -> Self {
        let mut moment = Self {
            project: self.project,
            shown: self.shown.clone(),
            env: self.env.clone(),
            timeout_s: self.timeout_s,
            network: self.network.clone(),
            secrets: self.secrets.clone(),
            flows: Vec::new(),
            files: self.files.clone(),
            directories: self.directories.clone(),
            watches: Vec::new(),
            processes: [].into(),
            kept: [].into(),
        };
        moment.wake();
        moment
    }
}

impl SimNode {
    /// Children of a sandbox, with what was asked for of the databases it is wired to.
    pub(crate) fn fork(&self, id: SandboxId, request: &Fork) -> Result<Forked, Failure> {
        let parent = self.with_sandbox(id, |sandbox| Ok(sandbox.moment()))?;
        let children = (0..request.count).map(|_| {
            let mut child = parent.moment();
            child.shown.name = request.name.clone().or(child.shown.name);
            self.insert(child)
        });
        let sandboxes: Vec<Sandbox> = children.collect();
        for child in &sandboxes {
            self.lock().databases.fork_wired(id, child.id, request.databases);
        }
        Ok(Forked { sandboxes, held_us: 12_000 })
    }

    /// What a measurement finds here, always.
    pub(crate) fn measured(&self, id: SandboxId) -> Result<Measured, Failure> {
        let spawn = Spread { min_us: 8_000, p50_us: 9_000, p99_us: 12_000 };
        self.with_guest(id, |_| Ok(Measured { spawn, in_us: 100_000, out_us: 80_000 }))
    }

    /// Gives a sandbox a new id and keeps it.
    pub(crate) fn insert(&self, mut sandbox: SimSandbox) -> Sandbox {
        let mut state = self.lock();
        state.made += 1;
        sandbox.shown.id = SandboxId::from_bits(state.made);
        let shown = sandbox.shown.clone();
        state.sandboxes.insert(shown.id, sandbox);
        shown
    }
}

/// When a lifetime that begins now is over.
pub(crate) fn timeout_at(timeout_s: u32) -> Option<u64> {
    (timeout_s > 0).then(|| NOW_MS + u64::from(timeout_s) * 1000)
}
