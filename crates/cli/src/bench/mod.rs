//! Measuring a node: how long a sandbox takes, what it costs, and whether that is what it should be.
//!
//! Both restore paths are measured in alternation, so that whatever else the machine does falls on
//! both. The first create on each path is not counted: it may be the one that records what later
//! ones bring in ahead.

mod api;
mod databases;
mod measure;
mod neighbours;
mod network;
mod render;
mod report;
mod spread;
mod targets;

use anyhow::{Context, Result};
use api_node::{ColdBootQuery, FLOOR_RUNS_MAX, FloorQuery, MemoryPath};
use client::Client;
use serde::Serialize;

use crate::args::{Bench, MemoryPaths};
use crate::bench::measure::Measure;
use crate::bench::report::{Head, Report, Restore, Run, SCHEMA, Target};
use crate::bench::spread::Spread;
use crate::complaint::{End, SIGNAL_BASE};
use crate::place::Place;
use crate::signals::Signals;
use crate::snapshot;
use crate::steps::Steps;
use crate::table::{print, print_json};

/// How often the floor is measured; its median is what counts.
const FLOOR_RUNS: u32 = 20;

/// `sandflare bench`
pub(crate) async fn bench(place: &Place, args: &Bench) -> Result<End> {
    let client = &place.client()?;
    let mut signals = Signals::take()?;
    let measure = Measure::new(client.clone(), args.template.clone(), args.size);
    let measuring = async {
        if args.neighbours {
            let steps = Steps::new();
            let report = neighbours::run(&measure, client, &steps, args.runs).await?;
            return tell(args, &report, &neighbours::text(&report), &report.targets);
        }
        if let Some(address) = args.network {
            let report = network::run(&measure, client, &Steps::new(), address).await?;
            return tell(args, &report, &network::text(&report), &report.targets);
        }
        if args.db {
            let report = databases::run(place, &args.python, args.runs).await?;
            return tell(args, &report, &databases::text(&report), &report.targets);
        }
        if args.api {
            let report = api::run(&measure, place, args).await?;
            return tell(args, &report, &api::text(&report), &report.targets);
        }
        let report = run(&measure, client, args).await?;
        tell(args, &report, &render::text(&report), &report.targets)
    };
    let end = tokio::select! {
        signal = signals.next() => Ok(End::Code(SIGNAL_BASE + signal)),
        end = measuring => end,
    };
    measure.kill_all().await;
    end
}

/// Puts a report where it is wanted, and says whether all is as it should be.
fn tell(args: &Bench, report: &impl Serialize, text: &str, targets: &[Target]) -> Result<End> {
    if let Some(path) = &args.report {
        let mut json = serde_json::to_string_pretty(report)?;
        json.push('\n');
        std::fs::write(path, json).with_context(|| format!("write {}", path.display()))?;
    }
    if args.format.is_json() {
        print_json(report)?;
    } else {
        print(text)?;
    }
    let missed = targets.iter().any(|target| target.reached == Some(false));
    Ok(if args.check && missed { End::No } else { End::Done })
}

async fn run(measure: &Measure, client: &Client, args: &Bench) -> Result<Report> {
    let steps = Steps::new();
    let node = client.node_get().await?;
    snapshot::ensure(client, &steps, &args.template, args.size).await?;

    let paths: &[MemoryPath] = match args.memory_path {
        MemoryPaths::Private => &[MemoryPath::Private],
        MemoryPaths::Userfault => &[MemoryPath::Userfault],
        MemoryPaths::Both => &[MemoryPath::Private, MemoryPath::Userfault],
    };
    let restore = restores(measure, &steps, paths, args.runs).await?;
    let (floor, floor_failure) = {
        let step = steps.begin("measuring the machine's floor");
        let query = FloorQuery { size: args.size, runs: FLOOR_RUNS.min(FLOOR_RUNS_MAX) };
        match client.node_floor(&query).await {
            Ok(floor) => {
                step.done("measured");
                (Some(floor), None)
            }
            Err(error) => {
                step.done("failed");
                (None, Some(error.to_string()))
            }
        }
    };
    let mut report = Report {
        head: Head::of(SCHEMA, node, client),
        template: args.template.to_string(),
        size: args.size.to_string(),
        restore,
        cold_boot: None,
        floor,
        floor_failure,
        parallel: None,
        alive: None,
        targets: Vec::new(),
    };
    let best = targets::best(&report).map(|best| best.memory_path);
    let path = paths.iter().copied().find(|path| Some(path.name()) == best);
    let path = path.unwrap_or(MemoryPath::Private);
    if args.parallel > 0 {
        let step = steps.begin(&format!("{} creates at once", args.parallel));
        report.parallel = Some(measure.parallel(path, args.parallel).await?);
        step.done("measured");
    }
    if args.alive > 0 {
        let mut step = steps.begin(&format!("{} sandboxes alive at once", args.alive));
        report.alive = Some(measure.alive(path, args.alive, &mut step).await?);
        step.done("measured");
    }
    if args.cold > 0 {
        report.cold_boot = Some(cold_boots(client, &steps, args).await?);
    }
    report.targets = targets::targets(&report);
    Ok(report)
}

async fn restores(
    measure: &Measure,
    steps: &Steps,
    paths: &[MemoryPath],
    runs: u32,
) -> Result<Vec<Restore>> {
    let mut step = steps.begin(&format!("{runs} creates on each restore path"));
    let mut figures: Vec<(MemoryPath, Vec<Run>, Vec<String>)> =
        paths.iter().map(|&path| (path, Vec::new(), Vec::new())).collect();
    for round in 0..=runs {
        for (path, measured, failures) in &mut figures {
            match measure.one(*path).await {
                Ok(_) if round == 0 => {}
                Ok(run) => measured.push(run),
                // Without a node there is nothing to measure any more.
                Err(error) if error.is_no_node() => return Err(error.into()),
                Err(error) => failures.push(error.to_string()),
            }
        }
        step.advance(f64::from(round) / f64::from(runs));
    }
    step.done("measured");
    let restores = figures.into_iter();
    Ok(restores.map(|(path, runs, failures)| Restore::of(path.name(), &runs, failures)).collect())
}

async fn cold_boots(client: &Client, steps: &Steps, args: &Bench) -> Result<Spread> {
    let mut step = steps.begin("cold boots to compare with");
    step.announce();
    let query = ColdBootQuery { template: args.template.clone(), size: args.size };
    let mut figures = Vec::new();
    for _ in 0..args.cold {
        figures.push(client.node_cold_boot(&query).await.context("time a cold boot")?.ready_us);
    }
    step.done("measured");
    Ok(Spread::of(figures))
}
