//! Running the Debian tools this crate builds upon.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::thread;

use crate::error::BuildError;

/// LIMIT: what a failing tool said last is enough to act upon; more drowns the reason.
const LINES_KEPT: usize = 6;
/// LIMIT: one line of a tool's output; a tool that prints more without a newline is cut.
const LINE_BYTES_MAX: u64 = 4096;
/// LIMIT: standard output of a query such as `apt-cache show`; those answer in a few KiB.
const OUTPUT_BYTES_MAX: u64 = 64 << 20;

/// Runs `command` to its end and gives its standard output. `each_line` sees every line it writes to standard error.
pub(crate) fn run(
    command: &mut Command,
    package: &'static str,
    doing: &str,
    mut each_line: impl FnMut(&str),
) -> Result<Vec<u8>, BuildError> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|source| {
        if source.kind() == std::io::ErrorKind::NotFound {
            BuildError::MissingProgram { program: program.clone(), package }
        } else {
            BuildError::Program { doing: doing.to_owned(), said: format!("`{program}`: {source}") }
        }
    })?;
    let failed = |said: String| BuildError::Program { doing: doing.to_owned(), said };
    let stdout = child.stdout.take();
    let reader = thread::spawn(move || {
        let mut output = Vec::new();
        if let Some(mut stdout) = stdout {
            let read = stdout.by_ref().take(OUTPUT_BYTES_MAX).read_to_end(&mut output);
            // Go on draining: a tool must not block on output nobody wants.
            let drained = std::io::copy(&mut stdout, &mut std::io::sink());
            read.and(drained.map(|_| output))
        } else {
            Ok(output)
        }
    });
    let mut last: VecDeque<String> = VecDeque::new();
    // apt marks errors; the first is the cause, those after it only say who else gave up.
    let mut first_error = None;
    if let Some(stderr) = child.stderr.take() {
        let mut stderr = BufReader::new(stderr);
        let mut line = Vec::new();
        while stderr
            .by_ref()
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)
            .map_err(|source| failed(source.to_string()))?
            > 0
        {
            let text = String::from_utf8_lossy(&line).trim().to_owned();
            line.clear();
            if text.is_empty() {
                continue;
            }
            each_line(&text);
            if first_error.is_none() && text.starts_with("E: ") {
                first_error = Some(text.clone());
            }
            if last.len() == LINES_KEPT {
                last.pop_front();
            }
            last.push_back(text);
        }
    }
    let status = child.wait().map_err(|source| failed(source.to_string()))?;
    let output = match reader.join() {
        Ok(output) => output.map_err(|source| failed(source.to_string()))?,
        Err(_) => return Err(failed("its output could not be read".to_owned())),
    };
    if status.success() {
        return Ok(output);
    }
    let said = match first_error {
        Some(error) => error.trim_start_matches("E: ").to_owned(),
        None if last.is_empty() => format!("`{program}` ended with {status}"),
        None => Vec::from(last).join(" | "),
    };
    Err(failed(said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_tool_is_quoted() {
        let error = run(
            Command::new("sh").args(["-c", "echo no room >&2; exit 3"]),
            "dash",
            "the test",
            |_| {},
        );
        assert_eq!(error.unwrap_err().to_string(), "the test failed: no room");
    }

    #[test]
    fn apts_first_error_is_the_reason() {
        let script = "echo I: go >&2; echo E: no room >&2; echo E: gave up >&2; exit 1";
        let error = run(Command::new("sh").args(["-c", script]), "dash", "the test", |_| {});
        assert_eq!(error.unwrap_err().to_string(), "the test failed: no room");
    }

    #[test]
    fn a_missing_tool_names_its_package() {
        let error = run(&mut Command::new("/nowhere/tool"), "tool-package", "the test", |_| {});
        assert_eq!(
            error.unwrap_err().to_string(),
            "`/nowhere/tool` is not installed; install the Debian package tool-package"
        );
    }
}
