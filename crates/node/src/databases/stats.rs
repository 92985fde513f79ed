//! How a database is, without waking it: asking is no use of it.

use std::time::{Duration, Instant};

use api_node::{
    DatabaseCache, DatabaseConnections, DatabaseStats, DatabaseStatus, DatabaseTransactions,
    Failure, SlowQuery,
};
use base_types::{Chain, DatabaseId};
use node_database::{Figures, SOCKET, forget_queries};
use node_host::{Phase, SandboxHandle};
use node_store::DatabaseRow;
use tokio::time::timeout;

use super::serve::silent;
use super::{Databases, admin};
use crate::system;

/// LIMIT: a server that is well answers in milliseconds, and within seconds on a machine that is busy; a clone that is asked
/// for the first time on emulated processors that two hosts share took more than fifteen. Who asks is told sooner or
/// later that this one does not.
const ANSWERED_WITHIN: Duration = Duration::from_secs(45);

/// LIMIT: how long a fork's server may take to forget the queries of its source; nobody waits for it.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(180);

impl Databases {
    /// How a database is, and what its server counts where it runs.
    pub(super) async fn stats(&self, id: DatabaseId) -> Result<DatabaseStats, Failure> {
        let row = self.entry(id)?.row;
        let (status, reason) = self.status(&row);
        let machine = self.0.host.sandbox(row.sandbox);
        let Some(machine) = machine.filter(|_| status == DatabaseStatus::Running) else {
            return Ok(DatabaseStats::without_figures(status, reason));
        };
        let began = Instant::now();
        let looked = timeout(ANSWERED_WITHIN, look(&machine)).await;
        let why = match looked {
            Ok(Ok(figures)) => return Ok(shown(&row, figures, began.elapsed(), system::now_ms())),
            Ok(Err(why)) => why,
            Err(_) => silent(ANSWERED_WITHIN).message,
        };
        // It may have been paused, have ended or be gone by now.
        let (status, reason) = self.status(&self.entry(id)?.row);
        let reason = match status {
            DatabaseStatus::Running => Some(why),
            _ => reason,
        };
        Ok(DatabaseStats::without_figures(status, reason))
    }

    /// How many databases are in each status.
    pub(crate) fn by_status(&self) -> Vec<(&'static str, u64)> {
        let rows: Vec<DatabaseRow> =
            self.lock().databases.values().map(|entry| entry.row.clone()).collect();
        let all: Vec<DatabaseStatus> = rows.iter().map(|row| self.status(row).0).collect();
        // Every status is there, so that one nobody is in reads as none and not as its last count.
        let count = |status| all.iter().filter(|one| **one == status).count();
        let counts = DatabaseStatus::ALL.map(|status| (status.as_str(), count(status)));
        let ahead = [("ahead", self.count_made())];
        let all = counts.into_iter().chain(ahead);
        all.map(|(name, n)| (name, u64::try_from(n).unwrap_or(u64::MAX))).collect()
    }
}

/// What the server of a machine that runs counts, or why it does not say.
async fn look(machine: &SandboxHandle) -> Result<Figures, String> {
    if machine.view().phase == Phase::Resuming {
        return Err("the database is being resumed, or booted again".to_owned());
    }
    let agent = machine.connect_if_running().await.map_err(|error| unheard(&error))?;
    let stream = agent.connect_unix(SOCKET.to_owned()).await.map_err(|error| unheard(&error))?;
    node_database::figures(stream).await.map_err(|error| unheard(&error))
}

fn unheard(error: &(dyn std::error::Error + 'static)) -> String {
    format!("the database's server does not answer: {}", Chain(error))
}

/// Has the server of a fork begin anew to count queries: those it has are its source's. That it does not
/// is no reason to have no fork.
pub(super) async fn begin_anew(machine: &SandboxHandle) {
    let forgotten = async {
        let stream = admin(machine).await.map_err(|failure| failure.message)?;
        forget_queries(stream).await.map_err(|error| Chain(&error).to_string())
    };
    let forgotten = timeout(FORGOTTEN_WITHIN, forgotten).await;
    if let Err(why) = forgotten.unwrap_or_else(|_| Err(silent(FORGOTTEN_WITHIN).message)) {
        let sandbox = machine.facts().id;
        tracing::warn!(%sandbox, "a fork shows slow queries of its source: {why}");
    }
}

fn shown(row: &DatabaseRow, figures: Figures, took: Duration, now_ms: u64) -> DatabaseStats {
    // The server itself was started when its template was made.
    let since_ms = figures.started_at_ms.max(row.created_at_ms);
    let slow_queries = figures.queries.map(|queries| {
        let all = queries.into_iter().map(|one| SlowQuery {
            query: one.query,
            calls: one.calls,
            mean_ms: one.mean_ms,
            total_ms: one.total_ms,
            rows: one.rows,
        });
        all.collect()
    });
    DatabaseStats {
        status: DatabaseStatus::Running,
        reason: None,
        answered_us: Some(u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
        uptime_ms: Some(now_ms.saturating_sub(since_ms)),
        connections: Some(DatabaseConnections {
            open: figures.sessions,
            active: figures.sessions_active,
            max: figures.sessions_max,
        }),
        transactions: Some(DatabaseTransactions {
            committed: figures.committed,
            rolled_back: figures.rolled_back,
        }),
        size_bytes: Some(figures.size_bytes),
        cache: Some(DatabaseCache::of(figures.blocks_hit, figures.blocks_read)),
        slow_queries,
    }
}

#[cfg(test)]
mod test {
    use base_types::{ProjectId, SandboxId, Size};
    use node_database::QueryFigures;

    use super::*;

    #[test]
    fn a_server_runs_since_its_database_was_made_or_since_it_was_started_again() {
        let row = DatabaseRow {
            id: DatabaseId::from_bits(1),
            project: ProjectId::from_bits(1),
            name: "a".to_owned(),
            sandbox: SandboxId::from_bits(1),
            size: Size::Nano,
            disk_mib: None,
            extensions: vec![],
            user: "u000000000001".to_owned(),
            password: "p".to_owned(),
            ready: true,
            created_at_ms: 5_000,
            expires_at_ms: None,
            errand: None,
            spare: None,
            outside: "loopback".to_owned(),
        };
        let query = QueryFigures {
            query: "SELECT $1".to_owned(),
            calls: 2,
            mean_ms: 1.5,
            total_ms: 3.0,
            rows: 2,
        };
        let figures = Figures {
            sessions: 2,
            sessions_active: 1,
            sessions_max: 95,
            committed: 7,
            rolled_back: 1,
            blocks_hit: 3,
            blocks_read: 1,
            size_bytes: 8192,
            started_at_ms: 1_000,
            queries: Some(vec![query]),
        };
        let took = Duration::from_micros(1234);
        let stats = shown(&row, figures.clone(), took, 9_000);
        assert_eq!((stats.uptime_ms, stats.answered_us), (Some(4_000), Some(1234)));
        assert_eq!(stats.cache.unwrap().ratio, Some(0.75));
        assert_eq!(stats.slow_queries.unwrap()[0].calls, 2);
        let again = Figures { started_at_ms: 8_500, queries: None, ..figures };
        let stats = shown(&row, again.clone(), took, 9_000);
        assert_eq!((stats.uptime_ms, stats.slow_queries), (Some(500), None));
        // The clocks of a machine and of its node are two.
        assert_eq!(shown(&row, again, took, 8_000).uptime_ms, Some(0));
    }
}
