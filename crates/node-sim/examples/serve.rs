//! Serves a node without machines until it is asked to stop, for checks that come from outside.
//! Prints its URL, and an administrator's key.

use node_sim::SimNode;

#[tokio::main]
async fn main() {
    let node = SimNode::new();
    let (served, key) = node.serve_with_keys().await;
    println!("{} {}", served.url, key.text());
    node.stop_asked().await;
}
