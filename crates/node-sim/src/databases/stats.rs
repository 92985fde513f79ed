//! Figures of a database that has no server: always the same.

use api_node::{
    DatabaseCache, DatabaseConnections, DatabaseStats, DatabaseStatus, DatabaseTransactions,
    SlowQuery,
};

/// Of one that runs; without figures of any other.
pub(super) fn stats(status: DatabaseStatus, reason: Option<String>) -> DatabaseStats {
    if status != DatabaseStatus::Running {
        return DatabaseStats::without_figures(status, reason);
    }
    DatabaseStats {
        status,
        reason,
        answered_us: Some(1_500),
        uptime_ms: Some(3_600_000),
        connections: Some(DatabaseConnections { open: 2, active: 1, max: 95 }),
        transactions: Some(DatabaseTransactions { committed: 120, rolled_back: 3 }),
        size_bytes: Some(8 << 20),
        cache: Some(DatabaseCache::of(990, 10)),
        slow_queries: Some(vec![SlowQuery {
            query: "SELECT pg_sleep($1)".to_owned(),
            calls: 4,
            mean_ms: 250.25,
            total_ms: 1001.0,
            rows: 4,
        }]),
    }
}
