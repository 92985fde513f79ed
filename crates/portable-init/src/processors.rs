//! Which processors programs run on.

use anyhow::{Context as _, Result, ensure};
use portable_init::RESERVED_PROCESSORS;

/// Moves this process off the reserved processors. Everything it starts inherits that.
pub(crate) fn leave_reserved() -> Result<()> {
    let mut set = rustix::thread::sched_getaffinity(None).context("read the affinity")?;
    for processor in 0..RESERVED_PROCESSORS {
        set.unset(processor as usize);
    }
    ensure!(set.count() > 0, "all processors are reserved; QEMU must be given more");
    rustix::thread::sched_setaffinity(None, &set).context("leave the reserved processors")
}
