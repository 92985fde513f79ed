//! The gateway with a guest of our own at the other end of its frame socket, and real servers.

#![expect(clippy::unwrap_used, reason = "what fails fails its test")]

mod dns;
mod escapes;
mod guest;
mod hostile;
mod links;
mod policy;
mod secrets;
mod site;
mod tcp;
mod tls;
mod udp;
mod world;
