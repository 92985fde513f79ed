//! Databases: Postgres in a machine of its own, and who is let in.

mod disk;
mod listing;
mod outside;
mod query;
mod snapshot;
mod stats;
mod wiring;

use std::fmt;

use base_types::{DatabaseId, Size};
use serde::{Deserialize, Serialize};

use crate::TIMEOUT_S_MAX;
use crate::check::{Check, Refused, refuse};

pub use disk::{DATABASE_DISK_MIB_MAX, DATABASE_DISK_MIB_MIN};
pub use listing::{DatabaseList, DatabaseListQuery};
pub use outside::{ClientNetwork, OUTSIDE_NETWORKS_MAX, Outside, SetOutside};
pub use query::{
    Column, QUERY_ROWS_MAX, QUERY_TIMEOUT_MS_DEFAULT, QUERY_TIMEOUT_MS_MAX, QueryAnswer,
    QueryDatabase,
};
pub use snapshot::{
    CreateDatabaseSnapshot, DatabaseSnapshot, DatabaseSnapshotList, RestoreDatabase,
};
pub use stats::{
    DatabaseCache, DatabaseConnections, DatabaseStats, DatabaseTransactions, SlowQuery,
};
pub use wiring::{WireDatabase, WireRole, Wired, WiredList};

/// LIMIT: bytes of a password. SASLprep and SCRAM take any, but it has to fit a URL people paste.
pub const PASSWORD_BYTES_MAX: usize = 512;
/// LIMIT: SQL of one request, a seed or a query; it is sent in one message and parsed whole.
pub const SQL_BYTES_MAX: usize = 1024 * 1024;
/// LIMIT: extensions of one database; Debian's Postgres has some fifty.
pub const EXTENSIONS_MAX: usize = 32;
/// LIMIT: Postgres's own bound on names (`NAMEDATALEN` less its zero).
const EXTENSION_BYTES_MAX: usize = 63;
/// Seconds without use until a database is paused, when nothing is said.
const IDLE_TIMEOUT_S_DEFAULT: u32 = 300;

/// A database to make.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateDatabase {
    /// Its name: 1 to 63 of `a-z A-Z 0-9 . _ -`, a letter or digit first. No other database of the
    /// project has the same, whatever the case of its letters.
    pub name: String,
    /// Its owner's password: 1 to 512 bytes, any characters but a zero byte. Default: a random one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// How big its machine is. Default: `nano`.
    #[serde(default = "default_size")]
    #[cfg_attr(feature = "server", schema(value_type = String, default = "nano"))]
    pub size: Size,
    /// MiB of its machine's disk that its data may take, 64 to 6144. Default: 6144. What would take more
    /// is refused with `disk_full`, and all else goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mib: Option<u32>,
    /// Extensions to make in it. Default: `vector`.
    #[serde(default = "default_extensions")]
    pub extensions: Vec<String>,
    /// SQL to run as its owner, in one transaction, at most 1 MiB. When it fails there is no database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<String>,
    /// Seconds from now until it is deleted; 0, the default, is never.
    #[serde(default)]
    pub ttl_s: u32,
    /// Seconds without a connection or request until it is paused; 0 is never. Default: 300. A
    /// connection resumes it.
    #[serde(default = "default_idle_timeout_s")]
    pub idle_timeout_s: u32,
    /// Who may connect to it by the node's listener for databases. Default: `loopback`.
    #[serde(default)]
    pub outside: Outside,
    /// When there is a database of this name: answer with it, whatever else is asked for.
    #[serde(default)]
    pub exist_ok: bool,
}

const fn default_size() -> Size {
    Size::Nano
}

fn default_extensions() -> Vec<String> {
    vec!["vector".to_owned()]
}

const fn default_idle_timeout_s() -> u32 {
    IDLE_TIMEOUT_S_DEFAULT
}

impl CreateDatabase {
    /// A database of this name, and all else as by default.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            password: None,
            size: default_size(),
            disk_mib: None,
            extensions: default_extensions(),
            seed: None,
            ttl_s: 0,
            idle_timeout_s: default_idle_timeout_s(),
            outside: Outside::default(),
            exist_ok: false,
        }
    }
}

impl fmt::Debug for CreateDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The seed may hold anything its owner wants kept.
        f.debug_struct("CreateDatabase")
            .field("name", &self.name)
            .field("size", &self.size)
            .field("extensions", &self.extensions)
            .finish_non_exhaustive()
    }
}

impl Check for CreateDatabase {
    fn check(&self) -> Result<(), Refused> {
        database_name(&self.name)?;
        self.password.as_deref().map_or(Ok(()), password)?;
        self.disk_mib.map_or(Ok(()), disk::disk)?;
        extensions(&self.extensions)?;
        self.seed.as_deref().map_or(Ok(()), |seed| sql("seed", seed))?;
        seconds("ttl_s", self.ttl_s)?;
        seconds("idle_timeout_s", self.idle_timeout_s)?;
        self.outside.check()
    }
}

/// Another password for a database's owner.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetPassword {
    /// 1 to 512 bytes, any characters but a zero byte. Default: a random one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

impl fmt::Debug for SetPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetPassword").finish_non_exhaustive()
    }
}

impl Check for SetPassword {
    fn check(&self) -> Result<(), Refused> {
        self.password.as_deref().map_or(Ok(()), password)
    }
}

/// A database to make from one moment of another.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ForkDatabase {
    /// What it is called.
    pub name: String,
    /// Its owner's password. Default: a random one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// The snapshot of the database to make it from, by name or id. Default: this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
}

impl fmt::Debug for ForkDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForkDatabase").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Check for ForkDatabase {
    fn check(&self) -> Result<(), Refused> {
        database_name(&self.name)?;
        self.snapshot.as_deref().map_or(Ok(()), snapshot::snapshot_choice)?;
        self.password.as_deref().map_or(Ok(()), password)
    }
}

/// A database.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Database {
    /// Its id, for ever.
    #[cfg_attr(feature = "server", schema(value_type = String, example = "db_0123456789abcdef"))]
    pub id: DatabaseId,
    /// Its name.
    pub name: String,
    /// Where it is in its life.
    pub status: DatabaseStatus,
    /// Why it failed, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How big its machine is.
    #[cfg_attr(feature = "server", schema(value_type = String))]
    pub size: Size,
    /// MiB of its machine's disk that its data may take; absent when nothing was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mib: Option<u32>,
    /// Extensions that were asked for.
    pub extensions: Vec<String>,
    /// Where it is reached: the node's listener for databases, or, when it has none, the name that
    /// sandboxes know it by that it is wired to.
    pub host: String,
    /// The port there.
    pub port: u16,
    /// Who may connect to it by the node's listener for databases.
    #[serde(default)]
    pub outside: Outside,
    /// Its owner's name in Postgres.
    pub user: String,
    /// Its name in Postgres.
    pub database: String,
    /// Its owner's password. Not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// All of this as one address, by way of the pool: for programs with short transactions and many
    /// connections. Not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The same without the pool: for migrations, `LISTEN`, prepared statements and whatever else
    /// belongs to a session. Not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct_url: Option<String>,
    /// When it was asked for, in milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// When it is deleted, in milliseconds since the Unix epoch; absent when never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<u64>,
}

impl Database {
    /// The same for those who may know that it is there, but not how to get in.
    #[must_use]
    pub fn without_secrets(self) -> Self {
        Self { password: None, url: None, direct_url: None, ..self }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("status", &self.status)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// Where a database is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum DatabaseStatus {
    /// Being made.
    Creating,
    /// Serving.
    Running,
    /// On disk, and costs nothing else. A connection resumes it.
    Paused,
    /// Over; kept for its reason until it is deleted.
    Failed,
    /// A status newer than this build. Never sent.
    #[serde(other)]
    Unknown,
}

impl DatabaseStatus {
    /// Every one that is sent.
    pub const ALL: [Self; 4] = [Self::Creating, Self::Running, Self::Paused, Self::Failed];

    /// The status as it is written in a response.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for DatabaseStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name for people that is part of a path and of a host name too, and is no id.
fn database_name(name: &str) -> Result<(), Refused> {
    let legal = (1..=crate::NAME_BYTES_MAX).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if !legal {
        return refuse(
            "`name` must be 1 to 63 of a-z, A-Z, 0-9, `.`, `_` and `-`, a letter or digit first",
        );
    }
    match name.parse::<DatabaseId>() {
        Ok(_) => refuse("`name` must not look like the id of a database"),
        Err(_) => Ok(()),
    }
}

fn password(password: &str) -> Result<(), Refused> {
    if !(1..=PASSWORD_BYTES_MAX).contains(&password.len()) {
        return refuse(format!("`password` must be 1 to {PASSWORD_BYTES_MAX} bytes"));
    }
    // Postgres ends its texts with one.
    if password.contains('\0') { refuse("`password` contains a zero byte") } else { Ok(()) }
}

/// SQL that is run as it is.
fn sql(field: &str, sql: &str) -> Result<(), Refused> {
    if sql.len() > SQL_BYTES_MAX {
        return refuse(format!("`{field}` is {} bytes; at most {SQL_BYTES_MAX} are", sql.len()));
    }
    if sql.contains('\0') { refuse(format!("`{field}` contains a zero byte")) } else { Ok(()) }
}

fn extensions(extensions: &[String]) -> Result<(), Refused> {
    if extensions.len() > EXTENSIONS_MAX {
        return refuse(format!("`extensions` has more than {EXTENSIONS_MAX} entries"));
    }
    let legal = |name: &String| {
        (1..=EXTENSION_BYTES_MAX).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b))
    };
    match extensions.iter().find(|name| !legal(name)) {
        Some(name) => refuse(format!("`extensions` has {name:?}, which is no extension's name")),
        None => Ok(()),
    }
}

fn seconds(field: &str, seconds: u32) -> Result<(), Refused> {
    if seconds > TIMEOUT_S_MAX {
        return refuse(format!("`{field}` is {seconds}; at most {TIMEOUT_S_MAX} are allowed"));
    }
    Ok(())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_create_needs_no_more_than_a_name() {
        let create: CreateDatabase = serde_json::from_str(r#"{"name":"memory"}"#).unwrap();
        assert_eq!(create, CreateDatabase::named("memory"));
        create.check().unwrap();
        assert!(serde_json::from_str::<CreateDatabase>("{}").is_err());
    }

    #[test]
    fn names_have_bounds_and_are_no_ids() {
        for name in ["", "..", "-a", "a b", "a/b", "é", "db_0123456789abcdef", &"x".repeat(64)] {
            assert!(CreateDatabase::named(name).check().is_err(), "{name}");
            let fork = ForkDatabase { name: name.to_owned(), password: None, snapshot: None };
            assert!(fork.check().is_err(), "{name}");
        }
        for name in ["a", "A.b_c-9", "db_1", &"x".repeat(63)] {
            assert!(CreateDatabase::named(name).check().is_ok(), "{name}");
        }
    }

    #[test]
    fn passwords_have_any_characters_but_one_and_a_bound() {
        let check = |password: &str| SetPassword { password: Some(password.to_owned()) }.check();
        for good in ["x", " ", "Secret#42", "a:b@c/d?e%f'\"\\ \n\u{1f512}", &"é".repeat(256)] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "a\0b", &"é".repeat(257)] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn seeds_and_extensions_have_bounds() {
        let plain = || CreateDatabase::named("a");
        for seed in ["select '\0'", &"x".repeat(SQL_BYTES_MAX + 1)] {
            assert!(CreateDatabase { seed: Some(seed.to_owned()), ..plain() }.check().is_err());
        }
        for name in ["", "Vector", "a\"b", "a b", &"x".repeat(64)] {
            let create = CreateDatabase { extensions: vec![name.to_owned()], ..plain() };
            assert!(create.check().is_err(), "{name}");
        }
        for extensions in [vec![], vec!["uuid-ossp".to_owned(), "pg_trgm".to_owned()]] {
            assert!(CreateDatabase { extensions, ..plain() }.check().is_ok());
        }
    }

    #[test]
    fn a_limit_of_the_disk_has_bounds() {
        for (mib, legal) in [(0, false), (63, false), (64, true), (6144, true), (6145, false)] {
            let create = CreateDatabase { disk_mib: Some(mib), ..CreateDatabase::named("a") };
            assert_eq!(create.check().is_ok(), legal, "{mib}");
        }
    }

    #[test]
    fn nothing_secret_is_shown_to_those_who_debug() {
        let secret = "Secret#42";
        let create = CreateDatabase {
            password: Some(secret.to_owned()),
            seed: Some(secret.to_owned()),
            ..CreateDatabase::named("a")
        };
        let fork = ForkDatabase {
            name: "a".to_owned(),
            password: create.password.clone(),
            snapshot: None,
        };
        let set = SetPassword { password: create.password.clone() };
        let database = Database {
            id: DatabaseId::from_bits(1),
            name: "a".to_owned(),
            status: DatabaseStatus::Running,
            reason: None,
            size: Size::Nano,
            disk_mib: None,
            extensions: vec![],
            host: "h".to_owned(),
            port: 5432,
            outside: Outside::default(),
            user: "u".to_owned(),
            database: "d".to_owned(),
            password: create.password.clone(),
            url: create.password.clone(),
            direct_url: create.password.clone(),
            created_at_ms: 0,
            expires_at_ms: None,
        };
        let shown = format!("{create:?}{fork:?}{set:?}{database:?}");
        assert!(!shown.contains(secret), "{shown}");
        let listed = serde_json::to_string(&database.without_secrets()).unwrap();
        assert!(!listed.contains(secret), "{listed}");
    }
}
