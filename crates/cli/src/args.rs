mod access;
mod db;
mod policy;
mod sandbox;
mod secret;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use base_types::{SandboxId, Size, TemplateName};
use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

pub(crate) use access::{
    CreateKeyArgs, CreateProjectArgs, KeysCommand, ProjectsCommand, SetProjectArgs,
};
pub(crate) use db::{
    CreateDb, DbChoice, DbCommand, DbOutside, DbPassword, DbPsql, DbQuery, DbUrl, ForkDb,
    PasswordOption, RestoreDb, RmDbSnapshots, SnapshotDb, WireDb,
};
pub(crate) use policy::{NetworkOptions, PolicyCommand, PolicyLog, SetPolicy};
pub(crate) use sandbox::{
    Choice, Cp, Create, Exec, ForkArgs, Kill, Ps, SandboxCommand, SandboxVerb, Shell,
    SnapshotsCommand, TakeSnapshot, Timeout, Url,
};
pub(crate) use secret::{RemoveSecret, SecretCommand, SetSecretArgs};

use crate::duration::parse_duration;

/// Heading of the options that every command has.
const EVERYWHERE: &str = "Options of every command";
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
  sandflare create --timeout 8h                 a sandbox that stays; its id is printed
  sandflare doctor                              what this machine can do, and what is missing
  sandflare down                                stop the node, leave nothing behind

Environment:
  SANDFLARE_API_URL   the node to ask (default http://127.0.0.1:7878)
  SANDFLARE_API_KEY   the API key; when it is not set, that of this machine's node is used
  SANDFLARE_CA        as --ca
  SANDFLARE_HOME      where `up` keeps images and data (default ~/.local/share/sandflare)"
)]
pub(crate) struct Args {
    /// The node to ask, such as http://127.0.0.1:7878.
    #[arg(long, global = true, value_name = "URL", help_heading = EVERYWHERE, display_order = 1000)]
    pub(crate) url: Option<String>,
    /// Accept a node whose certificate one in this PEM file vouches for.
    #[arg(long, global = true, value_name = "FILE", help_heading = EVERYWHERE, display_order = 1001)]
    pub(crate) ca: Option<PathBuf>,
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
    #[command(after_help = "\
Examples:
  sandflare down
  sandflare down -o json      how it ended, for a program

What is paused, and snapshots, are there again after the next `sandflare up`.")]
    Down(Format),
    /// Show the node.
    #[command(after_help = "\
Examples:
  sandflare status
  sandflare status -o json")]
    Status(Format),
    /// Show the node's log, or the console of a sandbox.
    Logs(Logs),
    #[command(flatten)]
    Verb(SandboxVerb),
    /// The commands for one sandbox, as a group.
    #[command(
        subcommand,
        after_help = "\
Examples:
  sandflare sandbox ls
  sandflare sandbox logs sbx_0123456789abcdef"
    )]
    Sandbox(SandboxCommand),
    /// Show or change what a sandbox may reach, and see what it reached.
    #[command(
        subcommand,
        after_help = "\
Examples:
  sandflare policy get sbx_0123456789abcdef
  sandflare policy log sbx_0123456789abcdef"
    )]
    Policy(PolicyCommand),
    /// Keep values that sandboxes use and never have.
    #[command(
        subcommand,
        after_help = "\
Examples:
  sandflare secret set openai --host api.openai.com < key
  sandflare create --secret OPENAI_API_KEY=openai"
    )]
    Secret(SecretCommand),
    /// List or delete the snapshots of sandboxes.
    #[command(
        subcommand,
        after_help = "\
Examples:
  sandflare snapshots ls
  sandflare snapshots rm snap_0123456789abcdef"
    )]
    Snapshots(SnapshotsCommand),
    /// Make databases, ask them, and let sandboxes use them.
    #[command(
        subcommand,
        after_help = "\
Examples:
  sandflare db create memory
  sandflare db wire sbx_0123456789abcdef memory"
    )]
    Db(DbCommand),
    /// List templates, or make their snapshots.
    #[command(
        subcommand,
        after_help = "\
Examples:
  sandflare template ls
  sandflare template build agent --size small"
    )]
    Template(TemplateCommand),
    /// Make, list or revoke API keys.
    #[command(
        subcommand,
        after_help = "\
Examples:
  sandflare keys create ci --project team
  sandflare keys ls"
    )]
    Keys(KeysCommand),
    /// Make, list or delete projects.
    #[command(
        subcommand,
        after_help = "\
Examples:
  sandflare projects create team --sandboxes 30
  sandflare projects ls"
    )]
    Projects(ProjectsCommand),
    /// Read the audit log, or verify that nobody changed it.
    #[command(
        subcommand,
        after_help = "\
Examples:
  sandflare audit log
  sandflare audit verify /var/lib/sandflare/audit"
    )]
    Audit(AuditCommand),
    /// Say what this machine can do, what is missing, and what to do about it.
    #[command(after_help = "\
Examples:
  sandflare doctor
  sandflare doctor -o json

Exit codes: 0 a node can run here, 1 something is missing.")]
    Doctor(Format),
    /// Measure the node.
    Bench(Bench),
    /// Print what makes a shell complete this program's commands and options.
    Completions(Completions),
}

/// As whom, where and with which variables something is run in a sandbox.
#[derive(Debug, ClapArgs)]
pub(crate) struct Surroundings {
    /// Set a variable; without `=VALUE`, to what it is here. May be repeated.
    #[arg(short = 'e', long = "env", value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Working directory.
    #[arg(short = 'w', long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// User in the sandbox [default: agent].
    #[arg(short = 'u', long)]
    pub(crate) user: Option<String>,
}

/// What a command is run with.
#[derive(Debug, ClapArgs)]
pub(crate) struct Process {
    #[command(flatten)]
    pub(crate) surroundings: Surroundings,
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
  sandflare run --network none -- python3 < analyse.py

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
    pub(crate) network: NetworkOptions,
    #[command(flatten)]
    pub(crate) process: Process,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare up
  sandflare up --portable --memory 4096      in QEMU, even where KVM works
  sandflare up -- --sandbox-domain sandbox.example.org --max-sandboxes 100

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
    #[command(flatten)]
    pub(crate) format: Format,
    /// Options for the node daemon, after `--`; `sandflared --help` has them.
    #[arg(last = true, value_name = "NODE OPTION")]
    pub(crate) node_options: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, ClapArgs)]
pub(crate) struct Format {
    /// Print JSON; short for `-o json`.
    #[arg(long)]
    json: bool,
    /// What to print: a table for people, or JSON for programs.
    #[arg(short = 'o', long = "output", value_name = "FORMAT", conflicts_with = "json")]
    output: Option<OutputFormat>,
}

impl Format {
    pub(crate) fn is_json(self) -> bool {
        self.json || self.output == Some(OutputFormat::Json)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    Table,
    Json,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare logs -f                          the log of this machine's node, as it grows
  sandflare logs sbx_0123456789abcdef        the end of a sandbox's console
  sandflare logs -o json                     each line as a JSON object of its own")]
pub(crate) struct Logs {
    /// The sandbox whose console to show [default: none, but the node's log].
    pub(crate) id: Option<SandboxId>,
    /// Go on as the node's log grows, until Ctrl-C.
    #[arg(short, long, conflicts_with = "id")]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  source <(sandflare completions bash)
  sandflare completions zsh > ~/.zfunc/_sandflare
  sandflare completions fish > ~/.config/fish/completions/sandflare.fish")]
pub(crate) struct Completions {
    /// The shell that is to read it.
    #[arg(value_enum)]
    pub(crate) shell: CompletionShell,
}

/// A shell that can complete this program's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompletionShell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TemplateCommand {
    /// List templates and whether their snapshots are there.
    #[command(after_help = "\
Example:
  sandflare template ls -o json")]
    Ls(Format),
    /// Make a template's snapshot now rather than at the first create.
    Build(TemplateAtSize),
    /// Delete a template's snapshot, which takes a few hundred MiB; the next create makes it again.
    Rm(TemplateAtSize),
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare template build agent --size small
  sandflare template rm agent --size small")]
pub(crate) struct TemplateAtSize {
    /// The template.
    pub(crate) name: TemplateName,
    /// nano, micro, small, medium or large.
    #[arg(long, default_value = "nano")]
    pub(crate) size: Size,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Show entries: who did what to which sandbox, when, from where, with what result.
    Log(AuditLog),
    /// Check every line of a log: exits with 1, and names the first bad line, when one was edited,
    /// removed, inserted or moved.
    Verify(AuditVerify),
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare audit log                        the newest entries
  sandflare audit log --after 1200 -o json   those after entry 1200")]
pub(crate) struct AuditLog {
    /// Entries after this one [default: the newest].
    #[arg(long, value_name = "INDEX")]
    pub(crate) after: Option<u64>,
    /// At most this many.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare audit verify                                              the node's own, by the node
  sandflare audit verify /var/lib/sandflare/audit                     files that are here
  sandflare audit verify /var/lib/sandflare/audit --head 1207:9f2c…   a head noted earlier, elsewhere
  sandflare audit verify audit-00000000000000000000.jsonl             one file alone

Who may write the files could write all of them anew, hashes included. Only a head that was noted
elsewhere (this command prints it) shows that.")]
pub(crate) struct AuditVerify {
    /// The log's directory (`audit` in the node's data), or one file of it, verified here. Without it the
    /// node is asked, which verifies its own.
    pub(crate) path: Option<PathBuf>,
    /// A place the log must still have.
    #[arg(long, value_name = "INDEX:HASH", value_parser = clap::value_parser!(base_audit::Link))]
    pub(crate) head: Option<base_audit::Link>,
    #[command(flatten)]
    pub(crate) format: Format,
}

/// Which restore paths a benchmark measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MemoryPaths {
    // A plain private mapping.
    Private,
    // Page by page, by userfaultfd.
    Userfault,
    // Both, alternating.
    Both,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare bench
  sandflare bench --runs 200 -o json > figures.json
  sandflare bench --report figures.json       the table here, the JSON there
  sandflare bench --runs 5 --parallel 0 --alive 0 --cold 1     a quick look
  sandflare bench --neighbours --runs 100     what others in the same machine do to a command
  sandflare bench --api --python venv/bin/python   what the Python SDK makes of it
  sandflare bench --db --python venv/bin/python    the same of databases
  sandflare bench --network 10.0.2.2          bytes by the gateway, in the portable host; the node was started
                                              with `sandflare up -- --gateway-allow 10.0.2.2`")]
pub(crate) struct Bench {
    /// Measure commands in a sandbox while others fork, write, compute and take memory without end;
    /// of the other options --runs, --template, --size and those about the output count.
    #[arg(long)]
    pub(crate) neighbours: bool,
    /// Measure the whole way from the Python SDK, with the node's own figures beside it; of the other
    /// options --runs, --alive (sandboxes streaming at once), --template, --size and those about
    /// the output count.
    #[arg(long, conflicts_with = "neighbours")]
    pub(crate) api: bool,
    /// Measure databases from the Python SDK: made, wired, forked, and used from a sandbox; of the other
    /// options --runs and those about the output count.
    #[arg(long, conflicts_with_all = ["neighbours", "api"])]
    pub(crate) db: bool,
    /// Measure bytes between a sandbox and a server of this command, by the gateway and over vsock. The server
    /// is at this address, one of this machine as the node reaches it, which the node has opened to sandboxes
    /// by --gateway-allow; of the other options --template, --size and those about the output count.
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["neighbours", "api", "db"])]
    pub(crate) network: Option<Ipv4Addr>,
    /// The interpreter that has the Python SDK, for --api and --db.
    #[arg(long, value_name = "PATH", default_value = "python3")]
    pub(crate) python: PathBuf,
    /// Creates measured on each restore path; commands measured beside each neighbour.
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
    #[command(flatten)]
    pub(crate) format: Format,
    /// Also write the JSON to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
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

    /// The words of a line as a shell would have them, up to a redirection.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut quote, mut inside) = (vec![String::new()], None, false);
        for c in line.chars() {
            match (quote, c) {
                (Some(open), c) if c == open => quote = None,
                (None, '\'' | '"') => (quote, inside) = (Some(c), true),
                (None, '<' | '>' | ')') => break,
                (None, ' ') if inside => {
                    words.push(String::new());
                    inside = false;
                }
                (None, ' ') => {}
                _ => {
                    words.last_mut().unwrap().push(c);
                    inside = true;
                }
            }
        }
        words.retain(|word| !word.is_empty());
        words
    }

    fn examples(command: &clap::Command, found: &mut Vec<String>) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        // Beside an example may be what it does; dots are for a person to fill in.
        let parts = help.split("\n\n").filter(|part| part.starts_with("Example"));
        let lines = parts.flat_map(str::lines);
        let lines = lines.filter_map(|line| line.find("sandflare ").map(|at| &line[at..]));
        let commands = lines.map(|line| line.split("   ").next().unwrap_or(line));
        let whole = commands.filter(|line| !line.contains('…') && !line.contains('`'));
        found.extend(whole.map(|line| line.replace("$snapshot", "snap_0123456789abcdef")));
        for inner in command.get_subcommands() {
            examples(inner, found);
        }
    }

    #[test]
    fn every_example_of_the_help_is_a_command() {
        let mut found = Vec::new();
        examples(&Args::command(), &mut found);
        assert!(found.len() > 40, "{found:#?}");
        for line in found {
            let parsed = Args::try_parse_from(words(&line));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }

    /// Every command but the program itself, with its words.
    fn tree(command: &clap::Command, above: &str, found: &mut Vec<(String, clap::Command)>) {
        for inner in command.get_subcommands() {
            let words = format!("{above} {}", inner.get_name()).trim_start().to_owned();
            tree(inner, &words, found);
            found.push((words, inner.clone()));
        }
    }

    fn commands() -> Vec<(String, clap::Command)> {
        let mut found = Vec::new();
        tree(&Args::command(), "", &mut found);
        assert!(found.len() > 50, "{found:?}");
        found
    }

    #[test]
    fn every_command_explains_itself_with_an_example() {
        for (words, command) in commands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            // A verb in its group is shown as the same verb alone, where there is one.
            let alone = words.strip_prefix("sandbox ").unwrap_or(&words);
            let shown = ["sandflare", "sandflare sandbox"]
                .into_iter()
                .any(|program| help.contains(&format!("{program} {alone}")));
            assert!(help.starts_with("Example") && shown, "{words}: {help:?}");
        }
    }

    /// Verbs without `-o`, and why.
    const WITHOUT_FORMAT: [(&str, &str); 8] = [
        ("run", "passes the output of the command on"),
        ("exec", "passes the output of the command on"),
        ("shell", "is a terminal"),
        ("sandbox exec", "as `exec`"),
        ("sandbox shell", "as `shell`"),
        ("db dump", "prints SQL"),
        ("db psql", "is a terminal, of another program"),
        ("completions", "prints a program for a shell"),
    ];

    #[test]
    fn every_verb_prints_json_but_those_whose_output_is_not_ours() {
        let verbs = commands().into_iter().filter(|(_, command)| !command.has_subcommands());
        let without: Vec<_> = verbs
            .filter(|(_, command)| {
                let named = |short, long| {
                    let mut arguments = command.get_arguments();
                    arguments.any(|one| one.get_short() == short && one.get_long() == Some(long))
                };
                !named(Some('o'), "output") || !named(None, "json")
            })
            .map(|(words, _)| words)
            .collect();
        let mut expected: Vec<_> = WITHOUT_FORMAT.iter().map(|(words, _)| *words).collect();
        let mut without: Vec<_> = without.iter().map(String::as_str).collect();
        expected.sort_unstable();
        without.sort_unstable();
        assert_eq!(without, expected);
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
    fn a_verb_means_the_same_within_the_group() {
        for line in [
            "create --name charts",
            "ls --state paused",
            "exec sbx_0123456789abcdef -- true",
            "shell sbx_0123456789abcdef",
            "cp a sbx_0123456789abcdef:/b",
            "pause sbx_0123456789abcdef",
            "resume sbx_0123456789abcdef",
            "fork sbx_0123456789abcdef --count 3",
            "snapshot sbx_0123456789abcdef -o json",
            "timeout sbx_0123456789abcdef 2h",
            "metrics sbx_0123456789abcdef",
            "processes sbx_0123456789abcdef",
            "kill sbx_0123456789abcdef",
        ] {
            let words = || line.split(' ');
            let alone = Args::try_parse_from(["sandflare"].into_iter().chain(words())).unwrap();
            let grouped = ["sandflare", "sandbox"].into_iter().chain(words());
            let grouped = Args::try_parse_from(grouped).unwrap();
            let (Command::Verb(alone), Command::Sandbox(SandboxCommand::Verb(grouped))) =
                (alone.command, grouped.command)
            else {
                panic!("{line}");
            };
            assert_eq!(format!("{alone:?}"), format!("{grouped:?}"));
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
            "create --timeout soon",
            "create --metadata team",
            "create --network some",
            "create --secret KEY",
            "create --secret KEY=a.b",
            "secret set openai",
            "secret set openai --host 10.0.0.1",
            "secret set a/b --host a.example",
            "secret rm",
            "policy set sbx_0123456789abcdef",
            "policy set sbx_0123456789abcdef --allow a..b",
            "create --snapshot snap_0123456789abcdef --size small",
            "fork sbx_0123456789abcdef --count 17",
            "timeout sbx_0123456789abcdef",
            "db",
            "db rm",
            "db rm ../sandboxes",
            "db create a/b",
            "db query memory",
            "db query memory x --limit 0",
            "db wire memory",
            "db psql memory -c x",
            "logs -f sbx_0123456789abcdef",
            "sandbox",
            "sandbox logs",
            "sandbox up",
            "completions tcsh",
        ] {
            let words = std::iter::once("sandflare").chain(line.split_whitespace());
            assert!(Args::try_parse_from(words).is_err(), "{line}");
        }
    }
}
