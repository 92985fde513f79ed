//! Databases, and which sandboxes may use them.

mod api;
mod nobody;
mod outside;
mod routes;
mod snapshots;
mod stats;

pub use api::DatabasesApi;
pub(crate) use routes::database_routes;
