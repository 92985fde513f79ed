//! Moments of sandboxes that were kept.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use api_node::{CreateSnapshot, Snapshot};
use base_types::SnapshotId;
use client::Client;

use crate::args::{SnapshotsCommand, TakeSnapshot};
use crate::complaint::End;
use crate::duration::shown;
use crate::remove;
use crate::table::{bytes, columns, print, print_json};

/// `sandflare snapshot`
pub(crate) async fn take(client: &Client, args: TakeSnapshot) -> Result<End> {
    let TakeSnapshot { id, name, format } = args;
    let snapshot = client.snapshot_create(id, &CreateSnapshot { name }).await?;
    if format.is_json() {
        print_json(&snapshot)?;
    } else {
        print(&format!("{}\n", snapshot.id))?;
    }
    Ok(End::Done)
}

/// `sandflare snapshots`
pub(crate) async fn snapshots(client: &Client, command: SnapshotsCommand) -> Result<End> {
    match command {
        SnapshotsCommand::Ls(format) => {
            let list = client.snapshot_list().await?;
            if format.is_json() {
                print_json(&list)?;
            } else {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                print(&snapshot_table(&list.snapshots, now))?;
            }
            Ok(End::Done)
        }
        SnapshotsCommand::Rm(rm) => {
            let delete = async |id: &SnapshotId| Ok(client.snapshot_delete(*id).await?);
            remove::each(&rm.ids, rm.format, delete).await
        }
    }
}

/// `now` is the time since the Unix epoch.
fn snapshot_table(snapshots: &[Snapshot], now: Duration) -> String {
    let rows: Vec<_> = snapshots
        .iter()
        .map(|snapshot| {
            [
                snapshot.id.to_string(),
                snapshot.name.clone().unwrap_or_else(|| "-".to_owned()),
                snapshot.sandbox.to_string(),
                snapshot.template.to_string(),
                snapshot.size.to_string(),
                bytes(snapshot.bytes),
                shown(now.saturating_sub(Duration::from_millis(snapshot.created_at_ms))),
            ]
        })
        .collect();
    columns(["ID", "NAME", "SANDBOX", "TEMPLATE", "SIZE", "DISK", "AGE"], &rows)
}

#[cfg(test)]
mod test {
    use base_types::{SandboxId, Size};
    use expect_test::expect;

    use super::*;

    #[test]
    fn snapshots_are_listed_with_what_they_are_of() {
        let snapshot = Snapshot {
            id: SnapshotId::from_bits(9),
            name: Some("before-upgrade".into()),
            sandbox: SandboxId::from_bits(7),
            template: "agent".parse().unwrap(),
            size: Size::Nano,
            created_at_ms: 1_000,
            bytes: 3 << 20,
        };
        expect![[r#"
            ID                     NAME            SANDBOX               TEMPLATE  SIZE  DISK     AGE
            snap_0000000000000009  before-upgrade  sbx_0000000000000007  agent     nano  3.0 MiB  1 min 4 s
        "#]].assert_eq(&snapshot_table(&[snapshot], Duration::from_secs(65)));
    }
}
