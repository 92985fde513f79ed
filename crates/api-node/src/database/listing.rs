//! Lists of databases, in pages.

use serde::{Deserialize, Serialize};

use crate::check::{Check, Refused};
use crate::paging::{DATABASE_CURSOR_VERSION, page_of};
use crate::{Database, PageQuery};

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

impl DatabaseListQuery {
    fn page(&self) -> PageQuery {
        PageQuery { limit: self.limit, cursor: self.cursor.clone() }
    }
}

impl Check for DatabaseListQuery {
    fn check(&self) -> Result<(), Refused> {
        self.page().check_of(DATABASE_CURSOR_VERSION)
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
        let (found, next_cursor) = page_of(all, &query.page());
        let databases = found.into_iter().map(Database::without_secrets).collect();
        Self { databases, next_cursor }
    }
}

#[cfg(test)]
mod test {
    use base_types::{DatabaseId, Size};
    use base64::Engine as _;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;

    use super::*;
    use crate::{DatabaseStatus, Outside};

    fn database(bits: u64) -> Database {
        Database {
            id: DatabaseId::from_bits(bits),
            name: format!("n{bits}"),
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
