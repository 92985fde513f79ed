//! Sessions of roles that log in.

use std::pin::pin;

use futures_util::StreamExt as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};
use tokio_util::task::AbortOnDropHandle;

use crate::DATABASE;
use crate::ask::{ADMIN_BYTES_MAX, AskError};
use crate::bounded::{Bound, Bounded};
use crate::role::LoginRole;

/// SQL to run, and what its answer may be.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// One statement or several.
    pub sql: &'a str,
    /// Rows of the last one that are kept.
    pub rows_max: usize,
    /// LIMIT: bytes of the whole answer.
    pub bytes_max: usize,
    /// How long the server lets a statement run, in milliseconds.
    pub timeout_ms: u32,
}

impl std::fmt::Debug for Question<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Question").finish_non_exhaustive()
    }
}

/// What the last statement gave.
#[derive(Default, PartialEq, Eq)]
pub struct Rows {
    /// Names of its columns.
    pub columns: Vec<String>,
    /// Its first rows, as texts.
    pub rows: Vec<Vec<Option<String>>>,
    /// Whether there were more.
    pub truncated: bool,
    /// How many it gave or changed.
    pub affected: Option<u64>,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows")
            .field("columns", &self.columns)
            .field("rows", &self.rows.len())
            .finish_non_exhaustive()
    }
}

/// A session that has begun and was asked nothing yet. It is asked once: what one question leaves behind, settings and
/// tables that last as long as a session, the next one does not find.
#[derive(Debug)]
pub struct Session {
    client: Client,
    bound: Bound,
    timeout_ms: u32,
    driver: AbortOnDropHandle<Result<(), tokio_postgres::Error>>,
}

impl Session {
    /// Begins one of `role`, over a stream that leads to [`crate::SOCKET`], where the machine's root needs no
    /// password, but gets no more rights than the role has. The server will let a statement run for `timeout_ms`
    /// milliseconds. Must be called in a runtime.
    pub async fn begin<S>(stream: S, role: LoginRole, timeout_ms: u32) -> Result<Self, AskError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut config = Config::new();
        config
            .user(role.to_string())
            .dbname(DATABASE)
            .application_name("sandflare query")
            .options(format!("-c statement_timeout={timeout_ms}"));
        let stream = Bounded::new(stream, ADMIN_BYTES_MAX);
        let bound = stream.bound();
        let begun = config.connect_raw(stream, NoTls).await;
        let (client, connection) = begun.map_err(|error| AskError::of(error, ADMIN_BYTES_MAX))?;
        let driver = AbortOnDropHandle::new(tokio::spawn(connection));
        Ok(Self { client, bound, timeout_ms, driver })
    }

    /// Whether the server has not ended it, as far as is known.
    pub fn is_open(&self) -> bool {
        !self.client.is_closed()
    }

    /// Runs SQL, and ends the session.
    pub async fn ask(self, question: Question<'_>) -> Result<Rows, AskError> {
        let Self { client, bound, timeout_ms, mut driver } = self;
        bound.set(question.bytes_max);
        let mut asking = pin!(async {
            if question.timeout_ms != timeout_ms {
                let set = format!("SET statement_timeout = {}", question.timeout_ms);
                client.batch_execute(&set).await?;
            }
            let mut messages = pin!(client.simple_query_raw(question.sql).await?);
            let mut collected = Collected::default();
            // Read to its end, whatever is kept: it is committed with its last message.
            while let Some(message) = messages.next().await {
                collected.add(message?, question.rows_max)?;
            }
            Ok(collected.last)
        });
        let answered = tokio::select! {
            biased;
            answered = &mut asking => answered,
            over = &mut driver => match over {
                // The reason; whoever asks only learns that the connection is closed.
                Ok(Err(error)) => Err(error),
                _ => asking.await,
            },
        };
        answered.map_err(|error| AskError::of(error, question.bytes_max))
    }
}

/// Of several statements, the last.
#[derive(Default)]
struct Collected {
    last: Rows,
    /// What comes now is of another statement.
    over: bool,
}

impl Collected {
    /// Fails for a value that is no text, which a server sends whose client chose another encoding.
    fn add(
        &mut self,
        message: SimpleQueryMessage,
        rows_max: usize,
    ) -> Result<(), tokio_postgres::Error> {
        if std::mem::take(&mut self.over) {
            self.last = Rows::default();
        }
        match message {
            SimpleQueryMessage::RowDescription(columns) => {
                self.last.columns = columns.iter().map(|one| one.name().to_owned()).collect();
            }
            SimpleQueryMessage::Row(_) if self.last.rows.len() >= rows_max => {
                self.last.truncated = true;
            }
            SimpleQueryMessage::Row(row) => {
                let values = (0..row.len()).map(|at| Ok(row.try_get(at)?.map(str::to_owned)));
                self.last.rows.push(values.collect::<Result<_, tokio_postgres::Error>>()?);
            }
            SimpleQueryMessage::CommandComplete(count) => {
                self.last.affected = Some(count);
                self.over = true;
            }
            _ => {}
        }
        Ok(())
    }
}
