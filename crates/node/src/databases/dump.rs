//! Data out of a database and in again, by Postgres' own programs in its machine.
//!
//! Both are the owner's: they connect as its role, so a dump has what that may read, and what comes in has no
//! more rights than its queries have. `psql` runs as nobody of its machine, because a dump may tell it to
//! run programs there.

use api_guest::Exec;
use api_node::{ByteStream, ErrorCode, Failure, UploadStream};
use base_types::DatabaseId;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use node_database::{DATABASE, DIRECT_PORT};
use node_host::{ExecEvent, ExecInput, ExecReader, GuestError};
use node_store::DatabaseRow;

use super::Databases;
use crate::{agent, failure};

/// Where the programs are.
const PROGRAMS: &str = "/usr/lib/sandflare/postgres";
/// Whom they run as.
const NOBODY: &str = "nobody";
/// LIMIT: how long a dump takes, or a restore; a client that does not take its bytes counts too.
const WITHIN_MS: u64 = 60 * 60 * 1000;
/// LIMIT: end of what a program says about what went wrong that is kept.
const SAID_BYTES_MAX: usize = 2000;

/// A program that runs, and what it said so far about what went wrong.
struct Running {
    events: ExecReader,
    /// Closing it would end the program.
    _input: Option<ExecInput>,
    said: Vec<u8>,
}

/// How a program goes on.
enum Next {
    Piece(Vec<u8>),
    /// It ended well.
    End,
}

/// Why a program came to nothing.
enum Ended {
    Guest(GuestError),
    /// In its own words.
    Said(String),
}

impl Running {
    async fn next(&mut self) -> Result<Next, Ended> {
        loop {
            match self.events.next().await.map_err(Ended::Guest)? {
                ExecEvent::Started(_) => {}
                ExecEvent::Stdout(data) => return Ok(Next::Piece(data)),
                ExecEvent::Stderr(data) => {
                    self.said.extend_from_slice(&data);
                    self.said.drain(..self.said.len().saturating_sub(SAID_BYTES_MAX));
                }
                ExecEvent::Exited(exited) if exited.code == Some(0) => return Ok(Next::End),
                ExecEvent::Exited(exited) if exited.timed_out => {
                    return Err(Ended::Said("it did not end within an hour".to_owned()));
                }
                ExecEvent::Exited(_) => return Err(Ended::Said(words(&self.said))),
            }
        }
    }
}

impl Databases {
    /// All of a database as SQL, without its extensions and who owns what. When it cannot be read from some
    /// point on, the stream ends with an error.
    pub(super) async fn dump(&self, id: DatabaseId) -> Result<ByteStream, Failure> {
        let (entry, machine) = self.awake(id).await?;
        let flags = ["--no-owner", "--no-privileges", "--exclude-extension=*"];
        let exec = program("pg_dump", &flags, false, &entry.row);
        let (events, input) = agent::ask(&machine, |agent| agent.exec(exec)).await?;
        let mut running = Running { events, _input: Some(input), said: Vec::new() };
        // Its beginning is waited for, so that what is wrong from the start is told as a failure.
        let first = match running.next().await {
            Ok(Next::Piece(data)) => Bytes::from(data),
            Ok(Next::End) => Bytes::new(),
            Err(Ended::Said(said)) => return Err(Failure::new(ErrorCode::SqlFailed, said)),
            Err(Ended::Guest(error)) => return Err(failure::of_broken(&machine, error).await),
        };
        let rest = stream::try_unfold(running, |mut running| async move {
            match running.next().await {
                Ok(Next::Piece(data)) => Ok(Some((Bytes::from(data), running))),
                Ok(Next::End) => Ok(None),
                Err(Ended::Said(said)) => Err(std::io::Error::other(said)),
                Err(Ended::Guest(error)) => Err(std::io::Error::other(error)),
            }
        });
        Ok(stream::iter([Ok(first)]).chain(rest).boxed())
    }

    /// Runs what a dump holds, all of it or nothing.
    pub(super) async fn restore(
        &self,
        id: DatabaseId,
        mut dump: UploadStream,
    ) -> Result<(), Failure> {
        let (entry, machine) = self.awake(id).await?;
        let flags =
            ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--single-transaction", "--file=-"];
        let exec = program("psql", &flags, true, &entry.row);
        let (events, mut input) = agent::ask(&machine, |agent| agent.exec(exec)).await?;
        let mut running = Running { events, _input: None, said: Vec::new() };
        let sending = async {
            while let Some(piece) = dump.next().await {
                // One that does not take it has ended, and says why.
                if input.stdin(&piece?).await.is_err() {
                    return Ok(input);
                }
            }
            // Its end is what makes it count.
            let _ = input.close_stdin().await;
            Ok::<_, Failure>(input)
        };
        let ending = async {
            while let Next::Piece(_) = running.next().await? {}
            Ok::<_, Ended>(())
        };
        let (mut sending, mut ending) = (std::pin::pin!(sending), std::pin::pin!(ending));
        let ended = tokio::select! {
            biased;
            ended = &mut ending => ended,
            // Dropped when the upload broke off: the program ends, and with it the transaction.
            sent = &mut sending => {
                let _input = sent?;
                ending.await
            }
        };
        match ended {
            Ok(()) => Ok(()),
            Err(Ended::Said(said)) => {
                let message = format!("nothing was restored: {said}");
                Err(Failure::new(ErrorCode::SqlFailed, message))
            }
            Err(Ended::Guest(error)) => Err(failure::of_broken(&machine, error).await),
        }
    }
}

/// One of Postgres' programs, connected as the database's owner.
fn program(name: &str, flags: &[&str], stdin: bool, row: &DatabaseRow) -> Exec {
    let argv = std::iter::once(format!("{PROGRAMS}/{name}"))
        .chain(flags.iter().map(|&flag| flag.to_owned()))
        .chain([format!("--dbname={DATABASE}"), "--no-password".to_owned()]);
    let port = DIRECT_PORT.to_string();
    let env = [
        ("PGHOST", "127.0.0.1"),
        ("PGPORT", port.as_str()),
        ("PGUSER", row.user.as_str()),
        ("PGPASSWORD", row.password.as_str()),
        ("PGAPPNAME", "sandflare"),
    ];
    Exec {
        argv: argv.collect(),
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        cwd: Some("/".to_owned()),
        user: Some(NOBODY.to_owned()),
        time_limit_ms: Some(WITHIN_MS),
        stdin,
        pty: None,
    }
}

/// The end of what a program said, in one line.
fn words(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.join("; ") {
        none if none.is_empty() => "the program ended without a word".to_owned(),
        words => words.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn what_a_program_said_is_one_line() {
        assert_eq!(
            words(b"psql:<stdin>:3: ERROR:  no\n\nLINE 1: x\n"),
            "psql:<stdin>:3: ERROR:  no; LINE 1: x"
        );
        assert_eq!(words(b"\n"), "the program ended without a word");
    }
}
