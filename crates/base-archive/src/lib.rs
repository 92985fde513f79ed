//! Directories as tar streams, and back.
//!
//! Both directions keep a piece of one file in memory, whatever the directory or the archive is like. The
//! agent uses this inside a guest, the command line on its user's machine. Neither trusts an archive:
//! every name in one is resolved by the kernel so that it cannot leave the directory that is written
//! to, also not through links that are there already or that another process makes meanwhile.
//!
//! What an archive keeps: directories, regular files, symbolic links, permission bits, times of files,
//! and, if asked for, owners by number. Hard links become files of their own, holes become zeros.
//! Sockets, FIFOs and devices are left out. Sparse files in archives of other programs are refused.

mod pack;
mod unpack;

pub use pack::{PackError, pack};
pub use unpack::{LEFT_OUT_NAMED_MAX, Rules, UnpackError, Unpacked, unpack};

/// LIMIT: levels of directories below the one that is packed or unpacked. Each holds a descriptor open,
/// and no tree people make is half as deep.
pub const DEPTH_MAX: usize = 256;
/// LIMIT: data on its way between a file and the stream.
const PIECE_BYTES: usize = 64 * 1024;
