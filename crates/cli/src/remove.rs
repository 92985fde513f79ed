//! Things that are removed one after another; one that cannot be does not spare the rest.

use std::fmt::Display;

use anyhow::Result;
use serde::Serialize;

use crate::args::Format;
use crate::complaint::{self, End};
use crate::table::{print, print_json};

/// What is printed as JSON, of which the rest is in the failure.
#[derive(Serialize)]
struct Removed {
    removed: Vec<String>,
}

/// Has `remove` do it to each, prints those that are gone, and fails as the first that could not be.
pub(crate) async fn each<T: Display>(
    things: &[T],
    format: Format,
    remove: impl AsyncFn(&T) -> Result<()>,
) -> Result<End> {
    let (mut removed, mut first_failure) = (Vec::new(), None);
    for thing in things {
        match remove(thing).await {
            Ok(()) if format.is_json() => removed.push(thing.to_string()),
            Ok(()) => print(&format!("{thing}\n"))?,
            Err(error) if first_failure.is_none() => first_failure = Some(error),
            Err(error) => complaint::print(&error),
        }
    }
    if format.is_json() {
        print_json(&Removed { removed })?;
    }
    first_failure.map_or(Ok(End::Done), Err)
}
