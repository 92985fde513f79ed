//! What a benchmark found. The JSON form is stable: fields are added, never renamed; times are in
//! microseconds, memory in KiB.

use api_node::{Floor, Node, PhaseTimes, SandboxStats};
use client::Client;
use serde::Serialize;

use crate::bench::spread::Spread;

/// Version of the JSON form.
pub(crate) const SCHEMA: u32 = 1;

/// One measured create.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// From request to answer, seen from here.
    pub(crate) create_us: u64,
    /// From request (of the create) to the first output of `echo`, seen from here.
    pub(crate) first_output_us: u64,
    /// From request (of the exec) to that output.
    pub(crate) exec_us: u64,
    pub(crate) phases: PhaseTimes,
    pub(crate) stats: SandboxStats,
}

/// What was measured, and where: every report begins with it.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Head {
    /// Version of the report's JSON form.
    schema: u32,
    pub(crate) version: String,
    url: String,
    pub(crate) kernel_release: String,
    pub(crate) cpus: u32,
}

impl Head {
    pub(crate) fn of(schema: u32, node: Node, client: &Client) -> Self {
        let Node { version, kernel_release, cpus, .. } = node;
        Self { schema, version, url: client.url().to_owned(), kernel_release, cpus }
    }

    #[cfg(test)]
    pub(crate) fn example(schema: u32) -> Self {
        let url = "http://127.0.0.1:7878".to_owned();
        let (version, kernel_release) = ("0.1.0".to_owned(), "6.12.0".to_owned());
        Self { schema, version, url, kernel_release, cpus: 2 }
    }
}

/// Everything.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    pub(crate) head: Head,
    pub(crate) template: String,
    pub(crate) size: String,
    /// Restore paths, in the order of the first round.
    pub(crate) restore: Vec<Restore>,
    pub(crate) cold_boot: Option<Spread>,
    pub(crate) floor: Option<Floor>,
    /// Why there is no floor, when there is none.
    pub(crate) floor_failure: Option<String>,
    pub(crate) parallel: Option<Parallel>,
    pub(crate) alive: Option<Alive>,
    pub(crate) targets: Vec<Target>,
}

/// One restore path.
#[derive(Debug, Serialize)]
pub(crate) struct Restore {
    pub(crate) memory_path: &'static str,
    pub(crate) create_us: Spread,
    pub(crate) first_output_us: Spread,
    pub(crate) exec_us: Spread,
    pub(crate) phases: Phases,
    /// What the VMM does: claim, parse, map, state, devices, resume.
    pub(crate) vmm_us: Spread,
    /// Creates that found no shell ready; they are among the others.
    pub(crate) pool_empty: u64,
    pub(crate) faults: Spread,
    pub(crate) pages_copied: Spread,
    pub(crate) pages_prefetched: Spread,
    pub(crate) private_kib: Spread,
    pub(crate) overhead_kib: Spread,
    /// What went wrong, a sentence each.
    pub(crate) failures: Vec<String>,
}

/// Phases as the node saw them.
#[derive(Debug, Serialize)]
pub(crate) struct Phases {
    pub(crate) claim_us: Spread,
    pub(crate) parse_us: Spread,
    pub(crate) map_us: Spread,
    pub(crate) state_us: Spread,
    pub(crate) devices_us: Spread,
    pub(crate) resume_us: Spread,
    pub(crate) reseed_us: Spread,
    pub(crate) total_us: Spread,
}

impl Restore {
    pub(crate) fn of(memory_path: &'static str, runs: &[Run], failures: Vec<String>) -> Self {
        let of = |figure: fn(&Run) -> u64| Spread::of(runs.iter().map(figure));
        Self {
            memory_path,
            create_us: of(|run| run.create_us),
            first_output_us: of(|run| run.first_output_us),
            exec_us: of(|run| run.exec_us),
            phases: Phases {
                claim_us: of(|run| run.phases.claim_us),
                parse_us: of(|run| run.phases.parse_us),
                map_us: of(|run| run.phases.map_us),
                state_us: of(|run| run.phases.state_us),
                devices_us: of(|run| run.phases.devices_us),
                resume_us: of(|run| run.phases.resume_us),
                reseed_us: of(|run| run.phases.reseed_us),
                total_us: of(|run| run.phases.total_us),
            },
            vmm_us: of(|run| {
                let p = run.phases;
                p.claim_us + p.parse_us + p.map_us + p.state_us + p.devices_us + p.resume_us
            }),
            pool_empty: runs.iter().filter(|run| run.phases.pool_empty).count() as u64,
            faults: of(|run| run.stats.faults),
            pages_copied: of(|run| run.stats.pages_copied),
            pages_prefetched: of(|run| run.stats.pages_prefetched),
            private_kib: of(|run| run.stats.private_kib()),
            overhead_kib: of(|run| run.stats.overhead_kib),
            failures,
        }
    }
}

/// Creates at once.
#[derive(Debug, Serialize)]
pub(crate) struct Parallel {
    pub(crate) count: u32,
    /// From request to answer, of those that worked.
    pub(crate) create_us: Spread,
    pub(crate) failures: Vec<String>,
}

/// Sandboxes alive at once.
#[derive(Debug, Serialize)]
pub(crate) struct Alive {
    pub(crate) count: u32,
    /// How many were alive and answered a command.
    pub(crate) answered: u32,
    /// Guest memory of each that is its own, after it answered.
    pub(crate) private_kib: Spread,
    pub(crate) overhead_kib: Spread,
    /// Memory of the node's machine left while all were alive, in MiB.
    pub(crate) memory_available_mib: Option<u64>,
    pub(crate) failures: Vec<String>,
}

/// Something that should be reached.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// What is wanted, for people.
    pub(crate) wanted: String,
    /// What was measured, for people; `None` when it was left out.
    pub(crate) measured: Option<String>,
    /// Whether it is reached; `None` when it was left out.
    pub(crate) reached: Option<bool>,
}
