//! The API as a trait, and the same over HTTP.
//!
//! ```text
//!   request ─▶ name it ─▶ guard ─▶ limits, parse, check ─▶ NodeApi ─▶ render
//!                │                                             │
//!                └── every failure gets the request's id here ◀┘   and is logged here, once
//! ```

mod api;
mod door;
mod extract;
mod nobody;
mod reply;
mod routes;

pub use api::{ByteStream, EventStream, FileContent, NodeApi, UploadError, UploadStream};
pub use routes::{openapi, router};
