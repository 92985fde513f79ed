//! The thread that owns the files.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use base_audit::{Event, Link};
use tokio::sync::oneshot;

use crate::writer::Writer;
use crate::{AppendError, Durability, SYNC_AFTER};

/// LIMIT: lines written between two flushes when flushes are asked for; they share one.
const BATCH_MAX: usize = 256;

type Answer<T> = oneshot::Sender<Result<T, AppendError>>;

#[derive(Debug)]
pub(crate) enum Ask {
    Append { event: Box<Event>, durability: Durability, answer: Option<Answer<Link>> },
    Retry { answer: Answer<()> },
}

/// What the thread and its askers both look at.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Whether the last attempt to write failed.
    pub(crate) broken: AtomicBool,
    /// Lines that are missing and not yet written to be so.
    pub(crate) lost: AtomicU64,
}

/// Writes until the last asker is gone.
pub(crate) fn run(mut writer: Writer, asks: &Receiver<Ask>, shared: &Shared) {
    let mut dirty_since: Option<Instant> = None;
    loop {
        let first = match dirty_since {
            None => asks.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(since) => asks.recv_timeout(SYNC_AFTER.saturating_sub(since.elapsed())),
        };
        match first {
            Ok(first) => {
                batch(&mut writer, first, asks, shared);
                dirty_since = writer.is_dirty().then(|| dirty_since.unwrap_or_else(Instant::now));
            }
            Err(RecvTimeoutError::Timeout) => {
                // A flush that failed was said, and is tried again after the same time.
                let _ = flush(&mut writer, shared);
                dirty_since = writer.is_dirty().then(Instant::now);
            }
            Err(RecvTimeoutError::Disconnected) => {
                let _ = flush(&mut writer, shared);
                return;
            }
        }
    }
}

/// Writes `first` and what waits behind it, flushes once when one of them wants that, and answers.
fn batch(writer: &mut Writer, first: Ask, asks: &Receiver<Ask>, shared: &Shared) {
    let mut answers = Vec::new();
    let mut flushed = false;
    for ask in std::iter::once(first).chain(asks.try_iter().take(BATCH_MAX)) {
        match ask {
            Ask::Append { event, durability, answer } => {
                let written = append(writer, *event, shared);
                flushed |= durability == Durability::Flushed;
                answers.push((answer, durability, written));
            }
            // Whoever asked may have gone.
            Ask::Retry { answer } => drop(answer.send(retry(writer, shared))),
        }
    }
    let flush = if flushed { flush(writer, shared) } else { Ok(()) };
    for (answer, durability, written) in answers {
        let result = match (durability, &flush) {
            (Durability::Flushed, Err(error)) => Err(error.clone()),
            _ => written,
        };
        if let Some(answer) = answer {
            let _ = answer.send(result.map_err(AppendError::Write));
        }
    }
}

type Written<T> = Result<T, Arc<std::io::Error>>;

fn append(writer: &mut Writer, mut event: Event, shared: &Shared) -> Written<Link> {
    event.cut();
    let written = confess(writer, event.time_ms, shared).and_then(|()| writer.append(&event));
    let written = written.map_err(Arc::new);
    if let Err(error) = &written {
        shared.lost.fetch_add(1, Ordering::AcqRel);
        complain(error, shared);
        // The line is in the daemon's log at least.
        let Event { actor, action, object, result, request, .. } = &event;
        let (object, request) = (object.as_deref(), request.as_deref());
        tracing::error!(actor, action, object, result, request, "not in the audit log");
    } else {
        shared.broken.store(false, Ordering::Release);
    }
    written
}

fn retry(writer: &mut Writer, shared: &Shared) -> Result<(), AppendError> {
    let time_ms = writer.last_time_ms();
    match confess(writer, time_ms, shared) {
        Ok(()) => {
            shared.broken.store(false, Ordering::Release);
            Ok(())
        }
        Err(error) => Err(AppendError::Write(Arc::new(error))),
    }
}

/// Writes how many lines are missing, when some are.
fn confess(writer: &mut Writer, time_ms: u64, shared: &Shared) -> std::io::Result<()> {
    let lost = shared.lost.load(Ordering::Acquire);
    if lost == 0 {
        return writer.mend();
    }
    writer.append(&crate::writer::of_node(
        time_ms,
        "audit_gap",
        format!("{lost} entries before this one could not be written"),
    ))?;
    shared.lost.fetch_sub(lost, Ordering::AcqRel);
    Ok(())
}

fn flush(writer: &mut Writer, shared: &Shared) -> Written<()> {
    let flushed = writer.flush().map_err(Arc::new);
    if let Err(error) = &flushed {
        complain(error, shared);
    }
    flushed
}

/// Says once that the log cannot be written.
fn complain(error: &std::io::Error, shared: &Shared) {
    if !shared.broken.swap(true, Ordering::AcqRel) {
        tracing::error!("the audit log cannot be written: {error}");
    }
}
