use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use crate::files::{Head, HeadError, first_index, read_head, segments};
use crate::{Chain, Fault, Line, Lines, Link};

/// A log, or a file of one, in which every line is as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// How many lines there are.
    pub entries: u64,
    /// The last of them.
    pub last: Option<Link>,
    /// Bytes of an unfinished line at the very end: what a crash (or a node that is writing now)
    /// leaves.
    pub torn_bytes: u64,
}

/// Why a log is not whole.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// There is a line that is not as it was written. It is the first one.
    #[error("`{}` line {line} (entry {index}): {fault}", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// Number of the line in it, from 1.
        line: u64,
        /// Index of the entry that belongs there.
        index: u64,
        /// What is wrong with it.
        fault: Fault,
    },
    /// A file does not begin where the one before it ends.
    #[error("`{}` begins with entry {found} where entry {expected} belongs: a file was removed", path.display())]
    FileMissing {
        /// The file.
        path: PathBuf,
        /// Index of its first entry.
        found: u64,
        /// Index that comes there.
        expected: u64,
    },
    /// An unfinished line that is not at the very end.
    #[error("`{}` ends within a line and is not the last file (entry {index})", path.display())]
    TornWithin {
        /// The file.
        path: PathBuf,
        /// Index of the entry that belongs there.
        index: u64,
    },
    /// Lines at the end are not there any more.
    #[error(
        "the log ends before entry {head}, which it had: its last lines were removed (from entry {next} on)"
    )]
    Shortened {
        /// Index of the line that is known to have been there.
        head: u64,
        /// Index of the first one that is missing.
        next: u64,
    },
    /// Nothing says where the log ended.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// There is no log.
    #[error("`{}` holds no audit log", .0.display())]
    NoLog(PathBuf),
    /// A file is not named like one of a log.
    #[error("`{}` is not named like a file of an audit log, such as audit-00000000000000000000.jsonl", .0.display())]
    Name(PathBuf),
    /// Something cannot be read.
    #[error("read `{}`", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl VerifyError {
    /// How many entries of a log are as they were written, up to what is wrong; 0 when nothing could
    /// be looked at.
    pub const fn entries_before(&self) -> u64 {
        match self {
            Self::Bad { index, .. } | Self::TornWithin { index, .. } => *index,
            Self::FileMissing { expected, .. } => *expected,
            Self::Shortened { next, .. } => *next,
            Self::Head(_) | Self::NoLog(_) | Self::Name(_) | Self::Read { .. } => 0,
        }
    }
}

/// Checks every line of the log in `dir`, from its first. `noted` is a place somebody noted
/// elsewhere: the log must still have it.
pub fn verify_log(dir: &Path, noted: Option<Link>) -> Result<Verified, VerifyError> {
    let read = |source| VerifyError::Read { path: dir.into(), source };
    // Before the lines: a node that is writing only makes them more.
    let head = read_head(dir);
    let segments = segments(dir).map_err(read)?;
    if segments.is_empty() && matches!(head, Err(HeadError::Missing(_))) {
        return Err(VerifyError::NoLog(dir.into()));
    }
    let noted = noted.map(|Link { index, hash }| Head { index, hash });
    let mut walk =
        Walk { chain: Chain::beginning(), marks: [noted, head.as_ref().ok().copied()], last: None };
    let mut torn_bytes = 0;
    for (place, segment) in segments.iter().enumerate() {
        if segment.first != walk.chain.next() {
            let (found, expected) = (segment.first, walk.chain.next());
            return Err(VerifyError::FileMissing { path: segment.path.clone(), found, expected });
        }
        torn_bytes = walk.file(&segment.path)?;
        if torn_bytes > 0 && place + 1 < segments.len() {
            let index = walk.chain.next();
            return Err(VerifyError::TornWithin { path: segment.path.clone(), index });
        }
    }
    head?;
    let next = walk.chain.next();
    for mark in walk.marks.into_iter().flatten() {
        if mark.index >= next {
            return Err(VerifyError::Shortened { head: mark.index, next });
        }
    }
    Ok(Verified { entries: next, last: walk.last, torn_bytes })
}

/// Checks every line of one file of a log. What was before and after it is not looked at.
pub fn verify_file(path: &Path) -> Result<Verified, VerifyError> {
    let first = first_index(path).ok_or_else(|| VerifyError::Name(path.into()))?;
    let mut walk = Walk { chain: Chain::from_index(first), marks: [None; 2], last: None };
    let torn_bytes = walk.file(path)?;
    Ok(Verified { entries: walk.chain.next() - first, last: walk.last, torn_bytes })
}

struct Walk {
    chain: Chain,
    /// Lines of which the hash is known from elsewhere.
    marks: [Option<Head>; 2],
    last: Option<Link>,
}

impl Walk {
    /// Takes every line of a file; returns the bytes of an unfinished one at its end.
    fn file(&mut self, path: &Path) -> Result<u64, VerifyError> {
        let read = |source| VerifyError::Read { path: path.into(), source };
        let mut lines = Lines::new(BufReader::new(File::open(path).map_err(read)?));
        let mut number = 0;
        loop {
            number += 1;
            let index = self.chain.next();
            let taken = match lines.next_line().map_err(read)? {
                None => return Ok(0),
                Some(Line::Torn(bytes)) => return Ok(bytes),
                Some(Line::TooLong) => Err(Fault::TooLong),
                Some(Line::Whole(line)) => self.take(line),
            };
            if let Err(fault) = taken {
                return Err(VerifyError::Bad { path: path.into(), line: number, index, fault });
            }
        }
    }

    fn take(&mut self, line: &[u8]) -> Result<(), Fault> {
        let link = self.chain.take(line)?.link();
        let other = |mark: &Head| mark.index == link.index && mark.hash != link.hash;
        if self.marks.iter().flatten().any(other) {
            return Err(Fault::NotTheHead);
        }
        self.last = Some(link);
        Ok(())
    }
}
