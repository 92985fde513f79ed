//! Databases that a sandbox may use.

use std::collections::BTreeMap;
use std::fmt;

use base_types::DatabaseId;
use serde::{Deserialize, Serialize};

use crate::check::{Check, Refused, refuse};

/// LIMIT: bytes of a variable's name; it is a word.
const ENV_NAME_BYTES_MAX: usize = 64;
/// The variable with the address, when nothing is said.
const ENV_DEFAULT: &str = "DATABASE_URL";

/// How a sandbox is to use a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct WireDatabase {
    /// The variable that has the address, in every process started from then on: 1 to 64 of `A-Z a-z
    /// 0-9 _`, no digit first. Default: `DATABASE_URL`. The same with `_UNPOOLED` has the address
    /// without the pool. `DATABASE_URL` brings `POSTGRES_URL`, `PGHOST`, `PGPORT`, `PGUSER`,
    /// `PGPASSWORD` and `PGDATABASE` along.
    #[serde(default = "default_env")]
    pub env: String,
    /// What the sandbox may do in it. Default: `readwrite`.
    #[serde(default)]
    pub role: WireRole,
}

fn default_env() -> String {
    ENV_DEFAULT.to_owned()
}

impl WireDatabase {
    /// The variable that brings all others along.
    pub const ENV_DEFAULT: &str = ENV_DEFAULT;
}

impl Default for WireDatabase {
    fn default() -> Self {
        Self { env: default_env(), role: WireRole::default() }
    }
}

impl Check for WireDatabase {
    fn check(&self) -> Result<(), Refused> {
        let name = &self.env;
        let legal = (1..=ENV_NAME_BYTES_MAX).contains(&name.len())
            && !name.starts_with(|first: char| first.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        match legal {
            true => Ok(()),
            false => refuse("`env` must be 1 to 64 of A-Z, a-z, 0-9 and `_`, no digit first"),
        }
    }
}

/// What a sandbox may do in a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum WireRole {
    /// All that the owner may, except to drop the database.
    #[default]
    ReadWrite,
    /// Look at every table there is and will be, and change nothing.
    ReadOnly,
}

impl WireRole {
    /// The role as it is written in a request.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadWrite => "readwrite",
            Self::ReadOnly => "readonly",
        }
    }
}

/// A database that a sandbox may use.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Wired {
    /// The database.
    #[cfg_attr(feature = "server", schema(value_type = String, example = "db_0123456789abcdef"))]
    pub id: DatabaseId,
    /// Its name.
    pub name: String,
    /// What the sandbox may do in it.
    pub role: WireRole,
    /// The variables that processes of the sandbox get. They hold a password that is good in this
    /// sandbox only.
    pub env: BTreeMap<String, String>,
}

impl fmt::Debug for Wired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wired")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("role", &self.role)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .finish()
    }
}

/// The databases of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct WiredList {
    /// By name.
    pub databases: Vec<Wired>,
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_wire_needs_nothing_and_its_variable_is_a_name() {
        let wire: WireDatabase = serde_json::from_str("{}").unwrap();
        assert_eq!((wire.env.as_str(), wire.role), ("DATABASE_URL", WireRole::ReadWrite));
        for env in ["", "1A", "A-B", "A=B", "É", &"A".repeat(65)] {
            let wire = WireDatabase { env: env.to_owned(), ..WireDatabase::default() };
            assert!(wire.check().is_err(), "{env}");
        }
        for role in [WireRole::ReadWrite, WireRole::ReadOnly] {
            assert_eq!(serde_json::to_value(role).unwrap(), role.as_str());
        }
    }

    #[test]
    fn what_is_in_the_variables_is_not_shown() {
        let wired = Wired {
            id: DatabaseId::from_bits(1),
            name: "a".to_owned(),
            role: WireRole::ReadOnly,
            env: BTreeMap::from([("PGPASSWORD".to_owned(), "secret".to_owned())]),
        };
        let shown = format!("{wired:?}");
        assert!(shown.contains("PGPASSWORD") && !shown.contains("secret"), "{shown}");
    }
}
