//! The repository's own rules, checked by a machine.
//!
//! `cargo test -p xtask` runs every check as a test, and so does the gate; `cargo run -p xtask --
//! tidy` prints all findings at once. This crate is never shipped, builds nothing and writes
//! nothing: each check reads the tree and says what breaks which rule, and what to do about it.

mod repository;
mod tidy;

use std::process::ExitCode;

use anyhow::Result;

use crate::repository::Repository;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments != ["tidy"] {
        eprintln!("usage: cargo run -p xtask -- tidy");
        return ExitCode::from(2);
    }
    match tidy() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(findings) => {
            eprintln!("tidy: {findings} findings");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("tidy: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn tidy() -> Result<usize> {
    let repository = Repository::load()?;
    let mut count = 0;
    for (name, check) in tidy::CHECKS {
        for finding in check(&repository) {
            println!("{name}: {finding}");
            count += 1;
        }
    }
    Ok(count)
}
