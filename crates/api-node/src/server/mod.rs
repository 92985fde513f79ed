//! The API as a trait, and the same over HTTP.
//!
//! ```text
//!   request ─▶ name it ─▶ guard ─▶ admit ─▶ once ─▶ limits, parse, check ─▶ NodeApi ─▶ render
//!                │                                                             │
//!                └── every failure gets the request's id here ◀────────────────┘
//!                    and is logged here, once
//! ```

mod access;
mod access_api;
mod access_routes;
mod api;
mod door;
mod extract;
mod idempotency;
mod lifecycle_routes;
mod nobody;
mod page;
mod process_routes;
mod reply;
mod routes;
mod seen;
mod seen_routes;
mod serve;
mod socket;

pub use access_api::{AccessApi, Begun, Fingerprint, KeptAnswer};
pub use api::{
    ByteStream, EventStream, FileContent, NodeApi, ProcessInput, ProcessLine, UploadError,
    UploadStream,
};
pub use routes::{openapi, router};
pub use seen::{Made, Noted, RequestId};
pub use serve::serve;
