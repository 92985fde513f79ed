//! What goes wrong on a node's own machine, done to a real node: this program runs inside a portable
//! host, starts `sandflared` there, breaks things, and looks for what is left.
//!
//! Each scenario begins with no daemon and ends with none, and must leave nothing behind. The output is
//! `begin NAME`, whatever the scenario says, and `passed NAME` or `failed NAME`.
#![expect(clippy::unwrap_used, reason = "a scenario that cannot go on panics, and has failed")]

mod again;
mod bad;
mod broken;
mod chains;
mod crash;
mod daemon;
mod databases;
mod full;
mod kills;
mod left;
mod neighbours;
mod outside;
mod secrets;
mod steps;
mod survive;
mod trouble;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;

use crate::left::World;

/// LIMIT: several times what the longest scenario takes. One that hangs fails alone.
const SCENARIO_MAX: Duration = Duration::from_secs(1200);

type Scenario = (&'static str, fn() -> LocalBoxFuture<'static, ()>);

macro_rules! scenarios {
    ($($module:ident :: $name:ident),* $(,)?) => {
        &[$((stringify!($name), || $module::$name().boxed_local())),*]
    };
}

/// In this order: the first makes the snapshot the others use.
const ALL: &[Scenario] = scenarios![
    bad::wrong_requests,
    bad::a_program_that_cannot_be_started,
    bad::a_guest_out_of_memory,
    bad::a_guest_that_panics_or_shuts_down,
    bad::a_busy_port_and_a_second_node,
    bad::a_late_agent,
    kills::a_killed_vmm,
    kills::a_vmm_killed_during_a_create,
    kills::a_stopped_vmm,
    survive::a_daemon_killed_while_its_sandboxes_run,
    survive::what_ends_while_no_daemon_runs,
    kills::a_daemon_killed_during_creates_and_kills,
    kills::a_daemon_killed_during_a_template_build,
    steps::a_daemon_that_dies_at_each_step_of_a_create,
    steps::a_daemon_that_dies_at_each_step_of_a_kill,
    steps::a_daemon_that_dies_at_each_step_of_a_pause_a_resume_or_a_branch,
    steps::a_daemon_that_dies_at_each_step_of_the_deletion_of_a_snapshot,
    steps::a_daemon_that_dies_at_each_step_of_a_kill_of_one_that_shares_layers,
    steps::a_daemon_that_dies_at_each_step_of_a_merge_of_overlays,
    steps::a_daemon_that_dies_at_each_step_of_the_children_of_a_fork,
    steps::a_daemon_that_dies_at_each_step_of_a_create_from_a_snapshot,
    chains::a_long_chain_of_forks_and_snapshots,
    chains::a_sandbox_adopted_in_the_middle_of_a_merge,
    chains::a_client_that_leaves_and_a_stop_in_the_middle_of_a_merge,
    again::creates_that_nobody_heard_of,
    again::quotas_and_lifetimes_under_the_next_daemon,
    secrets::secrets_of_callers,
    full::a_full_disk,
    trouble::a_full_disk_while_one_is_written_down,
    trouble::a_vmm_killed_while_its_sandbox_is_written_down_or_made_again,
    trouble::an_agent_that_hangs_in_one_that_is_paused_or_forked,
    trouble::a_slow_disk_and_little_memory_while_one_is_written_down,
    neighbours::limits_of_a_machine,
    neighbours::hogs_beside_a_quiet_sandbox,
    neighbours::a_disk_filler_beside_a_quiet_sandbox,
    databases::what_a_database_answered_for_outlives_every_kill,
    databases::a_daemon_that_dies_while_a_database_is_made_or_goes_back,
    outside::clients_by_the_rule_of_a_database,
    broken::a_damaged_snapshot,
    broken::a_damaged_image,
    broken::a_kernel_that_panics,
    broken::an_agent_that_never_answers,
];

/// The scenarios that are named, or all.
fn scenarios_of(wanted: &[&str]) -> Vec<&'static Scenario> {
    ALL.iter().filter(|(name, _)| wanted.is_empty() || wanted.contains(name)).collect()
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some((crash::ONCE, args)) = wanted.split_first().map(|(first, args)| (&**first, args)) {
        return crash::once(args);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let world = World::now();
    let mut good = true;
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let scenarios = scenarios_of(&wanted);
    let names: Vec<&str> = scenarios.iter().map(|(name, _)| *name).collect();
    println!("scenarios {}", names.join(" "));
    for (name, scenario) in scenarios {
        println!("begin {name}");
        let begun = Instant::now();
        let done = runtime.block_on(async {
            let doing = AssertUnwindSafe(scenario()).catch_unwind();
            let done = tokio::time::timeout(SCENARIO_MAX, doing).await;
            if done.is_err() {
                println!("{name} did not end within {} s", SCENARIO_MAX.as_secs());
            }
            let passed = matches!(done, Ok(Ok(())));
            if !passed {
                daemon::forget_all().await;
            }
            daemon::end_all().await;
            // Also what a failed scenario left is a finding.
            passed & AssertUnwindSafe(world.is_unchanged()).catch_unwind().await.is_ok()
        });
        let seconds = begun.elapsed().as_secs_f32();
        println!("{} {name} {seconds:.1}", if done { "passed" } else { "failed" });
        good &= done;
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
