//! The API as a trait, and the same over HTTP.
//!
//! ```text
//!   request ─▶ name it ─▶ guard ─▶ admit ─▶ once ─▶ bound, parse, check ─▶ NodeApi ─▶ render
//!                │                                                             │
//!                └── every failure gets the request's id here ◀────────────────┘
//!                    and is logged here, once
//! ```

mod access;
mod access_api;
mod access_routes;
mod api;
mod database;
mod document;
mod door;
mod extract;
mod file_routes;
mod idempotency;
mod lifecycle_routes;
mod limits;
mod nobody;
mod page;
mod policy_api;
mod policy_routes;
mod port;
mod process_routes;
mod reply;
mod routes;
mod seats;
mod seen;
mod seen_routes;
mod serve;
mod shares;
mod socket;
mod stall;
mod vault_api;
mod vault_routes;

pub use access_api::{AccessApi, Begun, Fingerprint, KeptAnswer};
pub use api::{
    ByteStream, EventStream, FileContent, NodeApi, ProcessInput, ProcessLine, UploadError,
    UploadStream,
};
pub use database::DatabasesApi;
pub use limits::Limits;
pub use policy_api::PolicyApi;
pub use port::{Addresses, Domain, ParseDomainError, PortIo, PortsAccess, PortsApi};
pub use routes::{openapi, router};
pub use seen::{AtPort, Made, Noted, Origin, RequestId};
pub use serve::serve;
pub use vault_api::SecretsApi;
