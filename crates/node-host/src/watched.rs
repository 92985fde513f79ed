//! Descriptors the runtime watches.
#![expect(unsafe_code, reason = "the runtime cannot see that a descriptor it watches stays open")]

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches `file`, which must poll (a socket or a pidfd). Must be called in a runtime.
pub(crate) fn watched(file: Arc<OwnedFd>, interest: Interest) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the `Arc` is kept in the `AsyncFd` and cannot be changed through it, so the
    // descriptor stays open and the same for as long as it is watched.
    unsafe { AsyncFd::register_with_interest(file, interest) }.map_err(|error| error.into_parts().1)
}
