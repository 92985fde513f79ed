//! What the figures should be, and whether they are.

use crate::bench::report::{Report, Restore, Target};

const CREATE_P50_US_MAX: u64 = 60_000;
const CREATE_P99_OVER_P50_MAX: f64 = 2.5;
const COLD_OVER_CREATE_MIN: f64 = 100.0;
const VMM_OVER_FLOOR_MAX: f64 = 3.0;
const ALIVE_MIN: u32 = 30;
const PRIVATE_KIB_MAX: u64 = 10 * 1024;
const OVERHEAD_KIB_MAX: u64 = 5 * 1024;
const PARALLEL_MIN: u32 = 20;
const PARALLEL_SLOWEST_OVER_P50_MAX: f64 = 12.0;

/// The restore path whose figures count: the one with the faster median.
pub(crate) fn best(report: &Report) -> Option<&Restore> {
    let measured = report.restore.iter().filter(|restore| restore.create_us.count > 0);
    measured.min_by_key(|restore| restore.create_us.p50)
}

/// Every target; those whose part was left out are neither reached nor missed.
pub(crate) fn targets(report: &Report) -> Vec<Target> {
    let best = best(report);
    let p50 = best.map(|best| best.create_us.p50);
    let over = |part: Option<u64>, whole: Option<u64>| match (part, whole) {
        (Some(part), Some(whole)) if whole > 0 => Some(part as f64 / whole as f64),
        _ => None,
    };
    let ms = |us: u64| format!("{:.1} ms", us as f64 / 1000.0);
    let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
    let times = |ratio: f64| format!("{ratio:.1} x");

    let p99_over = over(best.map(|best| best.create_us.p99), p50);
    let cold_over = over(report.cold_boot.map(|cold| cold.p50), p50);
    let floor = report.floor.as_ref().map(|floor| floor.total.p50_us);
    let vmm_over = over(best.map(|best| best.vmm_us.p50), floor);
    let alive = report.alive.as_ref();
    let private = alive.filter(|alive| alive.answered > 0).map(|alive| alive.private_kib.p50);
    let overhead = alive.filter(|alive| alive.answered > 0).map(|alive| alive.overhead_kib.p50);
    let parallel = report.parallel.as_ref();
    let slowest_over = over(parallel.map(|parallel| parallel.create_us.max), p50);
    vec![
        Target {
            name: "create to agent answering, p50",
            wanted: format!("at most {}", ms(CREATE_P50_US_MAX)),
            measured: p50.map(ms),
            reached: p50.map(|p50| p50 <= CREATE_P50_US_MAX),
        },
        Target {
            name: "create, p99 over p50",
            wanted: format!("at most {}", times(CREATE_P99_OVER_P50_MAX)),
            measured: p99_over.map(times),
            reached: p99_over.map(|ratio| ratio <= CREATE_P99_OVER_P50_MAX),
        },
        Target {
            name: "cold boot over create",
            wanted: format!("at least {}", times(COLD_OVER_CREATE_MIN)),
            measured: cold_over.map(times),
            reached: cold_over.map(|ratio| ratio >= COLD_OVER_CREATE_MIN),
        },
        Target {
            name: "claim to resumed over the floor",
            wanted: format!("at most {}", times(VMM_OVER_FLOOR_MAX)),
            measured: vmm_over.map(times),
            reached: vmm_over.map(|ratio| ratio <= VMM_OVER_FLOOR_MAX),
        },
        Target {
            name: "alive at once, each answering",
            wanted: format!("at least {ALIVE_MIN}"),
            measured: alive.map(|alive| format!("{} of {}", alive.answered, alive.count)),
            // Fewer were asked for: that says nothing about what could be reached.
            reached: alive
                .filter(|alive| alive.count >= ALIVE_MIN || alive.answered < alive.count)
                .map(|alive| alive.answered >= ALIVE_MIN && alive.answered == alive.count),
        },
        Target {
            name: "private memory per idle clone",
            wanted: format!("at most {}", mib(PRIVATE_KIB_MAX)),
            measured: private.map(mib),
            reached: private.map(|kib| kib <= PRIVATE_KIB_MAX),
        },
        Target {
            name: "VMM memory beside the guest's",
            wanted: format!("at most {}", mib(OVERHEAD_KIB_MAX)),
            measured: overhead.map(mib),
            reached: overhead.map(|kib| kib <= OVERHEAD_KIB_MAX),
        },
        Target {
            name: "creates at once: slowest over p50",
            wanted: format!(
                "at most {}, {PARALLEL_MIN} at once",
                times(PARALLEL_SLOWEST_OVER_P50_MAX)
            ),
            measured: slowest_over.map(times),
            reached: slowest_over
                .filter(|_| parallel.is_some_and(|parallel| parallel.count >= PARALLEL_MIN))
                .map(|ratio| ratio <= PARALLEL_SLOWEST_OVER_P50_MAX),
        },
        Target {
            name: "creates at once: failed",
            wanted: "none".to_owned(),
            measured: parallel.map(|parallel| parallel.failures.len().to_string()),
            reached: parallel.map(|parallel| parallel.failures.is_empty()),
        },
    ]
}
