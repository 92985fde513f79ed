//! The verbs for one sandbox.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use api_node::{
    CreateSandbox, Fork, LogsQuery, Process, Sandbox, SandboxStats, SetTimeout, TIMEOUT_S_DEFAULT,
};
use base_types::SandboxId;
use client::Client;

use crate::args::{Choice, Create, ForkArgs, Format, SandboxCommand, SandboxVerb, Timeout};
use crate::complaint::End;
use crate::duration::shown;
use crate::steps::Steps;
use crate::table::{bytes, columns, json_line, on_one_line, print, print_json};
use crate::{cp, exec, listing, snapshot, snapshots, url};

/// LIMIT: characters of a command in a table; JSON has all of it.
const COMMAND_CHARS_MAX: usize = 60;

/// `sandflare sandbox`
pub(crate) async fn sandbox(client: &Client, command: SandboxCommand) -> Result<End> {
    match command {
        SandboxCommand::Verb(found) => verb(client, found).await,
        SandboxCommand::Logs(Choice { id, format }) => logs(client, id, format).await,
    }
}

/// A verb, alone or in its group.
pub(crate) async fn verb(client: &Client, verb: SandboxVerb) -> Result<End> {
    match verb {
        SandboxVerb::Create(args) => create(client, args).await,
        SandboxVerb::Ps(args) => listing::sandboxes(client, args).await,
        SandboxVerb::Exec(args) => exec::exec(client, args).await,
        SandboxVerb::Shell(args) => exec::shell(client, args).await,
        SandboxVerb::Cp(args) => cp::cp(client, &args).await,
        SandboxVerb::Pause(Choice { id, format }) => {
            answer(&client.sandbox_pause(id).await?, format)
        }
        SandboxVerb::Resume(Choice { id, format }) => {
            answer(&client.sandbox_resume(id).await?, format)
        }
        SandboxVerb::Fork(args) => fork(client, args).await,
        SandboxVerb::Snapshot(args) => snapshots::take(client, args).await,
        SandboxVerb::Timeout(Timeout { id, timeout: timeout_s, format }) => {
            answer(&client.sandbox_set_timeout(id, SetTimeout { timeout_s }).await?, format)
        }
        SandboxVerb::Url(args) => url::url(client, &args).await,
        SandboxVerb::Metrics(args) => metrics(client, &args).await,
        SandboxVerb::Processes(args) => processes(client, &args).await,
        SandboxVerb::Kill(args) => listing::kill(client, &args).await,
    }
}

async fn create(client: &Client, args: Create) -> Result<End> {
    let request = CreateSandbox {
        template: args.template,
        size: args.size,
        name: args.name,
        env: exec::variables(&args.env)?,
        snapshot: args.snapshot,
        metadata: args.metadata.into_iter().collect(),
        timeout_s: args.timeout.unwrap_or(TIMEOUT_S_DEFAULT),
        idle_timeout_s: args.idle_timeout.unwrap_or_default(),
        on_timeout: args.on_timeout.into(),
        network: args.network.policy(),
        secrets: args.secret.into_iter().collect(),
        ..CreateSandbox::default()
    };
    if request.snapshot.is_none() {
        snapshot::ensure(client, &Steps::new(), &request.template, request.size).await?;
    }
    answer(&client.sandbox_create(&request).await?, args.format)
}

async fn fork(client: &Client, args: ForkArgs) -> Result<End> {
    let ForkArgs { id, count, name, databases, format } = args;
    let request = Fork { count, name, databases: databases.into() };
    let forked = client.sandbox_fork(id, &request).await?;
    if format.is_json() {
        print_json(&forked)?;
    } else {
        for sandbox in &forked.sandboxes {
            print(&format!("{}\n", sandbox.id))?;
        }
    }
    Ok(End::Done)
}

/// The id alone, for a shell to keep, or all there is.
fn answer(sandbox: &Sandbox, format: Format) -> Result<End> {
    if format.is_json() {
        print_json(sandbox)?;
    } else {
        print(&format!("{}\n", sandbox.id))?;
    }
    Ok(End::Done)
}

/// `sandflare logs ID`
pub(crate) async fn logs(client: &Client, id: SandboxId, format: Format) -> Result<End> {
    let text = client.sandbox_logs(id, LogsQuery::default()).await?;
    if format.is_json() {
        text.lines().try_for_each(|line| print(&json_line(line)?))?;
    } else {
        print(&text)?;
    }
    Ok(End::Done)
}

async fn metrics(client: &Client, args: &Choice) -> Result<End> {
    let stats = client.sandbox_stats(args.id).await?;
    if args.format.is_json() {
        print_json(&stats)?;
    } else {
        print(&metrics_table(&stats))?;
    }
    Ok(End::Done)
}

fn metrics_table(stats: &SandboxStats) -> String {
    let kib = |kib: u64| bytes(kib.saturating_mul(1024));
    let mut rows = vec![
        ["memory of its own".to_owned(), kib(stats.private_kib())],
        ["memory beside the guest's".to_owned(), kib(stats.overhead_kib)],
        ["pages prefetched".to_owned(), stats.pages_prefetched.to_string()],
        ["pages copied".to_owned(), stats.pages_copied.to_string()],
        ["page faults served".to_owned(), stats.faults.to_string()],
        ["written to disk".to_owned(), bytes(stats.disk_written_bytes)],
        ["exits to user space".to_owned(), stats.exits.to_string()],
    ];
    let limit = stats.memory_limit_bytes.map(|limit| format!(" of {}", bytes(limit)));
    let now = [
        ("processor time", stats.cpu_time_us.map(|us| shown(Duration::from_micros(us)))),
        (
            "memory charged now",
            stats.memory_bytes.map(|used| bytes(used) + &limit.unwrap_or_default()),
        ),
        ("disk on the node now", stats.disk_bytes.map(bytes)),
        ("runs for", stats.uptime_ms.map(|ms| shown(Duration::from_millis(ms)))),
    ];
    rows.extend(now.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value?])));
    columns(["SINCE IT WAS MADE", "VALUE"], &rows)
}

async fn processes(client: &Client, args: &Choice) -> Result<End> {
    let list = client.process_list(args.id).await?;
    if args.format.is_json() {
        print_json(&list)?;
    } else {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        print(&process_table(&list.processes, now))?;
    }
    Ok(End::Done)
}

/// `now` is the time since the Unix epoch.
fn process_table(processes: &[Process], now: Duration) -> String {
    let rows: Vec<_> = processes
        .iter()
        .map(|process| {
            [
                process.id.to_string(),
                process.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
                plain(&process.user),
                shown(now.saturating_sub(Duration::from_millis(process.started_at_ms))),
                state(process),
                plain(&process.argv.join(" ")),
            ]
        })
        .collect();
    columns(["ID", "PID", "USER", "AGE", "STATE", "COMMAND"], &rows)
}

fn state(process: &Process) -> String {
    match process.exit {
        _ if process.running => "running".to_owned(),
        Some(exit) if exit.timed_out => "timed out".to_owned(),
        Some(exit) => match exit.signal {
            Some(signal) => format!("signal {signal}"),
            None => format!("exit {}", exit.exit_code),
        },
        None => "over".to_owned(),
    }
}

/// Text from a guest on one line, cut, and without anything a terminal would obey.
pub(crate) fn plain(text: &str) -> String {
    let cut: String = text.chars().take(COMMAND_CHARS_MAX).collect();
    let more = if cut.len() < text.len() { "…" } else { "" };
    on_one_line(&cut) + more
}

#[cfg(test)]
mod test {
    use api_node::{ProcessExit, ProcessId};
    use expect_test::expect;

    use super::*;

    #[test]
    fn processes_are_listed_with_how_they_are_and_without_escape_codes() {
        let process = |id, exit: Option<(u8, Option<u8>)>, argv: &[&str]| Process {
            id: ProcessId(id),
            pid: Some(100 + id),
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            user: "agent".into(),
            cwd: "/home/agent".into(),
            pty: false,
            started_at_ms: 1_000,
            running: exit.is_none(),
            exit: exit.map(|(exit_code, signal)| ProcessExit {
                exit_code,
                signal,
                timed_out: false,
                ended_at_ms: 2_000,
            }),
            last_seq: 3,
        };
        let list = [
            process(1, None, &["sh", "-c", "sleep 9\necho \u{1b}[2J"]),
            process(2, Some((3, None)), &["false"]),
            process(3, Some((137, Some(9))), &["x".repeat(70).as_str()]),
        ];
        expect![[r#"
            ID  PID  USER   AGE        STATE     COMMAND
            1   101  agent  1 min 4 s  running   sh -c sleep 9\necho \u{1b}[2J
            2   102  agent  1 min 4 s  exit 3    false
            3   103  agent  1 min 4 s  signal 9  xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…
        "#]].assert_eq(&process_table(&list, Duration::from_secs(65)));
    }
}
