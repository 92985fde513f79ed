//! Running the one program: its output to the console, the launcher's wish to stop, and every orphan reaped.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, PipeWriter, Read, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use portable_init::{Boot, CONSOLE, CONTROL, CONTROL_STOP, End};
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::termios::OptionalActions;

use crate::kernel_log;
use crate::restarts::{Next, Restarts};

/// LIMIT: the launcher's commands are one word; a longer line is not from the launcher.
const CONTROL_LINE_BYTES_MAX: u64 = 256;

/// What the thread that listens to the launcher may do to the program.
#[derive(Debug, Default)]
struct Running {
    program: Option<Pid>,
    /// The launcher wants it to end: it is not started again.
    stopping: bool,
}

type Shared = Arc<Mutex<Running>>;

/// Runs `boot.program` to its end, tells the launcher how it ended, and leaves no other process alive.
pub(crate) fn run(boot: &Boot) -> Result<()> {
    let control = raw(CONTROL)?;
    let (streams, forwarder) = Streams::open(boot)?;
    let running = Shared::default();
    listen(control.try_clone()?, Arc::clone(&running), boot.stop_seconds);
    let mut restarts = Restarts::new(boot.restarts_per_minute);
    let end = loop {
        let started = Instant::now();
        let end = run_once(boot, &streams, &running)?;
        if lock(&running).stopping {
            break end;
        }
        let ended = end.line();
        match restarts.after(end, started, Instant::now()) {
            Next::Over => break end,
            Next::Again => {
                kernel_log::error(&format!("the program ended ({ended}) and is started again"));
            }
            Next::GiveUp => {
                let most = boot.restarts_per_minute;
                let text =
                    format!("the program ended ({ended}), and {most} times before within a minute");
                kernel_log::error(&text);
                break end;
            }
        }
    };
    kill_the_rest();
    // Holds the pipe's writing end; without this the forwarder would never see the end of it.
    drop(streams);
    if let Some(forwarder) = forwarder
        && forwarder.join().is_err()
    {
        kernel_log::error("the console stopped taking output");
    }
    report(control, end)
}

/// Runs it once, to its end.
fn run_once(boot: &Boot, streams: &Streams, running: &Shared) -> Result<End> {
    let mut command = Command::new(&boot.program);
    command.args(&boot.args).env_clear().envs(&boot.env).current_dir("/");
    streams.give(&mut command)?;
    let program = {
        let mut running = lock(running);
        if running.stopping {
            return Ok(End::Exit(0));
        }
        match command.spawn() {
            Ok(child) => *running.program.insert(Pid::from_child(&child)),
            Err(error) => {
                kernel_log::error(&format!("cannot run {}: {error}", boot.program));
                return Ok(End::Exit(if error.kind() == io::ErrorKind::NotFound {
                    127
                } else {
                    126
                }));
            }
        }
    };
    let end = reap_until(program);
    lock(running).program = None;
    end
}

fn lock(running: &Shared) -> MutexGuard<'_, Running> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The program's standard streams.
enum Streams {
    /// The console itself.
    Terminal(File),
    /// Nothing in, and a pipe out.
    Pipe(PipeWriter),
}

impl Streams {
    /// With the thread that brings what comes through the pipe to the console.
    fn open(boot: &Boot) -> Result<(Self, Option<JoinHandle<()>>)> {
        if boot.terminal {
            let console = OpenOptions::new().read(true).write(true).open(CONSOLE);
            let console = console.with_context(|| format!("cannot open {CONSOLE}"))?;
            return Ok((Self::Terminal(console), None));
        }
        let (reader, writer) = io::pipe().context("cannot make a pipe")?;
        let console = raw(CONSOLE)?;
        let limit = boot.console_bytes_max;
        let forwarder = thread::spawn(move || forward(reader, console, limit));
        Ok((Self::Pipe(writer), Some(forwarder)))
    }

    fn give(&self, command: &mut Command) -> Result<()> {
        match self {
            Self::Terminal(console) => {
                let (input, output) = (console.try_clone()?, console.try_clone()?);
                command.stdin(input).stdout(output).stderr(console.try_clone()?);
            }
            Self::Pipe(writer) => {
                let (output, errors) = (writer.try_clone()?, writer.try_clone()?);
                command.stdin(Stdio::null()).stdout(output).stderr(errors);
            }
        }
        Ok(())
    }
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
fn listen(control: File, running: Shared, stop_seconds: u64) {
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
        let signal = |signal| {
            let mut running = lock(&running);
            running.stopping = true;
            if let Some(program) = running.program {
                // It may just have ended by itself; then there is nothing to signal.
                let _ = rustix::process::kill_process(program, signal);
            }
        };
        signal(Signal::TERM);
        thread::sleep(Duration::from_secs(stop_seconds));
        kernel_log::error("the program did not end in time and is killed");
        signal(Signal::KILL);
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
