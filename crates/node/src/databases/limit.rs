//! How much of its machine's disk the data of a database may take: a limit of the file system in there. The
//! machine's root sets it once; it is on the disk, and so of every fork. No role of the server can change it.

use api_guest::Exec;
use api_node::{ErrorCode, Failure};
use node_database::AskError;
use node_host::{ExecEvent, SandboxHandle};

use crate::{agent, failure};

/// What sets it.
const PROGRAM: &str = "/usr/lib/sandflare/postgres-limit";
/// Who alone may.
const ROOT: &str = "root";
/// LIMIT: it is two system calls, of which one waits for the disk.
const WITHIN_MS: u64 = 60 * 1000;
/// LIMIT: beginning of what the program says that is kept for the log.
const SAID_BYTES_MAX: usize = 500;

/// Limits the data of a database to `mib`; without, it stays as its template has it.
pub(super) async fn set(machine: &SandboxHandle, mib: Option<u32>) -> Result<(), Failure> {
    match mib {
        Some(mib) => run(machine, mib.to_string()).await,
        None => Ok(()),
    }
}

/// Whether a server of which nothing is broken refuses sessions, as one that is full does after some work on its
/// catalogs: the first session after that writes down what the next ones read. SQL that says the same is an error and
/// ends no session.
pub(super) fn keeps_out(error: &AskError) -> bool {
    matches!(error, AskError::Refused { message, fatal: true, .. } if message.contains("could not write init file"))
}

/// Lets in one session that may write that.
pub(super) async fn let_in(machine: &SandboxHandle) -> Result<(), Failure> {
    run(machine, "on".to_owned()).await
}

async fn run(machine: &SandboxHandle, what: String) -> Result<(), Failure> {
    let exec = Exec {
        argv: vec![PROGRAM.to_owned(), what],
        env: Vec::new(),
        cwd: Some("/".to_owned()),
        user: Some(ROOT.to_owned()),
        time_limit_ms: Some(WITHIN_MS),
        stdin: false,
        pty: None,
    };
    // Closing the input would end it.
    let (mut events, _input) = agent::ask(machine, |agent| agent.exec(exec)).await?;
    let mut said = Vec::new();
    loop {
        match events.next().await {
            Ok(ExecEvent::Started(_)) => {}
            Ok(ExecEvent::Stdout(data) | ExecEvent::Stderr(data)) => {
                let room = SAID_BYTES_MAX.saturating_sub(said.len());
                said.extend(data.into_iter().take(room));
            }
            Ok(ExecEvent::Exited(exited)) if exited.code == Some(0) => return Ok(()),
            Ok(ExecEvent::Exited(_)) => {
                let sandbox = machine.facts().id;
                let said = String::from_utf8_lossy(&said);
                tracing::error!(%sandbox, "its disk could not be limited: {said:?}");
                let message = "the disk of the database could not be limited";
                return Err(Failure::new(ErrorCode::GuestFailed, message));
            }
            Err(error) => return Err(failure::of_broken(machine, error).await),
        }
    }
}
