//! Entropy: fills guest buffers from the host's `getrandom`. It has no state, so every clone of a
//! snapshot draws its own.

mod device;
mod freeze;
#[cfg(test)]
mod test;

pub use self::device::{REQUEST_BYTES_MAX, Rng, RngStats};
