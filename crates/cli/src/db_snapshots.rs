//! Moments of databases that were kept, and the way back to them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use api_node::{CreateDatabaseSnapshot, DatabaseSnapshot, RestoreDatabase};
use client::Client;

use crate::args::{DbChoice, Format, RmDbSnapshots, SnapshotDb};
use crate::complaint::End;
use crate::duration::shown;
use crate::remove;
use crate::table::{bytes, columns, print, print_json};

/// `sandflare db snapshot`
pub(crate) async fn take(client: &Client, args: SnapshotDb) -> Result<()> {
    let SnapshotDb { name, snapshot, format } = args;
    let request = CreateDatabaseSnapshot { name: snapshot };
    let kept = client.database_snapshot(&name, &request).await?;
    if format.is_json() { print_json(&kept) } else { print(&format!("{}\n", kept.id)) }
}

/// `sandflare db snapshots`
pub(crate) async fn list(client: &Client, args: DbChoice) -> Result<()> {
    let list = client.database_snapshots(&args.name).await?;
    if args.format.is_json() {
        return print_json(&list);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    print(&snapshot_table(&list.snapshots, now))
}

/// `sandflare db rm-snapshot`
pub(crate) async fn rm(client: &Client, args: RmDbSnapshots) -> Result<End> {
    let RmDbSnapshots { name, snapshots, format } = args;
    let delete =
        async |snapshot: &String| Ok(client.database_snapshot_delete(&name, snapshot).await?);
    remove::each(&snapshots, format, delete).await
}

/// `sandflare db restore --snapshot`
pub(crate) async fn go_back(
    client: &Client,
    name: &str,
    snapshot: String,
    format: Format,
) -> Result<()> {
    let database = client.database_go_back(name, &RestoreDatabase { snapshot }).await?;
    if format.is_json() { print_json(&database.without_secrets()) } else { Ok(()) }
}

/// `now` is the time since the Unix epoch.
fn snapshot_table(snapshots: &[DatabaseSnapshot], now: Duration) -> String {
    let rows: Vec<_> = snapshots
        .iter()
        .map(|snapshot| {
            [
                snapshot.id.to_string(),
                snapshot.name.clone(),
                bytes(snapshot.bytes),
                shown(now.saturating_sub(Duration::from_millis(snapshot.created_at_ms))),
            ]
        })
        .collect();
    columns(["ID", "NAME", "DISK", "AGE"], &rows)
}

#[cfg(test)]
mod test {
    use base_types::{DatabaseId, SnapshotId};
    use expect_test::expect;

    use super::*;

    #[test]
    fn snapshots_are_listed_by_name() {
        let snapshot = DatabaseSnapshot {
            id: SnapshotId::from_bits(9),
            name: "before-upgrade".into(),
            database: DatabaseId::from_bits(7),
            created_at_ms: 1_000,
            bytes: 3 << 20,
        };
        expect![[r#"
            ID                     NAME            DISK     AGE
            snap_0000000000000009  before-upgrade  3.0 MiB  1 min 4 s
        "#]]
        .assert_eq(&snapshot_table(&[snapshot], Duration::from_secs(65)));
    }
}
