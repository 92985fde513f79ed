//! The thread that owns the connection.

use std::sync::mpsc;

use base_types::SandboxId;
use rusqlite::{Connection, ErrorCode, Row, params};

use crate::{Ask, SandboxRow, StoreError, StoredState};

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
            Ask::SetRunning(id, times, answer) => {
                drop(answer.send(set_running(&connection, id, &times)));
            }
            Ask::SetState(id, state, reason, answer) => {
                drop(answer.send(set_state(&connection, id, state, reason.as_deref())));
            }
            Ask::Delete(id, answer) => drop(answer.send(delete(&connection, id))),
            Ask::List(answer) => drop(answer.send(list(&connection))),
        }
    }
    // Closing merges the log into the database, so that the file alone is whole.
    drop(connection.close());
}

fn insert(connection: &Connection, row: &SandboxRow) -> Result<(), StoreError> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO sandboxes (id, name, template, size, state, created_at_ms, reason, env, times)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    let env = serde_json::to_string(&row.env).map_err(StoreError::Unwritable)?;
    statement.execute(params![
        row.id.to_string(),
        row.name,
        row.template.as_str(),
        row.size.name(),
        state_name(row.state),
        // Milliseconds fit for another 290 million years.
        i64::try_from(row.created_at_ms).unwrap_or(i64::MAX),
        row.reason,
        env,
        row.times,
    ])?;
    Ok(())
}

fn set_running(connection: &Connection, id: SandboxId, times: &str) -> Result<(), StoreError> {
    let mut statement = connection.prepare_cached(
        "UPDATE sandboxes SET state = ?2, reason = NULL, times = ?3 WHERE id = ?1",
    )?;
    statement.execute(params![id.to_string(), state_name(StoredState::Running), times])?;
    Ok(())
}

fn set_state(
    connection: &Connection,
    id: SandboxId,
    state: StoredState,
    reason: Option<&str>,
) -> Result<(), StoreError> {
    let mut statement =
        connection.prepare_cached("UPDATE sandboxes SET state = ?2, reason = ?3 WHERE id = ?1")?;
    statement.execute(params![id.to_string(), state_name(state), reason])?;
    Ok(())
}

fn delete(connection: &Connection, id: SandboxId) -> Result<(), StoreError> {
    let mut statement = connection.prepare_cached("DELETE FROM sandboxes WHERE id = ?1")?;
    statement.execute(params![id.to_string()])?;
    Ok(())
}

fn list(connection: &Connection) -> Result<Vec<SandboxRow>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT id, name, template, size, state, created_at_ms, reason, env, times
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
    Ok(SandboxRow {
        id: id.parse().map_err(|_| unreadable("sandbox id", &id))?,
        name: row.get(1)?,
        template: template.parse().map_err(|_| unreadable("template name", &template))?,
        size: size.parse().map_err(|_| unreadable("size", &size))?,
        state: state_named(&state).ok_or_else(|| unreadable("state", &state))?,
        created_at_ms: u64::try_from(row.get::<_, i64>(5)?).unwrap_or_default(),
        reason: row.get(6)?,
        // Not shown when it cannot be read: it may hold secrets.
        env: serde_json::from_str(&env).map_err(|_| unreadable("environment", "…"))?,
        times: text(8)?,
    })
}

const fn state_name(state: StoredState) -> &'static str {
    match state {
        StoredState::Creating => "creating",
        StoredState::Running => "running",
        StoredState::Failed => "failed",
    }
}

fn state_named(name: &str) -> Option<StoredState> {
    [StoredState::Creating, StoredState::Running, StoredState::Failed]
        .into_iter()
        .find(|state| state_name(*state) == name)
}
