//! The network of a guest, seen from inside: the same in every machine, there when it begins.

use api_node::{CreateOptions, CreateSandbox, CreateSnapshot, Fork, SandboxState};

use crate::host::{Host, shared};
use crate::sandbox::Sandbox;

/// What a guest says of its interface, one fact on each line.
const LOOK: &str = r"
cd /sys/class/net
echo *
cat eth0/address eth0/mtu eth0/operstate
# Destination, gateway and mask of each route.
awk 'NR > 1 { print $1, $2, $3, $8 }' /proc/net/route
# Every address of version 6 there is.
cat /proc/net/if_inet6
cat /etc/resolv.conf
grep localhost /etc/hosts | head -n 1 | tr '\t' ' '
";

const SEEN: &str = "\
eth0 lo
02:53:46:00:00:02
9000
up
eth0 00000000 01006B0A 00000000
eth0 00006B0A 00000000 FCFFFFFF
nameserver 10.107.0.1
127.0.0.1 localhost";

/// More frames than its queue has places, as long as they may be, with a type that means nothing. It
/// ends only when the card takes them.
const FLOOD: &str = r#"
import socket
card = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
card.bind(("eth0", 0))
for _ in range(600):
    card.send(bytes([0xff] * 6 + [2, 0x53, 0x46, 0, 0, 2, 0x88, 0xb5]) + bytes(9000))
"#;

/// Its interface is what it should be, and takes what is sent.
async fn assert_has_network(sandbox: &Sandbox<'_>) {
    assert_eq!(sandbox.text(LOOK).await, SEEN);
    let sent = "cat /sys/class/net/eth0/statistics/tx_packets";
    let before: u64 = sandbox.text(sent).await.parse().unwrap();
    sandbox.root(&format!("timeout 30 python3 -c '{FLOOD}'")).await;
    let after: u64 = sandbox.text(sent).await.parse().unwrap();
    assert!(after >= before + 600, "{before} frames before, {after} after");
    let lost = "cd /sys/class/net/eth0/statistics; cat tx_dropped tx_errors rx_errors | sort -u";
    assert_eq!(sandbox.text(lost).await, "0");
}

fn made<'h>(host: &'h Host, sandbox: api_node::Sandbox) -> Sandbox<'h> {
    Sandbox::new(host, sandbox)
}

#[tokio::test]
async fn every_machine_has_the_same_interface_whatever_it_came_from() {
    let host = shared().await;
    let sandbox = host.sandbox("agent").await;
    let client = host.client();
    assert_has_network(&sandbox).await;
    let fork = client.sandbox_fork(sandbox.id(), &Fork::of(1)).await;
    for child in fork.unwrap().sandboxes {
        assert_has_network(&made(&host, child)).await;
    }
    // The one it is of goes on as well.
    assert_has_network(&sandbox).await;
    let paused = client.sandbox_pause(sandbox.id()).await.unwrap();
    assert_eq!(paused.state, SandboxState::Paused);
    assert_has_network(&sandbox).await;
    let snapshot = client.snapshot_create(sandbox.id(), &CreateSnapshot::default()).await.unwrap();
    let create = CreateSandbox { snapshot: Some(snapshot.id), ..CreateSandbox::default() };
    assert_has_network(&made(&host, client.sandbox_create(&create).await.unwrap())).await;
    client.snapshot_delete(snapshot.id).await.unwrap();
}

#[tokio::test]
async fn a_booted_machine_has_it_too_and_version_6_is_off_for_all_interfaces() {
    let host = shared().await;
    let create = CreateSandbox {
        template: "agent".parse().unwrap(),
        options: CreateOptions { cold: true, ..CreateOptions::default() },
        ..CreateSandbox::default()
    };
    let sandbox = host.sandbox_of(&create).await;
    assert_has_network(&sandbox).await;
    let switches = "cd /proc/sys/net/ipv6/conf && cat */disable_ipv6 | sort -u";
    assert_eq!(sandbox.text(switches).await, "1");
}
