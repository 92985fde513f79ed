//! Running the one program: its output to the console, the launcher's wish to stop, and every orphan reaped.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use portable_init::{Boot, CONSOLE, CONTROL, CONTROL_STOP, End};
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::termios::OptionalActions;

use crate::kernel_log;

/// LIMIT: the launcher's commands are one word; a longer line is not from the launcher.
const CONTROL_LINE_BYTES_MAX: u64 = 256;

/// Runs `boot.program` to its end, tells the launcher how it ended, and leaves no other process alive.
pub(crate) fn run(boot: &Boot) -> Result<()> {
    let mut command = Command::new(&boot.program);
    command.args(&boot.args).env_clear().envs(&boot.env).current_dir("/");
    let control = raw(CONTROL)?;
    let mut forwarder = None;
    if boot.terminal {
        let console = OpenOptions::new().read(true).write(true).open(CONSOLE);
        let console = console.with_context(|| format!("cannot open {CONSOLE}"))?;
        command.stdin(console.try_clone()?).stdout(console.try_clone()?).stderr(console);
    } else {
        let (reader, writer) = io::pipe().context("cannot make a pipe")?;
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let console = raw(CONSOLE)?;
        let limit = boot.console_bytes_max;
        forwarder = Some(thread::spawn(move || forward(reader, console, limit)));
    }
    let child = command.spawn();
    // Holds the pipe's writing end; without this the forwarder would never see the end of it.
    drop(command);
    let end = match child {
        Ok(child) => {
            let program = Pid::from_child(&child);
            listen(control.try_clone()?, program, boot.stop_seconds);
            reap_until(program)?
        }
        Err(error) => {
            kernel_log::error(&format!("cannot run {}: {error}", boot.program));
            End::Exit(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 })
        }
    };
    kill_the_rest();
    if let Some(forwarder) = forwarder
        && forwarder.join().is_err()
    {
        kernel_log::error("the console stopped taking output");
    }
    report(control, end)
}

/// A console as bytes: without this a newline would arrive as two characters, and input would be echoed.
fn raw(path: &str) -> Result<File> {
    let console = OpenOptions::new().read(true).write(true).open(path);
    let console = console.with_context(|| format!("cannot open {path}"))?;
    let mut attributes =
        rustix::termios::tcgetattr(&console).with_context(|| format!("cannot ask {path}"))?;
    attributes.make_raw();
    rustix::termios::tcsetattr(&console, OptionalActions::Now, &attributes)
        .with_context(|| format!("cannot set {path}"))?;
    Ok(console)
}

/// Copies until the end or `limit` bytes; then goes on reading, so that the program never blocks on a full pipe.
fn forward(mut from: impl Read, mut console: impl Write, limit: u64) {
    let copied = io::copy(&mut (&mut from).take(limit), &mut console).unwrap_or(limit);
    if copied == limit {
        let _ =
            writeln!(console, "\n[{limit} bytes of output shown; the rest of this run is dropped]");
    }
    let _ = console.flush();
    let _ = io::copy(&mut from, &mut io::sink());
}

/// Waits in the background for the launcher's wish to stop.
fn listen(control: File, program: Pid, stop_seconds: u64) {
    thread::spawn(move || {
        let mut control = BufReader::new(control);
        loop {
            let mut line = String::new();
            match control.by_ref().take(CONTROL_LINE_BYTES_MAX).read_line(&mut line) {
                Ok(0) => return,
                Ok(_) if line.trim() == CONTROL_STOP => break,
                Ok(_) => kernel_log::note("unknown control line ignored"),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                Err(_) => return,
            }
        }
        // The program may just have ended by itself; then there is nothing to signal.
        let _ = rustix::process::kill_process(program, Signal::TERM);
        thread::sleep(Duration::from_secs(stop_seconds));
        kernel_log::error("the program did not end in time and is killed");
        let _ = rustix::process::kill_process(program, Signal::KILL);
    });
}

fn reap_until(program: Pid) -> Result<End> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == program => {
                let code = status.exit_status().map(End::Exit);
                let signal = status.terminating_signal().map(End::Signal);
                if let Some(end) = code.or(signal) {
                    return Ok(end);
                }
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for the program"),
        }
    }
}

/// As PID 1, everything left over is ours. The kernel spares PID 1 itself.
fn kill_the_rest() {
    // The group of PID 1 stands for all processes: kill(-1).
    let _ = rustix::process::kill_process_group(Pid::INIT, Signal::KILL);
    while let Ok(Some(_)) | Err(rustix::io::Errno::INTR) =
        rustix::process::wait(WaitOptions::empty())
    {}
}

fn report(mut control: File, end: End) -> Result<()> {
    writeln!(control, "{}", end.line()).context("cannot report the program's end")?;
    rustix::termios::tcdrain(&control).context("cannot report the program's end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_beyond_the_limit_is_dropped_and_said_so() {
        let mut console = Vec::new();
        forward(&b"0123456789"[..], &mut console, 4);
        let text = String::from_utf8(console).unwrap();
        assert!(text.starts_with("0123\n[4 bytes of output shown"), "{text}");
        let mut console = Vec::new();
        forward(&b"0123"[..], &mut console, 5);
        assert_eq!(console, b"0123");
    }
}
