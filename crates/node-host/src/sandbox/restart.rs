//! Booting a sandbox from its disk after its machine has ended.
//!
//! For sandboxes whose disk is durable: what their programs brought to it is all there, what was in
//! memory is gone, as after a power cut of any machine. The template's services are started again, and
//! recover as they would there.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Instant;

use base_types::Chain;

use super::files::SandboxFiles;
use super::make::{frozen, identity_of, machine_files, plug, template_of};
use super::orders::OrderError;
use super::owner::{Owner, Surroundings};
use super::{CreateError, CreateTimes, SandboxFacts};
use crate::images::ImageError;
use crate::journal::Deed;
use crate::machine::{self, micros};
use crate::network::PolicyWatch;
use crate::phase::{Event, Phase};
use crate::shells::Shell;
use crate::template::{TemplateError, start_services};
use crate::vmm::VmmProcess;

impl Owner {
    /// Whether it can be booted again from what it has on disk.
    pub(super) fn is_durable(&self) -> bool {
        self.files.as_ref().is_some_and(|files| files.layout.durable)
    }

    /// Boots it from its disk when its machine has ended; returns when its services are ready.
    pub(super) async fn restart(&mut self) -> Result<(), OrderError> {
        const ASKED: &str = "restarted";
        match self.phase() {
            Phase::Running => return Ok(()),
            Phase::Failed if self.is_durable() => {}
            _ => return Err(self.not_now(ASKED)),
        }
        let Some(mut files) = self.files.take() else { return Err(self.not_now(ASKED)) };
        let disk = files.layout.running(false);
        // Nothing of the memory it had is of use, wherever its machine was when it ended.
        let opened = files.reopen().and_then(|()| files.commit(disk, true));
        if let Err(error) = opened {
            self.files = Some(files);
            return Err(error.into());
        }
        self.happened(Event::Restart).await;
        let (around, facts) = (Arc::clone(&self.around), Arc::clone(&self.facts));
        let booted = tokio::select! {
            booted = boot(&around, &facts, &files, self.network.watch()) => booted,
            () = around.stop.cancelled() => Err(CreateError::Stopping),
            killer = self.kills.recv() => {
                self.killers.extend(killer);
                self.files = Some(files);
                self.happened(Event::Kill).await;
                return Err(self.not_now(ASKED));
            }
        };
        match booted {
            Ok((process, times)) => {
                files.serve();
                self.files = Some(files);
                self.view.send_modify(|view| view.reason = None);
                self.serve_by(process, times);
                self.around.journal.tell(self.facts.id, Deed::Restarted, "booted from its disk");
                self.happened(Event::Ready).await;
                Ok(())
            }
            Err(error) => {
                self.files = Some(files);
                let reason = format!("it did not start again: {}", Chain(&error));
                tracing::warn!(sandbox = %self.facts.id, "{reason}");
                self.view.send_modify(|view| view.reason = Some(reason));
                self.happened(Event::Over).await;
                Err(error.into())
            }
        }
    }
}

/// A machine that was booted from `files`, with its services ready. It outlives this daemon, but counts
/// as running only when that is remembered.
async fn boot(
    around: &Arc<Surroundings>,
    facts: &SandboxFacts,
    files: &SandboxFiles,
    policy: PolicyWatch,
) -> Result<(VmmProcess, CreateTimes), CreateError> {
    let image = |error: ImageError| Arc::new(TemplateError::Image(error));
    let template = template_of(around, &files.layout).await?;
    let kernel = around.templates.images().kernel().map_err(image)?;
    let root = around.templates.images().root(&facts.template).map_err(image)?;
    let begun = Instant::now();
    let Shell { mut process, built_for_claim, .. } = around.shells.claim(facts.size, None).await?;
    let claim_us = micros(begun);
    let frames = plug(around, facts, policy, &mut process)?;
    let lower = frozen(&template, files);
    let machine_files = machine_files(&template, &lower, files, frames.as_fd());
    machine::boot(&process, &kernel, machine_files, around.boot_within).await?;
    machine::identify(&process, &identity_of(facts)?, around.ready_within).await?;
    start_services(&process, &root.manifest.services).await.map_err(Arc::new)?;
    process.keep(files.dir()).await?;
    let total_us = micros(begun);
    let reseed_us = total_us.saturating_sub(claim_us);
    let times = CreateTimes {
        claim_us,
        reseed_us,
        total_us,
        pool_empty: built_for_claim,
        ..CreateTimes::default()
    };
    Ok((process, times))
}
