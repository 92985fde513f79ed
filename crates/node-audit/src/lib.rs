//! The node's audit log: who did what to which sandbox, when, from where, with what result.
//!
//! One thread owns the files; everybody else holds an [`AuditLog`], which asks it. The form of the
//! lines and their verification are in `base-audit`.
//!
//! **What is on disk when.** A line is written (to the kernel) before its append is answered, so it
//! survives the daemon's death at any moment. It is flushed to the disk at most [`SYNC_AFTER`] later,
//! or before the answer for [`Durability::Flushed`]; a power cut can take the lines of that last
//! moment, and nothing before them. The head file is written after each flush and never runs ahead
//! of the lines.
//!
//! **What a crash leaves** is mended by [`AuditLog::open`]: bytes after the last whole line are cut
//! off, and the cut is an entry of its own. A line that is wrong where the disk had it for certain
//! is never mended: opening fails and names it.
//!
//! **When a line cannot be written** (the disk is full), the append fails, the loss is counted, and
//! the first line that can be written again says how many are missing.
#![warn(missing_docs)]

mod page;
mod thread;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::time::Duration;

use base_audit::{Event, HeadError, Link, Verified, VerifyError, verify_log};
use tokio::sync::oneshot;

pub use page::{Page, PageError};

use crate::thread::{Ask, Shared};
use crate::writer::Writer;

/// How long a written line may wait for its flush to the disk.
pub const SYNC_AFTER: Duration = Duration::from_secs(1);
/// LIMIT: one file of the log. Verified in a moment, and few enough files for years.
pub const SEGMENT_BYTES: u64 = 8 << 20;
/// LIMIT: appends that wait for the thread; past it the log is as good as stuck.
const ASKS_PENDING_MAX: usize = 1024;

/// Who is named for what the node does by itself.
pub const NODE_ACTOR: &str = "node";

/// When an append is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When the kernel has the line: it survives the daemon, not a power cut in the next second.
    Written,
    /// When the disk has it.
    Flushed,
}

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenAuditError {
    /// A file or directory of it cannot be used.
    #[error("use `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another node writes it.
    #[error("another node writes the audit log `{}`", .0.display())]
    InUse(PathBuf),
    /// It was changed.
    #[error("the audit log was changed: {what}; keep `{}` as evidence under another name and start again", dir.display())]
    Changed {
        /// The directory.
        dir: PathBuf,
        /// What is wrong, and where.
        what: String,
    },
    /// Its head cannot be used.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The thread that owns it did not start.
    #[error("start the audit thread")]
    Thread(#[source] io::Error),
}

/// Why there is no line.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The file system refused.
    #[error("write the audit log")]
    Write(#[source] Arc<io::Error>),
    /// As many lines as may wait are waiting.
    #[error("the audit log does not keep up")]
    Busy,
    /// The thread that owns the log is gone.
    #[error("the audit log is closed")]
    Closed,
}

/// A way to write the log. Cheap to clone; the log is flushed and closed with the last clone.
#[derive(Clone, Debug)]
pub struct AuditLog {
    asks: SyncSender<Ask>,
    shared: Arc<Shared>,
    dir: Arc<Path>,
}

impl AuditLog {
    /// Opens the log in `dir`, making or mending it. `now_ms` is the time of the entry that says so,
    /// in milliseconds since the Unix epoch. Blocks.
    pub fn open(dir: &Path, now_ms: u64) -> Result<Self, OpenAuditError> {
        Self::open_with(dir, now_ms, SEGMENT_BYTES)
    }

    /// As [`Self::open`], with files of about `segment_bytes`.
    pub fn open_with(dir: &Path, now_ms: u64, segment_bytes: u64) -> Result<Self, OpenAuditError> {
        let writer = Writer::open(dir, now_ms, segment_bytes)?;
        let (asks, received) = mpsc::sync_channel(ASKS_PENDING_MAX);
        let shared = Arc::new(Shared { broken: AtomicBool::new(false), lost: AtomicU64::new(0) });
        let for_thread = shared.clone();
        std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || thread::run(writer, &received, &for_thread))
            .map_err(OpenAuditError::Thread)?;
        Ok(Self { asks, shared, dir: dir.into() })
    }

    /// Writes a line. Its texts are cut to their bound.
    pub async fn append(&self, event: Event, durability: Durability) -> Result<Link, AppendError> {
        let (answer, answered) = oneshot::channel();
        self.ask(Ask::Append { event: event.into(), durability, answer: Some(answer) })?;
        answered.await.map_err(|_| AppendError::Closed)?
    }

    /// Writes a line and does not wait for it. One that cannot be written is counted as missing.
    pub fn note(&self, event: Event) {
        let durability = Durability::Written;
        let ask = Ask::Append { event: event.into(), durability, answer: None };
        // It was counted, and said in the log of the daemon.
        let _ = self.ask(ask);
    }

    /// Whether a line could be written now. After a failure this tries again, by writing how many
    /// lines are missing.
    pub async fn writable(&self) -> Result<(), AppendError> {
        if !self.shared.broken.load(Ordering::Acquire) {
            return Ok(());
        }
        let (answer, answered) = oneshot::channel();
        self.ask(Ask::Retry { answer })?;
        answered.await.map_err(|_| AppendError::Closed)?
    }

    /// The entries after `after` (or the newest ones), at most `limit`. Blocks on reading files.
    pub fn page(&self, after: Option<u64>, limit: usize) -> Result<Page, PageError> {
        page::read(&self.dir, after, limit)
    }

    /// Checks every line from the first on, as it is on disk now; what is written meanwhile may or may
    /// not be among them. `noted` is a place somebody noted elsewhere. Blocks on reading files.
    pub fn verify(&self, noted: Option<Link>) -> Result<Verified, VerifyError> {
        verify_log(&self.dir, noted)
    }

    fn ask(&self, ask: Ask) -> Result<(), AppendError> {
        self.asks.try_send(ask).map_err(|error| match error {
            TrySendError::Full(_) => {
                self.shared.lost.fetch_add(1, Ordering::AcqRel);
                tracing::error!("the audit log does not keep up; an entry is missing from it");
                AppendError::Busy
            }
            TrySendError::Disconnected(_) => AppendError::Closed,
        })
    }
}

#[cfg(test)]
mod test;
