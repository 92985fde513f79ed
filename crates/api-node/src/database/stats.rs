//! How a database is, and what its server counts.

use serde::{Deserialize, Serialize};

use crate::DatabaseStatus;

/// How a database is now. Without figures where no server answered: all fields after `reason` are absent
/// then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct DatabaseStats {
    /// Where it is in its life. One that is paused is not resumed to be asked.
    pub status: DatabaseStatus,
    /// Why it failed, or why one that runs has no figures, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long its server took to let a new session in and to answer it, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_us: Option<u64>,
    /// How long its server runs, in milliseconds and with its pauses: since it was made, or since its
    /// machine was booted again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_ms: Option<u64>,
    /// Its sessions, without those of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<DatabaseConnections>,
    /// Its transactions. A fork's counts go on from those of its source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transactions: Option<DatabaseTransactions>,
    /// What its tables and indexes take, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// How its reads were served. A fork's counts go on from those of its source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<DatabaseCache>,
    /// Up to 10 queries, those with the longest mean time first; absent where its server, made by an
    /// older build, does not count them. A fork begins without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_queries: Option<Vec<SlowQuery>>,
}

impl DatabaseStats {
    /// Of one whose server said nothing.
    pub const fn without_figures(status: DatabaseStatus, reason: Option<String>) -> Self {
        Self {
            status,
            reason,
            answered_us: None,
            uptime_ms: None,
            connections: None,
            transactions: None,
            size_bytes: None,
            cache: None,
            slow_queries: None,
        }
    }
}

/// Sessions of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct DatabaseConnections {
    /// That are open; those of the pool count once, however many clients share them.
    pub open: u64,
    /// That run a statement.
    pub active: u64,
    /// That may be open at once.
    pub max: u64,
}

/// Transactions of a database since its server began to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct DatabaseTransactions {
    /// That were committed.
    pub committed: u64,
    /// That were rolled back.
    pub rolled_back: u64,
}

/// Blocks of 8 KiB that a database needed since its server began to count.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct DatabaseCache {
    /// That were in the server's cache.
    pub hit: u64,
    /// That were not.
    pub read: u64,
    /// The share of those that were, 0 to 1; null when none was needed.
    #[serde(default)]
    pub ratio: Option<f64>,
}

impl DatabaseCache {
    /// Of these counts.
    pub fn of(hit: u64, read: u64) -> Self {
        let all = hit.saturating_add(read);
        // Exact as long as a database needed fewer than 2^53 blocks.
        let ratio = (all > 0).then(|| hit as f64 / all as f64);
        Self { hit, read, ratio }
    }
}

/// A query, with all of its runs taken together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct SlowQuery {
    /// Its text, up to 1000 bytes of it, with `$1` and the like in place of values, and without
    /// comments.
    pub query: String,
    /// How often it ran.
    pub calls: u64,
    /// How long a run took on average, in milliseconds.
    pub mean_ms: f64,
    /// How long all of them took, in milliseconds.
    pub total_ms: f64,
    /// Rows that all of them gave or changed.
    pub rows: u64,
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn there_is_no_ratio_of_nothing() {
        assert_eq!(DatabaseCache::of(0, 0).ratio, None);
        assert_eq!(DatabaseCache::of(3, 1).ratio, Some(0.75));
        assert_eq!(DatabaseCache::of(0, 7).ratio, Some(0.0));
        let most = DatabaseCache::of(u64::MAX, u64::MAX).ratio.unwrap();
        assert!((0.0..=1.0).contains(&most), "{most}");
        let none = serde_json::to_value(DatabaseCache::of(0, 0)).unwrap();
        assert_eq!(none, serde_json::json!({ "hit": 0, "read": 0, "ratio": null }));
    }

    #[test]
    fn one_without_figures_says_how_it_is_and_nothing_else() {
        let paused = DatabaseStats::without_figures(DatabaseStatus::Paused, None);
        let text = serde_json::to_string(&paused).unwrap();
        assert_eq!(text, r#"{"status":"paused"}"#);
        assert_eq!(serde_json::from_str::<DatabaseStats>(&text).unwrap(), paused);
    }
}
