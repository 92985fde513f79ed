//! Serves a node without machines until it is asked to stop, for checks that come from outside.
//! Prints its URL.

use node_sim::SimNode;

#[tokio::main]
async fn main() {
    let node = SimNode::new();
    let served = node.serve().await;
    println!("{}", served.url);
    node.stop_asked().await;
}
