use std::path::PathBuf;
use std::time::Duration;

use base_types::{SandboxId, Size, TemplateName};
use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::cp::Place as CopyPlace;
use crate::duration::parse_duration;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// A machine of its own for every agent: microVMs, restored from a memory snapshot.
#[derive(Debug, Parser)]
#[command(
    name = "sandflare",
    version,
    styles = STYLES,
    max_term_width = 100,
    after_help = "\
Examples:
  sandflare up                                  start a node on this machine
  sandflare run -- python3 -c 'print(6*7)'      one command in a sandbox of its own
  sandflare doctor                              what this machine can do, and what is missing
  sandflare down                                stop the node, leave nothing behind

Environment:
  SANDFLARE_API_URL   the node to ask (default http://127.0.0.1:7878)
  SANDFLARE_HOME      where `up` keeps images and data (default ~/.local/share/sandflare)"
)]
pub(crate) struct Args {
    /// The node to ask, such as http://127.0.0.1:7878.
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command in a new sandbox, which is gone afterwards.
    Run(Run),
    /// Start a node on this machine.
    Up(Up),
    /// Stop the node of this machine, and all its sandboxes.
    Down,
    /// Show the node.
    Status(Format),
    /// Show the node's log.
    Logs(Logs),
    /// List sandboxes.
    Ps(Format),
    /// Run a command in a sandbox that is there.
    Exec(Exec),
    /// Kill sandboxes.
    Kill(Kill),
    /// Copy one file into or out of a sandbox.
    Cp(Cp),
    /// List templates, or make their snapshots.
    #[command(subcommand)]
    Template(TemplateCommand),
    /// Say what this machine can do, what is missing, and what to do about it.
    Doctor(Format),
    /// Measure the node.
    Bench(Bench),
}

/// What a command is run with.
#[derive(Debug, ClapArgs)]
pub(crate) struct Process {
    /// Set a variable; without `=VALUE`, to what it is here. May be repeated.
    #[arg(short = 'e', long = "env", value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Working directory.
    #[arg(short = 'w', long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// User in the sandbox [default: agent].
    #[arg(short = 'u', long)]
    pub(crate) user: Option<String>,
    /// Kill the command after this long, such as 30s, 500ms or 5m; sandflare then exits with 124.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Pass standard input on, even from a terminal. Input from a pipe or file always is.
    #[arg(short = 'i', long)]
    pub(crate) stdin: bool,
    /// The command and its arguments.
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub(crate) argv: Vec<String>,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare run -- sh -c 'uname -r; echo err >&2; exit 7'
  sandflare run --timeout 30s -e KEY=value -- python3 -c 'import os; print(os.environ[\"KEY\"])'
  sandflare run -- python3 < analyse.py

Exit codes:
  the command's own; 128 + N when signal N ended it; 124 when its time was up
  126 it is not executable; 127 it is not there; 125 sandflare itself failed")]
pub(crate) struct Run {
    /// What the sandbox is a clone of.
    #[arg(long, default_value = "agent")]
    pub(crate) template: TemplateName,
    /// nano, micro, small, medium or large.
    #[arg(long, default_value = "nano")]
    pub(crate) size: Size,
    #[command(flatten)]
    pub(crate) process: Process,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Example:
  sandflare exec sbx_0123456789abcdef -- ls -l /home/agent

Exit codes are those of `sandflare run`.")]
pub(crate) struct Exec {
    /// The sandbox.
    pub(crate) id: SandboxId,
    #[command(flatten)]
    pub(crate) process: Process,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare up
  sandflare up --portable --memory 4096      in QEMU, even where KVM works

Without --portable or --native, KVM is probed: where it runs Linux the node runs natively,
otherwise in the portable host (QEMU, slower, needs qemu-system-x86).")]
pub(crate) struct Up {
    /// Run the node in the portable host.
    #[arg(long, conflicts_with = "native")]
    pub(crate) portable: bool,
    /// Run the node on this machine's KVM, or fail.
    #[arg(long)]
    pub(crate) native: bool,
    /// Port of 127.0.0.1 to serve on [default: that of the node's URL, 7878].
    #[arg(long)]
    pub(crate) port: Option<u16>,
    /// Memory of the portable host in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 2560,
        value_parser = clap::value_parser!(u32).range(1024..=262_144))]
    pub(crate) memory: u32,
    /// Stay in the foreground and stop the node on Ctrl-C.
    #[arg(long)]
    pub(crate) foreground: bool,
}

#[derive(Clone, Copy, Debug, ClapArgs)]
pub(crate) struct Format {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Logs {
    /// Go on as the log grows, until Ctrl-C.
    #[arg(short, long)]
    pub(crate) follow: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Kill {
    /// The sandboxes.
    #[arg(required = true)]
    pub(crate) ids: Vec<SandboxId>,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare cp data.csv sbx_0123456789abcdef:/home/agent/data.csv
  sandflare cp sbx_0123456789abcdef:/home/agent/chart.png .
  sandflare cp - sbx_0123456789abcdef:/home/agent/stdin < data     (`-` is a standard stream)")]
pub(crate) struct Cp {
    /// A file here, or ID:PATH.
    pub(crate) from: CopyPlace,
    /// A file or directory here, or ID:PATH.
    pub(crate) to: CopyPlace,
    /// Permission bits of a file in a sandbox, in octal, such as 755.
    #[arg(long, value_parser = parse_mode)]
    pub(crate) mode: Option<u32>,
    /// Owner of a file in a sandbox [default: agent].
    #[arg(short, long)]
    pub(crate) user: Option<String>,
}

fn parse_mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| "use one to four octal digits, such as 644".to_owned())
}

#[derive(Debug, Subcommand)]
pub(crate) enum TemplateCommand {
    /// List templates and whether their snapshots are there.
    Ls(Format),
    /// Make a template's snapshot now rather than at the first create.
    Build(BuildTemplate),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BuildTemplate {
    /// The template.
    pub(crate) name: TemplateName,
    /// nano, micro, small, medium or large.
    #[arg(long, default_value = "nano")]
    pub(crate) size: Size,
}

/// Which restore paths a benchmark measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MemoryPaths {
    /// A plain private mapping.
    Private,
    /// Page by page, by userfaultfd.
    Userfault,
    /// Both, alternating.
    Both,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare bench
  sandflare bench --runs 200 --json > figures.json
  sandflare bench --runs 5 --parallel 0 --alive 0 --cold 1     a quick look")]
pub(crate) struct Bench {
    /// Creates measured on each restore path.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) runs: u32,
    /// Creates at once; 0 leaves that out.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=200))]
    pub(crate) parallel: u32,
    /// Sandboxes alive at once; 0 leaves that out.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub(crate) alive: u32,
    /// Cold boots to compare with; 0 leaves that out.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=20))]
    pub(crate) cold: u32,
    /// What the sandboxes are clones of.
    #[arg(long, default_value = "agent")]
    pub(crate) template: TemplateName,
    /// nano, micro, small, medium or large.
    #[arg(long, default_value = "nano")]
    pub(crate) size: Size,
    /// Restore paths to measure.
    #[arg(long, value_enum, default_value_t = MemoryPaths::Both)]
    pub(crate) memory_path: MemoryPaths,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Also write the JSON to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Exit with 1 when a target is not reached.
    #[arg(long)]
    pub(crate) check: bool,
}

#[cfg(test)]
mod test {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_command_keeps_its_own_options() {
        for line in ["run -- ls -l --json", "run ls -l --json", "run -w /tmp ls -l --json"] {
            let words = std::iter::once("sandflare").chain(line.split(' '));
            let Command::Run(run) = Args::try_parse_from(words).unwrap().command else {
                panic!("{line}");
            };
            assert_eq!(run.process.argv, ["ls", "-l", "--json"], "{line}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for line in [
            "",
            "run",
            "run --size huge -- true",
            "run --template ../x -- true",
            "run --timeout soon -- true",
            "exec 7 -- true",
            "up --native --portable",
            "up --port 99999",
            "kill",
            "bench --runs 0",
            "cp a b --mode 999",
        ] {
            let words = std::iter::once("sandflare").chain(line.split_whitespace());
            assert!(Args::try_parse_from(words).is_err(), "{line}");
        }
    }
}
