//! Templates, and the making of their snapshots.

use std::time::{Duration, Instant};

use api_node::{BuildBody, BuildEvent, ErrorCode, Failure, Template, TemplateState};
use base_types::{Size, TemplateName};
use node_host::{Host, TemplateState as HostTemplateState};
use tokio::sync::watch;

use crate::exec::now_us;
use crate::failure;

/// A template at one size, as the API shows it.
pub(crate) fn template(host: &Host, name: TemplateName, size: Size) -> Template {
    let mut template = Template {
        name,
        size,
        state: TemplateState::Missing,
        snapshot_bytes: 0,
        built_at_ms: None,
        message: None,
    };
    match host.templates().state(&template.name, size) {
        HostTemplateState::Ready(ready) => {
            template.state = TemplateState::Ready;
            template.snapshot_bytes = ready.bytes;
            template.built_at_ms = Some(ready.manifest.built_at_ms);
        }
        HostTemplateState::Building { message, .. } => {
            template.state = TemplateState::Building;
            template.message = Some(message);
        }
        HostTemplateState::Failed(error) => {
            template.state = TemplateState::Failed;
            template.message = Some(failure::of_template(&error).message);
        }
        HostTemplateState::Unloaded => {
            if let Some((manifest, bytes)) = host.templates().on_disk(&template.name, size) {
                template.state = TemplateState::Ready;
                template.snapshot_bytes = bytes;
                template.built_at_ms = Some(manifest.built_at_ms);
            }
        }
    }
    template
}

/// Deletes what was made of a template at one size.
pub(crate) async fn delete(host: &Host, name: TemplateName, size: Size) -> Result<(), Failure> {
    host.templates().images().root(&name).map_err(|error| failure::of_template(&error.into()))?;
    match host.template_delete(&name, size).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::no_template_snapshot(&name, size)),
        Err(error) => Err(failure::of_template_delete(&error)),
    }
}

/// The making of a template's snapshot, as a stream of events.
pub(crate) struct Build {
    pub(crate) watch: watch::Receiver<HostTemplateState>,
    /// `None` when the snapshot was there before.
    pub(crate) begun: Option<Instant>,
    pub(crate) seq: u64,
    pub(crate) last: bool,
}

impl Build {
    pub(crate) async fn next(mut self) -> Option<(BuildEvent, Self)> {
        if self.last {
            return None;
        }
        // The first event tells where it is now, all later ones what changed.
        if self.seq > 0 && self.watch.changed().await.is_err() {
            return None;
        }
        let state = self.watch.borrow_and_update().clone();
        let body = match state {
            HostTemplateState::Building { message, percent } => {
                BuildBody::Step { message, percent }
            }
            HostTemplateState::Ready(_) => {
                let took = self.begun.map_or(Duration::ZERO, |begun| begun.elapsed());
                BuildBody::Done { took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX) }
            }
            HostTemplateState::Failed(error) => {
                BuildBody::Error { failure: failure::of_template(&error) }
            }
            HostTemplateState::Unloaded => {
                let message = "the template's snapshot was deleted; ask for it again";
                BuildBody::Error { failure: Failure::new(ErrorCode::Internal, message) }
            }
        };
        self.last = !matches!(body, BuildBody::Step { .. });
        let event = BuildEvent { seq: self.seq, ts: now_us(), body };
        self.seq += 1;
        Some((event, self))
    }
}
