//! The Python SDK as a measuring instrument: a program on it that does one thing for each line it is
//! given, and answers with a line.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::complaint::advise;
use crate::place::Place;

/// The program.
const PROGRAM: &str = include_str!("outside.py");
/// LIMIT: the longest it is asked to do is to read the output of many sandboxes.
const ANSWER_WITHIN: Duration = Duration::from_secs(600);
/// LIMIT: what is looked at of its last words.
const WORDS_BYTES_MAX: u64 = 16 * 1024;

/// The running program. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Outside {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    python: PathBuf,
    pub(crate) versions: Versions,
}

/// What it is made of.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Versions {
    pub(crate) sdk: String,
    pub(crate) python: String,
}

/// What it can be asked to do; the answers are in microseconds.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Do<'a> {
    Create {
        template: &'a str,
        size: &'a str,
    },
    Run {
        id: String,
    },
    Transfer {
        id: String,
        mib: u32,
        path: &'a str,
    },
    FirstByte {
        id: String,
        count: u32,
    },
    Stream {
        ids: Vec<String>,
        lines: u32,
    },
    /// A database made, asked, wired to a sandbox and deleted.
    Database,
    /// A database of so many MB, forked so often.
    ForkDatabase {
        mb: u32,
        count: u32,
    },
    /// Postgres' own programs in a sandbox.
    Postgres,
}

/// A sandbox was created.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Created {
    pub(crate) us: u64,
    pub(crate) id: String,
}

/// Something was done.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Done {
    pub(crate) us: u64,
}

/// A file went in and came back.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Transferred {
    pub(crate) up_us: u64,
    pub(crate) down_us: u64,
    /// Whether it came back as it was.
    pub(crate) equal: bool,
}

/// Lines went to a program and came back, one after another.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Echoed {
    pub(crate) rounds: Vec<Done>,
}

/// The output of many sandboxes was read at once.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Streamed {
    pub(crate) streams: Vec<OneStream>,
}

/// What was read of one of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneStream {
    Read {
        lines: u64,
        /// Lines and events that were not those that should have come.
        wrong: u64,
        us: u64,
    },
    Failed {
        error: String,
    },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer<T> {
    Error { error: String },
    Good(T),
}

impl Outside {
    /// Starts `python` on the node of `place`.
    pub(crate) async fn start(python: &Path, place: &Place) -> Result<Self> {
        let mut command = Command::new(python);
        command.arg("-c").arg(PROGRAM).env("SANDFLARE_API_URL", &place.url);
        if let Some(ca) = &place.ca {
            command.env("SANDFLARE_CA", ca);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match command.kill_on_drop(true).spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let message = format!("there is no Python at `{}`", python.display());
                return Err(advise(message, "install python3, or name another with --python"));
            }
            Err(error) => return Err(error).with_context(|| format!("run {}", python.display())),
        };
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(anyhow!("`{}` has no standard streams", python.display()));
        };
        let mut output = BufReader::new(output).lines();
        let first = output.next_line().await.context("read the Python program's first line")?;
        let Some(first) = first else { return Err(not_begun(python, &mut child).await) };
        let versions = serde_json::from_str(&first).context("understand the Python program")?;
        Ok(Self { child, input, output, python: python.to_owned(), versions })
    }

    /// Has it do something.
    pub(crate) async fn ask<T: DeserializeOwned>(&mut self, what: &Do<'_>) -> Result<T> {
        let mut line = serde_json::to_vec(what)?;
        line.push(b'\n');
        let exchange = async {
            self.input.write_all(&line).await?;
            self.output.next_line().await
        };
        let answer = match timeout(ANSWER_WITHIN, exchange).await {
            Ok(Ok(Some(answer))) => answer,
            // It wrote why, if anything.
            Ok(Ok(None) | Err(_)) => {
                let words = last_words(&mut self.child).await;
                return Err(anyhow!("`{}` ended: {words}", self.python.display()));
            }
            Err(_) => return Err(anyhow!("`{}` does not answer", self.python.display())),
        };
        let answer = serde_json::from_str(&answer);
        match answer.context("understand the Python program")? {
            Answer::Good(answer) => Ok(answer),
            Answer::Error { error } => Err(anyhow!("the Python SDK failed: {error}")),
        }
    }
}

/// Why it did not begin: mostly because it has no SDK.
async fn not_begun(python: &Path, child: &mut Child) -> anyhow::Error {
    let words = last_words(child).await;
    let message = format!("`{}` cannot use the Python SDK: {words}", python.display());
    let hint = "install it there with `pip install ./sdk/python`, or name another with --python";
    advise(message, hint)
}

/// The last line it wrote to standard error, which of a traceback is the error.
async fn last_words(child: &mut Child) -> String {
    let mut words = Vec::new();
    if let Some(error) = child.stderr.take() {
        // What cannot be read is not said.
        let _ = timeout(ANSWER_WITHIN, error.take(WORDS_BYTES_MAX).read_to_end(&mut words)).await;
    }
    let words = String::from_utf8_lossy(&words);
    words.trim().lines().last().unwrap_or("it says nothing").to_owned()
}
