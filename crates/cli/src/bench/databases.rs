//! What a database costs, from the Python SDK on the outside: made, wired, forked, and used from a sandbox.
//!
//! What it is held against runs in sandboxes of its own template, so that the same programs do the same work
//! on the same machine.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::bench::api::{Do, Outside};
use crate::bench::render::{head, ms, row, verdicts};
use crate::bench::report::{Head, Target};
use crate::bench::spread::Spread;
use crate::place::Place;
use crate::snapshot;
use crate::steps::Steps;

/// Version of the JSON form.
const SCHEMA: u32 = 1;
/// What databases are made from.
const TEMPLATE: &str = "postgres";
/// Databases that are forked with little in them, and with much.
const FORKS: u32 = 5;
/// MB of rows in the one with much.
const FORK_MB: u32 = 100;
/// `Database.create` to the first answer, in milliseconds.
const CREATE_MS_MAX: f64 = 250.0;
/// How much faster that is than a cluster that is made and started in the same guest.
const OVER_INITDB_MIN: f64 = 30.0;
const WIRE_MS_MAX: f64 = 60.0;
const FORK_MS_MAX: f64 = 500.0;
/// pgbench against the wired database, over the same against a server in the sandbox itself.
const PGBENCH_MIN: f64 = 0.5;

/// Databases, as the outside times them; all in microseconds.
#[derive(Clone, Debug, Default, Deserialize)]
struct Timed {
    create_us: u64,
    wire_us: u64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Forked {
    us: u64,
}

/// What programs of Postgres made of the machine.
#[derive(Clone, Debug, Deserialize)]
struct Programs {
    initdb_us: u64,
    wired_tps: f64,
    own_tps: f64,
}

/// Everything.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    head: Head,
    sdk: String,
    python: String,
    /// `Database.create`, and the first `SELECT 1` answered.
    create_us: Spread,
    /// `Sandbox.wire`.
    wire_us: Spread,
    /// `Database.fork` of one with a row in it.
    fork_us: Spread,
    /// The same of one with 100 MB in it.
    fork_big_us: Spread,
    /// `initdb` and the start of a server in a sandbox of the template.
    initdb_us: u64,
    /// Transactions a second of pgbench against the wired database.
    pgbench_wired_tps: f64,
    /// Against a server in the same sandbox.
    pgbench_own_tps: f64,
    pub(crate) targets: Vec<Target>,
}

/// Measures the node of `place` with `runs` databases.
pub(crate) async fn run(place: &Place, python: &Path, runs: u32) -> Result<Report> {
    let client = place.client()?;
    let mut outside = Outside::start(python, place).await?;
    let node = client.node_get().await?;
    let steps = Steps::new();
    let template = TEMPLATE.parse().context("the name of the template")?;
    snapshot::ensure(&client, &steps, &template, base_types::Size::Nano).await?;
    let mut step = steps.begin(&format!("{runs} databases made and wired"));
    let (mut create, mut wire) = (Vec::new(), Vec::new());
    for round in 0..=runs {
        let timed: Timed = outside.ask(&Do::Database).await?;
        // The first opens connections, and fills what the node keeps ready.
        if round > 0 {
            create.push(timed.create_us);
            wire.push(timed.wire_us);
        }
        step.advance(f64::from(round) / f64::from(runs));
    }
    step.done("measured");
    let mut forks = async |mb: u32| {
        let step = steps.begin(&format!("{FORKS} forks of a database of {} MB", mb.max(1)));
        let forked: Vec<Forked> = outside.ask(&Do::ForkDatabase { mb, count: FORKS }).await?;
        step.done("measured");
        Ok::<_, anyhow::Error>(Spread::of(forked.into_iter().map(|forked| forked.us)))
    };
    let (fork_us, fork_big_us) = (forks(0).await?, forks(FORK_MB).await?);
    let step = steps.begin("initdb and pgbench in a sandbox");
    let programs: Programs = outside.ask(&Do::Postgres).await?;
    step.done("measured");
    let mut report = Report {
        head: Head::of(SCHEMA, node, &client),
        sdk: outside.versions.sdk.clone(),
        python: outside.versions.python.clone(),
        create_us: Spread::of(create),
        wire_us: Spread::of(wire),
        fork_us,
        fork_big_us,
        initdb_us: programs.initdb_us,
        pgbench_wired_tps: programs.wired_tps,
        pgbench_own_tps: programs.own_tps,
        targets: Vec::new(),
    };
    report.targets = targets(&report);
    Ok(report)
}

impl Report {
    fn over_initdb(&self) -> f64 {
        self.initdb_us as f64 / self.create_us.p50.max(1) as f64
    }

    fn over_own(&self) -> f64 {
        self.pgbench_wired_tps / self.pgbench_own_tps.max(f64::MIN_POSITIVE)
    }
}

fn targets(report: &Report) -> Vec<Target> {
    let most = |name, p50_us: u64, max: f64| {
        let measured = p50_us as f64 / 1000.0;
        Target {
            name,
            wanted: format!("at most {max:.0} ms, p50"),
            measured: Some(format!("{measured:.1} ms")),
            reached: Some(p50_us > 0 && measured <= max),
        }
    };
    let least = |name, measured: f64, min: f64| Target {
        name,
        wanted: format!("at least {min:.1} x"),
        measured: Some(format!("{measured:.2} x")),
        reached: Some(measured >= min),
    };
    vec![
        most("create to the first answer", report.create_us.p50, CREATE_MS_MAX),
        least("faster than initdb and a start", report.over_initdb(), OVER_INITDB_MIN),
        most("wire", report.wire_us.p50, WIRE_MS_MAX),
        most("fork of 100 MB", report.fork_big_us.p50, FORK_MS_MAX),
        least("pgbench, wired over own server", report.over_own(), PGBENCH_MIN),
    ]
}

/// For people, less than 100 columns wide.
pub(crate) fn text(report: &Report) -> String {
    let mut text = format!(
        "sandflare {}: databases, by the Python SDK {} (Python {}); node on {} CPUs, Linux {}\n\n",
        report.head.version,
        report.sdk,
        report.python,
        report.head.cpus,
        report.head.kernel_release,
    );
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}", head("from the outside, ms"));
    for (name, spread) in [
        ("create to the first SELECT 1", &report.create_us),
        ("wire", &report.wire_us),
        ("fork, a row", &report.fork_us),
        ("fork, 100 MB", &report.fork_big_us),
    ] {
        let _ = writeln!(text, "{}", row(name, spread, ms));
    }
    let _ = writeln!(
        text,
        "\ninitdb and a start in a sandbox     {:>9.0} ms, {:.1} x a create",
        report.initdb_us as f64 / 1000.0,
        report.over_initdb(),
    );
    let _ = writeln!(
        text,
        "pgbench, transactions a second      {:>9.1} wired, {:.1} in the sandbox itself, {:.2} x\n",
        report.pgbench_wired_tps,
        report.pgbench_own_tps,
        report.over_own(),
    );
    text.push_str(&verdicts(&report.targets));
    text
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_report_reads_well_and_says_what_is_not_reached() {
        let mut report = Report {
            create_us: Spread::of([100_000, 240_000, 260_000]),
            wire_us: Spread::of([61_000]),
            fork_big_us: Spread::of([499_000]),
            initdb_us: 7_200_000,
            pgbench_wired_tps: 30.0,
            pgbench_own_tps: 61.0,
            ..Report::default()
        };
        report.targets = targets(&report);
        let reached: Vec<_> = report.targets.iter().map(|target| target.reached).collect();
        assert_eq!(reached, [Some(true), Some(true), Some(false), Some(true), Some(false)]);
        let text = text(&report);
        assert!(text.lines().all(|line| line.chars().count() < 100), "{text}");
        assert!(text.contains("30.0 x a create") && text.contains("0.49 x"), "{text}");
    }
}
