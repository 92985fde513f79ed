use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use api_node::{FlowProtocol, Verdict};
use rustix::net::sockopt::set_socket_linger;
use smoltcp::socket::tcp::State;

use crate::world::{SITE, World, closed_port, echo_server, policy, serve, settings};

const MIB: usize = 1024 * 1024;

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index * 31 + index / 251) as u8).collect()
}

#[test]
fn much_goes_both_ways_as_it_was_sent() {
    let mut world = World::new();
    let mut sandbox = world.sandbox(policy("default", &[], &[]));
    let port = echo_server(SITE);
    let guest = &mut sandbox.guest;
    let handle = guest.connect(SITE, port).unwrap();
    let sent = pattern(50 * MIB);
    let (mut written, mut heard) = (0, Vec::with_capacity(sent.len()));
    guest.until("all of it to come back", |guest| {
        let socket = guest.tcp(handle);
        if written < sent.len() && socket.can_send() {
            written += socket.send_slice(&sent[written..]).unwrap();
        }
        while socket.can_recv() {
            socket.recv(|data| (data.len(), heard.extend_from_slice(data))).unwrap();
        }
        (heard.len() == sent.len()).then_some(())
    });
    assert!(heard == sent, "something else came back");
    guest.tcp(handle).close();
    guest.until("the end", |guest| (!guest.tcp(handle).may_recv()).then_some(()));
    let flow = world.told.find("flow", |flow| flow.protocol == FlowProtocol::Tcp);
    assert_eq!((flow.bytes_up, flow.bytes_down), (50 * MIB as u64, 50 * MIB as u64));
    assert_eq!((flow.address, flow.port, flow.verdict), (Some(SITE), Some(port), Verdict::Allowed));
    assert_eq!(flow.reason, "base default");
}

#[test]
fn a_half_that_is_closed_leaves_the_other_open() {
    let mut world = World::new();
    let mut sandbox = world.sandbox(policy("default", &[], &[]));
    // It speaks when it has heard the end.
    let port = serve(SITE, |mut stream| {
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        stream.write_all(&[b"heard ", &heard[..]].concat()).unwrap();
    });
    let guest = &mut sandbox.guest;
    let handle = guest.connect(SITE, port).unwrap();
    guest.write(handle, b"all of it");
    guest.tcp(handle).close();
    assert_eq!(guest.read(handle, 100), b"heard all of it");
    // And the other way round: it ends its half first, and hears on.
    let (tx, rx) = mpsc::sync_channel(1);
    let port = serve(SITE, move |mut stream| {
        stream.write_all(b"that was all").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        tx.send(heard).unwrap();
    });
    let handle = guest.connect(SITE, port).unwrap();
    assert_eq!(guest.read(handle, 100), b"that was all");
    assert_eq!(guest.tcp(handle).state(), State::CloseWait);
    guest.write(handle, &pattern(MIB));
    guest.tcp(handle).close();
    guest.until("the end", |guest| (guest.tcp(handle).state() == State::Closed).then_some(()));
    assert!(rx.recv().unwrap() == pattern(MIB));
}

#[test]
fn what_nobody_listens_at_is_refused_at_once() {
    let mut world = World::new();
    let mut sandbox = world.sandbox(policy("default", &[], &[]));
    assert_eq!(sandbox.guest.connect(SITE, closed_port(SITE)), None);
}

#[test]
fn a_reset_is_passed_on_both_ways() {
    let mut world = World::new();
    let mut sandbox = world.sandbox(policy("default", &[], &[]));
    let port = serve(SITE, |mut stream| {
        let _ = stream.read(&mut [0; 16]);
        set_socket_linger(&stream, Some(std::time::Duration::ZERO)).unwrap();
    });
    let guest = &mut sandbox.guest;
    let handle = guest.connect(SITE, port).unwrap();
    guest.write(handle, b"reset me");
    guest.until("a reset", |guest| (guest.tcp(handle).state() == State::Closed).then_some(()));

    let (tx, rx) = mpsc::sync_channel(1);
    let port = serve(SITE, move |mut stream| {
        tx.send(stream.read_to_end(&mut Vec::new()).map_err(|error| error.kind())).unwrap();
    });
    let handle = guest.connect(SITE, port).unwrap();
    guest.write(handle, b"not all of it");
    guest.tcp(handle).abort();
    guest.run_for(std::time::Duration::from_millis(50));
    assert_eq!(rx.recv().unwrap(), Err(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn a_reader_that_stops_stops_the_writer() {
    let mut world = World::new();
    let mut sandbox = world.sandbox(policy("default", &[], &[]));
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let port = serve(SITE, move |mut stream| {
        let chunk = pattern(64 * 1024);
        for _ in 0..1024 {
            stream.write_all(&chunk).unwrap();
            count.fetch_add(chunk.len(), Ordering::Relaxed);
        }
    });
    let guest = &mut sandbox.guest;
    let handle = guest.connect(SITE, port).unwrap();
    // Nothing is read, so what is under way fills up and then stands still.
    let mut last = usize::MAX;
    while sent.load(Ordering::Relaxed) != last {
        last = sent.load(Ordering::Relaxed);
        guest.run_for(std::time::Duration::from_millis(300));
    }
    assert!(last < 32 * MIB, "{last} bytes went nowhere");
    assert_eq!(guest.read(handle, 64 * MIB).len(), 64 * MIB);
}

#[test]
fn many_connections_are_served_and_more_are_refused() {
    let mut limited = settings(None);
    limited.connections_max = 200;
    limited.flows_per_second = 1000;
    limited.connecting_max = 200;
    let mut world = World::with(limited);
    let mut sandbox = world.sandbox(policy("default", &[], &[]));
    let port = echo_server(SITE);
    let guest = &mut sandbox.guest;
    let handles: Vec<_> = (0..200).map(|_| guest.begin(SITE, port)).collect();
    guest.until("all connections", |guest| {
        handles.iter().all(|handle| guest.tcp(*handle).may_send()).then_some(())
    });
    assert_eq!(guest.connect(SITE, port), None);
    world.told.denied("limit: connections");
    for (index, handle) in handles.iter().enumerate() {
        guest.tcp(*handle).send_slice(format!("{index:03}").as_bytes()).unwrap();
    }
    for (index, handle) in handles.iter().enumerate() {
        assert_eq!(guest.read(*handle, 3), format!("{index:03}").as_bytes());
    }
    for handle in &handles {
        guest.tcp(*handle).close();
    }
    guest.until("all ends", |guest| {
        handles.iter().all(|handle| !guest.tcp(*handle).may_recv()).then_some(())
    });
    // What was closed makes room.
    assert!(guest.connect(SITE, port).is_some());
}

#[test]
fn a_connection_from_before_is_reset() {
    let mut world = World::new();
    let mut sandbox = world.sandbox(policy("default", &[], &[]));
    let port = echo_server(SITE);
    let handle = sandbox.guest.connect(SITE, port).unwrap();
    // The same machine behind another gateway, as a clone is.
    let clone = world.sandbox(policy("default", &[], &[]));
    let mut inherited = std::mem::replace(&mut sandbox.guest, clone.guest);
    drop(sandbox.network);
    inherited.card_of(&mut sandbox.guest);
    inherited.tcp(handle).send_slice(b"are you there").unwrap();
    inherited.until("a reset", |it| (it.tcp(handle).state() == State::Closed).then_some(()));
}

#[test]
fn a_network_that_is_dropped_ends_its_connections() {
    let mut world = World::new();
    let mut sandbox = world.sandbox(policy("default", &[], &[]));
    let (tx, rx) = mpsc::sync_channel(1);
    let port = serve(SITE, move |mut stream| {
        tx.send(stream.read_to_end(&mut Vec::new()).is_ok()).unwrap();
    });
    let handle = sandbox.guest.connect(SITE, port).unwrap();
    sandbox.guest.write(handle, b"12345");
    sandbox
        .guest
        .until("an acknowledgement", |guest| (guest.tcp(handle).send_queue() == 0).then_some(()));
    drop(sandbox.network);
    rx.recv().unwrap();
    assert_eq!(world.told.find("flow", |flow| flow.port == Some(port)).address, Some(SITE));
}
