//! How the program ends: what it prints when something failed, and the code it exits with.
//!
//! `run` and `exec` pass the command's code on; their own failures are [`RUN_FAILED`]. Everything
//! else exits with 0 (it worked), [`REFUSED`] (you can mend it) or [`BROKEN`] (we must).

use std::fmt::Write;

use api_node::ErrorCode;
use client::ClientError;

/// Something the caller can mend.
pub(crate) const REFUSED: u8 = 1;
/// Something only we can mend.
pub(crate) const BROKEN: u8 = 2;
/// `run` or `exec` failed, as opposed to the command.
pub(crate) const RUN_FAILED: u8 = 125;
/// The command's time was up.
pub(crate) const TIMED_OUT: u8 = 124;
/// Added to the number of the signal that ended something.
pub(crate) const SIGNAL_BASE: u8 = 128;

/// An end that is no failure of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It worked.
    Done,
    /// The answer is no: a check did not pass.
    No,
    /// The command's own code.
    Code(u8),
}

impl End {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::No => REFUSED,
            Self::Code(code) => code,
        }
    }
}

/// A failure with what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Advised {
    message: String,
    hint: String,
}

/// A failure, and what to do about it in the imperative.
pub(crate) fn advise(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    Advised { message: message.into(), hint: hint.into() }.into()
}

/// What is printed for `error`: one line saying what failed and because of what, and, where it is
/// known, one saying what to do.
pub(crate) fn text(error: &anyhow::Error) -> String {
    let mut text = String::from("error");
    for cause in error.chain() {
        let _ = write!(text, ": {cause}");
        // How connecting failed says nothing more.
        if cause.downcast_ref::<ClientError>().is_some_and(ClientError::is_no_node) {
            break;
        }
    }
    let hint = error.chain().find_map(|cause| {
        let advised = cause.downcast_ref::<Advised>().map(|advised| advised.hint.clone());
        advised.or_else(|| cause.downcast_ref::<ClientError>().and_then(ClientError::hint))
    });
    if let Some(hint) = hint {
        let _ = write!(text, "\nhint: {hint}");
    }
    let request = error.chain().find_map(|cause| match cause.downcast_ref::<ClientError>() {
        Some(ClientError::Refused(failure)) if failure.code.status() >= 500 => {
            Some(failure.request_id.clone())
        }
        _ => None,
    });
    if let Some(request) = request.filter(|request| !request.is_empty()) {
        let _ = write!(text, "\nrequest: {request} (find it with `sandflare logs`)");
    }
    text
}

/// Prints `error` to standard error.
pub(crate) fn print(error: &anyhow::Error) {
    eprintln!("{}", text(error));
}

/// What the program exits with after `error`, outside `run` and `exec`.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    let ours = error.chain().any(|cause| match cause.downcast_ref::<ClientError>() {
        Some(ClientError::Refused(failure)) => {
            matches!(failure.code, ErrorCode::Internal | ErrorCode::Unknown)
        }
        Some(ClientError::Malformed { .. } | ClientError::BadEvent { .. }) => true,
        _ => false,
    });
    if ours { BROKEN } else { REFUSED }
}

#[cfg(test)]
mod test {
    use anyhow::Context;
    use api_node::Failure;
    use expect_test::{Expect, expect};

    use super::*;

    fn check(error: anyhow::Error, code: u8, expected: Expect) {
        expected.assert_eq(&text(&error));
        assert_eq!(exit_code(&error), code);
    }

    fn refused(failure: Failure) -> anyhow::Error {
        ClientError::Refused(Box::new(failure)).into()
    }

    #[test]
    fn a_failure_says_what_why_and_what_to_do() {
        check(
            advise("port 7878 is taken by another program", "choose another with --port"),
            REFUSED,
            expect![[r"
                error: port 7878 is taken by another program
                hint: choose another with --port"]],
        );
        check(
            refused(
                Failure::new(ErrorCode::NotFound, "there is no sandbox sbx_1")
                    .with_hint("list them with `sandflare ps`"),
            ),
            REFUSED,
            expect![[r"
                error: there is no sandbox sbx_1
                hint: list them with `sandflare ps`"]],
        );
    }

    #[test]
    fn a_failure_of_ours_names_its_request() {
        let mut failure = Failure::new(ErrorCode::Internal, "the node failed");
        failure.request_id = "req_01".into();
        check(
            refused(failure),
            BROKEN,
            expect![[r"
                error: the node failed
                request: req_01 (find it with `sandflare logs`)"]],
        );
    }

    #[test]
    fn causes_come_outermost_first_and_once() {
        let error = std::fs::read("/nowhere").context("read the node's log").unwrap_err();
        check(
            error,
            REFUSED,
            expect!["error: read the node's log: No such file or directory (os error 2)"],
        );
    }
}
