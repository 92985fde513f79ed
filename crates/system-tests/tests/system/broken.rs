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
