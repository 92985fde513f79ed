//! The report for people, less than 100 columns wide.

use std::fmt::Write;

use crate::bench::report::{Report, Restore, Target};
use crate::bench::spread::Spread;

pub(crate) fn text(report: &Report) -> String {
    let mut text = format!(
        "sandflare {}: template {}, size {}; node on {} CPUs, Linux {}\n",
        report.head.version,
        report.template,
        report.size,
        report.head.cpus,
        report.head.kernel_release,
    );
    for restore in &report.restore {
        text.push('\n');
        text.push_str(&restored(restore));
    }
    text.push('\n');
    let _ = writeln!(text, "{}", head("beside that, in ms"));
    if let Some(cold) = &report.cold_boot {
        let _ = writeln!(text, "{}", row("cold boot to agent answering", cold, ms));
    }
    match (&report.floor, &report.floor_failure) {
        (Some(floor), _) => {
            let (min, p50, p99) = (floor.total.min_us, floor.total.p50_us, floor.total.p99_us);
            let name = "floor: a bare VM and its first code";
            let [min, p50, p99] = [min, p50, p99].map(ms);
            let _ = writeln!(text, "  {name:<36}{min:>9}{:>9}{p50:>9}{p99:>9}{:>9}", "-", "-");
        }
        (None, Some(failure)) => {
            let _ = writeln!(text, "  floor: not measured: {failure}");
        }
        (None, None) => {}
    }
    if let Some(parallel) = &report.parallel {
        let name = format!("each of {} creates at once", parallel.count);
        let _ = writeln!(text, "{}", row(&name, &parallel.create_us, ms));
        failed(&mut text, &parallel.failures, parallel.count);
    }
    if let Some(alive) = &report.alive {
        text.push('\n');
        let name = format!("{} alive at once, {} answered", alive.count, alive.answered);
        let _ = writeln!(text, "{}", head(&name));
        let _ = writeln!(text, "{}", row("private memory, MiB", &alive.private_kib, mib));
        let _ = writeln!(
            text,
            "{}",
            row("VMM memory beside the guest's, MiB", &alive.overhead_kib, mib)
        );
        if let Some(left) = alive.memory_available_mib {
            let _ = writeln!(text, "  memory left on the node's machine: {left} MiB");
        }
        failed(&mut text, &alive.failures, alive.count);
    }
    text.push('\n');
    text.push_str(&verdicts(&report.targets));
    text
}

/// What it is, the figures, and how one is shown.
type Line<'a> = (&'a str, &'a Spread, fn(u64) -> String);

fn restored(restore: &Restore) -> String {
    let mut text =
        head(&format!("restore by {}, {} runs, ms", restore.memory_path, restore.create_us.count));
    let phases = &restore.phases;
    let lines: [Line<'_>; 17] = [
        ("request to agent answering", &restore.create_us, ms),
        ("  seen by the node", &phases.total_us, ms),
        ("    claim a shell", &phases.claim_us, ms),
        ("    parse the state", &phases.parse_us, ms),
        ("    map memory", &phases.map_us, ms),
        ("    set state", &phases.state_us, ms),
        ("    wake devices", &phases.devices_us, ms),
        ("    resume", &phases.resume_us, ms),
        ("    reseed, new identity", &phases.reseed_us, ms),
        ("  claim to resumed", &restore.vmm_us, ms),
        ("request to first output of echo", &restore.first_output_us, ms),
        ("  the exec of it", &restore.exec_us, ms),
        ("faults", &restore.faults, plain),
        ("pages copied", &restore.pages_copied, plain),
        ("pages prefetched", &restore.pages_prefetched, plain),
        ("private memory, MiB", &restore.private_kib, mib),
        ("VMM memory beside the guest's, MiB", &restore.overhead_kib, mib),
    ];
    text.push('\n');
    for (name, spread, shown) in lines {
        let _ = writeln!(text, "{}", row(name, spread, shown));
    }
    if restore.pool_empty > 0 {
        let _ = writeln!(text, "  {} creates found no shell ready", restore.pool_empty);
    }
    let count = restore.failures.len() as u64 + restore.create_us.count;
    failed(&mut text, &restore.failures, u32::try_from(count).unwrap_or(u32::MAX));
    text
}

pub(crate) fn head(name: &str) -> String {
    format!("{name:<38}{:>9}{:>9}{:>9}{:>9}{:>9}", "min", "mean", "p50", "p99", "max")
}

pub(crate) fn row(name: &str, spread: &Spread, shown: fn(u64) -> String) -> String {
    let Spread { count: _, min, mean, p50, p99, max } = *spread;
    let [min, mean, p50, p99, max] = [min, mean, p50, p99, max].map(shown);
    format!("  {name:<36}{min:>9}{mean:>9}{p50:>9}{p99:>9}{max:>9}")
}

pub(crate) fn failed(text: &mut String, failures: &[String], count: u32) {
    if let Some(first) = failures.first() {
        let _ = writeln!(text, "  {} of {count} failed; the first: {first}", failures.len());
    }
}

pub(crate) fn verdicts(targets: &[Target]) -> String {
    let mut text = String::from("targets\n");
    for target in targets {
        let verdict = match target.reached {
            Some(true) => "reached",
            Some(false) => "NOT REACHED",
            None => "not measured",
        };
        let measured = target.measured.as_deref().unwrap_or("-");
        let _ = writeln!(
            text,
            "  {verdict:<13}{:<34}{measured:>11}   ({})",
            target.name, target.wanted,
        );
    }
    text
}

pub(crate) fn ms(us: u64) -> String {
    format!("{:.2}", us as f64 / 1000.0)
}

fn mib(kib: u64) -> String {
    format!("{:.2}", kib as f64 / 1024.0)
}

fn plain(figure: u64) -> String {
    figure.to_string()
}

#[cfg(test)]
mod test {
    use api_node::{Floor, PhaseTimes, SandboxStats};
    use expect_test::expect;

    use super::*;
    use crate::bench::report::{Alive, Head, Parallel, Run, SCHEMA};
    use crate::bench::targets::targets;

    fn report() -> Report {
        let run = |create_us| Run {
            create_us,
            first_output_us: create_us + 9_000,
            exec_us: 9_000,
            phases: PhaseTimes {
                claim_us: 100,
                map_us: 2_000,
                total_us: 40_000,
                ..PhaseTimes::default()
            },
            stats: SandboxStats {
                faults: 700,
                private_pages: 1_500,
                overhead_kib: 3_100,
                ..SandboxStats::default()
            },
        };
        let runs: Vec<Run> = (0..20).map(|index| run(50_000 + index * 500)).collect();
        let floor = Floor {
            runs: 20,
            memory_mib: 512,
            total: api_node::Spread { min_us: 900, p50_us: 1_000, p99_us: 4_000 },
            phases: vec![],
        };
        let mut report = Report {
            head: Head::example(SCHEMA),
            template: "agent".into(),
            size: "nano".into(),
            restore: vec![Restore::of(
                "private",
                &runs,
                vec!["the guest's agent is silent".into()],
            )],
            cold_boot: Some(Spread::of([6_000_000])),
            floor: Some(floor),
            floor_failure: None,
            parallel: Some(Parallel {
                count: 20,
                create_us: Spread::of([100_000, 900_000]),
                failures: vec![],
            }),
            alive: Some(Alive {
                count: 30,
                answered: 29,
                private_kib: Spread::of([6_000]),
                overhead_kib: Spread::of([3_100]),
                memory_available_mib: Some(700),
                failures: vec!["no memory is left".into()],
            }),
            targets: vec![],
        };
        report.targets = targets(&report);
        report
    }

    #[test]
    fn a_report_reads_well_and_is_narrow() {
        let text = text(&report());
        assert!(text.lines().all(|line| line.chars().count() < 100));
        expect![[r#"
            sandflare 0.1.0: template agent, size nano; node on 2 CPUs, Linux 6.12.0

            restore by private, 20 runs, ms             min     mean      p50      p99      max
              request to agent answering              50.00    54.75    54.50    59.50    59.50
                seen by the node                      40.00    40.00    40.00    40.00    40.00
                  claim a shell                        0.10     0.10     0.10     0.10     0.10
                  parse the state                      0.00     0.00     0.00     0.00     0.00
                  map memory                           2.00     2.00     2.00     2.00     2.00
                  set state                            0.00     0.00     0.00     0.00     0.00
                  wake devices                         0.00     0.00     0.00     0.00     0.00
                  resume                               0.00     0.00     0.00     0.00     0.00
                  reseed, new identity                 0.00     0.00     0.00     0.00     0.00
                claim to resumed                       2.10     2.10     2.10     2.10     2.10
              request to first output of echo         59.00    63.75    63.50    68.50    68.50
                the exec of it                         9.00     9.00     9.00     9.00     9.00
              faults                                    700      700      700      700      700
              pages copied                                0        0        0        0        0
              pages prefetched                            0        0        0        0        0
              private memory, MiB                      5.86     5.86     5.86     5.86     5.86
              VMM memory beside the guest's, MiB       3.03     3.03     3.03     3.03     3.03
              1 of 21 failed; the first: the guest's agent is silent

            beside that, in ms                          min     mean      p50      p99      max
              cold boot to agent answering          6000.00  6000.00  6000.00  6000.00  6000.00
              floor: a bare VM and its first code      0.90        -     1.00     4.00        -
              each of 20 creates at once             100.00   500.00   100.00   900.00   900.00

            30 alive at once, 29 answered               min     mean      p50      p99      max
              private memory, MiB                      5.86     5.86     5.86     5.86     5.86
              VMM memory beside the guest's, MiB       3.03     3.03     3.03     3.03     3.03
              memory left on the node's machine: 700 MiB
              1 of 30 failed; the first: no memory is left

            targets
              reached      create to agent answering, p50        54.5 ms   (at most 60.0 ms)
              reached      create, p99 over p50                    1.1 x   (at most 2.5 x)
              reached      cold boot over create                 110.1 x   (at least 100.0 x)
              reached      claim to resumed over the floor         2.1 x   (at most 3.0 x)
              NOT REACHED  alive at once, each answering        29 of 30   (at least 30)
              reached      private memory per idle clone         5.9 MiB   (at most 10.0 MiB)
              reached      VMM memory beside the guest's         3.0 MiB   (at most 5.0 MiB)
              NOT REACHED  creates at once: slowest over p50      16.5 x   (at most 12.0 x, 20 at once)
              reached      creates at once: failed                     0   (none)
        "#]].assert_eq(&text);
    }

    #[test]
    fn what_was_left_out_is_neither_reached_nor_missed() {
        let mut report = report();
        report.restore.clear();
        (report.cold_boot, report.floor, report.parallel, report.alive) = (None, None, None, None);
        for target in targets(&report) {
            assert_eq!((target.reached, target.measured), (None, None), "{}", target.name);
        }
    }

    #[test]
    fn the_json_form_is_stable() {
        let report = serde_json::to_value(report()).unwrap();
        let keys = |value: &serde_json::Value| {
            value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ")
        };
        expect!["alive cold_boot cpus floor floor_failure kernel_release parallel restore schema size targets template url version"].assert_eq(&keys(&report));
        expect!["create_us exec_us failures faults first_output_us memory_path overhead_kib pages_copied pages_prefetched phases pool_empty private_kib vmm_us"].assert_eq(&keys(&report["restore"][0]));
        expect!["claim_us devices_us map_us parse_us reseed_us resume_us state_us total_us"]
            .assert_eq(&keys(&report["restore"][0]["phases"]));
        expect!["measured name reached wanted"].assert_eq(&keys(&report["targets"][0]));
    }
}
