//! What KVM is worth on this machine: does it run Linux ([`probe`]), and how fast can it be
//! ([`floor`]); and a way to keep it awake ([`hold`]).
//!
//! A look at `/dev/kvm` tells little: there are hosts where it opens, answers every request and
//! yet emulates the guest's kernel code instruction by instruction, until it meets one it does not
//! know. So the probe runs a guest of a few dozen instructions no kernel can do without.
//!
//! Nothing here is part of a machine: guests of this crate have no devices, and nothing of theirs
//! outlives the call or the value returned. [`probe_command`], [`floor_command`] and [`hold_command`] are the
//! subcommands of `sandflare-vmm` that other processes run for the same.

#![warn(missing_docs)]

mod alarm;
mod command;
mod create;
mod flat;
mod floor;
mod guest;
mod hold;
mod probe;

pub use command::{floor_command, hold_command, probe_command};
pub use floor::{FloorError, FloorReport, Phase, PhaseSpread, Spread, floor};
pub use hold::{Held, HoldError, hold};
pub use probe::{Kind, Verdict, probe};
