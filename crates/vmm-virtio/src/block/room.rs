//! Room on the host's file system, which all disks share.
//!
//! Disks are larger together than what is there. Near its end a part is kept back: a disk that has
//! taken much gets no more of it, and the others and the node can still write.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;

/// One part in this many of the file system is kept back.
const KEPT_BACK_SHARE: u64 = 20;
/// LIMIT: what is kept back is enough to write a few machines of some 100 MiB, so that they can be
/// paused or forked, and the node's database.
const KEPT_BACK_BYTES_MAX: u64 = 4 << 30;
/// LIMIT: an overlay up to this size may take of what is kept back: a guest that writes a little is
/// not to notice one that writes without end.
const SMALL_BYTES_MAX: u64 = 64 << 20;
/// LIMIT: bytes written until it is looked again. So much more than it should can each disk take.
const LOOK_BYTES: u64 = 4 << 20;

/// What is known of the room there is.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Bytes that may be written before it is looked again.
    unwatched: u64,
}

/// What a look tells, in bytes.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Of the file system.
    total: u64,
    /// What is left of it.
    free: u64,
    /// What this overlay takes.
    own: u64,
}

impl Seen {
    fn at(file: &File) -> io::Result<Self> {
        let stat = rustix::fs::fstatvfs(file)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        let own = file.metadata()?.blocks().saturating_mul(512);
        Ok(Self { total: bytes(stat.f_blocks), free: bytes(stat.f_bavail), own })
    }

    fn is_enough(self) -> bool {
        let kept_back = KEPT_BACK_BYTES_MAX.min(self.total / KEPT_BACK_SHARE);
        self.own < SMALL_BYTES_MAX || self.free > kept_back
    }
}

impl Room {
    /// Whether the overlay `file` may grow by `len` bytes; when not, how many MiB are left.
    pub(super) fn ask(&mut self, file: &File, len: u64) -> io::Result<Result<(), u64>> {
        if let Some(rest) = self.unwatched.checked_sub(len) {
            self.unwatched = rest;
            return Ok(Ok(()));
        }
        let seen = Seen::at(file)?;
        if seen.is_enough() {
            self.unwatched = LOOK_BYTES;
            return Ok(Ok(()));
        }
        Ok(Err(seen.free >> 20))
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn what_is_kept_back_is_for_those_who_took_little() {
        let seen = |total, free, own| Seen { total, free, own }.is_enough();
        assert!(seen(100 * GIB, 4 * GIB + 1, 90 * GIB));
        assert!(!seen(100 * GIB, 4 * GIB, 90 * GIB));
        assert!(!seen(100 * GIB, 4 * GIB, SMALL_BYTES_MAX));
        assert!(seen(100 * GIB, 0, SMALL_BYTES_MAX - 1));
        assert!(seen(10 * GIB, GIB, 9 * GIB), "a small disk keeps back a small part");
        assert!(!seen(10 * GIB, GIB / 2, 9 * GIB));
    }

    #[test]
    fn it_is_looked_again_only_after_much_was_written() {
        let file = tempfile::tempfile().unwrap();
        let mut room = Room::default();
        assert_eq!(room.ask(&file, 512).unwrap(), Ok(()));
        assert_eq!(room.unwatched, LOOK_BYTES);
        room.ask(&file, LOOK_BYTES - 1).unwrap().unwrap();
        assert_eq!(room.unwatched, 1);
        room.ask(&file, 2).unwrap().unwrap();
        assert_eq!(room.unwatched, LOOK_BYTES);
    }
}
