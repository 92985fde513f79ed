//! Sandboxes that use all they can get, and chains that get ever longer: nobody else notices.

use crate::inside::passed;

#[tokio::test]
async fn a_machine_has_limits_of_processors_memory_tasks_and_disk_requests_by_its_size() {
    passed("limits_of_a_machine").await;
}

#[tokio::test]
async fn a_fork_bomb_a_memory_hog_and_a_busy_loop_stay_in_their_machines() {
    passed("hogs_beside_a_quiet_sandbox").await;
}

#[tokio::test]
async fn a_disk_filler_leaves_what_is_kept_back_to_the_node_and_the_others() {
    passed("a_disk_filler_beside_a_quiet_sandbox").await;
}

#[tokio::test]
async fn forty_forks_and_snapshots_in_a_chain_keep_its_disk_shallow_and_leave_nothing() {
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
