//! The client against the real router over real HTTP; the node behind it has no machines.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod files;
mod hostile;
mod operations;
mod policy;
mod ports;
mod processes;
