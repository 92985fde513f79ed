//! What a door lets through at once, and for how long. Each is a setting of the node; the default is
//! the bound, and why it is that is said here and in the guide to operations.

use std::time::Duration;

use axum::http::Extensions;

/// Bounds on connections and requests. What a single operation takes is bounded by the API itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// LIMIT: connections at once. Each takes a descriptor and some tens of KiB; hundreds of sandboxes
    /// with a few streams each fit. When all are taken, the one that has waited longest without a
    /// request that was let in makes room.
    pub connections: usize,
    /// LIMIT: requests of one project under way, streams included: no project can take all connections.
    pub requests_per_project: usize,
    /// LIMIT: requests under way into one sandbox. Its agent serves 256; some are the node's own.
    pub requests_per_sandbox: usize,
    /// LIMIT: the head of a request, in bytes, at least 8192. The longest lines are a path in a
    /// sandbox, percent-encoded, and a key; what an operation reads beyond the head has limits of its own.
    pub head_bytes: usize,
    /// LIMIT: header lines of one request; browsers send about twenty.
    pub head_lines: usize,
    /// LIMIT: bytes of one upload. Bigger than any sandbox's disk would hold, small enough that a client
    /// that never stops is stopped.
    pub upload_bytes: u64,
    /// LIMIT: two round trips and a signature; a peer that takes longer does not speak TLS.
    pub handshake_within: Duration,
    /// LIMIT: from the moment a connection is idle until the next request's head has come whole. A client
    /// that keeps connections for less than this is never cut off in the middle.
    pub head_within: Duration,
    /// LIMIT: a body that is read whole, at most a megabyte, must have come in this time; an upload,
    /// which may itself take hours, may be silent for as long.
    pub body_within: Duration,
    /// LIMIT: how long an answer may wait for a caller that takes nothing of it. Long, because somebody
    /// may be reading what a pager holds back.
    pub stall_within: Duration,
    /// LIMIT: a request with all of its answer, streams included: as long as the longest command that
    /// can be asked for. Whoever follows a process for longer asks again with `after`.
    pub request_within: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            requests_per_project: 1024,
            requests_per_sandbox: 200,
            head_bytes: 64 * 1024,
            head_lines: 100,
            upload_bytes: 64 << 30,
            handshake_within: Duration::from_secs(10),
            head_within: Duration::from_secs(60),
            body_within: Duration::from_secs(60),
            stall_within: Duration::from_secs(60 * 60),
            request_within: Duration::from_secs(24 * 60 * 60),
        }
    }
}

impl Limits {
    /// Those of the node that a request came to, which the door put into its extensions.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions.get().copied().unwrap_or_default()
    }
}
