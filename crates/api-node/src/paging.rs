//! Pages of lists: how many, and where the next ones begin.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::check::{Check, Refused, refuse};
use crate::{Database, Key, KeyList, Project, ProjectList, Sandbox, Snapshot, SnapshotList};

/// LIMIT: things in one answer; of sandboxes, with all their metadata, some MiB.
pub const LIST_LIMIT_MAX: u32 = 100;
/// Things in one answer when nothing is said.
pub const LIST_LIMIT_DEFAULT: u32 = 50;
/// First byte of most cursors; another order of a list would get another one.
pub(crate) const CURSOR_VERSION: u8 = 1;
/// That of databases, whose cursors are no other list's.
pub(crate) const DATABASE_CURSOR_VERSION: u8 = 2;
/// Version, time, id.
const CURSOR_BYTES: usize = 17;

/// Which part of a list is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "server", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// At most this many, 1 to 100. Default: 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", param(minimum = 1, maximum = 100))]
    pub limit: Option<u32>,
    /// Go on after the last one of an earlier answer: its `next_cursor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

impl Check for PageQuery {
    fn check(&self) -> Result<(), Refused> {
        self.check_of(CURSOR_VERSION)
    }
}

impl PageQuery {
    /// As [`Check::check`], of a list whose cursors begin with `version`.
    pub(crate) fn check_of(&self, version: u8) -> Result<(), Refused> {
        if self.limit.is_some_and(|limit| !(1..=LIST_LIMIT_MAX).contains(&limit)) {
            return refuse(format!("`limit` must be 1 to {LIST_LIMIT_MAX}"));
        }
        match &self.cursor {
            Some(cursor) if Place::parse(cursor, version).is_none() => {
                refuse("`cursor` is not the `next_cursor` of an earlier answer")
            }
            _ => Ok(()),
        }
    }
}

/// Where something is in its list: by age, then by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    created_at_ms: u64,
    id: u64,
}

/// What has a place in a list.
pub(crate) trait Listed {
    /// First byte of the cursors of its list.
    const CURSOR_VERSION: u8;

    fn place(&self) -> Place;
}

/// Each has an id and the time it was made.
macro_rules! listed {
    ($($version:expr => $($kind:ty),*;)*) => {
        $($(impl Listed for $kind {
            const CURSOR_VERSION: u8 = $version;

            fn place(&self) -> Place {
                Place { created_at_ms: self.created_at_ms, id: self.id.bits() }
            }
        })*)*
    };
}

listed! {
    CURSOR_VERSION => Key, Project, Sandbox, Snapshot;
    DATABASE_CURSOR_VERSION => Database;
}

/// The page of `all` that is asked for, whatever the order of `all` is, and the cursor of the next one.
/// What is made or goes between two pages moves no other thing from one page to another.
pub(crate) fn page_of<T: Listed>(all: Vec<T>, query: &PageQuery) -> (Vec<T>, Option<String>) {
    let after = query.cursor.as_deref();
    let after = after.and_then(|cursor| Place::parse(cursor, T::CURSOR_VERSION));
    let follows = |one: &T| after.is_none_or(|after| one.place() > after);
    let mut found: Vec<T> = all.into_iter().filter(follows).collect();
    found.sort_by_key(Listed::place);
    let limit = query.limit.unwrap_or(LIST_LIMIT_DEFAULT) as usize;
    let more = found.len() > limit;
    found.truncate(limit);
    let last = found.last().filter(|_| more);
    let next_cursor = last.map(|last| last.place().to_cursor(T::CURSOR_VERSION));
    (found, next_cursor)
}

impl SnapshotList {
    /// The page of `all` that `query` asks for.
    pub fn page(all: Vec<Snapshot>, query: &PageQuery) -> Self {
        let (snapshots, next_cursor) = page_of(all, query);
        Self { snapshots, next_cursor }
    }
}

impl ProjectList {
    /// The page of `all` that `query` asks for.
    pub fn page(all: Vec<Project>, query: &PageQuery) -> Self {
        let (projects, next_cursor) = page_of(all, query);
        Self { projects, next_cursor }
    }
}

impl KeyList {
    /// The page of `all` that `query` asks for.
    pub fn page(all: Vec<Key>, query: &PageQuery) -> Self {
        let (keys, next_cursor) = page_of(all, query);
        Self { keys, next_cursor }
    }
}

impl Place {
    pub(crate) fn to_cursor(self, version: u8) -> String {
        let mut bytes = vec![version];
        bytes.extend_from_slice(&self.created_at_ms.to_be_bytes());
        bytes.extend_from_slice(&self.id.to_be_bytes());
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    pub(crate) fn parse(cursor: &str, version: u8) -> Option<Self> {
        // LIMIT: nothing longer than a cursor is decoded.
        if cursor.len() > CURSOR_BYTES * 2 {
            return None;
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let bytes: [u8; CURSOR_BYTES] = bytes.try_into().ok()?;
        let (first, rest) = bytes.split_first()?;
        let (created_at_ms, id) = rest.split_first_chunk()?;
        let id = id.first_chunk()?;
        (*first == version).then(|| Self {
            created_at_ms: u64::from_be_bytes(*created_at_ms),
            id: u64::from_be_bytes(*id),
        })
    }
}
