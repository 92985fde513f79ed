use std::io::Write;
use std::net::Shutdown;

use api_guest::{Answer, Input, Message, Request};

use crate::guest::{Guest, exec, is_gone, reaches};

#[test]
fn a_stream_that_is_not_the_protocol_is_closed() {
    let guest = Guest::start();
    let mut wrong: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0; 4],
        vec![255; 64],
        vec![1, 0, 0, 0, 99],
        vec![2, 0, 0, 0, 4, 200],
        Input::CloseStdin.encode().unwrap(),
        Answer::Done.encode().unwrap(),
    ];
    let mut trailing = Request::Health.encode().unwrap();
    trailing[0] += 1;
    trailing.push(0);
    wrong.push(trailing);
    for bytes in wrong {
        let mut talk = guest.connect();
        talk.stream.write_all(&bytes).unwrap();
        assert!(talk.is_over(), "{bytes:?}");
    }
    assert!(matches!(guest.one(&Request::Health), Answer::Healthy(_)));
}

#[test]
fn a_connection_without_a_request_holds_nobody_up() {
    let guest = Guest::start();
    let silent: Vec<_> = (0..40).map(|_| guest.connect()).collect();
    let mut half = guest.connect();
    half.stream.write_all(&[1, 0]).unwrap();
    assert!(matches!(guest.one(&Request::Health), Answer::Healthy(_)));
    half.stream.shutdown(Shutdown::Write).unwrap();
    assert!(half.is_over());
    drop(silent);
}

#[test]
fn health_is_answered_and_commands_are_refused_when_all_workers_are_busy() {
    let guest = Guest::start();
    let mut busy: Vec<_> = (0..255)
        .map(|_| {
            let mut talk = guest.ask(&Request::Exec(exec(&["sleep", "1000"])));
            talk.started();
            talk
        })
        .collect();
    assert!(matches!(guest.one(&Request::Health), Answer::Healthy(_)));
    guest.fails(&Request::Exec(exec(&["true"])), api_guest::FailCode::Busy);
    busy.pop();
    reaches("a worker is free", || {
        let mut talk = guest.ask(&Request::Exec(exec(&["true"])));
        matches!(talk.next(), Answer::Started(_))
    });
}

#[test]
fn a_frame_out_of_place_ends_the_command() {
    let guest = Guest::start();
    let mut talk = guest.ask(&Request::Exec(exec(&["sleep", "1000"])));
    let pid = talk.started().to_string();
    talk.send(&Input::End);
    assert!(talk.is_over());
    reaches("the command is gone", || is_gone(&pid));
}

#[test]
fn input_sent_together_with_the_request_is_not_lost() {
    let guest = Guest::start();
    let mut request = exec(&["cat"]);
    request.stdin = true;
    let mut bytes = Request::Exec(request).encode().unwrap();
    Input::Stdin(b"early".to_vec()).encode_into(&mut bytes).unwrap();
    Input::CloseStdin.encode_into(&mut bytes).unwrap();
    let mut talk = guest.connect();
    talk.stream.write_all(&bytes).unwrap();
    assert_eq!(talk.outcome().stdout, "early");
}
