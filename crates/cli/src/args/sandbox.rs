//! The verbs for one sandbox, which are there alone and in the group `sandbox`, and `snapshots`.

use api_node::{FORK_COUNT_MAX, OnTimeout};
use base_types::{SandboxId, Size, SnapshotId, TemplateName};
use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use super::{Format, NetworkOptions, Process, Surroundings};
use crate::cp::Place as CopyPlace;
use crate::duration::parse_lifetime;

/// `sandflare sandbox`
#[derive(Debug, Subcommand)]
pub(crate) enum SandboxCommand {
    #[command(flatten)]
    Verb(SandboxVerb),
    /// Show the end of a sandbox's console: what its kernel printed.
    #[command(after_help = "\
Example:
  sandflare sandbox logs sbx_0123456789abcdef")]
    Logs(Choice),
}

/// What can be done with a sandbox.
#[derive(Debug, Subcommand)]
pub(crate) enum SandboxVerb {
    /// Make a sandbox that stays, and print its id.
    Create(Create),
    /// List sandboxes.
    #[command(visible_alias = "ls")]
    Ps(Ps),
    /// Run a command in a sandbox that is there.
    Exec(Exec),
    /// Open a shell in a sandbox.
    Shell(Shell),
    /// Copy a file, or a directory with all that is in it, into or out of a sandbox.
    Cp(Cp),
    /// Pause a sandbox: it costs nothing but disk until it is used again.
    #[command(after_help = "\
Example:
  sandflare pause sbx_0123456789abcdef

Processes, memory and files are kept. Any use, such as `sandflare exec`, resumes it.")]
    Pause(Choice),
    /// Resume a paused sandbox.
    #[command(after_help = "\
Example:
  sandflare resume sbx_0123456789abcdef")]
    Resume(Choice),
    /// Make sandboxes from this moment of another, and print their ids.
    Fork(ForkArgs),
    /// Keep this moment of a sandbox, to create others from, and print the snapshot's id.
    Snapshot(TakeSnapshot),
    /// Give a sandbox another lifetime, from now on.
    Timeout(Timeout),
    /// Print the address of a port of a sandbox, and say who may use it.
    Url(Url),
    /// Show the counters of a sandbox's machine.
    #[command(after_help = "\
Example:
  sandflare metrics sbx_0123456789abcdef -o json")]
    Metrics(Choice),
    /// List the processes started in a sandbox to live on their own.
    #[command(after_help = "\
Example:
  sandflare processes sbx_0123456789abcdef

A paused sandbox is resumed by this.")]
    Processes(Choice),
    /// Kill sandboxes.
    Kill(Kill),
}

/// A sandbox, and how the answer is printed.
#[derive(Debug, ClapArgs)]
pub(crate) struct Choice {
    /// The sandbox.
    pub(crate) id: SandboxId,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  id=$(sandflare create --name charts --size small)
  sandflare create --timeout 8h --idle-timeout 10m --on-timeout pause
  sandflare create -e KEY=value --metadata team:charts -o json
  sandflare create --network none --allow pypi.org --allow '*.pythonhosted.org:443'
  sandflare create --snapshot snap_0123456789abcdef")]
pub(crate) struct Create {
    /// A name for people; it need not be unique.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// What the sandbox is a clone of.
    #[arg(long, default_value = "agent")]
    pub(crate) template: TemplateName,
    /// nano, micro, small, medium or large.
    #[arg(long, default_value = "nano")]
    pub(crate) size: Size,
    /// Make it from this snapshot, which has template and size.
    #[arg(long, value_name = "SNAPSHOT", conflicts_with_all = ["template", "size"])]
    pub(crate) snapshot: Option<SnapshotId>,
    /// Set a variable for all its commands; without `=VALUE`, to what it is here. May be repeated.
    #[arg(short = 'e', long = "env", value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Note something with it, which `sandflare ps` finds it by. May be repeated.
    #[arg(long, value_name = "KEY:VALUE", value_parser = parse_metadata)]
    pub(crate) metadata: Vec<(String, String)>,
    /// How long it lives, such as 30m, 8h, 7d or never [default: 1h].
    #[arg(long, value_name = "TIME", value_parser = parse_lifetime)]
    pub(crate) timeout: Option<u32>,
    /// How long it may go without use, such as 10m or never [default: never].
    #[arg(long, value_name = "TIME", value_parser = parse_lifetime)]
    pub(crate) idle_timeout: Option<u32>,
    /// What happens when its time is over: it is destroyed, or paused until it is used again.
    #[arg(long, value_enum, default_value = "kill")]
    pub(crate) on_timeout: AtTimeout,
    #[command(flatten)]
    pub(crate) network: NetworkOptions,
    #[command(flatten)]
    pub(crate) format: Format,
}

/// What happens to a sandbox whose time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AtTimeout {
    Kill,
    Pause,
}

impl From<AtTimeout> for OnTimeout {
    fn from(at: AtTimeout) -> Self {
        match at {
            AtTimeout::Kill => Self::Kill,
            AtTimeout::Pause => Self::Pause,
        }
    }
}

fn parse_metadata(text: &str) -> Result<(String, String), String> {
    text.split_once(':')
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| "write it as KEY:VALUE, such as team:charts".to_owned())
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Example:
  sandflare fork sbx_0123456789abcdef --count 4

All of them begin with the processes, memory and files it has at one moment: all are made, or none.")]
pub(crate) struct ForkArgs {
    /// The sandbox, which goes on.
    pub(crate) id: SandboxId,
    /// How many to make, 1 to 16.
    #[arg(long, default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(FORK_COUNT_MAX)))]
    pub(crate) count: u32,
    /// What they are called [default: as the sandbox is].
    #[arg(long)]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  snapshot=$(sandflare snapshot sbx_0123456789abcdef --name before-upgrade)
  sandflare create --snapshot $snapshot

The sandbox goes on. `sandflare snapshots` lists and deletes what was kept.")]
pub(crate) struct TakeSnapshot {
    /// The sandbox.
    pub(crate) id: SandboxId,
    /// A name for people; it need not be unique.
    #[arg(long)]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare timeout sbx_0123456789abcdef 2h
  sandflare timeout sbx_0123456789abcdef never")]
pub(crate) struct Timeout {
    /// The sandbox.
    pub(crate) id: SandboxId,
    /// How long it lives from now on, such as 30m, 8h, 7d or never.
    #[arg(value_name = "TIME", value_parser = parse_lifetime)]
    pub(crate) timeout: u32,
    #[command(flatten)]
    pub(crate) format: Format,
}

/// `sandflare snapshots`
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotsCommand {
    /// List snapshots.
    #[command(after_help = "\
Example:
  sandflare snapshots ls -o json")]
    Ls(Format),
    /// Delete snapshots; sandboxes made from them stay.
    #[command(after_help = "\
Example:
  sandflare snapshots rm snap_0123456789abcdef")]
    Rm(RmSnapshots),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RmSnapshots {
    /// The snapshots.
    #[arg(required = true)]
    pub(crate) ids: Vec<SnapshotId>,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Example:
  sandflare exec sbx_0123456789abcdef -- ls -l /home/agent
  sandflare exec -t sbx_0123456789abcdef -- top

Exit codes are those of `sandflare run`.")]
pub(crate) struct Exec {
    /// Give the command a terminal, which is this one.
    #[arg(short = 't', long = "tty")]
    pub(crate) tty: bool,
    /// The sandbox.
    pub(crate) id: SandboxId,
    #[command(flatten)]
    pub(crate) process: Process,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Example:
  sandflare shell sbx_0123456789abcdef

It is the user's login shell, on a terminal that is this one. `exit`, or Ctrl-D, ends it; the sandbox
stays. Exit codes are those of `sandflare run`.")]
pub(crate) struct Shell {
    #[command(flatten)]
    pub(crate) surroundings: Surroundings,
    /// The sandbox.
    pub(crate) id: SandboxId,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare ps --state paused
  sandflare ps --metadata team:charts --json")]
pub(crate) struct Ps {
    /// Only those in this state, such as running, paused or failed.
    #[arg(long)]
    pub(crate) state: Option<String>,
    /// Only those of exactly this name.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Only those with this entry in their metadata.
    #[arg(long, value_name = "KEY:VALUE")]
    pub(crate) metadata: Option<String>,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Example:
  sandflare kill sbx_0123456789abcdef

The ids of those killed are printed; one that is not there does not spare the rest.")]
pub(crate) struct Kill {
    /// The sandboxes.
    #[arg(required = true)]
    pub(crate) ids: Vec<SandboxId>,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare cp data.csv sbx_0123456789abcdef:/home/agent/data.csv
  sandflare cp sbx_0123456789abcdef:/home/agent/chart.png .
  sandflare cp project sbx_0123456789abcdef:/home/agent/project   a directory, with all that is in it
  sandflare cp sbx_0123456789abcdef:/home/agent/project back
  sandflare cp - sbx_0123456789abcdef:/home/agent/stdin < data     (`-` is a standard stream)

Of a directory that comes out of a sandbox, links and special files are left out, and named.")]
pub(crate) struct Cp {
    /// A file or directory here, or ID:PATH.
    pub(crate) from: CopyPlace,
    /// A file or directory here, or ID:PATH.
    pub(crate) to: CopyPlace,
    /// Permission bits of a file in a sandbox, in octal, such as 755.
    #[arg(long, value_parser = parse_mode)]
    pub(crate) mode: Option<u32>,
    /// User whose rights count in the sandbox, and who owns what is written there [default: root's rights,
    /// and agent owns it].
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    #[command(flatten)]
    pub(crate) format: Format,
}

fn parse_mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| "use one to four octal digits, such as 644".to_owned())
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare url sbx_0123456789abcdef 8000             with the token that opens it, for a browser
  curl $(sandflare url --path sbx_0123456789abcdef 8000)
  sandflare url --public sbx_0123456789abcdef 8000    for everybody who reaches the node
  sandflare url --private sbx_0123456789abcdef 8000   only with the token, or a key, again

The token opens every port of that sandbox, and no other sandbox. Programs must listen on all addresses
or on loopback.")]
pub(crate) struct Url {
    /// The sandbox.
    pub(crate) id: SandboxId,
    /// The TCP port.
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: u16,
    /// Let everybody who reaches the node reach it.
    #[arg(long, conflicts_with = "private")]
    pub(crate) public: bool,
    /// Let only those reach it who have the token, or a key.
    #[arg(long)]
    pub(crate) private: bool,
    /// Print the address below the node's own, for programs that do not find host names under localhost.
    #[arg(long)]
    pub(crate) path: bool,
    #[command(flatten)]
    pub(crate) format: Format,
}
