//! What a sandbox reaches through its gateway, and what it does not: real guests against a server of
//! the test's own.
//!
//! The server listens on loopback of the machine around the portable host, which QEMU shows inside as
//! [`OUTSIDE`]. The shared host is started with an allowance for that one address.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use api_node::{CreateSandbox, Flow, FlowQuery, Fork, Policy, Verdict};
use tokio::time::{sleep, timeout};

use crate::host::{OUTSIDE, PATIENCE, shared};
use crate::sandbox::Sandbox;

/// Bytes sent there and back: some seconds' worth.
const BULK: usize = 16 << 20;

/// A server that sends back what it is sent, and its port.
fn mirror() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut piece = vec![0; 1 << 16];
                // Until whoever connected has said all, or is gone.
                while let Ok(count @ 1..) = stream.read(&mut piece) {
                    if stream.write_all(&piece[..count]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    port
}

/// Sends a word to `address` and prints what comes back, or the error.
fn greet(address: Ipv4Addr, port: u16) -> String {
    format!(
        r#"python3 -c '
import socket
try:
    with socket.create_connection(("{address}", {port}), 20) as s:
        s.sendall(b"hello")
        print(s.recv(100).decode())
except OSError as error:
    print(type(error).__name__)
'"#
    )
}

fn policy(text: &str) -> Policy {
    serde_json::from_str(text).unwrap()
}

async fn create(host: &crate::host::Host, network: &str) -> CreateSandbox {
    host.snapshot("agent", base_types::Size::Nano).await;
    CreateSandbox {
        template: "agent".parse().unwrap(),
        network: Some(policy(network)),
        ..CreateSandbox::default()
    }
}

#[tokio::test]
async fn a_policy_is_what_a_sandbox_reaches_and_what_it_did_is_told() {
    let host = shared().await;
    let (port, other) = (mirror(), mirror());
    let allowed = format!(r#"{{"base": "none", "allow": ["{OUTSIDE}:{port}"]}}"#);
    let sandbox = host.sandbox_of(&create(&host, &allowed).await).await;
    assert_eq!(sandbox.text(&greet(OUTSIDE, port)).await, "hello");
    // Another port of the same server, and another address.
    assert_eq!(sandbox.text(&greet(OUTSIDE, other)).await, "ConnectionRefusedError");
    let elsewhere = Ipv4Addr::new(198, 51, 100, 7);
    assert_eq!(sandbox.text(&greet(elsewhere, 443)).await, "ConnectionRefusedError");
    // What it may reach changes while it runs.
    let open = policy(r#"{"base": "default"}"#);
    sandbox.client.policy_set(sandbox.id(), &open).await.unwrap();
    assert_eq!(sandbox.text(&greet(OUTSIDE, other)).await, "hello");
    let shut = policy(r#"{"base": "none"}"#);
    sandbox.client.policy_set(sandbox.id(), &shut).await.unwrap();
    assert_eq!(sandbox.text(&greet(OUTSIDE, port)).await, "ConnectionRefusedError");
    // Each is told, when it is over: what was denied within a second together.
    let told = |verdict, port| (verdict, Some(OUTSIDE), Some(port));
    let mut missing = vec![
        told(Verdict::Allowed, port),
        told(Verdict::Denied, other),
        told(Verdict::Allowed, other),
        told(Verdict::Denied, port),
    ];
    let listening = async {
        loop {
            let list = sandbox.client.flow_list(sandbox.id(), &FlowQuery::default()).await;
            let flows = list.unwrap().flows;
            missing.retain(|wanted| {
                let is = |flow: &Flow| (flow.verdict, flow.address, flow.port) == *wanted;
                !flows.iter().any(|entry| is(&entry.flow))
            });
            if missing.is_empty() {
                return flows.iter().map(|entry| entry.flow.bytes_up).sum::<u64>();
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    assert_eq!(timeout(PATIENCE, listening).await.unwrap(), 2 * "hello".len() as u64);
}

#[tokio::test]
async fn no_policy_lets_a_sandbox_to_the_node_its_host_or_another_sandbox() {
    let host = shared().await;
    let everything =
        r#"{"base": "default", "allow": ["*", "0.0.0.0/0", "127.0.0.0/8", "10.0.0.0/8"]}"#;
    let sandbox = host.sandbox_of(&create(&host, everything).await).await;
    let _other = host.sandbox("agent").await;
    for (address, port) in [
        // The node's own API, by the portable host's address.
        ([10, 0, 2, 15], 7878),
        // QEMU's resolver, the metadata service of clouds, private ranges.
        ([10, 0, 2, 3], 53),
        ([169, 254, 169, 254], 80),
        ([192, 168, 0, 1], 80),
        ([172, 16, 0, 1], 80),
        // Where databases would be, of which it has none, and where other guests are not.
        ([10, 107, 1, 1], 5432),
        ([10, 107, 0, 6], 22),
    ] {
        let said = sandbox.text(&greet(address.into(), port)).await;
        assert_eq!(said, "ConnectionRefusedError", "{address:?}:{port}");
    }
    let spoofed = r#"
import socket, time
card = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
card.bind(("eth0", 0))
card.send(bytes.fromhex("025346000001 025346000099 0800") + bytes(60))
card.send(bytes.fromhex("025346000001 025346000002 86dd") + bytes(60))
card.send(bytes.fromhex("025346000001 025346000002 0800 4500"))
"#;
    sandbox.root(&format!("python3 -c '{spoofed}'")).await;
    // It is served on.
    assert_eq!(sandbox.text(&greet(OUTSIDE, mirror())).await, "hello");
}

#[tokio::test]
async fn bytes_go_both_ways_whole_and_a_fork_shares_no_connection() {
    let host = shared().await;
    let port = mirror();
    let sandbox = host.sandbox_of(&create(&host, r#"{"base": "default"}"#).await).await;
    let bulk = format!(
        r#"python3 -c '
import hashlib, os, socket, threading
data = os.urandom(1 << 20)
there, back = hashlib.sha256(), hashlib.sha256()
with socket.create_connection(("{OUTSIDE}", {port}), 60) as s:
    def send():
        for _ in range({BULK} >> 20):
            there.update(data)
            s.sendall(data)
        s.shutdown(socket.SHUT_WR)
    sender = threading.Thread(target=send)
    sender.start()
    count = 0
    while piece := s.recv(1 << 16):
        back.update(piece)
        count += len(piece)
    sender.join()
assert there.digest() == back.digest(), "other bytes"
print(count)
'"#
    );
    let begun = Instant::now();
    assert_eq!(sandbox.text(&bulk).await, BULK.to_string());
    let seconds = begun.elapsed().as_secs_f64();
    println!("{:.1} MiB/s there and as much back", (BULK >> 20) as f64 / seconds);

    // A connection that is open while its sandbox is forked stays the original's.
    let line = format!(
        r#"
cat > /home/agent/line.py <<'EOF'
import os, socket, time
s = socket.create_connection(("{OUTSIDE}", {port}), 60)
print("open", flush=True)
while not os.path.exists("/home/agent/say"):
    time.sleep(0.4)
try:
    s.sendall(b"still here")
    print(s.recv(100).decode(), flush=True)
except OSError as error:
    print(type(error).__name__, flush=True)
EOF
nohup python3 /home/agent/line.py >/home/agent/said 2>&1 &
until grep -q open /home/agent/said 2>/dev/null; do sleep 0.4; done
"#
    );
    sandbox.text(&line).await;
    let forked = sandbox.client.sandbox_fork(sandbox.id(), &Fork::of(1)).await;
    let child = forked.unwrap().sandboxes.pop().unwrap();
    let child = Sandbox::new(&host, child);
    let say = "touch /home/agent/say; for i in $(seq 400); do \
               [ $(wc -l </home/agent/said) -ge 2 ] && break; sleep 0.4; done; \
               tail -n 1 /home/agent/said";
    assert_eq!(child.text(say).await, "ConnectionResetError");
    assert_eq!(sandbox.text(say).await, "still here");
    // The child makes its own.
    assert_eq!(child.text(&greet(OUTSIDE, port)).await, "hello");
}
