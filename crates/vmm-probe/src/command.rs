//! The subcommands `probe`, `floor` and `hold` of `sandflare-vmm`.

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use crate::floor::{FloorReport, PhaseSpread, Spread, floor};
use crate::hold::{hold, wait_for_end_of_input};
use crate::probe::{Verdict, probe};

const PROBE_USAGE: &str = "sandflare-vmm probe [--json]";
const FLOOR_USAGE: &str = "sandflare-vmm floor [--runs N] [--memory MIB] [--json]";

/// What the process that holds is called in lists of processes.
const HOLDER_NAME: &str = "sandflare-hold";
const HOLD_USAGE: &str = "sandflare-vmm hold, which ends with its standard input";

/// Enough for a median; a 99th percentile wants more.
const RUNS_DEFAULT: u32 = 20;
/// The memory of the smallest size.
const MEMORY_MIB_DEFAULT: u32 = 512;

/// The command line was understood and something else went wrong, or the answer is no.
const FAILED: u8 = 1;
/// The command line was not understood.
const MISUSED: u8 = 2;

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    json: bool,
    runs: u32,
    memory_mib: u32,
}

/// `sandflare-vmm probe`, with the arguments after that: prints a [`Verdict`] and succeeds if KVM
/// is usable.
pub fn probe_command(arguments: impl IntoIterator<Item = String>) -> ExitCode {
    match parse(arguments, &["--json"]) {
        Ok(options) => {
            let verdict = probe();
            let text = if options.json { json(&verdict) } else { Ok(verdict_text(&verdict)) };
            print(text, verdict.usable)
        }
        Err(reason) => misused(&reason, PROBE_USAGE),
    }
}

/// `sandflare-vmm floor`, with the arguments after that: prints a [`FloorReport`].
pub fn floor_command(arguments: impl IntoIterator<Item = String>) -> ExitCode {
    let options = match parse(arguments, &["--json", "--runs", "--memory"]) {
        Ok(options) => options,
        Err(reason) => return misused(&reason, FLOOR_USAGE),
    };
    match floor(options.runs, options.memory_mib) {
        Ok(report) => {
            let text = if options.json { json(&report) } else { Ok(report_text(&report)) };
            print(text, true)
        }
        Err(error) => complain(&with_sources(&error), FAILED),
    }
}

/// `sandflare-vmm hold`, with the arguments after that: holds a VM, prints `holding`, and lets go
/// when its standard input ends, which is when whoever started it does.
pub fn hold_command(arguments: impl IntoIterator<Item = String>) -> ExitCode {
    if let Err(reason) = parse(arguments, &[]) {
        return misused(&reason, HOLD_USAGE);
    }
    let held = match hold() {
        Ok(held) => held,
        Err(error) => return complain(&with_sources(&error), FAILED),
    };
    // Told from the monitors of machines by whoever looks at processes. Only a name: without one it holds as well.
    let _ = std::fs::write("/proc/self/comm", HOLDER_NAME);
    let printed = print(Ok("holding\n".to_owned()), true);
    let waited = wait_for_end_of_input();
    drop(held);
    match waited {
        Ok(()) => printed,
        Err(error) => complain(&format!("cannot read standard input: {error}"), FAILED),
    }
}

fn parse(arguments: impl IntoIterator<Item = String>, known: &[&str]) -> Result<Options, String> {
    let mut options = Options { json: false, runs: RUNS_DEFAULT, memory_mib: MEMORY_MIB_DEFAULT };
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let value = arguments.next().ok_or(format!("{argument} needs a number after it"))?;
            value.parse().map_err(|_| format!("{argument} needs a number, not {value:?}"))
        };
        match argument.as_str() {
            unknown if !known.contains(&unknown) => {
                return Err(format!("there is no option {unknown:?}"));
            }
            "--json" => options.json = true,
            "--runs" => options.runs = number()?,
            _ => options.memory_mib = number()?,
        }
    }
    Ok(options)
}

fn json(value: &impl Serialize) -> io::Result<String> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(text)
}

fn verdict_text(verdict: &Verdict) -> String {
    let usable = if verdict.usable { "usable" } else { "not usable" };
    let mut text = format!("KVM is {usable}: {}\n", verdict.reason);
    if !verdict.hint.is_empty() {
        text.push_str(&format!("{}\n", verdict.hint));
    }
    text
}

fn report_text(report: &FloorReport) -> String {
    let mut text = format!(
        "{} runs, {} MiB; microseconds\n{:<12}{:>9}{:>9}{:>9}\n",
        report.runs, report.memory_mib, "", "min", "p50", "p99"
    );
    let mut line = |name: &str, Spread { min_us, p50_us, p99_us }: Spread| {
        text.push_str(&format!("{name:<12}{min_us:>9}{p50_us:>9}{p99_us:>9}\n"));
    };
    for &PhaseSpread { phase, spread } in &report.phases {
        line(&format!("{phase:?}"), spread);
    }
    line("total", report.total);
    text
}

fn print(text: io::Result<String>, success: bool) -> ExitCode {
    let written = text.and_then(|text| io::stdout().write_all(text.as_bytes()));
    match written {
        Ok(()) if success => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(FAILED),
        Err(error) => complain(&format!("cannot write to standard output: {error}"), FAILED),
    }
}

fn misused(reason: &str, usage: &str) -> ExitCode {
    complain(&format!("{reason}; usage: {usage}"), MISUSED)
}

fn complain(sentence: &str, code: u8) -> ExitCode {
    // There is nowhere left to report a failure of this to.
    let _ = writeln!(io::stderr(), "sandflare-vmm: {sentence}");
    ExitCode::from(code)
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

#[cfg(test)]
mod test {
    use super::*;

    fn floor_options(line: &str) -> Result<Options, String> {
        parse(line.split_whitespace().map(str::to_owned), &["--json", "--runs", "--memory"])
    }

    #[test]
    fn options_come_in_any_order() {
        let expected = Options { json: true, runs: 5, memory_mib: 64 };
        assert_eq!(floor_options("--memory 64 --json --runs 5"), Ok(expected));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert_eq!(floor_options("--walls 4").unwrap_err(), "there is no option \"--walls\"");
        assert_eq!(floor_options("--runs").unwrap_err(), "--runs needs a number after it");
        assert_eq!(floor_options("--runs x").unwrap_err(), "--runs needs a number, not \"x\"");
        let probe = parse(["--runs".to_owned()], &["--json"]);
        assert_eq!(probe.unwrap_err(), "there is no option \"--runs\"");
    }
}
