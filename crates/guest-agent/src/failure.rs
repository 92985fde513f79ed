//! What a request that is not carried out answers.

use std::fmt::Display;
use std::io;

use api_guest::{Answer, FailCode, Failed};
use rustix::io::Errno;

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: FailCode,
    pub(crate) message: String,
}

/// Why a request ends before its own last answer.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Tell the host.
    Failed(Failure),
    /// The host is gone, or does not speak the protocol: there is nobody to tell.
    Gone,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Failure {
    pub(crate) fn new(code: FailCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(FailCode::InvalidRequest, message)
    }

    /// `attempt` says what was tried, as in "cannot read /x".
    pub(crate) fn of(attempt: impl Display, error: Errno) -> Self {
        let code = match error {
            Errno::NOENT => FailCode::NotFound,
            Errno::EXIST => FailCode::AlreadyExists,
            Errno::NOTDIR => FailCode::NotADirectory,
            Errno::ISDIR => FailCode::IsADirectory,
            Errno::NOTEMPTY => FailCode::DirectoryNotEmpty,
            Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::BUSY => FailCode::PermissionDenied,
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => FailCode::NoSpace,
            Errno::NAMETOOLONG | Errno::INVAL | Errno::LOOP | Errno::XDEV => {
                FailCode::InvalidRequest
            }
            Errno::NOMEM | Errno::AGAIN | Errno::MFILE | Errno::NFILE => FailCode::OutOfResources,
            _ => FailCode::Io,
        };
        Self { code, message: format!("{attempt}: {}", reason(error)) }
    }

    /// As [`Failure::of`], for errors of the standard library.
    pub(crate) fn of_io(attempt: impl Display, error: &io::Error) -> Self {
        Self::of(attempt, Errno::from_io_error(error).unwrap_or(Errno::IO))
    }

    pub(crate) fn answer(self) -> Answer {
        Answer::Failed(Failed { code: self.code, message: self.message })
    }
}

/// An error number in words, in the house's lower case where it is a common one.
pub(crate) fn reason(error: Errno) -> String {
    let known = match error {
        Errno::NOENT => "no such file or directory",
        Errno::EXIST => "something is already there",
        Errno::NOTDIR => "a part of the path is not a directory",
        Errno::ISDIR => "it is a directory",
        Errno::NOTEMPTY => "the directory is not empty",
        Errno::ACCESS => "permission denied",
        Errno::PERM => "operation not permitted",
        Errno::ROFS => "the file system is read-only",
        Errno::BUSY => "the system itself uses it",
        Errno::NOSPC => "the disk is full",
        Errno::NAMETOOLONG => "the name is too long",
        Errno::LOOP => "too many symbolic links",
        Errno::XDEV => "it is on another file system",
        Errno::NOMEM => "out of memory",
        Errno::AGAIN => "no process slot is left",
        _ => "",
    };
    if known.is_empty() { io::Error::from(error).to_string() } else { known.to_owned() }
}
