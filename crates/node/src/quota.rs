//! What a project may use, held against what it uses.

use std::sync::Arc;

use api_node::{AccessApi as _, ErrorCode, Failure, Quota, Used};
use base_types::ProjectId;
use node_access::{Access, WHOLE_NODE};
use node_host::Host;

use crate::failure;

/// Whether a project may begin to make `count` sandboxes, which is counted, and what it may use.
pub(crate) async fn admit(
    access: &Access,
    host: &Arc<Host>,
    project: ProjectId,
    count: u64,
) -> Result<Quota, Failure> {
    let quota = access.quota(project).ok_or_else(|| failure::no_project(project))?;
    access.count_creates(project, count)?;
    admit_disk(host, project, &quota).await?;
    Ok(quota)
}

/// Whether a project may begin something that takes disk, such as a snapshot of its sandbox, and what
/// it may use.
pub(crate) async fn admit_snapshot(
    access: &Access,
    host: &Arc<Host>,
    project: ProjectId,
) -> Result<Quota, Failure> {
    let quota = access.quota(project).ok_or_else(|| failure::no_project(project))?;
    admit_disk(host, project, &quota).await?;
    Ok(quota)
}

async fn admit_disk(host: &Arc<Host>, project: ProjectId, quota: &Quota) -> Result<(), Failure> {
    // Looked at only where it matters: it reads directories.
    if quota.disk_mib >= WHOLE_NODE.disk_mib {
        return Ok(());
    }
    let used_mib = disk_used_mib(host, project).await?;
    node_quota::admit_disk(quota, used_mib).map_err(|error| node_access::exceeded(&error))
}

/// What a project uses now.
pub(crate) async fn used(
    access: &Access,
    host: &Arc<Host>,
    project: ProjectId,
) -> Result<Used, Failure> {
    let disk_mib = disk_used_mib(host, project).await?;
    let creates_per_minute = access.creates_within_a_minute(project);
    let kept = host.snapshots().iter().filter(|facts| facts.project == project).count();
    let snapshots = u64::try_from(kept).unwrap_or(u64::MAX);
    Ok(Used { disk_mib, creates_per_minute, snapshots, ..host.used_by(project) })
}

async fn disk_used_mib(host: &Arc<Host>, project: ProjectId) -> Result<u64, Failure> {
    let host = host.clone();
    let of_project = host.snapshots().into_iter().filter(|facts| facts.project == project);
    let snapshots: u64 = of_project.map(|facts| facts.bytes).sum();
    let looking = tokio::task::spawn_blocking(move || host.disk_use_of(project));
    let bytes = looking.await.map_err(|error| {
        Failure::because(ErrorCode::Internal, "the disk could not be looked at", &error)
    })?;
    Ok(bytes.saturating_add(snapshots) >> 20)
}
