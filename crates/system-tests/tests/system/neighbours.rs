//! Sandboxes that use all they can get: nobody else notices.

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
