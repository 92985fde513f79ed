//! Chains of forks and snapshots that get ever longer, and merges that keep them shallow.

use crate::inside::passed;

#[tokio::test]
async fn forks_and_snapshots_in_a_long_chain_keep_its_disk_shallow_and_leave_nothing() {
    passed("a_long_chain_of_forks_and_snapshots").await;
}

#[tokio::test]
async fn a_sandbox_adopted_in_the_middle_of_a_merge_goes_on_and_is_kept_again() {
    passed("a_sandbox_adopted_in_the_middle_of_a_merge").await;
}

#[tokio::test]
async fn a_merge_that_its_client_or_the_daemon_leaves_takes_nothing_and_blocks_nothing() {
    passed("a_client_that_leaves_and_a_stop_in_the_middle_of_a_merge").await;
}
