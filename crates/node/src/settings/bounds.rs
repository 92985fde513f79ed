//! The bounds of a sandbox, as options.

use api_guest::ProcessBounds;
use clap::{Args, value_parser};
use node_host::IoBounds;

#[derive(Debug, Args)]
#[command(next_help_heading = "Bounds of a sandbox")]
pub(crate) struct BoundOptions {
    /// Processes that live on their own in a sandbox at once. Each takes a thread of its agent, and its
    /// output, of the sandbox's memory.
    #[arg(long, value_name = "COUNT", default_value_t = 64,
          value_parser = value_parser!(u32).range(1..=512))]
    max_processes: u32,
    /// Output kept of each for those who attach later, in KiB; memory of its sandbox.
    #[arg(long, value_name = "KIB", default_value_t = 1024,
          value_parser = value_parser!(u32).range(256..=65_536))]
    max_output_kept_kib: u32,
    /// What a sandbox reads of the disk in a second, and as much it writes, in MiB for each vCPU: so much
    /// that a few that do nothing else leave some of the disk to the others.
    #[arg(long, value_name = "MIB", default_value_t = 128,
          value_parser = value_parser!(u64).range(1..=65_536))]
    max_disk_mib_per_vcpu: u64,
    /// Requests to the disk in a second, reading, and as many writing, for each vCPU; for the same reason.
    #[arg(long, value_name = "COUNT", default_value_t = 4096,
          value_parser = value_parser!(u64).range(16..=4_194_304))]
    max_disk_requests_per_vcpu: u64,
    /// Memory of this machine that is kept back for the node and what else runs here, in MiB: no sandbox is
    /// made, forked or resumed that would take of it. 0 refuses none.
    #[arg(long, value_name = "MIB", default_value_t = 256,
          value_parser = value_parser!(u64).range(0..=1_048_576))]
    keep_memory_mib: u64,
}

impl BoundOptions {
    pub(crate) fn processes(&self) -> ProcessBounds {
        let output_kept_bytes = self.max_output_kept_kib << 10;
        ProcessBounds { processes: self.max_processes, output_kept_bytes }
    }

    pub(crate) const fn memory_kept_mib(&self) -> u64 {
        self.keep_memory_mib
    }

    pub(crate) fn io(&self) -> IoBounds {
        IoBounds {
            bytes_per_vcpu: self.max_disk_mib_per_vcpu << 20,
            requests_per_vcpu: self.max_disk_requests_per_vcpu,
        }
    }
}
