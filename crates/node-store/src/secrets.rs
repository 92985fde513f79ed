//! Secrets that sandboxes have placeholders of.
//!
//! Flushed to the disk before it is answered: what was deleted or replaced must not be good again after
//! a power cut.

use base_types::ProjectId;
use rusqlite::{Row, params};

use crate::access::{all, durably, parsed, unsigned, whole};
use crate::{Store, StoreError};

/// A secret, as it is remembered.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretRow {
    /// The project it belongs to.
    pub project: ProjectId,
    /// Its name; no two of a project have the same.
    pub name: String,
    /// What it says.
    pub value: String,
    /// Where it may go, as the node wrote it.
    pub hosts: String,
    /// When it was made, milliseconds since 1970 UTC.
    pub created_at_ms: u64,
    /// When it was set last, milliseconds since 1970 UTC.
    pub updated_at_ms: u64,
}

impl std::fmt::Debug for SecretRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretRow")
            .field("project", &self.project)
            .field("name", &self.name)
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

type Waiting<T> = std::pin::Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

impl Store {
    /// Remembers a secret, in place of one of its name.
    pub fn secret_set(&self, row: SecretRow) -> Waiting<()> {
        self.work(move |connection| {
            durably(connection, |connection| {
                let sql = "INSERT OR REPLACE INTO secrets (project, name, value, hosts,
                    created_at_ms, updated_at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
                connection.execute(
                    sql,
                    params![
                        row.project.to_string(),
                        row.name,
                        row.value,
                        row.hosts,
                        whole(row.created_at_ms),
                        whole(row.updated_at_ms),
                    ],
                )
            })
        })
    }

    /// Forgets a secret. One that is not there is no error.
    pub fn secret_delete(&self, project: ProjectId, name: String) -> Waiting<()> {
        self.work(move |connection| {
            durably(connection, |connection| {
                let sql = "DELETE FROM secrets WHERE project = ?1 AND name = ?2";
                connection.execute(sql, params![project.to_string(), name])
            })
        })
    }

    /// All secrets of all projects.
    pub fn secret_list(&self) -> Waiting<Vec<SecretRow>> {
        self.work(|connection| {
            let sql = "SELECT project, name, value, hosts, created_at_ms, updated_at_ms
                FROM secrets ORDER BY project, name";
            all(connection, sql, read)
        })
    }
}

fn read(row: &Row<'_>) -> Result<SecretRow, StoreError> {
    Ok(SecretRow {
        project: parsed(row, 0, "project id")?,
        name: row.get(1)?,
        value: row.get(2)?,
        hosts: row.get(3)?,
        created_at_ms: unsigned(row.get(4)?),
        updated_at_ms: unsigned(row.get(5)?),
    })
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::ProjectRow;

    fn row(name: &str, value: &str) -> SecretRow {
        SecretRow {
            project: ProjectId::from_bits(1),
            name: name.to_owned(),
            value: value.to_owned(),
            hosts: "[]".to_owned(),
            created_at_ms: 1,
            updated_at_ms: 2,
        }
    }

    #[tokio::test]
    async fn secrets_are_remembered_as_they_were_set_last_and_go_with_their_project() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.db");
        let store = Store::open(&path).unwrap();
        let project = ProjectRow {
            id: ProjectId::from_bits(1),
            name: "one".to_owned(),
            quota: "{}".to_owned(),
            created_at_ms: 1,
        };
        store.project_insert(project.clone()).await.unwrap();
        for (name, value) in [("a", "first"), ("b", "other"), ("a", "second")] {
            store.secret_set(row(name, value)).await.unwrap();
        }
        let elsewhere = SecretRow { project: ProjectId::from_bits(2), ..row("a", "third") };
        store.secret_set(elsewhere.clone()).await.unwrap();
        drop(store);
        let store = Store::open(&path).unwrap();
        let all = [row("a", "second"), row("b", "other"), elsewhere.clone()];
        assert_eq!(store.secret_list().await.unwrap(), all);
        store.secret_delete(project.id, "b".to_owned()).await.unwrap();
        store.secret_delete(project.id, "b".to_owned()).await.unwrap();
        assert_eq!(store.secret_list().await.unwrap(), [row("a", "second"), elsewhere.clone()]);
        store.project_delete(project.id).await.unwrap();
        assert_eq!(store.secret_list().await.unwrap(), [elsewhere]);
    }

    #[test]
    fn rows_of_secrets_do_not_show_values() {
        assert!(!format!("{:?}", row("a", "hunter2")).contains("hunter2"));
    }
}
