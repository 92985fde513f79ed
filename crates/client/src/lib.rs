//! Asks a node for things, over its HTTP API.
//!
//! One method per operation of `api-node`, typed errors that know a way out, and streams of events
//! decoded whatever way the network cut them. It holds no policy: nothing is retried, nothing is
//! cleaned up. Whoever drops an [`Events`] closes its connection, by which the node learns that
//! nobody listens any more.

mod access;
mod connect;
mod databases;
mod decode;
mod error;
mod events;
mod files;
mod operations;
mod policy;
mod ports;
mod processes;
mod secrets;

pub use connect::Credentials;
pub use decode::{DecodeError, Lines};
pub use error::ClientError;
pub use events::Events;
pub use operations::Client;
pub use processes::{SocketEvent, SocketReader, SocketWriter};
