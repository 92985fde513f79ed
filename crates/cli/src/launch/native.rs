//! The daemon as a process of this machine, which outlives this program.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

/// How often a process is looked at that is not our child.
const LOOK: Duration = Duration::from_millis(50);

/// A process, told apart from a later one with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Its id.
    pub(crate) pid: i32,
    /// When it began, in clock ticks since the machine's boot.
    pub(crate) started_ticks: u64,
}

impl Process {
    /// Starts `program` in a session of its own, writing to `log`.
    pub(crate) fn start(program: &Path, args: &[String], log: &Path) -> Result<Self> {
        let log_file = File::options().create(true).append(true).open(log);
        let log_file = log_file.with_context(|| format!("open {}", log.display()))?;
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log_file.try_clone().context("share the log")?)
            .stderr(log_file)
            // Ctrl-C at this terminal is not for the node.
            .process_group(0);
        let child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        let pid = i32::try_from(child.id()).context("read the node's process id")?;
        // A zombie that ended at once still has its entry, so this finds what was started.
        let started_ticks = started_ticks(pid).context("look at the node's process")?;
        Ok(Self { pid, started_ticks })
    }

    /// Whether it runs.
    pub(crate) fn is_alive(self) -> bool {
        started_ticks(self.pid).is_some_and(|ticks| ticks == self.started_ticks)
            && !is_zombie(self.pid)
    }

    pub(crate) fn signal(self, signal: Signal) {
        if self.is_alive()
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            // It may end in this very moment, which is what is wanted.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Whether it ended within `limit`.
    pub(crate) async fn ends_within(self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() >= end {
                return false;
            }
            sleep(LOOK).await;
        }
        true
    }
}

fn stat_fields(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

fn started_ticks(pid: i32) -> Option<u64> {
    // Field 22 of the file; two went with the name.
    stat_fields(pid)?.get(19)?.parse().ok()
}

fn is_zombie(pid: i32) -> bool {
    stat_fields(pid).is_some_and(|fields| fields.first().is_some_and(|state| state == "Z"))
}

#[cfg(test)]
mod test {
    use super::*;

    #[tokio::test]
    async fn a_process_is_known_by_more_than_its_id() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let sleep = Path::new("/bin/sleep");
        let process = Process::start(sleep, &["1000".to_owned()], log.path()).unwrap();
        assert!(process.is_alive());
        assert!(!Process { started_ticks: process.started_ticks + 1, ..process }.is_alive());
        process.signal(Signal::KILL);
        assert!(process.ends_within(Duration::from_secs(10)).await);
        process.signal(Signal::KILL);
    }
}
