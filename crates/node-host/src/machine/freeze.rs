//! Writing a machine down: its state and memory, at one moment.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use api_vmm::{Answer, Command, SnapshotSpec};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::{MachineError, disk_spec, failed, go_on, micros};
use crate::control::ControlError;
use crate::vmm::VmmProcess;

/// LIMIT: pausing finishes the guest's disk requests.
const PAUSE_WITHIN: Duration = Duration::from_secs(60);
/// LIMIT: writing all memory of the largest size to a slow disk.
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(300);

/// What a machine waits for while it stands still, before its moment is written.
#[derive(Debug)]
pub(crate) struct Gate {
    stands: oneshot::Sender<()>,
    go: oneshot::Receiver<()>,
}

/// The other side of a gate.
#[derive(Debug)]
pub(crate) struct Held {
    /// Told that the machine stands still.
    pub(crate) stands: oneshot::Receiver<()>,
    /// Lets its moment be written, also when it is dropped.
    pub(crate) go: oneshot::Sender<()>,
}

impl Gate {
    /// One, and its other side.
    pub(crate) fn new() -> (Self, Held) {
        let ((stands, standing), (go, going)) = (oneshot::channel(), oneshot::channel());
        (Self { stands, go: going }, Held { stands: standing, go })
    }

    /// Says that the machine stands still, and waits until its moment may be written.
    pub(crate) async fn pass(self) {
        // Whoever is gone waits for nothing, and opens it.
        if self.stands.send(()).is_ok() {
            let _ = self.go.await;
        }
    }
}

/// The new files a machine is written to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FreezeFiles<'a> {
    pub(crate) state: &'a File,
    /// Takes the pages changed since the restore.
    pub(crate) memory: &'a File,
    /// The chain its disk is from then on, where the machine is to go on: the root image, then
    /// overlays with what the disk holds, lowest first, the last one empty.
    pub(crate) disk: Option<&'a [&'a File]>,
}

/// A machine that was written down.
#[derive(Debug)]
pub(crate) struct Frozen {
    /// How long it stood still until it went on, if it did, in microseconds.
    pub(crate) held_us: u64,
    /// Whether its files are on stable storage. One that went on did so over its new disk, whatever this
    /// says.
    pub(crate) flushed: io::Result<()>,
}

/// Stops the machine and writes it to `files`, to stable storage. With a disk it then goes on;
/// without one it stays as it is. A machine that could not be written goes on.
pub(crate) async fn freeze(
    process: &VmmProcess,
    files: FreezeFiles<'_>,
    gate: Option<Gate>,
) -> Result<Frozen, MachineError> {
    let control = process.control();
    let _unlimited = process.io_unlimited();
    let begun = Instant::now();
    let paused = control.order(Command::Pause, &[], PAUSE_WITHIN).await;
    paused.map_err(failed("pause the machine"))?;
    if let Some(gate) = gate {
        gate.pass().await;
    }
    let disk = files.disk.map(|disk| disk_spec(disk.len()));
    let spec = SnapshotSpec { disk, only_dirty: true };
    let mut descriptors = vec![files.state.as_fd(), files.memory.as_fd()];
    descriptors.extend(files.disk.into_iter().flatten().map(AsFd::as_fd));
    let written = control.request(Command::Snapshot(spec), &descriptors, SNAPSHOT_WITHIN).await;
    let written = match written {
        Ok(Answer::Snapshotted { .. }) => Ok(()),
        Ok(_) => Err(ControlError::Protocol),
        Err(error) => Err(error),
    };
    if files.disk.is_some() || written.is_err() {
        go_on(process).await?;
    }
    written.map_err(failed("write the machine's state and memory"))?;
    let held_us = micros(begun);
    // Nothing is written to them any more, so the machine need not wait for the disk.
    let flushed = if files.disk.is_some() { flush(files).await } else { Ok(()) };
    Ok(Frozen { held_us, flushed })
}

async fn flush(files: FreezeFiles<'_>) -> io::Result<()> {
    let (state, memory) = (files.state.try_clone()?, files.memory.try_clone()?);
    let flushing = spawn_blocking(move || state.sync_data().and_then(|()| memory.sync_data()));
    flushing.await.map_err(io::Error::other)?
}
