use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use base_audit::{Chain, Fault, Line, Lines, Record, segments};

/// Some entries of a log, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// They.
    pub entries: Vec<Record>,
    /// Whether there are more after the last of them.
    pub more: bool,
}

/// Why entries cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// A file or the directory cannot be read.
    #[error("read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line on the way is not as it was written.
    #[error("`{}` entry {index}: {fault}", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// Index of the entry that belongs there.
        index: u64,
        /// What is wrong.
        fault: Fault,
    },
}

/// The entries after `after`, or the newest ones, at most `limit`, oldest first.
pub(crate) fn read(dir: &Path, after: Option<u64>, limit: usize) -> Result<Page, PageError> {
    let all = segments(dir).map_err(|source| PageError::Read { path: dir.into(), source })?;
    let from = match after {
        Some(after) => after.saturating_add(1),
        // The newest `limit` lie in the newest files that hold so many.
        None => {
            let newest = all.last().map_or(0, |segment| segment.first);
            newest.saturating_sub(limit as u64)
        }
    };
    let begin = all.partition_point(|segment| segment.first <= from).saturating_sub(1);
    let mut entries = VecDeque::new();
    for segment in all.iter().skip(begin) {
        let path = &segment.path;
        let failed = |source| PageError::Read { path: path.clone(), source };
        let mut lines = Lines::new(BufReader::new(File::open(path).map_err(failed)?));
        let mut chain = Chain::from_index(segment.first);
        loop {
            let index = chain.next();
            let taken = match lines.next_line().map_err(failed)? {
                // A torn line is one that is being written now.
                None | Some(Line::Torn(_)) => break,
                Some(Line::TooLong) => Err(Fault::TooLong),
                Some(Line::Whole(line)) => chain.take(line),
            };
            let record =
                taken.map_err(|fault| PageError::Bad { path: path.clone(), index, fault })?;
            if record.index < from {
                continue;
            }
            if entries.len() == limit {
                if after.is_some() {
                    return Ok(Page { entries: entries.into(), more: true });
                }
                entries.pop_front();
            }
            entries.push_back(record);
        }
    }
    Ok(Page { entries: entries.into(), more: false })
}
