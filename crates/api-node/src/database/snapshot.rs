//! Moments of a database that are kept under a name.

use base_types::{DatabaseId, SnapshotId};
use serde::{Deserialize, Serialize};

use super::database_name;
use crate::check::{Check, Refused, refuse};

/// A snapshot to take of a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateDatabaseSnapshot {
    /// What the moment is called: 1 to 63 of `a-z A-Z 0-9 . _ -`, a letter or digit first. No other
    /// snapshot of the database has the same name, whatever the case of its letters.
    pub name: String,
}

impl Check for CreateDatabaseSnapshot {
    fn check(&self) -> Result<(), Refused> {
        database_name(&self.name)?;
        match self.name.parse::<SnapshotId>() {
            Ok(_) => refuse("`name` must not look like the id of a snapshot"),
            Err(_) => Ok(()),
        }
    }
}

/// A moment to go back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RestoreDatabase {
    /// The snapshot of the database, by name or id.
    pub snapshot: String,
}

impl Check for RestoreDatabase {
    fn check(&self) -> Result<(), Refused> {
        snapshot_choice(&self.snapshot)
    }
}

/// One moment of a database, kept to go back to or to make others from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct DatabaseSnapshot {
    /// Its id, for ever.
    #[cfg_attr(feature = "server", schema(value_type = String, example = "snap_0123456789abcdef"))]
    pub id: SnapshotId,
    /// The name given to it.
    pub name: String,
    /// The database it is of. It goes when that is deleted.
    #[cfg_attr(feature = "server", schema(value_type = String))]
    pub database: DatabaseId,
    /// When it was taken, in milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// Disk its files take, in bytes; the database shares what did not change since.
    pub bytes: u64,
}

/// The snapshots of a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct DatabaseSnapshotList {
    /// Oldest first; as many as the project's quota of snapshots allows.
    pub snapshots: Vec<DatabaseSnapshot>,
}

/// The name or the id of a snapshot, which may be none that there is.
pub(super) fn snapshot_choice(which: &str) -> Result<(), Refused> {
    if (1..=crate::NAME_BYTES_MAX).contains(&which.len()) {
        Ok(())
    } else {
        refuse("`snapshot` must be the name or the id of a snapshot, 1 to 63 bytes")
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_name_is_one_of_a_path_and_no_id() {
        let check = |name: &str| CreateDatabaseSnapshot { name: name.to_owned() }.check();
        for good in ["before", "v1.2_b-3", "2026-11-30"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "a/b", "-x", "snap_0123456789abcdef", &"x".repeat(64)] {
            assert!(check(bad).is_err(), "{bad}");
        }
        let restore = |snapshot: &str| RestoreDatabase { snapshot: snapshot.to_owned() }.check();
        assert!(restore("snap_0123456789abcdef").is_ok());
        assert!(restore("").is_err() && restore(&"x".repeat(64)).is_err());
    }
}
