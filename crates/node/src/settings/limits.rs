//! The bounds on connections and requests, as options.

use std::time::Duration;

use api_node::Limits;
use clap::{Args, value_parser};

#[derive(Debug, Args)]
#[command(next_help_heading = "Bounds of the HTTP server")]
pub(crate) struct LimitOptions {
    /// Connections at once; beyond it the one that has waited longest for a request makes room.
    #[arg(long, value_name = "COUNT", default_value_t = 4096,
          value_parser = value_parser!(u32).range(16..=65_536))]
    max_connections: u32,
    /// Requests of one project under way, streams included.
    #[arg(long, value_name = "COUNT", default_value_t = 1024,
          value_parser = value_parser!(u32).range(1..=65_536))]
    max_requests_per_project: u32,
    /// Requests under way into one sandbox: commands, streams, files, ports.
    #[arg(long, value_name = "COUNT", default_value_t = 200,
          value_parser = value_parser!(u32).range(1..=240))]
    max_requests_per_sandbox: u32,
    /// Size of a request's head, in KiB.
    #[arg(long, value_name = "KIB", default_value_t = 64,
          value_parser = value_parser!(u32).range(8..=1024))]
    max_head_kib: u32,
    /// Header lines of a request.
    #[arg(long, value_name = "COUNT", default_value_t = 100,
          value_parser = value_parser!(u32).range(20..=1000))]
    max_head_lines: u32,
    /// Size of one uploaded file, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 65_536,
          value_parser = value_parser!(u64).range(1..=16 << 20))]
    max_upload_mib: u64,
    /// How long a TLS handshake may take, in seconds.
    #[arg(long, value_name = "S", default_value_t = 10,
          value_parser = value_parser!(u64).range(1..=600))]
    handshake_timeout_s: u64,
    /// How long a connection may be idle until its next request has come, in seconds.
    #[arg(long, value_name = "S", default_value_t = 60,
          value_parser = value_parser!(u64).range(1..=3600))]
    head_timeout_s: u64,
    /// How long a JSON body may take, and an upload be silent, in seconds.
    #[arg(long, value_name = "S", default_value_t = 60,
          value_parser = value_parser!(u64).range(1..=3600))]
    body_timeout_s: u64,
    /// How long an answer may wait for a caller that takes nothing of it, in seconds.
    #[arg(long, value_name = "S", default_value_t = 3600,
          value_parser = value_parser!(u64).range(1..=604_800))]
    stall_timeout_s: u64,
    /// How long a request with all of its answer may take, streams included, in seconds.
    #[arg(long, value_name = "S", default_value_t = 86_400,
          value_parser = value_parser!(u64).range(60..=31_536_000))]
    request_timeout_s: u64,
}

impl LimitOptions {
    pub(crate) fn resolve(&self) -> Limits {
        let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        Limits {
            connections: count(self.max_connections),
            requests_per_project: count(self.max_requests_per_project),
            requests_per_sandbox: count(self.max_requests_per_sandbox),
            head_bytes: count(self.max_head_kib) << 10,
            head_lines: count(self.max_head_lines),
            upload_bytes: self.max_upload_mib << 20,
            handshake_within: Duration::from_secs(self.handshake_timeout_s),
            head_within: Duration::from_secs(self.head_timeout_s),
            body_within: Duration::from_secs(self.body_timeout_s),
            stall_within: Duration::from_secs(self.stall_timeout_s),
            request_within: Duration::from_secs(self.request_timeout_s),
        }
    }
}
