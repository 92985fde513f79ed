//! What may be asked of a VMM process when.
//!
//! ```text
//!         Build          Prime           Restore          Resume
//!   Empty ──────▶ Shell ───────▶ Primed ──────────▶ Paused ◀────────▶ Running
//!     │             │              │                   │     Pause       ▲ │
//!     │             └──────────────│──── Boot ─────────│─────────────────┘ │
//!     └────────────────────────────┴── Stop, or the guest ends ────────────┘──▶ Stopped
//! ```
//!
//! Nothing here acts. `Stopped` is terminal; the process ends right after. A repeated `Pause` or
//! `Resume` is accepted and does nothing, so the node may retry freely.

use api_vmm::{Command, Progress};

/// Where a VMM process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Jailed, nothing built.
    Empty,
    /// VM, vCPUs and memory slots exist; nothing runs in them.
    Shell,
    /// A shell with a snapshot's memory in place.
    Primed,
    /// A machine whose vCPUs are parked.
    Paused,
    /// A machine whose vCPUs run.
    Running,
    /// Over.
    Stopped,
}

/// A request that makes no sense now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{asked} needs a machine that is {needed}, this one is {phase:?}")]
pub(crate) struct Refused {
    asked: &'static str,
    needed: &'static str,
    phase: Phase,
}

impl Phase {
    /// What a node is told.
    pub(crate) fn progress(self) -> Progress {
        match self {
            Self::Empty => Progress::Empty,
            Self::Shell | Self::Primed => Progress::Shell,
            Self::Paused => Progress::Paused,
            Self::Running => Progress::Running,
            Self::Stopped => Progress::Stopped,
        }
    }

    /// The phase after `command` succeeded, or why it may not be tried.
    pub(crate) fn after(self, command: &Command) -> Result<Self, Refused> {
        use Phase as P;
        let refused = |asked, needed| Err(Refused { asked, needed, phase: self });
        match command {
            Command::Build(_) => match self {
                P::Empty => Ok(P::Shell),
                P::Shell | P::Primed | P::Paused | P::Running | P::Stopped => {
                    refused("build", "empty")
                }
            },
            Command::Boot(_) => match self {
                P::Shell => Ok(P::Running),
                P::Empty | P::Primed | P::Paused | P::Running | P::Stopped => {
                    refused("boot", "a shell")
                }
            },
            Command::Prime(_) => match self {
                P::Shell => Ok(P::Primed),
                P::Empty | P::Primed | P::Paused | P::Running | P::Stopped => {
                    refused("prime", "a shell")
                }
            },
            Command::Restore(spec) => match self {
                P::Primed if spec.resume => Ok(P::Running),
                P::Primed => Ok(P::Paused),
                P::Empty | P::Shell | P::Paused | P::Running | P::Stopped => {
                    refused("restore", "primed")
                }
            },
            Command::Pause => match self {
                P::Running | P::Paused => Ok(P::Paused),
                P::Empty | P::Shell | P::Primed | P::Stopped => refused("pause", "running"),
            },
            Command::Resume => match self {
                P::Running | P::Paused => Ok(P::Running),
                P::Empty | P::Shell | P::Primed | P::Stopped => refused("resume", "paused"),
            },
            Command::Snapshot(_) => match self {
                P::Paused => Ok(P::Paused),
                P::Empty | P::Shell | P::Primed | P::Running | P::Stopped => {
                    refused("snapshot", "paused")
                }
            },
            // What a guest left behind is never read where another guest is.
            Command::Merge(_) => match self {
                P::Empty | P::Shell => Ok(self),
                P::Primed | P::Paused | P::Running | P::Stopped => {
                    refused("merge", "empty or a shell")
                }
            },
            Command::Connect { .. } | Command::TakeWorkingSet => match self {
                P::Paused | P::Running => Ok(self),
                P::Empty | P::Shell | P::Primed | P::Stopped => {
                    refused("connect", "running or paused")
                }
            },
            Command::Network => match self {
                P::Paused | P::Running => Ok(self),
                P::Empty | P::Shell | P::Primed | P::Stopped => {
                    refused("network", "running or paused")
                }
            },
            // A process without a guest is worth nothing to the next node.
            Command::Keep => match self {
                P::Paused | P::Running => Ok(self),
                P::Empty | P::Shell | P::Primed | P::Stopped => {
                    refused("keep", "running or paused")
                }
            },
            Command::Stats => match self {
                P::Empty | P::Shell | P::Primed | P::Paused | P::Running => Ok(self),
                P::Stopped => refused("stats", "alive"),
            },
            Command::Stop => Ok(P::Stopped),
        }
    }
}

#[cfg(test)]
mod test {
    use api_vmm::{
        BootSpec, DiskSpec, MemoryPath, MergeSpec, PrimeSpec, RestoreSpec, ShellSpec, SnapshotSpec,
    };

    use super::*;

    const PHASES: [Phase; 6] =
        [Phase::Empty, Phase::Shell, Phase::Primed, Phase::Paused, Phase::Running, Phase::Stopped];

    fn commands() -> Vec<Command> {
        let disk = DiskSpec { files: 2 };
        let restore =
            |resume| Command::Restore(RestoreSpec { disk, resume, generation_id: [0; 16] });
        vec![
            Command::Build(ShellSpec { vcpus: 1, memory_mib: 64 }),
            Command::Boot(BootSpec { cmdline: String::new(), disk }),
            Command::Prime(PrimeSpec {
                memory: MemoryPath::Private,
                layers: 0,
                working_set: false,
                record: false,
            }),
            restore(false),
            restore(true),
            Command::Pause,
            Command::Resume,
            Command::Snapshot(SnapshotSpec { disk: None, only_dirty: false }),
            Command::Merge(MergeSpec { below: 1, run: 1 }),
            Command::Connect { port: 1 },
            Command::Network,
            Command::TakeWorkingSet,
            Command::Keep,
            Command::Stats,
            Command::Stop,
        ]
    }

    #[test]
    fn stopped_is_terminal() {
        for command in commands() {
            if let Ok(after) = Phase::Stopped.after(&command) {
                assert_eq!(after, Phase::Stopped);
            }
        }
    }

    #[test]
    fn stop_is_never_refused() {
        for phase in PHASES {
            assert_eq!(phase.after(&Command::Stop), Ok(Phase::Stopped));
        }
    }

    #[test]
    fn pause_and_resume_may_be_repeated() {
        for command in [Command::Pause, Command::Resume] {
            for phase in PHASES {
                if let Ok(after) = phase.after(&command) {
                    assert_eq!(after.after(&command), Ok(after));
                }
            }
        }
    }

    #[test]
    fn only_a_process_with_a_guest_outlives_its_node() {
        for phase in PHASES {
            let has_guest = matches!(phase, Phase::Paused | Phase::Running);
            assert_eq!(phase.after(&Command::Keep).is_ok(), has_guest);
        }
    }

    #[test]
    fn overlays_are_merged_only_by_a_process_without_a_machine() {
        for phase in PHASES {
            let merge = Command::Merge(MergeSpec { below: 1, run: 1 });
            assert_eq!(phase.after(&merge).is_ok(), matches!(phase, Phase::Empty | Phase::Shell));
        }
    }

    #[test]
    fn a_snapshot_is_only_taken_of_a_machine_that_stands_still() {
        for phase in PHASES {
            let snapshot = Command::Snapshot(SnapshotSpec { disk: None, only_dirty: false });
            assert_eq!(phase.after(&snapshot).is_ok(), phase == Phase::Paused);
        }
    }
}
