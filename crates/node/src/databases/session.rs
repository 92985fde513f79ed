//! A session of each owner that is open before it asks: to begin one is a process of the server more, which is most of
//! what a short question costs.

use std::time::{Duration, Instant};

use base_types::{DatabaseId, SandboxId};
use node_database::{LoginRole, SOCKET, Session};
use node_host::{Phase, SandboxHandle};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::Databases;
use super::serve::{ASKED_WITHIN, role};

/// How long a session waits for somebody. It has the settings that held when it began.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// How long its server lets a statement run, in milliseconds, unless a question says otherwise: what it does by default.
const TIMEOUT_MS: u32 = api_node::QUERY_TIMEOUT_MS_DEFAULT;

/// The place of one. It is held by whoever begins one, so that a question that comes meanwhile waits for that and does not
/// begin another.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<Option<(SandboxId, Instant, Session)>>);

impl Waiting {
    /// Leaves a session to the server in `machine`.
    pub(super) async fn put(&self, machine: SandboxId, session: Session) {
        *self.0.lock().await = Some((machine, Instant::now(), session));
    }

    /// The session that waits, where that is to the server in `machine`.
    pub(super) async fn take(&self, machine: &SandboxHandle) -> Option<Session> {
        let (to, since, session) = self.0.lock().await.take()?;
        let good = to == machine.facts().id
            && machine.view().phase == Phase::Running
            && since.elapsed() < KEPT_FOR
            && session.is_open();
        good.then_some(session)
    }
}

impl Databases {
    /// Has a session wait for the owner's next question, if the database is awake.
    pub(super) fn await_question(&self, id: DatabaseId) {
        let (databases, stop) = (self.clone(), self.0.stop.clone());
        let working = async move {
            let Ok((entry, machine)) = databases.ready(id) else { return };
            {
                let mut place = entry.waiting.0.lock().await;
                if place.is_none()
                    && let Ok(role) = role(&entry.row.user)
                    && let Some(session) = begin(&machine, role).await
                {
                    *place = Some((machine.facts().id, Instant::now(), session));
                }
            }
            drop(databases);
            sleep(KEPT_FOR).await;
            let mut place = entry.waiting.0.lock().await;
            if place.as_ref().is_some_and(|(_, since, _)| since.elapsed() >= KEPT_FOR) {
                *place = None;
            }
        };
        tokio::spawn(async move { stop.run_until_cancelled(working).await });
    }
}

/// Begins a session of `role`, which is no use of the machine: that is paused all the same when its time is over. `None`
/// when it cannot be begun now; whoever needs one then begins it, and hears why.
pub(super) async fn begin(machine: &SandboxHandle, role: LoginRole) -> Option<Session> {
    let agent = machine.connect_if_running().await.ok()?;
    let stream = agent.connect_unix(SOCKET.to_owned()).await.ok()?;
    timeout(ASKED_WITHIN, Session::begin(stream, role, TIMEOUT_MS)).await.ok()?.ok()
}
