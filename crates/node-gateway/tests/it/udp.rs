use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::Duration;

use api_guest::network::GATEWAY_ADDRESS;
use api_node::FlowProtocol;

use crate::world::{SITE, World, policy, settings};

const SOON: Duration = Duration::from_secs(10);
const NEVER: Duration = Duration::from_millis(200);

/// A server that says what it hears. Its port.
fn echo_server(address: Ipv4Addr) -> u16 {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok((count, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..count], from);
        }
    });
    port
}

#[test]
fn datagrams_come_back_from_where_they_went() {
    let mut world = World::new();
    let mut sandbox = world.sandbox(policy("default", &[], &[]));
    let port = echo_server(SITE);
    let handle = sandbox.guest.udp();
    for size in [1, 100, 8000] {
        sandbox.guest.send_to(handle, SITE, port, &vec![7; size]);
        let (data, from) = sandbox.guest.receive(handle, SOON).unwrap();
        assert_eq!((data, from), (vec![7; size], (SITE, port).into()));
    }
    drop(sandbox);
    let flow = world.told.find("flow", |flow| flow.protocol == FlowProtocol::Udp);
    assert_eq!((flow.bytes_up, flow.bytes_down, flow.port), (8101, 8101, Some(port)));
}

#[test]
fn nobody_else_is_heard() {
    let mut world = World::new();
    let mut sandbox = world.sandbox(policy("default", &[], &[]));
    let server = UdpSocket::bind((SITE, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    let handle = sandbox.guest.udp();
    sandbox.guest.send_to(handle, SITE, port, b"hello");
    let (_, from) = server.recv_from(&mut [0; 16]).unwrap();
    UdpSocket::bind((SITE, 0)).unwrap().send_to(b"forged", from).unwrap();
    assert_eq!(sandbox.guest.receive(handle, NEVER), None);
    server.send_to(b"true", from).unwrap();
    assert_eq!(sandbox.guest.receive(handle, SOON).unwrap().0, b"true");
}

#[test]
fn what_was_silent_for_longest_makes_room() {
    let mut few = settings(None);
    few.exchanges_max = 4;
    let mut world = World::with(few);
    let mut sandbox = world.sandbox(policy("default", &[], &[]));
    let handle = sandbox.guest.udp();
    for _ in 0..6 {
        let port = echo_server(SITE);
        sandbox.guest.send_to(handle, SITE, port, b"hello");
        assert_eq!(sandbox.guest.receive(handle, SOON).unwrap().0, b"hello");
    }
    let told = world.told.all();
    assert_eq!(told.iter().filter(|flow| flow.protocol == FlowProtocol::Udp).count(), 2);
}

#[test]
fn the_gateway_answers_an_echo_request() {
    let mut world = World::new();
    let mut sandbox = world.sandbox(policy("none", &[], &[]));
    let frame = crate::hostile::echo_request(GATEWAY_ADDRESS, b"are you there");
    sandbox.guest.watch();
    sandbox.guest.inject(&frame);
    sandbox.guest.until("an echo", |guest| {
        let echo = guest.seen().iter().find(|frame| frame.len() == 14 + 20 + 8 + 13);
        echo.filter(|frame| frame.ends_with(b"are you there") && frame[34] == 0).map(|_| ())
    });
}
