//! Sandboxes, as the API shows them.

use api_node::{OnTimeout, PhaseTimes, Sandbox, SandboxState};
use node_host::{Phase, SandboxHandle};

/// A sandbox, as the API shows it.
pub(crate) fn sandbox(handle: &SandboxHandle) -> Sandbox {
    let (facts, view) = (handle.facts(), handle.view());
    let times = view.times;
    Sandbox {
        id: facts.id,
        name: facts.name.clone(),
        template: facts.template.clone(),
        size: facts.size,
        state: state(view.phase),
        reason: view.reason,
        created_at_ms: facts.created_at_ms,
        snapshot: facts.snapshot,
        metadata: facts.metadata.clone(),
        timeout_at_ms: view.ends_at_ms,
        idle_timeout_s: view.lease.idle_timeout_s,
        on_timeout: match view.lease.on_timeout {
            node_host::OnTimeout::Kill => OnTimeout::Kill,
            node_host::OnTimeout::Pause => OnTimeout::Pause,
        },
        phases: PhaseTimes {
            claim_us: times.claim_us,
            parse_us: times.parse_us,
            map_us: times.map_us,
            state_us: times.state_us,
            devices_us: times.devices_us,
            resume_us: times.resume_us,
            reseed_us: times.reseed_us,
            total_us: times.total_us,
            pool_empty: times.pool_empty,
        },
    }
}

/// Where a sandbox is in its life.
pub(crate) const fn state(phase: Phase) -> SandboxState {
    match phase {
        Phase::Creating => SandboxState::Creating,
        Phase::Running => SandboxState::Running,
        Phase::Pausing => SandboxState::Pausing,
        // One that is left to the next node is paused there.
        Phase::Paused | Phase::Left => SandboxState::Paused,
        Phase::Resuming => SandboxState::Resuming,
        Phase::Failed => SandboxState::Failed,
        Phase::Stopping | Phase::Stopped => SandboxState::Stopping,
    }
}
