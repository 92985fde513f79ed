//! What the node itself asks a server, over a stream that is given.

use std::fmt::Write as _;
use std::io;
use std::pin::pin;

use futures_util::StreamExt as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::bounded::Bounded;
use crate::{DATABASE, SERVICE, SUPERUSER};

/// LIMIT: bytes of a server's answer to what the node itself asks.
pub(crate) const ADMIN_BYTES_MAX: usize = 1 << 20;
/// What sessions insist on that only look: the owner of a database may give it other settings, and those of
/// a session's beginning win. `pg_catalog` is searched first, and no name is looked for but in there. What the
/// sessions behind [`crate::NODE_SOCKET`] insist on is said in the template.
///
/// LIMIT: counts are read in milliseconds, and in seconds where processors are emulated and busy; what takes half a minute is
/// not worth its answer.
const LOOKING_OPTIONS: &str = "-c search_path=pg_catalog -c role=none \
                               -c default_transaction_read_only=on -c statement_timeout=30s \
                               -c lock_timeout=1s";
/// LIMIT: characters of what a server says about an error.
const MESSAGE_CHARS_MAX: usize = 2000;

/// Why a server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It refused; these are its own words.
    #[error("{message}")]
    Refused {
        /// The five letters of SQLSTATE.
        code: String,
        /// What it said.
        message: String,
        /// Whether it ended the session by that, which no SQL can make it do.
        fatal: bool,
    },
    /// Its answer is longer than it may be.
    #[error("the answer is over {0} bytes; ask for fewer rows or columns")]
    TooLong(usize),
    /// What it answered is not what was asked for.
    #[error("read what the database server counts")]
    Unreadable(#[from] serde_json::Error),
    /// The connection broke, or what came over it is not Postgres.
    #[error("talk to the database server")]
    Broken(#[source] tokio_postgres::Error),
}

/// Runs SQL as the superuser, in one transaction and one round trip. The stream leads to
/// [`crate::NODE_SOCKET`].
pub async fn run_as_superuser<S>(stream: S, sql: &str) -> Result<(), AskError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut config = Config::new();
    config.user(SUPERUSER).dbname(DATABASE).application_name("sandflare");
    ask(stream, ADMIN_BYTES_MAX, &config, async |client| client.batch_execute(sql).await).await
}

/// Runs statements as the superuser in [`SERVICE`], in one round trip: the only value of each, up to the
/// first that fails. Fails when none gives a value. The stream leads to [`crate::SOCKET`].
pub(crate) async fn values_as_superuser<S>(
    stream: S,
    sql: &str,
) -> Result<Vec<Option<String>>, AskError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut config = Config::new();
    config.user(SUPERUSER).dbname(SERVICE).application_name("sandflare").options(LOOKING_OPTIONS);
    ask(stream, ADMIN_BYTES_MAX, &config, async |client| {
        let mut messages = pin!(client.simple_query_raw(sql).await?);
        let mut values = Vec::new();
        while let Some(message) = messages.next().await {
            match message {
                Ok(SimpleQueryMessage::Row(row)) => values.push(row.try_get(0)?.map(str::to_owned)),
                Ok(_) => {}
                Err(error) if error.as_db_error().is_some() && !values.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(values)
    })
    .await
}

async fn ask<S, T>(
    stream: S,
    bytes_max: usize,
    config: &Config,
    question: impl AsyncFnOnce(Client) -> Result<T, tokio_postgres::Error>,
) -> Result<T, AskError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let failed = |error| AskError::of(error, bytes_max);
    let stream = Bounded::new(stream, bytes_max);
    let (client, connection) = config.connect_raw(stream, NoTls).await.map_err(failed)?;
    let mut asking = pin!(question(client));
    let mut connection = pin!(connection);
    let answered = tokio::select! {
        biased;
        answered = &mut asking => answered,
        over = &mut connection => match over {
            // The reason; whoever asks only learns that the connection is closed.
            Err(error) => Err(error),
            Ok(()) => asking.await,
        },
    };
    answered.map_err(failed)
}

impl AskError {
    pub(crate) fn of(error: tokio_postgres::Error, bytes_max: usize) -> Self {
        if let Some(said) = error.as_db_error() {
            return Self::Refused {
                code: said.code().code().to_owned(),
                message: words(said),
                fatal: said.parsed_severity() == Some(Severity::Fatal),
            };
        }
        let cause = std::error::Error::source(&error);
        let cause = cause.and_then(|cause| cause.downcast_ref::<io::Error>());
        match cause.map(io::Error::kind) {
            Some(io::ErrorKind::FileTooLarge) => Self::TooLong(bytes_max),
            _ => Self::Broken(error),
        }
    }
}

/// What a server says about an error, as `psql` shows it, in one line.
fn words(said: &DbError) -> String {
    let mut words = format!("{} (SQLSTATE {})", said.message(), said.code().code());
    for (what, text) in [("detail", said.detail()), ("hint", said.hint())] {
        if let Some(text) = text {
            // Writing to a String cannot fail.
            let _ = write!(words, "; {what}: {text}");
        }
    }
    words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MESSAGE_CHARS_MAX).collect()
}
