//! The whole program as its user meets it: what it prints where, and what it exits with. The node it
//! talks to has no machines.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod access;
mod bench;
mod db;
mod format;
mod node;
mod policy;
mod run;
mod sandbox;
mod sandflare;
mod secret;
mod terminal;
mod url;
