//! Who may reach the ports of sandboxes.
//!
//! Flushed to the disk before it is answered: a port that was made private must not be public again
//! after a power cut. What is remembered goes with its sandbox.

use std::collections::BTreeSet;

use base_types::SandboxId;
use rusqlite::params;

use crate::access::durably;
use crate::{Store, StoreError};

/// Who may reach the ports of a sandbox, as it is remembered.
#[derive(Clone, PartialEq, Eq)]
pub struct PortsRow {
    /// The sandbox.
    pub id: SandboxId,
    /// Its token, which lets whoever has it to every port.
    pub token: [u8; 16],
    /// Ports that anybody may reach.
    pub public: BTreeSet<u16>,
}

impl std::fmt::Debug for PortsRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { id, token: _, public } = self;
        f.debug_struct("PortsRow").field("id", id).field("public", public).finish_non_exhaustive()
    }
}

impl Store {
    /// Remembers who may reach the ports of a sandbox, in place of what was, and says whether it did:
    /// of a sandbox that is not there nothing is kept.
    pub fn ports_set(
        &self,
        row: PortsRow,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send + use<> {
        self.work(move |connection| {
            let public = serde_json::to_string(&row.public).map_err(StoreError::Unwritable)?;
            let mut kept = 0;
            durably(connection, |connection| {
                let sql = "INSERT OR REPLACE INTO ports (sandbox, token, public)
                    SELECT id, ?2, ?3 FROM sandboxes WHERE id = ?1";
                kept = connection.execute(sql, params![row.id.to_string(), row.token, public])?;
                Ok(kept)
            })?;
            Ok(kept > 0)
        })
    }

    /// What is remembered of the ports of all sandboxes.
    pub fn ports_list(
        &self,
    ) -> impl Future<Output = Result<Vec<PortsRow>, StoreError>> + Send + use<> {
        self.work(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT sandbox, token, public FROM ports")?;
            let mut rows = statement.query([])?;
            let mut all = Vec::new();
            while let Some(row) = rows.next()? {
                let (id, public): (String, String) = (row.get(0)?, row.get(2)?);
                let unreadable =
                    |what, value: &str| StoreError::Unreadable { what, value: value.to_owned() };
                all.push(PortsRow {
                    id: id.parse().map_err(|_| unreadable("sandbox id", &id))?,
                    token: row.get(1)?,
                    public: serde_json::from_str(&public)
                        .map_err(|_| unreadable("public ports", &public))?,
                });
            }
            Ok(all)
        })
    }
}
