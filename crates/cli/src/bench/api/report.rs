//! What was found on the outside, with the node's own figures beside it, and what it should be.
//!
//! The JSON form is stable: fields are added, never renamed; times are in microseconds.

use std::fmt::Write as _;

use serde::Serialize;

use crate::bench::render::{head, ms, row, verdicts};
use crate::bench::report::{Head, Target};
use crate::bench::spread::Spread;

/// Version of the JSON form.
pub(crate) const SCHEMA: u32 = 1;

const CREATE_P50_US_MAX: u64 = 100_000;
const CREATE_P99_US_MAX: u64 = 250_000;
const RUN_OVER_SPAWN_MAX: f64 = 1.5;
const RATE_OVER_CAT_MIN: f64 = 0.5;
const FIRST_BYTE_US_MAX: u64 = 20_000;
const FORK_HELD_US_MAX: u64 = 250_000;
const STREAMS_MIN: u32 = 30;

/// Everything.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    pub(crate) head: Head,
    pub(crate) template: String,
    pub(crate) size: String,
    /// Version of the Python SDK.
    pub(crate) sdk: String,
    /// Version of Python.
    pub(crate) python: String,
    /// `Sandbox.create`, and of the same creates what the node took from its shell to the agent's word.
    pub(crate) create_us: Spread,
    pub(crate) create_engine_us: Spread,
    /// `run("true")`, and the same command seen by the node.
    pub(crate) run_us: Spread,
    pub(crate) run_engine_us: Spread,
    /// MiB of each transfer.
    pub(crate) mib: u32,
    /// `upload`, and `cat` into a file over vsock.
    pub(crate) upload_us: Spread,
    pub(crate) upload_engine_us: Spread,
    /// `download`, and `cat` of a file over vsock.
    pub(crate) download_us: Spread,
    pub(crate) download_engine_us: Spread,
    /// From a line sent to a program to the same line back from it: no less than the time in which
    /// its first byte of output arrives.
    pub(crate) first_byte_us: Spread,
    /// How long a sandbox stood still to be forked.
    pub(crate) fork_held_us: Spread,
    pub(crate) streams: Option<Streams>,
    pub(crate) targets: Vec<Target>,
}

/// Sandboxes that print at once.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Streams {
    pub(crate) count: u32,
    /// Lines each of them printed.
    pub(crate) lines: u32,
    /// Lines read, of all of them.
    pub(crate) read: u64,
    /// Lines and events that were missing, twice or out of order.
    pub(crate) wrong: u64,
    /// From the first line of each to its end.
    pub(crate) us: Spread,
    pub(crate) failures: Vec<String>,
}

impl Streams {
    fn is_whole(&self) -> bool {
        let wanted = u64::from(self.count) * u64::from(self.lines);
        self.failures.is_empty() && self.wrong == 0 && self.read == wanted
    }
}

/// Every target; those whose part was left out are neither reached nor missed.
pub(crate) fn targets(report: &Report) -> Vec<Target> {
    let some = |spread: &Spread| (spread.count > 0).then_some(*spread);
    let over = |part: &Spread, whole: &Spread| {
        let (part, whole) = (some(part)?, some(whole).filter(|whole| whole.p50 > 0)?);
        Some(part.p50 as f64 / whole.p50 as f64)
    };
    let times = |ratio: f64| format!("{ratio:.2} x");
    let within = |name, measured: Option<u64>, most: u64| Target {
        name,
        wanted: format!("at most {} ms", most / 1000),
        measured: measured.map(|us| format!("{} ms", ms(us))),
        reached: measured.map(|us| us <= most),
    };
    let rate = |name, ratio: Option<f64>| Target {
        name,
        wanted: format!("at least {}", times(RATE_OVER_CAT_MIN)),
        measured: ratio.map(times),
        reached: ratio.map(|ratio| ratio >= RATE_OVER_CAT_MIN),
    };
    let create = some(&report.create_us);
    let run = over(&report.run_us, &report.run_engine_us);
    let streams = report.streams.as_ref();
    vec![
        within("Sandbox.create, p50", create.map(|spread| spread.p50), CREATE_P50_US_MAX),
        within("Sandbox.create, p99", create.map(|spread| spread.p99), CREATE_P99_US_MAX),
        Target {
            name: "run(\"true\") over the agent's spawn",
            wanted: format!("at most {}", times(RUN_OVER_SPAWN_MAX)),
            measured: run.map(times),
            reached: run.map(|ratio| ratio <= RUN_OVER_SPAWN_MAX),
        },
        rate("upload over cat by vsock", over(&report.upload_engine_us, &report.upload_us)),
        rate("download over cat by vsock", over(&report.download_engine_us, &report.download_us)),
        within(
            "first byte, with the way in, p50",
            some(&report.first_byte_us).map(|spread| spread.p50),
            FIRST_BYTE_US_MAX,
        ),
        within(
            "held to be forked, longest",
            some(&report.fork_held_us).map(|spread| spread.max),
            FORK_HELD_US_MAX,
        ),
        Target {
            name: "streaming at once, nothing lost",
            wanted: format!("at least {STREAMS_MIN}"),
            measured: streams.map(|streams| match streams.is_whole() {
                true => format!("{} whole", streams.count),
                false => "LOST".to_owned(),
            }),
            reached: streams
                .filter(|streams| streams.count >= STREAMS_MIN || !streams.is_whole())
                .map(Streams::is_whole),
        },
    ]
}

/// The report for people, less than 100 columns wide.
pub(crate) fn text(report: &Report) -> String {
    let Report { head: place, template, size, sdk, python, mib, .. } = report;
    let Head { version, cpus, kernel_release, .. } = place;
    let mut text = format!(
        "sandflare {version}: template {template}, size {size}; node on {cpus} CPUs, Linux {kernel_release}\n\
         Python SDK {sdk}, Python {python}\n\n",
    );
    let _ = writeln!(text, "{}", head("outside, and the engine within, ms"));
    let up = format!("upload of {mib} MiB");
    let down = format!("download of {mib} MiB");
    let rows: [(&str, &Spread); 10] = [
        ("Sandbox.create", &report.create_us),
        ("  shell to agent answering", &report.create_engine_us),
        ("run(\"true\")", &report.run_us),
        ("  the agent's spawn", &report.run_engine_us),
        (&up, &report.upload_us),
        ("  cat to a file, over vsock", &report.upload_engine_us),
        (&down, &report.download_us),
        ("  cat of a file, over vsock", &report.download_engine_us),
        ("a line in and out of a program", &report.first_byte_us),
        ("held to be forked", &report.fork_held_us),
    ];
    for (name, spread) in rows {
        let _ = writeln!(text, "{}", row(name, spread, ms));
    }
    if let Some(streams) = &report.streams {
        let Streams { count, lines, read, wrong, us, failures } = streams;
        let _ = writeln!(text, "{}", row(&format!("{lines} lines of {count} at once"), us, ms));
        let _ = writeln!(text, "  {read} lines read, {wrong} of them wrong");
        if let Some(first) = failures.first() {
            let _ = writeln!(text, "  {} of {count} failed; the first: {first}", failures.len());
        }
    }
    text.push('\n');
    text.push_str(&verdicts(&report.targets));
    text
}

#[cfg(test)]
mod test {
    use expect_test::expect;

    use super::*;

    fn report() -> Report {
        let of = |figures: [u64; 3]| Spread::of(figures);
        let mut report = Report {
            head: Head::example(SCHEMA),
            template: "agent".into(),
            size: "nano".into(),
            sdk: "0.1.0".into(),
            python: "3.11.7".into(),
            create_us: of([40_000, 45_000, 260_000]),
            create_engine_us: of([20_000, 25_000, 30_000]),
            run_us: of([14_000, 15_000, 18_000]),
            run_engine_us: of([9_000, 10_000, 12_000]),
            mib: 16,
            upload_us: of([900_000, 1_000_000, 1_100_000]),
            upload_engine_us: of([500_000, 600_000, 700_000]),
            download_us: of([900_000, 1_000_000, 1_100_000]),
            download_engine_us: of([300_000, 400_000, 500_000]),
            first_byte_us: of([9_000, 12_500, 30_000]),
            fork_held_us: of([110_000, 120_000, 130_000]),
            streams: Some(Streams {
                count: 30,
                lines: 20_000,
                read: 600_000,
                wrong: 0,
                us: of([1_000_000, 2_000_000, 3_000_000]),
                failures: vec![],
            }),
            targets: vec![],
        };
        report.targets = targets(&report);
        report
    }

    #[test]
    fn what_is_seen_outside_is_held_against_the_engine_within() {
        let text = text(&report());
        assert!(text.lines().all(|line| line.chars().count() < 100));
        expect![[r#"
            sandflare 0.1.0: template agent, size nano; node on 2 CPUs, Linux 6.12.0
            Python SDK 0.1.0, Python 3.11.7

            outside, and the engine within, ms          min     mean      p50      p99      max
              Sandbox.create                          40.00   115.00    45.00   260.00   260.00
                shell to agent answering              20.00    25.00    25.00    30.00    30.00
              run("true")                             14.00    15.67    15.00    18.00    18.00
                the agent's spawn                      9.00    10.33    10.00    12.00    12.00
              upload of 16 MiB                       900.00  1000.00  1000.00  1100.00  1100.00
                cat to a file, over vsock            500.00   600.00   600.00   700.00   700.00
              download of 16 MiB                     900.00  1000.00  1000.00  1100.00  1100.00
                cat of a file, over vsock            300.00   400.00   400.00   500.00   500.00
              a line in and out of a program           9.00    17.17    12.50    30.00    30.00
              held to be forked                      110.00   120.00   120.00   130.00   130.00
              20000 lines of 30 at once             1000.00  2000.00  2000.00  3000.00  3000.00
              600000 lines read, 0 of them wrong

            targets
              reached      Sandbox.create, p50                  45.00 ms   (at most 100 ms)
              NOT REACHED  Sandbox.create, p99                 260.00 ms   (at most 250 ms)
              reached      run("true") over the agent's spawn     1.50 x   (at most 1.50 x)
              reached      upload over cat by vsock               0.60 x   (at least 0.50 x)
              NOT REACHED  download over cat by vsock             0.40 x   (at least 0.50 x)
              reached      first byte, with the way in, p50     12.50 ms   (at most 20 ms)
              reached      held to be forked, longest          130.00 ms   (at most 250 ms)
              reached      streaming at once, nothing lost      30 whole   (at least 30)
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn one_line_that_is_missing_twice_or_wrong_is_a_loss() {
        let whole = report();
        let streams = whole.streams.clone().unwrap();
        let reached = |streams: Option<Streams>| {
            targets(&Report { streams, ..whole.clone() }).pop().unwrap().reached
        };
        assert_eq!(reached(Some(streams.clone())), Some(true));
        assert_eq!(reached(Some(Streams { read: 599_999, ..streams.clone() })), Some(false));
        assert_eq!(reached(Some(Streams { wrong: 1, ..streams.clone() })), Some(false));
        let failures = vec!["it broke".to_owned()];
        assert_eq!(reached(Some(Streams { failures, ..streams.clone() })), Some(false));
        // Fewer than are wanted show nothing, unless even they lose something.
        assert_eq!(reached(Some(Streams { count: 3, read: 60_000, ..streams.clone() })), None);
        assert_eq!(reached(Some(Streams { count: 3, read: 59_999, ..streams })), Some(false));
    }

    #[test]
    fn what_was_not_measured_is_neither_reached_nor_missed() {
        for target in targets(&Report::default()) {
            assert_eq!((target.reached, target.measured), (None, None), "{}", target.name);
        }
    }

    #[test]
    fn the_json_form_is_stable() {
        let report = serde_json::to_value(report()).unwrap();
        let keys = |value: &serde_json::Value| {
            value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ")
        };
        expect!["cpus create_engine_us create_us download_engine_us download_us first_byte_us fork_held_us kernel_release mib python run_engine_us run_us schema sdk size streams targets template upload_engine_us upload_us url version"].assert_eq(&keys(&report));
        expect!["count failures lines read us wrong"].assert_eq(&keys(&report["streams"]));
    }
}
