//! What KVM is worth on this machine: does it run Linux ([`probe`]), and how fast can it be
//! ([`floor`]).
//!
//! A look at `/dev/kvm` tells little: there are hosts where it opens, answers every request and
//! yet emulates the guest's kernel code instruction by instruction, until it meets one it does not
//! know. So the probe runs a guest of a few dozen instructions no kernel can do without.
//!
//! Nothing here is part of a machine: guests of this crate have no devices, and nothing of theirs
//! outlives the call. [`probe_command`] and [`floor_command`] are the subcommands of
//! `sandflare-vmm` that other processes run to learn the same.

#![warn(missing_docs)]

mod alarm;
mod command;
mod flat;
mod floor;
mod guest;
mod probe;

pub use command::{floor_command, probe_command};
pub use floor::{FloorError, FloorReport, Phase, PhaseSpread, Spread, floor};
pub use probe::{Kind, Verdict, probe};
