use serde::{Deserialize, Serialize};

use crate::Spread;
use crate::check::{Check, Refused, refuse};

/// LIMIT: commands of one measurement; a thousand are minutes.
pub const MEASURE_RUNS_MAX: u32 = 200;
/// LIMIT: bytes of one measurement, in MiB; they are written to the sandbox's disk.
pub const MEASURE_MIB_MAX: u32 = 64;

/// What to measure of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Measure {
    /// Commands to run one after another, 0 to 200. Default: 20.
    pub runs: u32,
    /// MiB to carry in, and out again, 0 to 64. Default: 0.
    pub mib: u32,
}

impl Default for Measure {
    fn default() -> Self {
        Self { runs: 20, mib: 0 }
    }
}

impl Check for Measure {
    fn check(&self) -> Result<(), Refused> {
        if self.runs > MEASURE_RUNS_MAX {
            refuse(format!("`runs` is {}; it must be 0 to {MEASURE_RUNS_MAX}", self.runs))
        } else if self.mib > MEASURE_MIB_MAX {
            refuse(format!("`mib` is {}; it must be 0 to {MEASURE_MIB_MAX}", self.mib))
        } else {
            Ok(())
        }
    }
}

/// What a sandbox's agent and the way to it take, seen by the node and without HTTP: what a request
/// of a user takes beyond that is the API's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Measured {
    /// From the request for `sh -c true`, on an open connection to the agent, to the agent's word
    /// that it has ended.
    pub spawn: Spread,
    /// Microseconds in which `cat` in the sandbox wrote to a file what came over vsock, from the first
    /// byte to its end; 0 when nothing was carried.
    pub in_us: u64,
    /// Microseconds in which the same file came back over vsock from `cat`, and was thrown away.
    pub out_us: u64,
}
