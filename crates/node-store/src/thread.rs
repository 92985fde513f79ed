//! The thread that owns the connection.

use std::sync::mpsc;

use base_types::{ProjectId, SandboxId};
use rusqlite::{Connection, ErrorCode, Row, params};

use crate::access::durably;
use crate::{Ask, LeaseRow, SandboxRow, StoreError, StoredState};

impl From<rusqlite::Error> for StoreError {
    fn from(source: rusqlite::Error) -> Self {
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::DiskFull,
            _ => Self::Sqlite(source),
        }
    }
}

/// Answers until the last [`crate::Store`] is gone. An asker that has left is no concern.
pub(crate) fn run(connection: Connection, asks: &mpsc::Receiver<Ask>) {
    for ask in asks {
        match ask {
            Ask::Insert(row, answer) => drop(answer.send(insert(&connection, &row))),
            Ask::SetRunning(id, lease, times, answer) => {
                drop(answer.send(set_running(&connection, id, lease, &times)));
            }
            Ask::SetState(id, state, reason, answer) => {
                drop(answer.send(set_state(&connection, id, state, reason.as_deref())));
            }
            Ask::Delete(id, answer) => drop(answer.send(delete(&connection, id))),
            Ask::List(answer) => drop(answer.send(list(&connection))),
            Ask::Work(work) => work(&connection),
        }
    }
    // Closing merges the log into the database, so that the file alone is whole.
    drop(connection.close());
}

fn insert(connection: &Connection, row: &SandboxRow) -> Result<(), StoreError> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO sandboxes (id, name, template, size, state, created_at_ms, reason, env, times,
             project, metadata, snapshot, timeout_s, idle_timeout_s, on_timeout, ends_at_ms, errand,
             network, secrets)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18,
             ?19)",
    )?;
    let env = serde_json::to_string(&row.env).map_err(StoreError::Unwritable)?;
    let metadata = serde_json::to_string(&row.metadata).map_err(StoreError::Unwritable)?;
    statement.execute(params![
        row.id.to_string(),
        row.name,
        row.template.as_str(),
        row.size.name(),
        state_name(row.state),
        milliseconds(row.created_at_ms),
        row.reason,
        env,
        row.times,
        row.project.to_string(),
        metadata,
        row.snapshot.map(|id| id.to_string()),
        row.lease.timeout_s,
        row.lease.idle_timeout_s,
        on_timeout_name(row.lease.pause),
        row.lease.ends_at_ms.map(milliseconds),
        row.errand,
        row.network,
        row.secrets,
    ])?;
    Ok(())
}

/// They fit for another 290 million years.
fn milliseconds(since_1970: u64) -> i64 {
    i64::try_from(since_1970).unwrap_or(i64::MAX)
}

const fn on_timeout_name(pause: bool) -> &'static str {
    if pause { "pause" } else { "kill" }
}

pub(crate) fn set_lease(
    connection: &Connection,
    id: SandboxId,
    lease: LeaseRow,
) -> Result<(), StoreError> {
    let mut statement = connection.prepare_cached(
        "UPDATE sandboxes SET timeout_s = ?2, idle_timeout_s = ?3, on_timeout = ?4, ends_at_ms = ?5
         WHERE id = ?1",
    )?;
    statement.execute(params![
        id.to_string(),
        lease.timeout_s,
        lease.idle_timeout_s,
        on_timeout_name(lease.pause),
        lease.ends_at_ms.map(milliseconds),
    ])?;
    Ok(())
}

pub(crate) fn give(
    connection: &Connection,
    id: SandboxId,
    project: ProjectId,
    name: Option<&str>,
    lease: LeaseRow,
) -> Result<(), StoreError> {
    let mut statement =
        connection.prepare_cached("UPDATE sandboxes SET project = ?2, name = ?3 WHERE id = ?1")?;
    statement.execute(params![id.to_string(), project.to_string(), name])?;
    set_lease(connection, id, lease)
}

/// Flushed to the disk: what was taken from a sandbox must not be open again after a power cut.
pub(crate) fn set_network(
    connection: &Connection,
    id: SandboxId,
    network: &str,
) -> Result<bool, StoreError> {
    let mut kept = 0;
    durably(connection, |connection| {
        let sql = "UPDATE sandboxes SET network = ?2 WHERE id = ?1";
        let mut statement = connection.prepare_cached(sql)?;
        kept = statement.execute(params![id.to_string(), network])?;
        Ok(kept)
    })?;
    Ok(kept > 0)
}

fn set_running(
    connection: &Connection,
    id: SandboxId,
    lease: LeaseRow,
    times: &str,
) -> Result<(), StoreError> {
    let mut statement = connection.prepare_cached(
        "UPDATE sandboxes SET state = ?2, reason = NULL, times = ?3, timeout_s = ?4,
             idle_timeout_s = ?5, on_timeout = ?6, ends_at_ms = ?7
         WHERE id = ?1",
    )?;
    statement.execute(params![
        id.to_string(),
        state_name(StoredState::Running),
        times,
        lease.timeout_s,
        lease.idle_timeout_s,
        on_timeout_name(lease.pause),
        lease.ends_at_ms.map(milliseconds),
    ])?;
    Ok(())
}

fn set_state(
    connection: &Connection,
    id: SandboxId,
    state: StoredState,
    reason: Option<&str>,
) -> Result<(), StoreError> {
    let change = |connection: &Connection| {
        let sql = "UPDATE sandboxes SET state = ?2, reason = ?3 WHERE id = ?1";
        let mut statement = connection.prepare_cached(sql)?;
        statement.execute(params![id.to_string(), state_name(state), reason])
    };
    match state {
        StoredState::Paused => durably(connection, change),
        StoredState::Creating | StoredState::Running | StoredState::Failed => {
            change(connection)?;
            Ok(())
        }
    }
}

fn delete(connection: &Connection, id: SandboxId) -> Result<(), StoreError> {
    durably(connection, |connection| {
        let mut statement = connection.prepare_cached("DELETE FROM sandboxes WHERE id = ?1")?;
        statement.execute(params![id.to_string()])
    })
}

pub(crate) fn creates_since(
    connection: &Connection,
    since_ms: u64,
    now_ms: u64,
) -> Result<Vec<(ProjectId, u64)>, StoreError> {
    // A clock that was set back since: nothing else would ever remove those.
    connection.execute("DELETE FROM creates WHERE at_ms > ?", [milliseconds(now_ms)])?;
    let sql = "SELECT project, at_ms FROM creates WHERE at_ms >= ? ORDER BY at_ms";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([milliseconds(since_ms)])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let project: String = row.get(0)?;
        let unreadable = || StoreError::Unreadable { what: "project id", value: project.clone() };
        let at_ms = u64::try_from(row.get::<_, i64>(1)?).unwrap_or_default();
        all.push((project.parse().map_err(|_| unreadable())?, at_ms));
    }
    Ok(all)
}

fn list(connection: &Connection) -> Result<Vec<SandboxRow>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT id, name, template, size, state, created_at_ms, reason, env, times,
             project, metadata, snapshot, timeout_s, idle_timeout_s, on_timeout, ends_at_ms, errand,
             network, secrets
         FROM sandboxes ORDER BY created_at_ms, id",
    )?;
    let mut rows = statement.query([])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push(read(row)?);
    }
    Ok(all)
}

fn read(row: &Row<'_>) -> Result<SandboxRow, StoreError> {
    let text = |index| row.get::<_, String>(index);
    let unreadable = |what, value: &str| StoreError::Unreadable { what, value: value.to_owned() };
    let (id, template, size, state, env) = (text(0)?, text(2)?, text(3)?, text(4)?, text(7)?);
    let (project, metadata, on_timeout) = (text(9)?, text(10)?, text(14)?);
    let snapshot = row.get::<_, Option<String>>(11)?;
    let lease = LeaseRow {
        timeout_s: row.get(12)?,
        idle_timeout_s: row.get(13)?,
        pause: match on_timeout.as_str() {
            "pause" => true,
            "kill" => false,
            other => return Err(unreadable("action at a timeout", other)),
        },
        ends_at_ms: row.get::<_, Option<i64>>(15)?.map(|ms| u64::try_from(ms).unwrap_or_default()),
    };
    Ok(SandboxRow {
        id: id.parse().map_err(|_| unreadable("sandbox id", &id))?,
        project: project.parse().map_err(|_| unreadable("project id", &project))?,
        name: row.get(1)?,
        template: template.parse().map_err(|_| unreadable("template name", &template))?,
        size: size.parse().map_err(|_| unreadable("size", &size))?,
        state: state_named(&state).ok_or_else(|| unreadable("state", &state))?,
        created_at_ms: u64::try_from(row.get::<_, i64>(5)?).unwrap_or_default(),
        reason: row.get(6)?,
        // Not shown when it cannot be read: it may hold secrets.
        env: serde_json::from_str(&env).map_err(|_| unreadable("environment", "…"))?,
        times: text(8)?,
        metadata: serde_json::from_str(&metadata).map_err(|_| unreadable("metadata", &metadata))?,
        snapshot: snapshot
            .map(|id| id.parse().map_err(|_| unreadable("snapshot id", &id)))
            .transpose()?,
        lease,
        errand: row.get(16)?,
        network: row.get(17)?,
        secrets: row.get(18)?,
    })
}

const fn state_name(state: StoredState) -> &'static str {
    match state {
        StoredState::Creating => "creating",
        StoredState::Running => "running",
        StoredState::Paused => "paused",
        StoredState::Failed => "failed",
    }
}

fn state_named(name: &str) -> Option<StoredState> {
    [StoredState::Creating, StoredState::Running, StoredState::Paused, StoredState::Failed]
        .into_iter()
        .find(|state| state_name(*state) == name)
}
