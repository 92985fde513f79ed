//! What the node says to the Postgres of a database: SQL, roles, secrets, addresses.
//!
//! Half of it is pure: texts that are built and taken apart. The other half asks a server over a
//! stream it is given, whatever that is made of. It knows no machine and no store; `node` does.
//!
//! The server is one of the template `postgres`. What holds of it is agreed there and here:
//!
//! - the database is [`DATABASE`], and belongs to the role [`OWNER`], which never logs in;
//! - roles that log in and may change something are members of it and act as it from their first
//!   statement, so that what one of them makes belongs to all;
//! - those that may only read are members of [`READER`];
//! - beside it is [`SERVICE`], where the server counts queries and nobody else gets in;
//! - the superuser comes through [`SOCKET`], where the machine's root may be anybody, and through
//!   [`NODE_SOCKET`], where it has sessions that are open already.

mod ask;
mod bounded;
mod figures;
mod role;
mod secret;
mod session;
mod sql;
mod startup;
mod text;
mod url;

pub use ask::{AskError, run_as_superuser};
pub use figures::{Figures, QueryFigures, figures, forget_queries};
pub use role::{LoginRole, ParseRoleError, ROLE_BYTES, Rights};
pub use secret::{Verifier, password};
pub use session::{Question, Rows, Session};
pub use sql::{
    drop_login, drop_others, extensions, new_login, set_password, shut_out, shut_out_others,
};
pub use startup::{
    ASKS_MAX, NO_ENCRYPTION, Opening, STARTUP_BYTES_MAX, Startup, StartupError, TLS_BEGINS,
    TLS_FIRST_BYTE, TLS_PROTOCOL, opening, refusal,
};
pub use url::{Address, encode};

/// Name of every database in its server.
pub const DATABASE: &str = "main";
/// The database beside it, of which every server has one: the node's and the pooler's, where no owner gets in.
pub const SERVICE: &str = "postgres";
/// The role all of it belongs to.
pub const OWNER: &str = "owner";
/// The role that reads all of it, and never logs in either.
pub const READER: &str = "reader";
/// The role nothing is kept from.
pub const SUPERUSER: &str = "postgres";
/// Where the server listens for the machine's root.
pub const SOCKET: &str = "/run/postgresql/.s.PGSQL.5432";
/// Where a pooler of the node's has sessions of the superuser's ready, in [`DATABASE`]; only root and the
/// server's user get there.
pub const NODE_SOCKET: &str = "/run/sandflare-node/.s.PGSQL.6433";
/// The server's port on its machine's loopback.
pub const DIRECT_PORT: u16 = 5432;
/// The pooler's port there.
pub const POOLED_PORT: u16 = 6432;
