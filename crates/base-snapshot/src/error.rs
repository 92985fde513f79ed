use std::{fmt, io};

/// Which of the three files of a snapshot is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// [`State`](crate::State).
    State,
    /// [`Layer`](crate::Layer).
    Layer,
    /// [`WorkingSet`](crate::WorkingSet).
    WorkingSet,
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::State => "state file",
            Self::Layer => "memory layer",
            Self::WorkingSet => "working set",
        })
    }
}

/// Why a file of a snapshot was refused. Nothing of it was used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system refused.
    #[error("the {file} of the snapshot cannot be read")]
    Io {
        /// Of which file.
        file: FileKind,
        /// Why.
        source: io::Error,
    },
    /// No magic at the start: another kind of file, or one whose writer did not finish.
    #[error("this is not the {file} of a snapshot, or it was never finished; make it again")]
    NotASnapshot {
        /// What it should have been.
        file: FileKind,
    },
    /// Written by a later program.
    #[error(
        "the {file} has format version {found}, this program reads up to {supported}; upgrade it \
         or make the snapshot again"
    )]
    NewerVersion {
        /// Of which file.
        file: FileKind,
        /// In the file.
        found: u32,
        /// The newest version that can be read.
        supported: u32,
    },
    /// Saved on a machine whose processor state does not fit this one.
    #[error(
        "the snapshot was made on machine type `{found}` and this is `{here}`; make it again on \
         this machine"
    )]
    WrongMachine {
        /// In the file.
        found: String,
        /// What the caller expected.
        here: String,
    },
    /// The file ends early.
    #[error("the {file} is truncated to {actual} of {expected} bytes; make the snapshot again")]
    Truncated {
        /// Of which file.
        file: FileKind,
        /// Bytes it should have.
        expected: u64,
        /// Bytes it has.
        actual: u64,
    },
    /// The file goes on after its end.
    #[error("the {file} has {actual} bytes where {expected} belong; make the snapshot again")]
    Overlong {
        /// Of which file.
        file: FileKind,
        /// Bytes it should have.
        expected: u64,
        /// Bytes it has.
        actual: u64,
    },
    /// Over a limit of the format.
    #[error("the {file} has {found} {what}, the limit is {limit}; it is not a usable snapshot")]
    TooLarge {
        /// Of which file.
        file: FileKind,
        /// What there is too much of.
        what: &'static str,
        /// How many it has or claims.
        found: u64,
        /// The most there may be.
        limit: u64,
    },
    /// A checksum does not fit.
    #[error("the {file} is damaged: its {part} fails the checksum; make the snapshot again")]
    Damaged {
        /// Of which file.
        file: FileKind,
        /// Which part of it, such as "section `cpu0`".
        part: String,
    },
    /// The checksums fit but the content breaks a rule of the format.
    #[error("the {file} is malformed: {reason}; make the snapshot again")]
    Malformed {
        /// Of which file.
        file: FileKind,
        /// Which rule.
        reason: &'static str,
    },
    /// For a machine with another amount of memory.
    #[error(
        "the {file} is for a memory of {found} pages, the machine has {expected}; restore it at \
         the size it was made for"
    )]
    WrongMemorySize {
        /// Of which file.
        file: FileKind,
        /// Pages in the file.
        found: u64,
        /// Pages the caller expected.
        expected: u64,
    },
}

/// Compares the length a file has with the one its header gives.
pub(crate) fn check_length(file: FileKind, expected: u64, actual: u64) -> Result<(), OpenError> {
    if actual < expected {
        Err(OpenError::Truncated { file, expected, actual })
    } else if actual > expected {
        Err(OpenError::Overlong { file, expected, actual })
    } else {
        Ok(())
    }
}
