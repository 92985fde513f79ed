//! SQL, for the node and for owners.

use std::time::Duration;

use api_node::{Column, ErrorCode, Failure, QueryAnswer, QueryDatabase};
use base_types::DatabaseId;
use node_database::{
    AskError, LoginRole, NODE_SOCKET, Question, Session, Verifier, run_as_superuser, set_password,
};
use node_host::SandboxHandle;
use tokio::time::timeout;

use super::{Databases, admin, limit, of_store};
use crate::agent;

/// LIMIT: bytes of an answer to SQL; it is held whole, and is JSON of twice that afterwards.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// LIMIT: how much later than the server should have ended a statement the node gives it up.
const SLACK: Duration = Duration::from_secs(10);
/// LIMIT: what the node asks takes milliseconds; this is for a server in the middle of something, and for a clone on
/// emulated processors that are busy, which faults in all that its server touches.
pub(super) const ASKED_WITHIN: Duration = Duration::from_secs(180);

impl Databases {
    pub(super) async fn query(
        &self,
        id: DatabaseId,
        request: QueryDatabase,
    ) -> Result<QueryAnswer, Failure> {
        let (entry, machine) = self.awake(id).await?;
        let role = role(&entry.row.user)?;
        let question = Question {
            sql: &request.sql,
            rows_max: usize::try_from(request.rows_max).unwrap_or(usize::MAX),
            bytes_max: ANSWER_BYTES_MAX,
            timeout_ms: request.timeout_ms,
        };
        let within = Duration::from_millis(request.timeout_ms.into()) + SLACK;
        let begun = async || {
            let stream = admin(&machine).await?;
            let beginning = Session::begin(stream, role, question.timeout_ms);
            timeout(within, beginning).await.map_err(|_| silent(within))
        };
        let ask = async |session: Result<Session, AskError>| match session {
            Ok(session) => timeout(within, session.ask(question)).await.map_err(|_| silent(within)),
            Err(error) => Ok(Err(error)),
        };
        // One that waits does not keep its machine from being paused.
        let _use = machine.hold();
        let mut answered = match entry.waiting.take(&machine).await {
            Some(session) => ask(Ok(session)).await?,
            None => ask(begun().await?).await?,
        };
        if answered.as_ref().is_err_and(limit::keeps_out) {
            limit::let_in(&machine).await?;
            answered = ask(begun().await?).await?;
        }
        let rows = answered.map_err(|error| of_ask(&error))?;
        self.await_question(id);
        Ok(QueryAnswer {
            columns: rows.columns.into_iter().map(|name| Column { name }).collect(),
            rows: rows.rows,
            truncated: rows.truncated,
            rows_affected: rows.affected,
        })
    }

    pub(super) async fn set_password(
        &self,
        id: DatabaseId,
        password: String,
    ) -> Result<(), Failure> {
        let verifying = verifier(password.clone());
        let (entry, machine, _changing) = self.held(id).await?;
        let verifier = verifying.await?;
        ask(&machine, &set_password(role(&entry.row.user)?, &verifier)).await?;
        let stored = self.0.store.database_set_password(id, password.clone()).await;
        stored.map_err(|error| of_store(&error))?;
        if let Some(entry) = self.lock().databases.get_mut(&id) {
            entry.row.password = password;
        }
        Ok(())
    }
}

/// What a server checks a password with. It takes milliseconds of a processor, which begin with the call.
pub(super) fn verifier(
    password: String,
) -> impl Future<Output = Result<Verifier, Failure>> + Send + use<> {
    let verifying = tokio::task::spawn_blocking(move || Verifier::of(&password));
    async {
        verifying.await.map_err(|error| {
            Failure::because(ErrorCode::Internal, "the password could not be hashed", &error)
        })
    }
}

/// Runs the node's own SQL as the server's superuser.
pub(super) async fn ask(machine: &SandboxHandle, sql: &str) -> Result<(), Failure> {
    let stream = agent::ask(machine, |agent| agent.connect_unix(NODE_SOCKET.to_owned())).await?;
    let asked = timeout(ASKED_WITHIN, run_as_superuser(stream, sql)).await;
    asked.map_err(|_| silent(ASKED_WITHIN))?.map_err(|error| of_ask(&error))
}

pub(super) fn role(name: &str) -> Result<LoginRole, Failure> {
    name.parse::<LoginRole>().map_err(|error| {
        Failure::because(ErrorCode::Internal, "the database's user cannot be read", &error)
    })
}

pub(super) fn silent(limit: Duration) -> Failure {
    let message = format!("the database did not answer within {} s", limit.as_secs());
    Failure::new(ErrorCode::AgentSilent, message)
}

/// Whether a server says that there is no room: of its disk, or of its limit, for which it has no code.
fn is_full(code: &str, message: &str) -> bool {
    code == "53100" || (code == "XX000" && message.contains("Disk quota exceeded"))
}

/// Why a server did not do what it was asked.
pub(super) fn of_ask(error: &AskError) -> Failure {
    match error {
        AskError::Refused { code, message, .. } if is_full(code, message) => {
            crate::failure::told(ErrorCode::DiskFull, error).with_hint(
                "make room with DROP TABLE or DROP INDEX; or dump it, and restore that in a database with \
                 more `disk_mib`",
            )
        }
        AskError::Refused { .. } | AskError::TooLong(_) => {
            crate::failure::told(ErrorCode::SqlFailed, error)
        }
        AskError::Broken(_) | AskError::Unreadable(_) => {
            Failure::because(ErrorCode::GuestFailed, "the database's server broke off", error)
        }
    }
}
