//! The door of a node: what callers with keys, with others' keys and without any get, over HTTP.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod door;
mod limits;
mod policy;
mod ports;
mod tenancy;
mod world;
