//! Making a template's snapshot, with its progress shown, and deleting it.

use anyhow::{Context, Result};
use api_node::{BuildBody, TemplateState};
use base_types::{Size, TemplateName};
use client::{Client, ClientError};

use crate::args::TemplateAtSize;
use crate::complaint::End;
use crate::steps::Steps;
use crate::table::print_json;

/// Makes the snapshot unless it is there.
pub(crate) async fn ensure(
    client: &Client,
    steps: &Steps,
    name: &TemplateName,
    size: Size,
) -> Result<()> {
    if client.template_get(name, size).await?.state == TemplateState::Ready {
        return Ok(());
    }
    make(client, steps, name, size).await
}

async fn make(client: &Client, steps: &Steps, name: &TemplateName, size: Size) -> Result<()> {
    let failed = || format!("make the snapshot of template {name} ({size})");
    let mut events = client.template_build(name, size).await?;
    let mut step = steps.begin(&format!("snapshot of template {name} ({size})"));
    while let Some(event) = events.next().await? {
        match event.body {
            BuildBody::Step { message, percent } => {
                // The node names what it builds, which is named here already.
                step.note(message.strip_prefix(&format!("{name} {size}: ")).unwrap_or(&message));
                step.advance(f64::from(percent) / 100.0);
            }
            BuildBody::Done { took_ms: 0 } => {
                step.done("reused");
                return Ok(());
            }
            BuildBody::Done { .. } => {
                step.done("built");
                return Ok(());
            }
            BuildBody::Error { failure } => {
                return Err(ClientError::Refused(Box::new(failure))).with_context(failed);
            }
            BuildBody::Heartbeat | BuildBody::Unknown => {}
        }
    }
    Err(events.cut_short()).with_context(failed)
}

/// `sandflare template build`
pub(crate) async fn build(client: &Client, args: &TemplateAtSize) -> Result<End> {
    make(client, &Steps::new(), &args.name, args.size).await?;
    tell(client, args).await
}

/// `sandflare template rm`
pub(crate) async fn remove(client: &Client, args: &TemplateAtSize) -> Result<End> {
    client.template_delete(&args.name, args.size).await?;
    tell(client, args).await
}

/// As JSON, the template as it is now; a person was told while it was made.
async fn tell(client: &Client, args: &TemplateAtSize) -> Result<End> {
    if args.format.is_json() {
        print_json(&client.template_get(&args.name, args.size).await?)?;
    }
    Ok(End::Done)
}
