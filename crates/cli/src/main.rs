//! `sandflare`: the command line. It asks a node over HTTP; only `up` and `doctor` do things on this
//! machine, and neither touches KVM itself.
//!
//! Standard output carries data and nothing else; everything said to a person goes to standard
//! error. How it ends is in [`complaint`].

mod access;
mod args;
mod audit;
mod bench;
mod complaint;
mod completions;
mod cp;
mod db;
mod db_snapshots;
mod doctor;
mod duration;
mod exec;
mod folder;
mod key_file;
mod launch;
mod listing;
mod node;
mod place;
mod policy;
mod programs;
mod remove;
mod sandbox;
mod secret;
mod signals;
mod snapshot;
mod snapshots;
mod steps;
mod table;
mod terminal;
mod url;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use clap::error::ErrorKind;

use crate::args::{Args, Command, Logs, TemplateCommand};
use crate::complaint::{End, REFUSED, RUN_FAILED};
use crate::place::Place;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // What `run`, `exec` and `shell` exit with is the command's; ours needs a code of its own there.
    let is_run = passes_code_on(&arguments);
    let args = match Args::try_parse_from(&arguments) {
        Ok(args) => args,
        Err(error) => {
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // Nobody is left to tell when this fails.
            let _ = error.print();
            let code = if is_run { RUN_FAILED } else { REFUSED };
            return if asked { ExitCode::SUCCESS } else { ExitCode::from(code) };
        }
    };
    let end = start(args);
    let code = match end {
        Ok(end) => end.code(),
        Err(error) => {
            complaint::print(&error);
            if is_run { RUN_FAILED } else { complaint::exit_code(&error) }
        }
    };
    ExitCode::from(code)
}

/// Whether the words, which may not be a command line at all, ask for `run`, `exec` or `shell`, the
/// latter two perhaps as a verb of `sandbox`.
fn passes_code_on(arguments: &[OsString]) -> bool {
    let mut words = arguments.iter().skip(1);
    let mut grouped = false;
    while let Some(word) = words.next() {
        if word == "--url" || word == "--ca" {
            words.next();
        } else if word == "sandbox" && !grouped {
            grouped = true;
        } else if !word.as_encoded_bytes().starts_with(b"-") {
            return word == "run" && !grouped || word == "exec" || word == "shell";
        }
    }
    false
}

fn start(args: Args) -> Result<End> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let end = runtime.block_on(command(args));
    // A thread blocked in reading or writing a terminal must not hold up the exit.
    runtime.shutdown_background();
    end
}

async fn command(args: Args) -> Result<End> {
    let Args { url, ca, command } = args;
    // Not every command needs a place, and where there is none the others must work.
    let place = || Place::resolve(url.clone(), ca.clone());
    let client = || place()?.client();
    match command {
        Command::Run(run) => exec::run(&client()?, run).await,
        Command::Up(up) => launch::up(&place()?, &up).await,
        Command::Down(format) => launch::down(&place()?, format).await,
        Command::Status(format) => node::status(&client()?, format).await,
        Command::Logs(Logs { id: Some(id), format, .. }) => {
            sandbox::logs(&client()?, id, format).await
        }
        Command::Logs(logs) => launch::logs(&place()?, &logs).await,
        Command::Verb(verb) => sandbox::verb(&client()?, verb).await,
        Command::Sandbox(command) => sandbox::sandbox(&client()?, command).await,
        Command::Policy(command) => policy::policy(&client()?, command).await,
        Command::Secret(command) => secret::secret(&client()?, command).await,
        Command::Db(command) => db::db(&client()?, command).await,
        Command::Snapshots(command) => snapshots::snapshots(&client()?, command).await,
        Command::Template(TemplateCommand::Ls(format)) => {
            listing::templates(&client()?, format).await
        }
        Command::Template(TemplateCommand::Build(build)) => {
            snapshot::build(&client()?, &build).await
        }
        Command::Template(TemplateCommand::Rm(rm)) => snapshot::remove(&client()?, &rm).await,
        Command::Keys(command) => access::keys(&client()?, command).await,
        Command::Projects(command) => access::projects(&client()?, command).await,
        Command::Audit(command) => audit::audit(&client()?, command).await,
        Command::Doctor(format) => doctor::doctor(&place()?, format).await,
        Command::Bench(bench) => bench::bench(&place()?, &bench).await,
        Command::Completions(completions) => completions::print(completions.shell),
    }
}
