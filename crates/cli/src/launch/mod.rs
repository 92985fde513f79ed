//! The node of this machine: starting it, stopping it, and what it writes.
//!
//! ```text
//!   up ──▶ somebody serves the port? ──yes──▶ say so
//!     └─▶ probe KVM ──good──▶ images ─▶ sandflared, detached ─────┐
//!             └──────else──▶ images ─▶ QEMU with sandflared in it ┴▶ wait until it serves
//! ```
//!
//! Which node was started is written to `node.json` in the home directory before it is waited for,
//! so that `down` finds it whatever happened to `up`.

mod down;
mod logs;
mod native;
mod record;
mod up;

pub(crate) use down::down;
pub(crate) use logs::logs;
pub(crate) use up::up;
