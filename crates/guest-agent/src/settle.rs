//! Getting ready to be frozen.

use std::fs;

use api_guest::{Answer, Settle};

use crate::agent::Agent;
use crate::failure::Failure;
use crate::kernel;

/// Carries out [`Settle`].
pub(crate) fn settle(agent: &Agent, request: &Settle) -> Result<Answer, Failure> {
    kernel::trim_heap();
    rustix::fs::sync();
    // The caches of a machine the agent does not own are not its to drop.
    if request.drop_caches && agent.settings.owns_machine {
        for (control, value) in [("drop_caches", "3"), ("compact_memory", "1")] {
            fs::write(format!("/proc/sys/vm/{control}"), value)
                .map_err(|error| Failure::of_io(format!("cannot use {control}"), &error))?;
        }
        // The first command after a restore looks users up: not from the disk, then.
        drop(agent.accounts.get());
    }
    Ok(Answer::Done)
}
