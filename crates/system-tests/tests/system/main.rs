//! The product as users have it: the released programs, a node in the portable host, Linux guests.
//! Nothing is replaced by a stand-in. `host` says what a test gets and how it is torn down.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod bad_input;
mod broken;
mod chains;
mod clients;
mod clones;
mod command_line;
mod cut;
mod databases;
mod disk_limit;
mod files;
mod flat;
mod folders;
mod gateway;
mod guest_ends;
mod host;
mod inside;
mod kills;
mod lifecycle;
mod neighbours;
mod network;
mod pauses;
mod ports;
mod power;
mod processes;
mod python;
mod run;
mod sandbox;
mod secrets;
mod sizes;
mod streams;
mod teardown;
mod wired;

use std::io::Read as _;

/// Bytes that are in no cache and compress to nothing smaller.
fn random_bytes(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    bytes
}
