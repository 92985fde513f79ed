//! Lists of databases, in pages.

use base_types::DatabaseId;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::check::{Check, Refused, refuse};
use crate::{Database, LIST_LIMIT_DEFAULT, LIST_LIMIT_MAX};

/// First byte of a cursor; those of sandboxes have another.
const CURSOR_VERSION: u8 = 2;
/// Version, time, id.
const CURSOR_BYTES: usize = 17;

/// Which databases are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "server", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct DatabaseListQuery {
    /// At most this many, 1 to 100. Default: 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", param(minimum = 1, maximum = 100))]
    pub limit: Option<u32>,
    /// Go on after the last database of an earlier answer: its `next_cursor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

impl Check for DatabaseListQuery {
    fn check(&self) -> Result<(), Refused> {
        if self.limit.is_some_and(|limit| !(1..=LIST_LIMIT_MAX).contains(&limit)) {
            return refuse(format!("`limit` must be 1 to {LIST_LIMIT_MAX}"));
        }
        match &self.cursor {
            Some(cursor) if Place::parse(cursor).is_none() => {
                refuse("`cursor` is not the `next_cursor` of an earlier answer")
            }
            _ => Ok(()),
        }
    }
}

/// Some databases of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct DatabaseList {
    /// Oldest first, without what gets one in.
    pub databases: Vec<Database>,
    /// Give this as `cursor` to get those after them; absent when there are none now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

impl DatabaseList {
    /// The page of `all` that `query` asks for, whatever the order of `all` is. Databases that are
    /// made or deleted between two pages move no other from one page to another.
    pub fn page(all: Vec<Database>, query: &DatabaseListQuery) -> Self {
        let after = query.cursor.as_deref().and_then(Place::parse);
        let mut found: Vec<Database> = all
            .into_iter()
            .filter(|database| after.is_none_or(|after| Place::of(database) > after))
            .map(Database::without_secrets)
            .collect();
        found.sort_by_key(Place::of);
        let limit = query.limit.unwrap_or(LIST_LIMIT_DEFAULT) as usize;
        let more = found.len() > limit;
        found.truncate(limit);
        let last = found.last().filter(|_| more);
        let next_cursor = last.map(|database| Place::of(database).to_cursor());
        Self { databases: found, next_cursor }
    }
}

/// Where a database is in the list: by age, then by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    created_at_ms: u64,
    id: DatabaseId,
}

impl Place {
    fn of(database: &Database) -> Self {
        Self { created_at_ms: database.created_at_ms, id: database.id }
    }

    fn to_cursor(self) -> String {
        let mut bytes = vec![CURSOR_VERSION];
        bytes.extend_from_slice(&self.created_at_ms.to_be_bytes());
        bytes.extend_from_slice(&self.id.bits().to_be_bytes());
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    fn parse(cursor: &str) -> Option<Self> {
        // LIMIT: nothing longer than a cursor is decoded.
        if cursor.len() > CURSOR_BYTES * 2 {
            return None;
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let bytes: [u8; CURSOR_BYTES] = bytes.try_into().ok()?;
        let (version, rest) = bytes.split_first()?;
        let (created_at_ms, id) = rest.split_first_chunk()?;
        let id = id.first_chunk()?;
        (*version == CURSOR_VERSION).then(|| Self {
            created_at_ms: u64::from_be_bytes(*created_at_ms),
            id: DatabaseId::from_bits(u64::from_be_bytes(*id)),
        })
    }
}

#[cfg(test)]
mod test {
    use base_types::Size;

    use super::*;
    use crate::DatabaseStatus;

    fn database(bits: u64) -> Database {
        Database {
            id: DatabaseId::from_bits(bits),
            name: format!("n{bits}"),
            status: DatabaseStatus::Running,
            reason: None,
            size: Size::Nano,
            extensions: vec![],
            host: "h".to_owned(),
            port: 5432,
            user: "u".to_owned(),
            database: "d".to_owned(),
            password: Some("secret".to_owned()),
            url: Some("secret".to_owned()),
            direct_url: Some("secret".to_owned()),
            // Two of each age.
            created_at_ms: bits / 2,
            expires_at_ms: None,
        }
    }

    #[test]
    fn pages_have_each_database_once_and_no_secret() {
        let all: Vec<_> = [3, 1, 4, 0, 2].map(database).to_vec();
        let mut query = DatabaseListQuery { limit: Some(2), cursor: None };
        let mut seen = Vec::new();
        loop {
            query.check().unwrap();
            let page = DatabaseList::page(all.clone(), &query);
            assert!(!serde_json::to_string(&page).unwrap().contains("secret"));
            seen.extend(page.databases.iter().map(|one| one.id.bits()));
            match page.next_cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => break,
            }
        }
        assert_eq!(seen, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn only_a_cursor_of_databases_is_one() {
        let of_sandboxes = BASE64_URL_SAFE_NO_PAD.encode([1; 17]);
        for cursor in ["", "x", of_sandboxes.as_str()] {
            let query = DatabaseListQuery { limit: None, cursor: Some(cursor.to_owned()) };
            assert!(query.check().is_err(), "{cursor}");
        }
    }
}
