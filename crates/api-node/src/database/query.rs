//! SQL that the node runs for its caller.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::sql;
use crate::check::{Check, Refused, refuse};

/// LIMIT: rows of one answer; whoever wants more has a connection for it.
pub const QUERY_ROWS_MAX: u32 = 10_000;
/// Rows of one answer when nothing is said.
const QUERY_ROWS_DEFAULT: u32 = 1000;
/// LIMIT: the longest SQL may be asked to run this way, ten minutes.
pub const QUERY_TIMEOUT_MS_MAX: u32 = 10 * 60 * 1000;
/// How long SQL may run when nothing is said, in milliseconds.
pub const QUERY_TIMEOUT_MS_DEFAULT: u32 = 30_000;

/// SQL to run as the database's owner.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct QueryDatabase {
    /// One statement or several, at most 1 MiB. Several are one transaction, unless they say
    /// otherwise.
    pub sql: String,
    /// At most this many rows, 1 to 10000. Default: 1000.
    #[serde(default = "default_rows_max")]
    pub rows_max: u32,
    /// How long it may take, 1 to 600000 milliseconds. Default: 30000.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u32,
}

const fn default_rows_max() -> u32 {
    QUERY_ROWS_DEFAULT
}

const fn default_timeout_ms() -> u32 {
    QUERY_TIMEOUT_MS_DEFAULT
}

impl QueryDatabase {
    /// This SQL, and all else as by default.
    pub fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), rows_max: default_rows_max(), timeout_ms: default_timeout_ms() }
    }
}

impl fmt::Debug for QueryDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryDatabase")
            .field("rows_max", &self.rows_max)
            .field("timeout_ms", &self.timeout_ms)
            .finish_non_exhaustive()
    }
}

impl Check for QueryDatabase {
    fn check(&self) -> Result<(), Refused> {
        sql("sql", &self.sql)?;
        if !(1..=QUERY_ROWS_MAX).contains(&self.rows_max) {
            return refuse(format!("`rows_max` must be 1 to {QUERY_ROWS_MAX}"));
        }
        if !(1..=QUERY_TIMEOUT_MS_MAX).contains(&self.timeout_ms) {
            return refuse(format!("`timeout_ms` must be 1 to {QUERY_TIMEOUT_MS_MAX}"));
        }
        Ok(())
    }
}

/// What the last statement gave.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct QueryAnswer {
    /// Its columns; none when it gives no rows.
    pub columns: Vec<Column>,
    /// Its rows: each value as Postgres writes it, or null.
    pub rows: Vec<Vec<Option<String>>>,
    /// Whether there are more rows than these.
    #[serde(default)]
    pub truncated: bool,
    /// How many rows it gave or changed, where all of them came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_affected: Option<u64>,
}

impl fmt::Debug for QueryAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryAnswer")
            .field("columns", &self.columns)
            .field("rows", &self.rows.len())
            .field("truncated", &self.truncated)
            .field("rows_affected", &self.rows_affected)
            .finish()
    }
}

/// A column of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Column {
    /// Its name; several may have the same.
    pub name: String,
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn queries_have_bounds_and_are_not_shown() {
        let query: QueryDatabase = serde_json::from_str(r#"{"sql":"select 'secret'"}"#).unwrap();
        query.check().unwrap();
        assert_eq!(query, QueryDatabase::new("select 'secret'"));
        assert!(!format!("{query:?}").contains("secret"));
        for (rows_max, timeout_ms) in [(0, 1), (QUERY_ROWS_MAX + 1, 1), (1, 0), (1, 600_001)] {
            let query = QueryDatabase { rows_max, timeout_ms, ..query.clone() };
            assert!(query.check().is_err(), "{query:?}");
        }
        assert!(QueryDatabase::new("select '\0'").check().is_err());
    }
}
