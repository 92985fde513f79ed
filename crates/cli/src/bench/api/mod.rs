//! Measuring the whole way, from the Python SDK on the outside, with the node's own figures beside
//! it. Both are taken in turns, so that whatever else the machine does falls on both.

mod outside;
mod report;

use std::collections::HashSet;

use anyhow::{Context as _, Result};
use api_node::{Fork, Measure as MeasureRequest};
use base_types::SandboxId;
use client::Client;

use crate::args::Bench;
use crate::bench::api::outside::{Created, Done, Echoed, OneStream, Streamed, Transferred};
use crate::bench::api::report::{SCHEMA, Streams, targets};
use crate::bench::measure::Measure;
use crate::bench::report::Head;
use crate::bench::spread::Spread;
use crate::place::Place;
use crate::snapshot;
use crate::steps::Steps;

pub(crate) use outside::{Do, Outside};
pub(crate) use report::{Report, text};

/// Large enough that what a transfer begins with does not count, and small beside a sandbox's memory.
const TRANSFER_MIB: u32 = 16;
/// Transfers in each direction.
const TRANSFERS: u32 = 5;
const TRANSFER_PATH: &str = "/home/agent/.sandflare-bench";
/// Forks; the longest is what counts.
const FORKS: u32 = 3;
/// Lines of each stream, some 100 KB: more than any buffer on the way but the agent's own.
const STREAM_LINES: u32 = 20_000;

/// Measures the node of `place`.
pub(super) async fn run(measure: &Measure, place: &Place, args: &Bench) -> Result<Report> {
    let client = place.client()?;
    let mut outside = Outside::start(&args.python, place).await?;
    let node = client.node_get().await?;
    let steps = Steps::new();
    snapshot::ensure(&client, &steps, &args.template, args.size).await?;
    let mut report = Report {
        head: Head::of(SCHEMA, node, &client),
        template: args.template.to_string(),
        size: args.size.to_string(),
        sdk: outside.versions.sdk.clone(),
        python: outside.versions.python.clone(),
        mib: TRANSFER_MIB,
        ..Report::default()
    };
    let mut bench = Inside { measure, client: &client, outside: &mut outside, steps: &steps };
    bench.creates(args, &mut report).await?;
    let id = bench.create(args).await?.0;
    bench.runs(id, args.runs, &mut report).await?;
    // Before big files went through its memory, all of which a fork writes.
    bench.forks(id, &mut report).await?;
    bench.transfers(id, &mut report).await?;
    bench.first_bytes(id, args.runs, &mut report).await?;
    measure.kill(id).await?;
    if args.alive > 0 {
        report.streams = Some(bench.streams(args).await?);
    }
    report.targets = targets(&report);
    Ok(report)
}

/// Both ends of what is measured.
struct Inside<'a> {
    measure: &'a Measure,
    client: &'a Client,
    outside: &'a mut Outside,
    steps: &'a Steps,
}

impl Inside<'_> {
    /// A create from the outside: the sandbox, and how long it took out there and within.
    async fn create(&mut self, args: &Bench) -> Result<(SandboxId, u64, u64)> {
        self.measure.wait_for_pool().await?;
        let (template, size) = (args.template.as_str(), args.size.name());
        let created: Created = self.outside.ask(&Do::Create { template, size }).await?;
        let id = created.id.parse().context("understand the id the SDK gives")?;
        self.measure.made(id);
        let engine_us = self.client.sandbox_get(id).await?.phases.total_us;
        Ok((id, created.us, engine_us))
    }

    async fn creates(&mut self, args: &Bench, report: &mut Report) -> Result<()> {
        let mut step = self.steps.begin(&format!("{} creates", args.runs));
        let (mut outside, mut engine) = (Vec::new(), Vec::new());
        for round in 0..=args.runs {
            let (id, outside_us, engine_us) = self.create(args).await?;
            self.measure.kill(id).await?;
            // The first opens connections, and may record what later ones bring in ahead.
            if round > 0 {
                outside.push(outside_us);
                engine.push(engine_us);
            }
            step.advance(f64::from(round) / f64::from(args.runs));
        }
        (report.create_us, report.create_engine_us) = (Spread::of(outside), Spread::of(engine));
        step.done("measured");
        Ok(())
    }

    async fn runs(&mut self, id: SandboxId, runs: u32, report: &mut Report) -> Result<()> {
        let mut step = self.steps.begin(&format!("{runs} commands"));
        let (mut outside, mut engine) = (Vec::new(), Vec::new());
        for round in 0..=runs {
            let done: Done = self.outside.ask(&Do::Run { id: id.to_string() }).await?;
            let once = MeasureRequest { runs: 1, mib: 0 };
            let measured = self.client.sandbox_measure(id, &once).await?;
            if round > 0 {
                outside.push(done.us);
                engine.push(measured.spawn.p50_us);
            }
            step.advance(f64::from(round) / f64::from(runs));
        }
        (report.run_us, report.run_engine_us) = (Spread::of(outside), Spread::of(engine));
        step.done("measured");
        Ok(())
    }

    async fn transfers(&mut self, id: SandboxId, report: &mut Report) -> Result<()> {
        let mut step = self.steps.begin(&format!("{TRANSFERS} files of {TRANSFER_MIB} MiB"));
        let (mut outside, mut engine) = (Vec::new(), Vec::new());
        for round in 0..TRANSFERS {
            let transfer =
                Do::Transfer { id: id.to_string(), mib: TRANSFER_MIB, path: TRANSFER_PATH };
            let moved: Transferred = self.outside.ask(&transfer).await?;
            anyhow::ensure!(moved.equal, "a file came back from the sandbox with other content");
            let carry = MeasureRequest { runs: 0, mib: TRANSFER_MIB };
            outside.push(moved);
            engine.push(self.client.sandbox_measure(id, &carry).await?);
            step.advance(f64::from(round) / f64::from(TRANSFERS));
        }
        report.upload_us = Spread::of(outside.iter().map(|moved| moved.up_us));
        report.download_us = Spread::of(outside.iter().map(|moved| moved.down_us));
        report.upload_engine_us = Spread::of(engine.iter().map(|carried| carried.in_us));
        report.download_engine_us = Spread::of(engine.iter().map(|carried| carried.out_us));
        step.done("measured");
        Ok(())
    }

    async fn first_bytes(&mut self, id: SandboxId, runs: u32, report: &mut Report) -> Result<()> {
        let step = self.steps.begin(&format!("{runs} lines in and out of a program"));
        let echo = Do::FirstByte { id: id.to_string(), count: runs };
        let echoed: Echoed = self.outside.ask(&echo).await?;
        report.first_byte_us = Spread::of(echoed.rounds.iter().map(|round| round.us));
        step.done("measured");
        Ok(())
    }

    async fn forks(&mut self, id: SandboxId, report: &mut Report) -> Result<()> {
        let step = self.steps.begin(&format!("{FORKS} forks"));
        let mut held = Vec::new();
        for _ in 0..FORKS {
            let forked = self.client.sandbox_fork(id, &Fork::of(1)).await?;
            for child in &forked.sandboxes {
                self.measure.made(child.id);
                self.measure.kill(child.id).await?;
            }
            held.push(forked.held_us);
        }
        report.fork_held_us = Spread::of(held);
        step.done("measured");
        Ok(())
    }

    async fn streams(&mut self, args: &Bench) -> Result<Streams> {
        let count = args.alive;
        let mut step = self.steps.begin(&format!("{count} sandboxes streaming at once"));
        let mut ids = HashSet::new();
        for made in 0..count {
            ids.insert(self.create(args).await?.0);
            step.advance(f64::from(made) / f64::from(count));
        }
        let names = ids.iter().map(SandboxId::to_string).collect();
        let stream = Do::Stream { ids: names, lines: STREAM_LINES };
        let streamed: Streamed = self.outside.ask(&stream).await?;
        let mut streams = Streams { count, lines: STREAM_LINES, ..Streams::default() };
        let mut took = Vec::new();
        for one in streamed.streams {
            match one {
                OneStream::Read { lines, wrong, us } => {
                    streams.read += lines;
                    streams.wrong += wrong;
                    took.push(us);
                }
                OneStream::Failed { error } => streams.failures.push(error),
            }
        }
        streams.us = Spread::of(took);
        for id in ids {
            self.measure.kill(id).await?;
        }
        step.done("measured");
        Ok(streams)
    }
}
