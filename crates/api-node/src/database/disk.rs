//! How much of its machine's disk a database may take.

use crate::check::{Refused, refuse};

/// LIMIT: the least that a database may be limited to, in MiB; an empty one takes some 32.
pub const DATABASE_DISK_MIB_MIN: u32 = 64;
/// LIMIT: the most, in MiB, and what one has that is not limited. Its machine's disk has 8 GiB, of which
/// the system and the log that is written ahead have the rest.
pub const DATABASE_DISK_MIB_MAX: u32 = 6144;

pub(super) fn disk(mib: u32) -> Result<(), Refused> {
    if (DATABASE_DISK_MIB_MIN..=DATABASE_DISK_MIB_MAX).contains(&mib) {
        return Ok(());
    }
    refuse(format!("`disk_mib` must be {DATABASE_DISK_MIB_MIN} to {DATABASE_DISK_MIB_MAX}"))
}
