//! Projects, keys, and answers to creates that must not happen twice.
//!
//! Projects and keys are flushed to the disk before that is answered: a key that was revoked must not
//! be good again after a power cut. Answers are not: what they speak of is lost in one as well, or is
//! known by the create that made it.

use base_types::{KeyId, ProjectId};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::{Store, StoreError};

/// A project, as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectRow {
    /// Its id.
    pub id: ProjectId,
    /// Its name; no two have the same.
    pub name: String,
    /// What it may use, as its owner wrote it.
    pub quota: String,
    /// When it was made, milliseconds since 1970 UTC.
    pub created_at_ms: u64,
}

/// A key, as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// Its id.
    pub id: KeyId,
    /// The project it is for.
    pub project: ProjectId,
    /// Its name.
    pub name: String,
    /// Whether it is an administrator's.
    pub admin: bool,
    /// Hash of the key itself.
    pub hash: [u8; 32],
    /// When it was made, milliseconds since 1970 UTC.
    pub created_at_ms: u64,
    /// When it stops working, milliseconds since 1970 UTC.
    pub expires_at_ms: Option<u64>,
    /// When it was last used, milliseconds since 1970 UTC.
    pub last_used_at_ms: Option<u64>,
}

/// The answer to a create, as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerRow {
    /// Whose create it was.
    pub project: ProjectId,
    /// The key its caller gave it.
    pub key: String,
    /// Hash of what was asked for.
    pub fingerprint: [u8; 32],
    /// HTTP status of the answer.
    pub status: u16,
    /// Its body.
    pub body: Vec<u8>,
    /// When it was given, milliseconds since 1970 UTC.
    pub created_at_ms: u64,
}

type Waiting<T> = std::pin::Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

impl Store {
    /// Remembers a new project.
    pub fn project_insert(&self, row: ProjectRow) -> Waiting<()> {
        self.work(move |connection| {
            durably(connection, |connection| {
                let sql =
                    "INSERT INTO projects (id, name, quota, created_at_ms) VALUES (?, ?, ?, ?)";
                let created = whole(row.created_at_ms);
                connection.execute(sql, params![row.id.to_string(), row.name, row.quota, created])
            })
        })
    }

    /// Remembers what a project may use from now on. One that is not there is no error.
    pub fn project_quota(&self, id: ProjectId, quota: String) -> Waiting<()> {
        self.work(move |connection| {
            durably(connection, |connection| {
                let sql = "UPDATE projects SET quota = ?2 WHERE id = ?1";
                connection.execute(sql, params![id.to_string(), quota])
            })
        })
    }

    /// Forgets a project, its keys and its answers.
    pub fn project_delete(&self, id: ProjectId) -> Waiting<()> {
        self.work(move |connection| {
            durably(connection, |connection| {
                let id = id.to_string();
                connection.execute("DELETE FROM keys WHERE project = ?", [&id])?;
                connection.execute("DELETE FROM answers WHERE project = ?", [&id])?;
                connection.execute("DELETE FROM projects WHERE id = ?", [&id])
            })
        })
    }

    /// All projects, oldest first.
    pub fn project_list(&self) -> Waiting<Vec<ProjectRow>> {
        self.work(|connection| {
            let sql =
                "SELECT id, name, quota, created_at_ms FROM projects ORDER BY created_at_ms, id";
            all(connection, sql, |row| {
                Ok(ProjectRow {
                    id: parsed(row, 0, "project id")?,
                    name: row.get(1)?,
                    quota: row.get(2)?,
                    created_at_ms: unsigned(row.get(3)?),
                })
            })
        })
    }

    /// Remembers a new key.
    pub fn key_insert(&self, row: KeyRow) -> Waiting<()> {
        self.work(move |connection| {
            durably(connection, |connection| {
                let sql = "INSERT INTO keys (id, project, name, admin, hash, created_at_ms,
                    expires_at_ms, last_used_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
                connection.execute(
                    sql,
                    params![
                        row.id.to_string(),
                        row.project.to_string(),
                        row.name,
                        row.admin,
                        row.hash,
                        whole(row.created_at_ms),
                        row.expires_at_ms.map(whole),
                        row.last_used_at_ms.map(whole),
                    ],
                )
            })
        })
    }

    /// Forgets a key. One that is not there is no error.
    pub fn key_delete(&self, id: KeyId) -> Waiting<()> {
        self.work(move |connection| {
            durably(connection, |connection| {
                connection.execute("DELETE FROM keys WHERE id = ?", [id.to_string()])
            })
        })
    }

    /// Remembers when a key was last used. A power cut may lose that.
    pub fn key_used(&self, id: KeyId, at_ms: u64) -> Waiting<()> {
        self.work(move |connection| {
            let sql = "UPDATE keys SET last_used_at_ms = ?2 WHERE id = ?1";
            connection.execute(sql, params![id.to_string(), whole(at_ms)])?;
            Ok(())
        })
    }

    /// All keys, oldest first.
    pub fn key_list(&self) -> Waiting<Vec<KeyRow>> {
        self.work(|connection| {
            let sql = "SELECT id, project, name, admin, hash, created_at_ms, expires_at_ms,
                last_used_at_ms FROM keys ORDER BY created_at_ms, id";
            all(connection, sql, |row| {
                let time = |at: usize| row.get::<_, Option<i64>>(at).map(|time| time.map(unsigned));
                Ok(KeyRow {
                    id: parsed(row, 0, "key id")?,
                    project: parsed(row, 1, "project id")?,
                    name: row.get(2)?,
                    admin: row.get(3)?,
                    hash: row.get(4)?,
                    created_at_ms: unsigned(row.get(5)?),
                    expires_at_ms: time(6)?,
                    last_used_at_ms: time(7)?,
                })
            })
        })
    }

    /// Remembers an answer in place of an older one of the same key, and forgets what is older than
    /// `since_ms` or than the newest `count`, 1 or more, of its project. A power cut may lose it.
    pub fn answer_insert(&self, row: AnswerRow, since_ms: u64, count: u32) -> Waiting<()> {
        self.work(move |connection| {
            in_whole(connection, |connection| {
                let project = row.project.to_string();
                let sql = "INSERT OR REPLACE INTO answers (project, key, fingerprint, status, body,
                    created_at_ms) VALUES (?, ?, ?, ?, ?, ?)";
                let created = whole(row.created_at_ms);
                let values =
                    params![project, row.key, row.fingerprint, row.status, row.body, created];
                connection.prepare_cached(sql)?.execute(values)?;
                let sql = "DELETE FROM answers WHERE created_at_ms < ?";
                connection.prepare_cached(sql)?.execute([whole(since_ms)])?;
                // None is older than one that is not there.
                let sql = "DELETE FROM answers WHERE project = ?1 AND created_at_ms < (SELECT
                    created_at_ms FROM answers WHERE project = ?1 ORDER BY created_at_ms DESC
                    LIMIT 1 OFFSET ?2 - 1)";
                connection.prepare_cached(sql)?.execute(params![project, count])
            })
        })
    }

    /// The answer to the create with this key, if it is of `since_ms` or later.
    pub fn answer_get(
        &self,
        project: ProjectId,
        key: String,
        since_ms: u64,
    ) -> Waiting<Option<AnswerRow>> {
        self.work(move |connection| {
            let sql = "SELECT fingerprint, status, body, created_at_ms FROM answers
                WHERE project = ? AND key = ? AND created_at_ms >= ?";
            let mut statement = connection.prepare_cached(sql)?;
            let found = statement
                .query_row(params![project.to_string(), key, whole(since_ms)], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                });
            Ok(found.optional()?.map(|(fingerprint, status, body, created)| AnswerRow {
                project,
                key,
                fingerprint,
                status,
                body,
                created_at_ms: unsigned(created),
            }))
        })
    }
}

/// Carries out one change whole, and returns when it is on the disk, with all before it.
pub(crate) fn durably(
    connection: &Connection,
    change: impl FnOnce(&Connection) -> rusqlite::Result<usize>,
) -> Result<(), StoreError> {
    connection.pragma_update(None, "synchronous", "FULL")?;
    let changed = in_whole(connection, change);
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    changed
}

/// Carries out one change whole; a power cut may lose it, the daemon's death may not.
fn in_whole(
    connection: &Connection,
    change: impl FnOnce(&Connection) -> rusqlite::Result<usize>,
) -> Result<(), StoreError> {
    let transaction = connection.unchecked_transaction()?;
    change(&transaction)?;
    Ok(transaction.commit()?)
}

pub(crate) fn all<T>(
    connection: &Connection,
    sql: &str,
    read: impl Fn(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push(read(row)?);
    }
    Ok(all)
}

pub(crate) fn parsed<T: std::str::FromStr>(
    row: &Row<'_>,
    at: usize,
    what: &'static str,
) -> Result<T, StoreError> {
    let text: String = row.get(at)?;
    text.parse().map_err(|_| StoreError::Unreadable { what, value: text })
}

/// Milliseconds fit for another 290 million years.
pub(crate) fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

#[cfg(test)]
mod test {
    use super::*;

    fn key(bits: u64) -> KeyRow {
        KeyRow {
            id: KeyId::from_bits(bits),
            project: ProjectId::from_bits(bits),
            name: format!("key {bits}"),
            admin: bits == 1,
            hash: [u8::try_from(bits).unwrap(); 32],
            created_at_ms: bits,
            expires_at_ms: (bits == 2).then_some(99),
            last_used_at_ms: None,
        }
    }

    fn project(bits: u64) -> ProjectRow {
        ProjectRow {
            id: ProjectId::from_bits(bits),
            name: format!("project {bits}"),
            quota: "{}".into(),
            created_at_ms: bits,
        }
    }

    fn answer(project: u64, key: &str, created_at_ms: u64) -> AnswerRow {
        AnswerRow {
            project: ProjectId::from_bits(project),
            key: key.into(),
            fingerprint: [7; 32],
            status: 201,
            body: b"{}".to_vec(),
            created_at_ms,
        }
    }

    #[tokio::test]
    async fn projects_and_keys_survive_the_store_and_go_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.db");
        let store = Store::open(&path).unwrap();
        for bits in [1, 2] {
            store.project_insert(project(bits)).await.unwrap();
            store.key_insert(key(bits)).await.unwrap();
        }
        store.key_used(KeyId::from_bits(2), 55).await.unwrap();
        for bits in [2, 9] {
            let larger = "{\"sandboxes\":30}".to_owned();
            store.project_quota(ProjectId::from_bits(bits), larger).await.unwrap();
        }
        store.project_delete(ProjectId::from_bits(1)).await.unwrap();
        store.key_delete(KeyId::from_bits(1)).await.unwrap();
        drop(store);
        let store = Store::open(&path).unwrap();
        let larger = ProjectRow { quota: "{\"sandboxes\":30}".into(), ..project(2) };
        assert_eq!(store.project_list().await.unwrap(), [larger]);
        let used = KeyRow { last_used_at_ms: Some(55), ..key(2) };
        assert_eq!(store.key_list().await.unwrap(), [used]);
    }

    #[tokio::test]
    async fn a_name_belongs_to_one_project_and_a_hash_to_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("node.db")).unwrap();
        store.project_insert(project(1)).await.unwrap();
        let same_name = ProjectRow { id: ProjectId::from_bits(9), ..project(1) };
        assert!(store.project_insert(same_name).await.is_err());
        store.key_insert(key(1)).await.unwrap();
        let same_hash = KeyRow { id: KeyId::from_bits(9), ..key(1) };
        assert!(store.key_insert(same_hash).await.is_err());
    }

    #[tokio::test]
    async fn only_the_newest_answers_of_a_project_are_kept_and_none_that_is_too_old() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("node.db")).unwrap();
        let get = |project, name: &str, since| {
            store.answer_get(ProjectId::from_bits(project), name.to_owned(), since)
        };
        for (project, name, at) in [(1, "a", 10), (1, "b", 11), (2, "a", 12), (1, "c", 13)] {
            store.answer_insert(answer(project, name, at), 0, 2).await.unwrap();
        }
        assert_eq!(get(1, "a", 0).await.unwrap(), None);
        assert_eq!(get(1, "b", 0).await.unwrap(), Some(answer(1, "b", 11)));
        assert_eq!(get(2, "a", 0).await.unwrap(), Some(answer(2, "a", 12)));
        assert_eq!(get(2, "a", 13).await.unwrap(), None);
        store.answer_insert(answer(2, "z", 20), 13, 2).await.unwrap();
        assert_eq!(get(1, "b", 0).await.unwrap(), None);
        assert_eq!(get(1, "c", 0).await.unwrap(), Some(answer(1, "c", 13)));
    }
}
