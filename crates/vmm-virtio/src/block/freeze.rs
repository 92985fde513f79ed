//! The state of a block device on disk: what the guest has seen of it. Contents are in the layers.

use serde::{Deserialize, Serialize};

use super::{Block, Disk, request::ID_BYTES};
use crate::{Device as _, Freeze};

/// A block device, frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrozenBlock {
    /// Serial number, padded with zeroes.
    pub serial: [u8; ID_BYTES],
    /// Size of the disk.
    pub sectors: u64,
}

/// Why frozen state of a block device was refused.
#[derive(Debug, thiserror::Error)]
pub enum ThawBlockError {
    /// The snapshot is of a machine with another disk.
    #[error(
        "the {} of the snapshot has {expected} sectors, the disk given has {found}",
        Block::NAME
    )]
    OtherDisk {
        /// Sectors of the disk given.
        found: u64,
        /// Sectors in the snapshot.
        expected: u64,
    },
}

impl Freeze for Block {
    type Frozen = FrozenBlock;
    type Host = Disk;
    type Error = ThawBlockError;

    fn freeze(&self) -> Self::Frozen {
        FrozenBlock { serial: self.serial, sectors: self.disk.sectors() }
    }

    fn thaw(frozen: Self::Frozen, disk: Self::Host) -> Result<Self, Self::Error> {
        let found = disk.sectors();
        if found == frozen.sectors {
            Ok(Block::with_serial(disk, frozen.serial))
        } else {
            Err(ThawBlockError::OtherDisk { found, expected: frozen.sectors })
        }
    }
}
