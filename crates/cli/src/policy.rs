//! What a sandbox may reach, and what it reached.

use anyhow::Result;
use api_node::{FlowEntry, FlowQuery, Policy, Verdict};
use client::Client;

use crate::args::{Choice, Format, PolicyCommand, PolicyLog, SetPolicy};
use crate::audit::utc;
use crate::complaint::End;
use crate::sandbox::plain;
use crate::table::{bytes, columns, print, print_json};

/// `sandflare policy`
pub(crate) async fn policy(client: &Client, command: PolicyCommand) -> Result<End> {
    match command {
        PolicyCommand::Get(Choice { id, format }) => show(&client.policy_get(id).await?, format),
        PolicyCommand::Set(SetPolicy { id, policy, format }) => {
            show(&client.policy_set(id, &policy.into()).await?, format)
        }
        PolicyCommand::Log(args) => log(client, &args).await,
    }
}

fn show(policy: &Policy, format: Format) -> Result<End> {
    if format.is_json() {
        print_json(policy)?;
    } else {
        print(&policy_table(policy))?;
    }
    Ok(End::Done)
}

/// In the order in which it is applied.
fn policy_table(policy: &Policy) -> String {
    let Policy { base, allow, deny } = policy;
    let deny = deny.iter().map(|rule| ["deny".to_owned(), rule.to_string()]);
    let allow = allow.iter().map(|rule| ["allow".to_owned(), rule.to_string()]);
    let base = std::iter::once(["base".to_owned(), base.as_str().to_owned()]);
    columns(["WHAT", "RULE"], &deny.chain(allow).chain(base).collect::<Vec<_>>())
}

async fn log(client: &Client, args: &PolicyLog) -> Result<End> {
    let query = FlowQuery { after: args.after, limit: Some(args.limit) };
    let list = client.flow_list(args.id, &query).await?;
    if args.format.is_json() {
        print_json(&list)?;
    } else {
        print(&flow_table(&list.flows))?;
    }
    Ok(End::Done)
}

fn flow_table(flows: &[FlowEntry]) -> String {
    let rows: Vec<_> = flows
        .iter()
        .map(|FlowEntry { index, flow }| {
            let place = match (flow.address, flow.port) {
                (Some(address), Some(port)) => format!("{address}:{port}"),
                (Some(address), None) => address.to_string(),
                (None, _) => "-".to_owned(),
            };
            let verdict = match (flow.verdict, flow.count) {
                (Verdict::Denied, count @ 2..) => format!("denied × {count}"),
                (verdict, _) => verdict.as_str().to_owned(),
            };
            [
                index.to_string(),
                utc(flow.at_ms),
                verdict,
                flow.protocol.as_str().to_owned(),
                flow.name.as_deref().map_or_else(|| "-".to_owned(), plain),
                place,
                bytes(flow.bytes_up),
                bytes(flow.bytes_down),
                plain(&flow.reason),
            ]
        })
        .collect();
    let head = ["INDEX", "TIME (UTC)", "VERDICT", "BY", "NAME", "ADDRESS", "UP", "DOWN", "REASON"];
    columns(head, &rows)
}
