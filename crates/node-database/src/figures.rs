//! What a server counts, asked for in one round trip.
//!
//! The node asks from [`crate::SERVICE`], where no owner gets in: its session is none of the database's, what
//! owners set for theirs does not hold for it, and nothing they made is found by its names. There the
//! server counts queries, too.

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::ask::{AskError, values_as_superuser};
use crate::text::shown_query;
use crate::{DATABASE, SUPERUSER};

/// LIMIT: queries that are told, those with the longest mean time; whoever wants more connects.
const QUERIES_MAX: usize = 10;
/// LIMIT: characters of a query that the server sends; they are bounded once more when it is shown.
const QUERY_CHARS_MAX: usize = 4000;
/// Forgets the queries that were counted.
const FORGET: &str = "SELECT public.pg_stat_statements_reset();\n";

/// What a server counts about its database.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Figures {
    /// Sessions that are open, without the superuser's.
    pub sessions: u64,
    /// Those of them that run a statement.
    pub sessions_active: u64,
    /// How many may be open at once.
    pub sessions_max: u64,
    /// Transactions committed since the server began to count.
    pub committed: u64,
    /// Transactions rolled back.
    pub rolled_back: u64,
    /// Blocks that were needed and in its cache.
    pub blocks_hit: u64,
    /// Blocks that were needed and not there.
    pub blocks_read: u64,
    /// What tables and indexes take, in bytes.
    pub size_bytes: u64,
    /// When the server was started, in milliseconds since the Unix epoch.
    pub started_at_ms: u64,
    /// The queries with the longest mean time, longest first; `None` where they are not counted.
    #[serde(skip)]
    pub queries: Option<Vec<QueryFigures>>,
}

/// What a server counts about one query.
#[derive(Clone, PartialEq, Deserialize)]
pub struct QueryFigures {
    /// Its text as it may be shown: bounded, and without values.
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

impl std::fmt::Debug for QueryFigures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueryFigures").field("calls", &self.calls).finish_non_exhaustive()
    }
}

/// Asks a server for its figures. The stream leads to [`crate::SOCKET`]. Only the queries may be missing:
/// a server that was made without what counts them has none.
pub async fn figures<S>(stream: S) -> Result<Figures, AskError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    of_values(&values_as_superuser(stream, &question()).await?)
}

/// Has a server begin anew to count queries, where it does. The stream leads to [`crate::SOCKET`].
pub async fn forget_queries<S>(stream: S) -> Result<(), AskError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match values_as_superuser(stream, FORGET).await {
        // It has nothing to forget.
        Ok(_) | Err(AskError::Refused { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Two statements, each with one JSON value. The second fails where queries are not counted.
fn question() -> String {
    format!(
        "SELECT json_build_object(\
           'sessions', sessions.all, 'sessions_active', sessions.active, \
           'sessions_max', current_setting('max_connections')::int \
             - current_setting('superuser_reserved_connections')::int \
             - current_setting('reserved_connections')::int, \
           'committed', counted.xact_commit, 'rolled_back', counted.xact_rollback, \
           'blocks_hit', counted.blks_hit, 'blocks_read', counted.blks_read, \
           'size_bytes', pg_database_size(counted.datid), \
           'started_at_ms', floor(extract(epoch FROM pg_postmaster_start_time()) * 1000)::bigint) \
         FROM pg_stat_database counted, \
           (SELECT count(*) AS all, count(*) FILTER (WHERE state = 'active') AS active \
            FROM pg_stat_activity WHERE datname = '{DATABASE}' \
              AND backend_type = 'client backend' \
              AND usename IS DISTINCT FROM '{SUPERUSER}') sessions \
         WHERE counted.datname = '{DATABASE}';\n\
         SELECT coalesce(json_agg(slowest), '[]') FROM \
           (SELECT left(min(query), {QUERY_CHARS_MAX}) AS query, sum(calls) AS calls, \
              sum(total_exec_time) / sum(calls) AS mean_ms, \
              sum(total_exec_time) AS total_ms, sum(rows) AS rows \
            FROM public.pg_stat_statements \
            WHERE dbid = (SELECT oid FROM pg_database WHERE datname = '{DATABASE}') \
              AND userid <> '{SUPERUSER}'::regrole \
            GROUP BY queryid ORDER BY mean_ms DESC LIMIT {QUERIES_MAX}) slowest;\n"
    )
}

fn of_values(values: &[Option<String>]) -> Result<Figures, AskError> {
    let text = |at: usize| values.get(at).and_then(Option::as_deref);
    let figures: Figures = serde_json::from_str(text(0).unwrap_or("null"))?;
    let queries = text(1).map(serde_json::from_str::<Vec<QueryFigures>>).transpose()?;
    let queries = queries.map(|queries| {
        let all = queries.into_iter().take(QUERIES_MAX);
        all.map(|one| QueryFigures { query: shown_query(&one.query), ..one }).collect()
    });
    Ok(Figures { queries, ..figures })
}

#[cfg(test)]
mod test {
    use super::*;

    const COUNTED: &str = r#"{"sessions" : 3, "sessions_active" : 1, "sessions_max" : 95,
        "committed" : 120, "rolled_back" : 2, "blocks_hit" : 900, "blocks_read" : 100,
        "size_bytes" : 8000000, "started_at_ms" : 1750000000000}"#;

    fn read(values: &[&str]) -> Result<Figures, AskError> {
        let values: Vec<_> = values.iter().map(|&value| Some(value.to_owned())).collect();
        of_values(&values)
    }

    #[test]
    fn figures_are_read_with_queries_and_without() {
        let plain = read(&[COUNTED]).unwrap();
        assert_eq!((plain.sessions_max, plain.size_bytes), (95, 8_000_000));
        assert_eq!(plain.queries, None);
        let query = r#"[{"query":"SELECT pg_sleep($1), 'Secret#42'","calls":2,
            "mean_ms":300.5,"total_ms":601,"rows":2}]"#;
        let queries = read(&[COUNTED, query]).unwrap().queries.unwrap();
        assert_eq!(queries[0].query, "SELECT pg_sleep($1), '…'");
        assert_eq!((queries[0].calls, queries[0].mean_ms), (2, 300.5));
        assert_eq!(read(&[COUNTED, "[]"]).unwrap().queries, Some(vec![]));
    }

    #[test]
    fn what_is_no_answer_to_that_is_an_error() {
        for values in [&["null"][..], &["{}"], &["7"], &[COUNTED, "{}"], &[]] {
            assert!(matches!(read(values), Err(AskError::Unreadable(_))), "{values:?}");
        }
        assert!(matches!(of_values(&[None]), Err(AskError::Unreadable(_))));
    }

    #[test]
    fn no_more_queries_are_told_than_may_be() {
        let one = r#"{"query":"SELECT $1","calls":1,"mean_ms":1,"total_ms":1,"rows":1}"#;
        let many = format!("[{}]", [one; 2 * QUERIES_MAX].join(","));
        assert_eq!(read(&[COUNTED, &many]).unwrap().queries.unwrap().len(), QUERIES_MAX);
    }
}
