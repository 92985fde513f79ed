//! What `sandflare-vmm` finds out about this machine when it is asked.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::process::Command;
use tokio::time::timeout;

use crate::control::shown;

/// LIMIT: the probe ends by itself after a few seconds, also where KVM hangs.
const PROBE_WITHIN: Duration = Duration::from_secs(60);
/// LIMIT: 200 floor runs of some 50 ms under emulation.
const FLOOR_WITHIN: Duration = Duration::from_secs(120);

/// What was found when KVM was probed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Verdict {
    /// Whether machines can run here.
    pub usable: bool,
    /// Which of the cases it is.
    pub kind: KvmKind,
    /// What was found, in one sentence.
    pub reason: String,
    /// What to do about it; empty when there is nothing to do.
    #[serde(default)]
    pub hint: String,
}

/// The cases a user is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvmKind {
    /// There is no `/dev/kvm`.
    NoDevice,
    /// It may not be opened.
    NoPermission,
    /// It does not run what a Linux kernel consists of.
    CannotRunLinux,
    /// All is well.
    Good,
}

/// The least this machine needs for a virtual machine that runs one instruction.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FloorReport {
    /// How many times it was measured.
    pub runs: u32,
    /// Guest memory of each, in MiB.
    pub memory_mib: u32,
    /// From nothing to code that ran.
    pub total: Spread,
    /// What it consists of, in order.
    pub phases: Vec<PhaseSpread>,
}

/// One part of the floor.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PhaseSpread {
    /// Its name.
    pub phase: String,
    /// Its times.
    #[serde(flatten)]
    pub spread: Spread,
}

/// A distribution, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Spread {
    /// Fastest.
    pub min_us: u64,
    /// Median.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
}

/// Why there is no finding.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The program could not be run.
    #[error("run `{}`", program.display())]
    Run {
        /// The executable.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It did not end in time.
    #[error("`{what}` did not end within {} s", limit.as_secs())]
    Late {
        /// Program and subcommand.
        what: String,
        /// How long was waited.
        limit: Duration,
    },
    /// It said something else than what it was asked for.
    #[error("`{what}` failed: {said}")]
    Failed {
        /// Program and subcommand.
        what: String,
        /// Its last words.
        said: String,
    },
}

/// Whether this machine's KVM runs Linux guests: runs `program probe`.
pub async fn probe(program: &Path) -> Result<Verdict, MeasureError> {
    ask(program, &["probe".to_owned(), "--json".to_owned()], PROBE_WITHIN).await
}

/// Measures the machine's floor `runs` times: runs `program floor`.
pub async fn floor(
    program: &Path,
    runs: u32,
    memory_mib: u32,
) -> Result<FloorReport, MeasureError> {
    let arguments = ["floor", "--runs", &runs.to_string(), "--memory", &memory_mib.to_string()]
        .into_iter()
        .chain(["--json"])
        .map(str::to_owned)
        .collect::<Vec<_>>();
    ask(program, &arguments, FLOOR_WITHIN).await
}

/// Runs `program` and parses what it prints. The exit code does not matter: a probe that finds
/// nothing good says so in both ways.
async fn ask<T: DeserializeOwned>(
    program: &Path,
    arguments: &[String],
    limit: Duration,
) -> Result<T, MeasureError> {
    let what = format!(
        "{} {}",
        program.file_name().unwrap_or_default().to_string_lossy(),
        arguments.first().map_or("", String::as_str)
    );
    let run = |source| MeasureError::Run { program: program.into(), source };
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(run)?;
    let output = timeout(limit, child.wait_with_output())
        .await
        .map_err(|_| MeasureError::Late { what: what.clone(), limit })?
        .map_err(run)?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text.lines().rev().find(|line| !line.trim().is_empty());
        let said = shown(last.unwrap_or("it printed no report"));
        MeasureError::Failed { what, said }
    })
}
