//! What is there: sandboxes and templates.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use api_node::{LIST_LIMIT_MAX, Sandbox, SandboxListQuery, SandboxState, Template, TemplateState};
use base_types::SandboxId;
use client::Client;

use crate::args::{Format, Kill, Ps};
use crate::complaint::{End, advise};
use crate::duration::shown;
use crate::remove;
use crate::table::{bytes, columns, print, print_json};

/// `sandflare ps`
pub(crate) async fn sandboxes(client: &Client, args: Ps) -> Result<End> {
    let Ps { state, name, metadata, format } = args;
    let state = state.map(|state| parse_state(&state)).transpose()?;
    let limit = Some(LIST_LIMIT_MAX);
    let query = SandboxListQuery { state, name, metadata, limit, ..SandboxListQuery::default() };
    let list = client.sandbox_search(query).await?;
    if format.is_json() {
        print_json(&list)?;
    } else {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        print(&sandbox_table(&list.sandboxes, now))?;
    }
    Ok(End::Done)
}

fn parse_state(text: &str) -> Result<SandboxState> {
    SandboxState::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
        let all = SandboxState::ALL.map(SandboxState::as_str).join(", ");
        advise(format!("`{text}` is not a state of a sandbox"), format!("use one of {all}"))
    })
}

/// `now` is the time since the Unix epoch.
fn sandbox_table(sandboxes: &[Sandbox], now: Duration) -> String {
    let rows: Vec<_> = sandboxes
        .iter()
        .map(|sandbox| {
            [
                sandbox.id.to_string(),
                sandbox.name.clone().unwrap_or_else(|| "-".to_owned()),
                sandbox.template.to_string(),
                sandbox.size.to_string(),
                shown(now.saturating_sub(Duration::from_millis(sandbox.created_at_ms))),
                state(sandbox),
            ]
        })
        .collect();
    columns(["ID", "NAME", "TEMPLATE", "SIZE", "AGE", "STATE"], &rows)
}

/// Its state, and why when it is over.
fn state(sandbox: &Sandbox) -> String {
    let state = sandbox.state.as_str();
    match &sandbox.reason {
        Some(reason) => format!("{state}: {reason}"),
        None => state.to_owned(),
    }
}

/// `sandflare template ls`
pub(crate) async fn templates(client: &Client, format: Format) -> Result<End> {
    let list = client.template_list().await?;
    if format.is_json() {
        print_json(&list)?;
    } else {
        print(&template_table(&list.templates))?;
    }
    Ok(End::Done)
}

fn template_table(templates: &[Template]) -> String {
    let rows: Vec<_> = templates
        .iter()
        .map(|template| {
            [
                template.name.to_string(),
                template.size.to_string(),
                format!("{} vCPU", template.size.vcpus()),
                bytes(u64::from(template.size.memory_mib()) << 20),
                match template.state {
                    TemplateState::Missing => "made at the first create".to_owned(),
                    TemplateState::Building => "being made".to_owned(),
                    TemplateState::Ready => format!("ready, {}", bytes(template.snapshot_bytes)),
                    TemplateState::Failed => {
                        let why = template.message.as_deref().unwrap_or("no reason given");
                        format!("failed: {why}")
                    }
                    TemplateState::Unknown => "unknown".to_owned(),
                },
            ]
        })
        .collect();
    columns(["TEMPLATE", "SIZE", "CPU", "MEMORY", "SNAPSHOT"], &rows)
}

/// `sandflare kill`
pub(crate) async fn kill(client: &Client, args: &Kill) -> Result<End> {
    let kill = async |id: &SandboxId| Ok(client.sandbox_kill(*id).await?);
    remove::each(&args.ids, args.format, kill).await
}

#[cfg(test)]
mod test {
    use base_types::Size;
    use expect_test::expect;

    use super::*;

    #[test]
    fn sandboxes_are_listed_with_their_age() {
        let sandbox = Sandbox {
            id: SandboxId::from_bits(7),
            name: None,
            template: "agent".parse().unwrap(),
            size: Size::Nano,
            state: SandboxState::Running,
            reason: None,
            created_at_ms: 1_000,
            snapshot: None,
            metadata: std::collections::BTreeMap::new(),
            timeout_at_ms: None,
            idle_timeout_s: 0,
            on_timeout: api_node::OnTimeout::Kill,
            phases: api_node::PhaseTimes::default(),
        };
        let named = Sandbox { name: Some("charts".into()), ..sandbox.clone() };
        let failed = Sandbox {
            state: SandboxState::Failed,
            reason: Some("the guest shut itself down".into()),
            ..sandbox.clone()
        };
        expect![[r"
            ID                    NAME    TEMPLATE  SIZE  AGE        STATE
            sbx_0000000000000007  -       agent     nano  1 min 4 s  running
            sbx_0000000000000007  charts  agent     nano  1 min 4 s  running
            sbx_0000000000000007  -       agent     nano  1 min 4 s  failed: the guest shut itself down
        "]]
        .assert_eq(&sandbox_table(&[sandbox, named, failed], Duration::from_secs(65)));
    }

    #[test]
    fn templates_are_listed_with_their_snapshot() {
        let template = |size, state, message: Option<&str>| Template {
            name: "agent".parse().unwrap(),
            size,
            state,
            snapshot_bytes: 150 << 20,
            built_at_ms: None,
            message: message.map(str::to_owned),
        };
        let list = [
            template(Size::Nano, TemplateState::Ready, None),
            template(Size::Small, TemplateState::Missing, None),
            template(Size::Large, TemplateState::Failed, Some("the disk is full")),
        ];
        expect![[r"
            TEMPLATE  SIZE   CPU     MEMORY   SNAPSHOT
            agent     nano   1 vCPU  512 MiB  ready, 150 MiB
            agent     small  2 vCPU  2.0 GiB  made at the first create
            agent     large  4 vCPU  8.0 GiB  failed: the disk is full
        "]]
        .assert_eq(&template_table(&list));
    }
}
