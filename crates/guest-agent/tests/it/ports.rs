//! Connections to programs on ports.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::{fs, thread};

use api_guest::{Answer, Connect, ConnectUnix, FailCode, Message, Request};

use crate::guest::{Guest, Talk, reaches};

fn connect(guest: &Guest, listener: &TcpListener) -> (Talk, TcpStream) {
    let port = listener.local_addr().unwrap().port();
    let mut talk = guest.ask(&Request::Connect(Connect { port }));
    assert_eq!(talk.next(), Answer::Done);
    (talk, listener.accept().unwrap().0)
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// Whether a process has the socket with this port at its own end.
fn is_held(port: u16) -> bool {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let own = format!(":{port:04X}");
    table.lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields[1].ends_with(&own) && fields[9] != "0"
    })
}

/// Bytes that tell where they are.
fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

#[test]
fn bytes_go_both_ways_until_both_sides_have_ended() {
    let guest = Guest::start();
    let (mut host, mut program) = connect(&guest, &listener());
    let (there, back) = (pattern(5_000_000), pattern(7_000_001));
    let (expected, answer) = (there.clone(), back.clone());
    let serving = thread::spawn(move || {
        let mut received = Vec::new();
        // Ends although the other direction does not.
        program.read_to_end(&mut received).unwrap();
        assert!(received == expected, "{} bytes", received.len());
        program.write_all(&answer).unwrap();
    });
    host.stream.write_all(&there).unwrap();
    host.stream.shutdown(Shutdown::Write).unwrap();
    let mut received = Vec::new();
    host.stream.read_to_end(&mut received).unwrap();
    assert!(received == back, "{} bytes", received.len());
    serving.join().unwrap();
}

#[test]
fn a_program_may_end_first_and_go_on_reading() {
    let guest = Guest::start();
    let (mut host, mut program) = connect(&guest, &listener());
    program.write_all(b"hello").unwrap();
    program.shutdown(Shutdown::Write).unwrap();
    let mut received = String::new();
    host.stream.read_to_string(&mut received).unwrap();
    assert_eq!(received, "hello");
    host.stream.write_all(b"thanks").unwrap();
    drop(host);
    let mut received = String::new();
    program.read_to_string(&mut received).unwrap();
    assert_eq!(received, "thanks");
}

#[test]
fn bytes_sent_together_with_the_request_are_the_programs() {
    let guest = Guest::start();
    let listener = listener();
    let port = listener.local_addr().unwrap().port();
    let mut bytes = Request::Connect(Connect { port }).encode().unwrap();
    // What would be a frame of absurd length, were it one.
    bytes.extend([255; 9]);
    let mut host = guest.connect();
    host.stream.write_all(&bytes).unwrap();
    assert_eq!(host.next(), Answer::Done);
    let mut received = [0; 9];
    listener.accept().unwrap().0.read_exact(&mut received).unwrap();
    assert_eq!(received, [255; 9]);
}

#[test]
fn a_port_nobody_listens_on_is_told_from_one_that_cannot_be() {
    let guest = Guest::start();
    let port = listener().local_addr().unwrap().port();
    let said = guest.fails(&Request::Connect(Connect { port }), FailCode::NothingListens);
    assert_eq!(said, format!("nothing listens on port {port}"));
    guest.fails(&Request::Connect(Connect { port: 0 }), FailCode::InvalidRequest);
}

#[test]
fn a_program_that_listens_on_the_newer_loopback_only_is_found_there() {
    let guest = Guest::start();
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let (mut host, mut program) = connect(&guest, &listener);
    host.stream.write_all(b"x").unwrap();
    let mut received = [0];
    program.read_exact(&mut received).unwrap();
}

#[test]
fn whoever_leaves_without_a_word_takes_the_connection_along() {
    let guest = Guest::start();
    let listener = listener();
    // The host leaves: at once, after it had ended its own direction, and with bytes on the way that
    // the program never takes.
    for (ended, unread) in [(false, false), (true, false), (false, true)] {
        let (mut host, program) = connect(&guest, &listener);
        if ended {
            host.stream.shutdown(Shutdown::Write).unwrap();
        }
        if unread {
            host.stream.set_nonblocking(true).unwrap();
            let full = |host: &mut Talk| match host.stream.write(&[0; 4096]) {
                Ok(_) => false,
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            };
            reaches("nothing more fits on the way", || full(&mut host));
        }
        drop(host);
        let port = program.peer_addr().unwrap().port();
        reaches("the agent closed its socket", || !is_held(port));
    }
    // The program leaves.
    let (mut host, program) = connect(&guest, &listener);
    drop(program);
    assert_eq!(host.stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn idle_connections_cost_little_and_leave_room_for_health() {
    let guest = Guest::start();
    let listener = listener();
    let before = guest.memory_peak_kib();
    let held: Vec<_> = (0..200).map(|_| connect(&guest, &listener)).collect();
    assert!(matches!(guest.one(&Request::Health), Answer::Healthy(_)));
    let each = guest.memory_peak_kib().saturating_sub(before) / held.len();
    assert!(each < 128, "{each} KiB for each connection");
}

#[test]
fn a_unix_socket_is_reached_as_a_port_is() {
    let guest = Guest::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let ask = |path: &str| guest.ask(&Request::ConnectUnix(ConnectUnix { path: path.to_owned() }));
    let mut host = ask(path.to_str().unwrap());
    assert_eq!(host.next(), Answer::Done);
    let (mut program, _) = listener.accept().unwrap();
    host.stream.write_all(b"there").unwrap();
    host.stream.shutdown(Shutdown::Write).unwrap();
    let mut received = String::new();
    program.read_to_string(&mut received).unwrap();
    program.write_all(b"and back").unwrap();
    drop(program);
    let mut answer = String::new();
    host.stream.read_to_string(&mut answer).unwrap();
    assert_eq!((received.as_str(), answer.as_str()), ("there", "and back"));
    drop(listener);
    // A socket nobody listens on any more, one that never was, and what is none.
    let gone = path.to_str().unwrap().to_owned();
    for (path, code) in [
        (gone.as_str(), FailCode::NothingListens),
        ("/nonexistent/socket", FailCode::NothingListens),
        ("relative", FailCode::InvalidRequest),
        (&format!("/{}", "x".repeat(107)), FailCode::InvalidRequest),
    ] {
        let Answer::Failed(failed) = ask(path).next() else { panic!("{path}") };
        assert_eq!(failed.code, code, "{path}: {}", failed.message);
    }
}
