//! Bounds of a sandbox that a node's operator chooses.

/// Disk requests of a machine. Each is a setting of the node; the default is the bound, and why it is
/// that is said here and in the guide to operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoBounds {
    /// LIMIT: bytes a second a machine reads, and as many it writes, for each vCPU. Enough to unpack a
    /// large package, and a fraction of what one solid state disk does, so that a few that do nothing
    /// else leave some of it to the others.
    pub bytes_per_vcpu: u64,
    /// LIMIT: requests a second, reading, and as many writing, for each vCPU; for the same reason.
    pub requests_per_vcpu: u64,
}

impl Default for IoBounds {
    fn default() -> Self {
        Self { bytes_per_vcpu: 128 << 20, requests_per_vcpu: 4096 }
    }
}
