use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Hash, Link};

/// The file, beside the lines, that says which was the last one known to be on disk.
pub const HEAD_FILE: &str = "head.json";
/// LIMIT: a head is a number and a hash.
const HEAD_BYTES_MAX: u64 = 512;

/// The last line known to be on disk. Only the end of the log may be newer than it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Index of that line.
    pub index: u64,
    /// Its hash.
    pub hash: Hash,
}

impl From<Link> for Head {
    fn from(Link { index, hash }: Link) -> Self {
        Self { index, hash }
    }
}

/// Why there is no head to be had.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// The file is not there.
    #[error("`{}` is missing", .0.display())]
    Missing(PathBuf),
    /// It cannot be read.
    #[error("read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds something else.
    #[error("`{}` is not the head of an audit log", .0.display())]
    Malformed(PathBuf),
}

/// The head kept in `dir`.
pub fn read_head(dir: &Path) -> Result<Head, HeadError> {
    let path = dir.join(HEAD_FILE);
    let mut bytes = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(HEAD_BYTES_MAX).read_to_end(&mut bytes));
    match read {
        Ok(_) => serde_json::from_slice(&bytes).map_err(|_| HeadError::Malformed(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(HeadError::Missing(path)),
        Err(source) => Err(HeadError::Read { path, source }),
    }
}

/// One file of a log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    /// Index of its first line.
    pub first: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// Name of the file whose first line has this index. Names sort like their indices.
pub fn segment_name(first: u64) -> String {
    format!("audit-{first:020}.jsonl")
}

/// The files of the log in `dir`, oldest first. Other files are passed over.
///
/// # Errors
///
/// When the directory cannot be read.
pub fn segments(dir: &Path) -> io::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if let Some(first) = first_index(&path) {
            segments.push(Segment { first, path });
        }
    }
    segments.sort();
    Ok(segments)
}

/// Index of the first line of the file of this name, when it is one of a log.
pub(crate) fn first_index(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let digits = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?;
    let first = digits.parse().ok()?;
    (segment_name(first) == name).then_some(first)
}
