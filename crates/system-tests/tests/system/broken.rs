//! Damaged files, full disks, guests that break: one sentence each, and nothing left.

use crate::inside::passed;

#[tokio::test]
async fn a_damaged_snapshot_is_made_again_and_never_cloned() {
    passed("a_damaged_snapshot").await;
}

#[tokio::test]
async fn a_damaged_kernel_initrd_or_root_disk_is_named_with_what_to_do() {
    passed("a_damaged_image").await;
}

#[tokio::test]
async fn a_kernel_that_panics_at_boot_fails_its_template_with_the_panic() {
    passed("a_kernel_that_panics").await;
}

#[tokio::test]
async fn an_agent_that_never_answers_fails_its_template_within_the_limit() {
    passed("an_agent_that_never_answers").await;
}

#[tokio::test]
async fn an_agent_that_is_late_fails_its_create_and_leaves_nothing() {
    passed("a_late_agent").await;
}

#[tokio::test]
async fn a_full_disk_refuses_what_is_new_and_harms_nothing_else() {
    passed("a_full_disk").await;
}

#[tokio::test]
async fn a_guest_out_of_memory_loses_its_biggest_process_and_works_on() {
    passed("a_guest_out_of_memory").await;
}

#[tokio::test]
async fn a_guest_that_panics_or_shuts_down_fails_with_the_reason() {
    passed("a_guest_that_panics_or_shuts_down").await;
}

#[tokio::test]
async fn a_disk_that_fills_up_during_a_pause_a_fork_or_a_snapshot_refuses_that_and_loses_nothing() {
    passed("a_full_disk_while_one_is_written_down").await;
}

#[tokio::test]
async fn a_vmm_that_dies_in_a_pause_a_resume_a_fork_or_a_snapshot_fails_no_other_sandbox() {
    passed("a_vmm_killed_while_its_sandbox_is_written_down_or_made_again").await;
}

#[tokio::test]
async fn an_agent_that_hangs_fails_a_resume_and_each_child_with_the_reason() {
    passed("an_agent_that_hangs_in_one_that_is_paused_or_forked").await;
}

#[tokio::test]
async fn a_slow_disk_slows_the_pause_of_one_sandbox_alone_and_too_little_memory_is_said() {
    passed("a_slow_disk_and_little_memory_while_one_is_written_down").await;
}

#[tokio::test]
async fn secrets_are_in_no_log_no_figure_and_no_answer_and_an_edited_audit_line_is_named() {
    passed("secrets_of_callers").await;
}
