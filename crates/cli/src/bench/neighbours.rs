//! How long a command takes in one sandbox while another does its worst.
//!
//! A quiet sandbox is asked for a word again and again: alone, then beside each hog, beside one that
//! does all of it, and beside all of them, each in a sandbox of its own. The time alone is taken before every one of these, so that what else the machine does
//! in the meantime falls on both.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use api_node::{MemoryPath, SpawnRequest};
use base_types::SandboxId;
use client::Client;
use serde::Serialize;
use tokio::time::sleep;

use crate::bench::measure::{Measure, micros};
use crate::bench::render::{failed, head, ms, row, verdicts};
use crate::bench::report::{Head, Target};
use crate::bench::spread::Spread;
use crate::snapshot;
use crate::steps::Steps;

/// Version of the JSON form.
const SCHEMA: u32 = 1;
/// What a command may take beside a hog, over what it takes alone.
const OVER_IDLE_MAX: f64 = 3.0;
/// How long a hog does what it does before anybody is measured.
const SETTLE: Duration = Duration::from_secs(2);

/// Something that uses all it can get: its name, and the script that does it.
type Hog = (&'static str, &'static str);

/// In the order they are measured.
const HOGS: [Hog; 4] = [
    ("busy loop", "while :; do :; done"),
    ("memory hog", "while :; do tail /dev/zero; done"),
    ("disk filler", "while :; do dd if=/dev/zero of=/var/tmp/fill bs=1M conv=fsync; done"),
    ("fork bomb", "bomb() { bomb | bomb & }; bomb; sleep 100000"),
];

/// Everything.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    head: Head,
    template: String,
    size: String,
    /// Alone, from request to the first output of `echo`.
    idle_us: Spread,
    /// Beside each hog, beside one sandbox with all of them, and beside as many with one each.
    beside: Vec<Beside>,
    pub(crate) targets: Vec<Target>,
}

/// The same beside a hog.
#[derive(Debug, Serialize)]
struct Beside {
    hog: &'static str,
    exec_us: Spread,
    /// Median over the idle median.
    p50_over_idle: f64,
    /// 99th percentile over the idle one.
    p99_over_idle: f64,
    /// Commands that did not answer, a sentence each.
    failures: Vec<String>,
}

/// Measures with `runs` commands in each situation.
pub(crate) async fn run(
    measure: &Measure,
    client: &Client,
    steps: &Steps,
    runs: u32,
) -> Result<Report> {
    let node = client.node_get().await?;
    snapshot::ensure(client, steps, measure.template(), measure.size()).await?;
    let quiet = measure.create(MemoryPath::Private).await.context("create the quiet sandbox")?.id;
    let mut idle = Vec::new();
    // The first commands find nothing in the guest's page cache.
    execs(measure, quiet, runs.min(10)).await;
    let mut measured = Vec::new();
    // The hogs of each sandbox beside the quiet one.
    let mut situations: Vec<(&str, Vec<&[Hog]>)> =
        HOGS.chunks(1).filter_map(|hog| Some((hog.first()?.0, vec![hog]))).collect();
    situations.push(("all in one sandbox", vec![&HOGS]));
    situations.push(("each in one, all at once", HOGS.chunks(1).collect()));
    for (name, sandboxes) in situations {
        let step = steps.begin(&format!("commands beside: {name}"));
        idle.extend(execs(measure, quiet, runs).await.0);
        let mut beside = Vec::new();
        for hogs in sandboxes {
            beside.push(unleash(measure, client, hogs).await?);
        }
        sleep(SETTLE).await;
        measured.push((name, execs(measure, quiet, runs).await));
        for id in beside {
            measure.kill(id).await.with_context(|| format!("kill the {name}"))?;
        }
        step.done("measured");
    }
    measure.kill(quiet).await?;
    let idle_us = Spread::of(idle);
    let over = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
    let beside: Vec<Beside> = measured
        .into_iter()
        .map(|(hog, (times, failures))| {
            let exec_us = Spread::of(times);
            let p50_over_idle = over(exec_us.p50, idle_us.p50);
            let p99_over_idle = over(exec_us.p99, idle_us.p99);
            Beside { hog, exec_us, p50_over_idle, p99_over_idle, failures }
        })
        .collect();
    let targets = beside.iter().map(target).collect();
    Ok(Report {
        head: Head::of(SCHEMA, node, client),
        template: measure.template().to_string(),
        size: measure.size().to_string(),
        idle_us,
        beside,
        targets,
    })
}

/// A sandbox with these hogs in it.
async fn unleash(measure: &Measure, client: &Client, hogs: &[Hog]) -> Result<SandboxId> {
    let id = measure.create(MemoryPath::Private).await.context("create a sandbox for a hog")?.id;
    for (name, script) in hogs {
        let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
        let spawn = SpawnRequest { argv, user: Some("root".to_owned()), ..SpawnRequest::default() };
        client.process_spawn(id, &spawn).await.with_context(|| format!("start the {name}"))?;
    }
    Ok(id)
}

/// How long each of `runs` commands took to its first output, and why others did not answer.
async fn execs(measure: &Measure, id: SandboxId, runs: u32) -> (Vec<u64>, Vec<String>) {
    let (mut times, mut failures) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let began = Instant::now();
        match measure.first_output(id).await {
            Ok(answered) => times.push(micros(began, answered)),
            Err(error) => failures.push(error.to_string()),
        }
    }
    (times, failures)
}

fn target(beside: &Beside) -> Target {
    let worst = beside.p50_over_idle.max(beside.p99_over_idle);
    let answered = beside.failures.is_empty() && beside.exec_us.count > 0;
    Target {
        name: beside.hog,
        wanted: format!("at most {OVER_IDLE_MAX:.1} x idle, p50 and p99"),
        measured: Some(match beside.failures.len() {
            0 => format!("{worst:.1} x"),
            silent => format!("{silent} failed"),
        }),
        reached: Some(answered && worst <= OVER_IDLE_MAX),
    }
}

/// For people, less than 100 columns wide.
pub(crate) fn text(report: &Report) -> String {
    let mut text = format!(
        "sandflare {}: template {}, size {}; node on {} CPUs, Linux {}\n\n",
        report.head.version,
        report.template,
        report.size,
        report.head.cpus,
        report.head.kernel_release,
    );
    let _ = writeln!(text, "{}", head("request to first output of echo, ms"));
    let _ = writeln!(text, "{}", row("alone", &report.idle_us, ms));
    for beside in &report.beside {
        let _ = writeln!(text, "{}", row(&format!("beside: {}", beside.hog), &beside.exec_us, ms));
        let count = beside.failures.len() as u64 + beside.exec_us.count;
        failed(&mut text, &beside.failures, u32::try_from(count).unwrap_or(u32::MAX));
    }
    let _ = writeln!(text, "\n{:<38}{:>9}{:>9}", "over what it is alone", "p50", "p99");
    for Beside { hog, p50_over_idle, p99_over_idle, .. } in &report.beside {
        let _ = writeln!(text, "  {hog:<36}{p50_over_idle:>7.1} x{p99_over_idle:>7.1} x");
    }
    text.push('\n');
    text.push_str(&verdicts(&report.targets));
    text
}

#[cfg(test)]
mod test {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_report_reads_well_and_a_command_without_an_answer_misses_the_target() {
        let beside = |hog, us: u64, failures: Vec<String>| Beside {
            hog,
            exec_us: Spread::of([us, us * 2]),
            p50_over_idle: us as f64 / 10_000.0,
            p99_over_idle: us as f64 / 15_000.0,
            failures,
        };
        let measured = vec![
            beside("busy loop", 18_000, vec![]),
            beside("memory hog", 44_000, vec![]),
            beside("disk filler", 12_000, vec!["the sandbox is over".into()]),
        ];
        let report = Report {
            head: Head::example(SCHEMA),
            template: "agent".into(),
            size: "nano".into(),
            idle_us: Spread::of([10_000, 11_000]),
            targets: measured.iter().map(target).collect(),
            beside: measured,
        };
        let text = text(&report);
        assert!(text.lines().all(|line| line.chars().count() < 100));
        expect![[r#"
            sandflare 0.1.0: template agent, size nano; node on 2 CPUs, Linux 6.12.0

            request to first output of echo, ms         min     mean      p50      p99      max
              alone                                   10.00    10.50    10.00    11.00    11.00
              beside: busy loop                       18.00    27.00    18.00    36.00    36.00
              beside: memory hog                      44.00    66.00    44.00    88.00    88.00
              beside: disk filler                     12.00    18.00    12.00    24.00    24.00
              1 of 3 failed; the first: the sandbox is over

            over what it is alone                       p50      p99
              busy loop                               1.8 x    1.2 x
              memory hog                              4.4 x    2.9 x
              disk filler                             1.2 x    0.8 x

            targets
              reached      busy loop                               1.8 x   (at most 3.0 x idle, p50 and p99)
              NOT REACHED  memory hog                              4.4 x   (at most 3.0 x idle, p50 and p99)
              NOT REACHED  disk filler                          1 failed   (at most 3.0 x idle, p50 and p99)
        "#]].assert_eq(&text);
    }
}
