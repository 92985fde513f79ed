//! What a database's server counts, for people.

use std::time::Duration;

use anyhow::Result;
use api_node::{DatabaseStats, SlowQuery};
use client::Client;

use crate::args::DbChoice;
use crate::duration::shown;
use crate::table::{bytes, columns, on_one_line, print, print_json};

/// `sandflare db stats`
pub(super) async fn stats(client: &Client, args: &DbChoice) -> Result<()> {
    let stats = client.database_stats(&args.name).await?;
    if args.format.is_json() { print_json(&stats) } else { print(&tables(&stats)) }
}

/// The figures, and below them the queries.
fn tables(stats: &DatabaseStats) -> String {
    let mut text = figures(stats);
    if let Some(queries) = stats.slow_queries.as_deref().filter(|queries| !queries.is_empty()) {
        text.push('\n');
        text.push_str(&query_table(queries));
    }
    text
}

fn figures(stats: &DatabaseStats) -> String {
    let mut rows = vec![["status", stats.status.as_str()].map(str::to_owned)];
    let mut add = |what: &str, value: Option<String>| {
        rows.extend(value.map(|value| [what.to_owned(), value]));
    };
    add("reason", stats.reason.as_deref().map(on_one_line));
    add("answered in", stats.answered_us.map(|us| milliseconds(us as f64 / 1000.0)));
    add("runs for", stats.uptime_ms.map(|ms| shown(Duration::from_millis(ms))));
    let sessions = stats.connections.map(|sessions| {
        format!("{} open, {} active, at most {}", sessions.open, sessions.active, sessions.max)
    });
    add("connections", sessions);
    let transactions = stats.transactions.map(|counts| {
        format!("{} committed, {} rolled back", counts.committed, counts.rolled_back)
    });
    add("transactions", transactions);
    add("size", stats.size_bytes.map(bytes));
    let cache = stats.cache.map(|cache| {
        let blocks = cache.hit.saturating_add(cache.read);
        match cache.ratio {
            Some(ratio) => format!("{:.1} % of {blocks} blocks", ratio * 100.0),
            None => "nothing was read".to_owned(),
        }
    });
    add("from cache", cache);
    columns(["WHAT", "VALUE"], &rows)
}

fn query_table(queries: &[SlowQuery]) -> String {
    let rows: Vec<_> = queries
        .iter()
        .map(|query| {
            [
                milliseconds(query.mean_ms),
                query.calls.to_string(),
                milliseconds(query.total_ms),
                query.rows.to_string(),
                on_one_line(&query.query),
            ]
        })
        .collect();
    columns(["MEAN", "CALLS", "TOTAL", "ROWS", "SLOW QUERY"], &rows)
}

/// As other times, but most of these are short.
fn milliseconds(ms: f64) -> String {
    if ms < 10.0 {
        return format!("{ms:.2} ms");
    }
    shown(Duration::try_from_secs_f64(ms / 1000.0).unwrap_or(Duration::MAX))
}

#[cfg(test)]
mod test {
    use api_node::{DatabaseCache, DatabaseConnections, DatabaseStatus, DatabaseTransactions};
    use expect_test::expect;

    use super::*;

    #[test]
    fn figures_and_slow_queries_are_two_tables() {
        let query = |query: &str, mean_ms| SlowQuery {
            query: query.to_owned(),
            calls: 3,
            mean_ms,
            total_ms: mean_ms * 3.0,
            rows: 7,
        };
        let stats = DatabaseStats {
            answered_us: Some(1_234),
            uptime_ms: Some(65_000),
            connections: Some(DatabaseConnections { open: 2, active: 1, max: 95 }),
            transactions: Some(DatabaseTransactions { committed: 120, rolled_back: 3 }),
            size_bytes: Some(8 << 20),
            cache: Some(DatabaseCache::of(990, 10)),
            slow_queries: Some(vec![
                query("SELECT pg_sleep($1)", 2_000.0),
                query("SELECT \u{1b}[2J", 0.25),
            ]),
            ..DatabaseStats::without_figures(DatabaseStatus::Running, None)
        };
        expect![[r#"
            WHAT          VALUE
            status        running
            answered in   1.23 ms
            runs for      1 min 5 s
            connections   2 open, 1 active, at most 95
            transactions  120 committed, 3 rolled back
            size          8.0 MiB
            from cache    99.0 % of 1000 blocks

            MEAN     CALLS  TOTAL    ROWS  SLOW QUERY
            2.0 s    3      6.0 s    7     SELECT pg_sleep($1)
            0.25 ms  3      0.75 ms  7     SELECT \u{1b}[2J
        "#]]
        .assert_eq(&tables(&stats));
    }

    #[test]
    fn one_without_figures_says_why() {
        let reason = Some("the database did not answer\nwithin 15 s".to_owned());
        let silent = DatabaseStats::without_figures(DatabaseStatus::Running, reason);
        expect![[r#"
            WHAT    VALUE
            status  running
            reason  the database did not answer\nwithin 15 s
        "#]]
        .assert_eq(&tables(&silent));
        let unused = DatabaseStats { cache: Some(DatabaseCache::of(0, 0)), ..silent };
        assert!(tables(&unused).contains("nothing was read"));
    }
}
