//! The product as users have it: the released programs, a node in the portable host, Linux guests.
//! Nothing is replaced by a stand-in. `host` says what a test gets and how it is torn down.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod host;
mod run;
mod sandbox;
mod teardown;
