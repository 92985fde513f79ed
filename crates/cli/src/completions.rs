//! What makes a shell complete this program's words.

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::args::{Args, CompletionShell};
use crate::complaint::End;
use crate::table;

/// `sandflare completions`
pub(crate) fn print(shell: CompletionShell) -> Result<End> {
    let shell = match shell {
        CompletionShell::Bash => Shell::Bash,
        CompletionShell::Zsh => Shell::Zsh,
        CompletionShell::Fish => Shell::Fish,
    };
    // Generating into standard output would panic when its reader goes away.
    let mut script = Vec::new();
    generate(shell, &mut Args::command(), "sandflare", &mut script);
    table::print(&String::from_utf8(script)?)?;
    Ok(End::Done)
}
