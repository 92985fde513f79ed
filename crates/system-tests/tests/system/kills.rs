//! `kill -9` of everything: nothing leaks, nothing stays half made, the next create works.

use crate::host::program;
use crate::inside::passed;

#[tokio::test]
async fn a_killed_vmm_fails_its_sandbox_with_the_reason_and_no_other() {
    passed("a_killed_vmm").await;
}

#[tokio::test]
async fn a_vmm_killed_during_a_create_fails_that_create_and_leaves_nothing() {
    passed("a_vmm_killed_during_a_create").await;
}

#[tokio::test]
async fn a_vmm_that_does_not_answer_is_killed_at_its_deadline() {
    passed("a_stopped_vmm").await;
}

#[tokio::test]
async fn sandboxes_run_on_when_their_daemon_is_killed_and_the_next_one_serves_them() {
    passed("a_daemon_killed_while_its_sandboxes_run").await;
}

#[tokio::test]
async fn a_sandbox_that_ends_while_no_daemon_runs_has_failed_with_the_reason() {
    passed("what_ends_while_no_daemon_runs").await;
}

#[tokio::test]
async fn a_daemon_killed_during_creates_and_kills_leaves_whole_sandboxes_or_nothing() {
    passed("a_daemon_killed_during_creates_and_kills").await;
}

#[tokio::test]
async fn a_daemon_killed_during_a_template_build_leaves_nothing_half_made() {
    passed("a_daemon_killed_during_a_template_build").await;
}

#[tokio::test]
async fn a_daemon_that_dies_at_any_step_of_a_create_leaves_a_whole_sandbox_or_nothing() {
    passed("a_daemon_that_dies_at_each_step_of_a_create").await;
}

#[tokio::test]
async fn a_daemon_that_dies_at_any_step_of_a_kill_leaves_nothing_to_the_next_one() {
    passed("a_daemon_that_dies_at_each_step_of_a_kill").await;
}

#[tokio::test]
async fn a_rule_says_who_reaches_a_database_from_outside_and_whom_it_denies_does_not_wake_it() {
    passed("clients_by_the_rule_of_a_database").await;
}

#[tokio::test]
async fn every_row_that_a_database_answered_for_outlives_kills_of_its_vmm_and_the_daemon() {
    passed("what_a_database_answered_for_outlives_every_kill").await;
}

#[tokio::test]
async fn a_daemon_that_dies_while_a_database_is_made_or_goes_back_leaves_it_whole_or_nothing() {
    passed("a_daemon_that_dies_while_a_database_is_made_or_goes_back").await;
}

#[tokio::test]
async fn a_daemon_that_dies_at_any_step_of_a_pause_a_resume_a_fork_or_a_snapshot_loses_nothing() {
    passed("a_daemon_that_dies_at_each_step_of_a_pause_a_resume_or_a_branch").await;
}

#[tokio::test]
async fn a_daemon_that_dies_at_any_step_of_the_deletion_of_a_snapshot_breaks_no_sandbox_made_from_it()
 {
    passed("a_daemon_that_dies_at_each_step_of_the_deletion_of_a_snapshot").await;
}

#[tokio::test]
async fn a_daemon_that_dies_at_any_step_of_a_kill_takes_no_layer_from_those_that_share_it() {
    passed("a_daemon_that_dies_at_each_step_of_a_kill_of_one_that_shares_layers").await;
}

#[tokio::test]
async fn a_daemon_that_dies_at_any_step_of_a_merge_of_overlays_loses_none_of_them() {
    passed("a_daemon_that_dies_at_each_step_of_a_merge_of_overlays").await;
}

#[tokio::test]
async fn a_daemon_that_dies_at_any_step_of_the_children_of_a_fork_leaves_whole_ones_or_none() {
    passed("a_daemon_that_dies_at_each_step_of_the_children_of_a_fork").await;
}

#[tokio::test]
async fn a_daemon_that_dies_at_any_step_of_a_create_from_a_snapshot_leaves_a_whole_one_or_none() {
    passed("a_daemon_that_dies_at_each_step_of_a_create_from_a_snapshot").await;
}

#[tokio::test]
async fn what_is_found_after_a_kill_at_each_step_is_what_the_guide_shows() {
    let found: Vec<_> = rows(crate::inside::output().await).collect();
    println!("{}", found.join("\n"));
    let guide = include_str!("../../../../docs/guides/survival.md");
    let (_, shown) = guide.split_once("<!-- kills -->\n").unwrap();
    let (shown, _) = shown.split_once("\n\n").unwrap();
    // Without its head.
    assert_eq!(found, rows(shown).skip(1).collect::<Vec<_>>(), "docs/guides/survival.md");
}

/// The rows of a table.
fn rows(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| line.starts_with("| "))
}

#[tokio::test]
async fn a_create_a_fork_or_a_snapshot_whose_answer_was_lost_with_the_daemon_happens_once() {
    passed("creates_that_nobody_heard_of").await;
}

#[tokio::test]
async fn quotas_rates_and_lifetimes_go_on_under_the_next_daemon() {
    passed("quotas_and_lifetimes_under_the_next_daemon").await;
}

#[test]
fn a_daemon_for_users_cannot_be_told_to_die() {
    let text = std::fs::read(program("sandflared")).unwrap();
    let variable = b"SANDFLARE_ABORT_AT";
    assert!(!text.windows(variable.len()).any(|found| found == variable));
}
