//! The programs a sandbox knows.
//!
//! | argv | does |
//! |---|---|
//! | `echo WORDS…` | as usual |
//! | `print OUT ERR CODE` | writes OUT and ERR to the two streams and exits with CODE |
//! | `bytes N` | writes N bytes, 0 1 2 … 255 0 1 …, in pieces of odd length |
//! | `cat` | copies its input until it ends |
//! | `wait` | waits for a signal and dies of it |
//! | `slow` | is killed by its time limit after some output |
//! | `where` | tells its environment, directory and user |
//! | `terminal` | writes its terminal's size, and again when that changes; copies its input up to Ctrl-D |
//! | `vanish` | the stream breaks off without an end |
//! | `lost` | the sandbox is lost under it |
//! | `locked` | is there and not executable |
//! | anything else | is not found |

use std::collections::BTreeMap;

use api_node::{ErrorCode, ExecBody, ExecRequest, Failure, PtySize};
use tokio::sync::mpsc;

use crate::Input;

/// Runs a program; every event goes to `out`. Ends early when nobody listens.
pub(crate) async fn run(
    request: ExecRequest,
    pty: Option<PtySize>,
    env: BTreeMap<String, String>,
    mut input: mpsc::Receiver<Input>,
    out: mpsc::Sender<ExecBody>,
) {
    let argv: Vec<&str> = request.argv.iter().map(String::as_str).collect();
    let stdout = |data: Vec<u8>| out.send(ExecBody::Stdout { data });
    let last = match argv.as_slice() {
        ["echo", words @ ..] => {
            let _ = stdout(format!("{}\n", words.join(" ")).into_bytes()).await;
            exit(0)
        }
        ["print", text, error, code] => {
            let _ = stdout((*text).into()).await;
            let _ = out.send(ExecBody::Stderr { data: (*error).into() }).await;
            exit(code.parse().unwrap_or(1))
        }
        ["bytes", count] => {
            let count = count.parse().unwrap_or(0);
            let all: Vec<u8> = (0..=u8::MAX).cycle().take(count).collect();
            for piece in all.chunks(4099) {
                if stdout(piece.to_vec()).await.is_err() {
                    return;
                }
            }
            exit(0)
        }
        ["cat"] => loop {
            match input.recv().await {
                Some(Input::Stdin(data)) => {
                    let _ = stdout(data).await;
                }
                Some(Input::Resize(_)) => {}
                Some(Input::Close) | None => break exit(0),
                Some(Input::Signal(signal)) => break killed(signal, false),
            }
        },
        ["wait"] => loop {
            match input.recv().await {
                Some(Input::Signal(signal)) => break killed(signal, false),
                Some(Input::Stdin(_) | Input::Close) => {}
                Some(Input::Resize(_)) => {}
                None => return,
            }
        },
        ["terminal"] => {
            let size = |size: PtySize| format!("{} {}\r\n", size.rows, size.cols).into_bytes();
            let _ = stdout(pty.map_or(b"none\r\n".to_vec(), size)).await;
            loop {
                match input.recv().await {
                    // Ctrl-D.
                    Some(Input::Stdin(data)) if data == [4] => break exit(5),
                    Some(Input::Stdin(data)) => {
                        let _ = stdout(data).await;
                    }
                    Some(Input::Resize(new)) => {
                        let _ = stdout(size(new)).await;
                    }
                    Some(Input::Close) => break exit(5),
                    Some(Input::Signal(signal)) => break killed(signal, false),
                    None => return,
                }
            }
        }
        ["slow"] => {
            let _ = stdout(b"partial\n".to_vec()).await;
            killed(9, true)
        }
        ["where"] => {
            let text = format!("{env:?} {:?} {:?}\n", request.cwd, request.user);
            let _ = stdout(text.into_bytes()).await;
            exit(0)
        }
        ["vanish"] => return,
        ["lost"] => failed(ErrorCode::SandboxOver, "the guest's kernel panicked".into(), 125),
        ["locked", ..] => {
            failed(ErrorCode::PermissionDenied, "`locked` is not executable".into(), 126)
        }
        _ => {
            let name = argv.first().copied().unwrap_or_default();
            failed(ErrorCode::PathNotFound, format!("`{name}` is not in the sandbox"), 127)
        }
    };
    let _ = out.send(last).await;
}

fn exit(exit_code: u8) -> ExecBody {
    ExecBody::Exit { exit_code, signal: None, timed_out: false }
}

fn killed(signal: u8, timed_out: bool) -> ExecBody {
    ExecBody::Exit { exit_code: 128 + signal, signal: Some(signal), timed_out }
}

fn failed(code: ErrorCode, message: String, exit_code: u8) -> ExecBody {
    ExecBody::Error { failure: Failure::new(code, message), exit_code }
}
