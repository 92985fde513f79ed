use proptest::prelude::*;

use super::*;

fn question(labels: &[&[u8]], kind: u16) -> Vec<u8> {
    let mut message = header(0x1234, RECURSION_DESIRED, 1, 0);
    for label in labels {
        message.push(label.len() as u8);
        message.extend_from_slice(label);
    }
    message.push(0);
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&CLASS_IN.to_be_bytes());
    message
}

fn query() -> Query {
    Query::parse(&question(&[b"Www", b"example", b"org"], kind::A)).unwrap()
}

#[test]
fn a_question_is_read_as_it_was_asked() {
    let query = query();
    assert_eq!((query.id, query.name.as_str(), query.kind), (0x1234, "www.example.org", kind::A));
    assert!(query.recursion);
    let forwarded = query.forward(7);
    assert_eq!(Query::parse(&forwarded).unwrap(), Query { id: 7, ..query });
}

#[test]
fn what_is_no_question_is_answered_by_what_is_wrong() {
    let parse = |message: &[u8]| Query::parse(message).unwrap_err();
    let wrong = |at: usize, byte: u8| {
        let mut message = question(&[b"example", b"org"], kind::A);
        message[at] = byte;
        parse(&message).map(|(_, rcode)| rcode)
    };
    assert_eq!(parse(b"\x12"), None);
    assert_eq!(wrong(2, 0x80), None, "an answer");
    assert_eq!(wrong(2, 0x28), Some(Rcode::NotImp), "an update");
    assert_eq!(wrong(5, 2), Some(Rcode::FormErr), "two questions");
    assert_eq!(wrong(7, 1), Some(Rcode::FormErr), "an answer in it");
    assert_eq!(wrong(12, 0xc0), Some(Rcode::FormErr), "a pointer");
    assert_eq!(wrong(12, 40), Some(Rcode::FormErr), "a label beyond the end");
    assert_eq!(wrong(12 + 16, 3), Some(Rcode::Refused), "another class");
    assert_eq!(wrong(13, b' '), Some(Rcode::NxDomain), "what no host is called");
    assert_eq!(parse(&question(&[&[b'a'; 63][..]; 4], 1)).unwrap().1, Rcode::FormErr, "too long");
    let long = vec![0; QUERY_BYTES_MAX + 1];
    assert_eq!(parse(&long).unwrap().1, Rcode::FormErr);
}

#[test]
fn addresses_are_those_of_the_name_and_of_what_it_stands_for() {
    let query = query();
    let mut answer = header(0x1234, RESPONSE, 1, 4);
    answer.extend_from_slice(&query.question);
    let mut record = |owner: &[u8], kind: u16, data: &[u8]| {
        answer.extend_from_slice(owner);
        answer.extend_from_slice(&kind.to_be_bytes());
        answer.extend_from_slice(&[0, 1, 0, 0, 0, 9]);
        answer.extend_from_slice(&(data.len() as u16).to_be_bytes());
        answer.extend_from_slice(data);
    };
    // Its alias is the rest of its own name.
    record(&[0xc0, 12], kind::CNAME, &[0xc0, 16]);
    record(&[0xc0, 16], kind::A, &[192, 0, 2, 1]);
    record(b"\x05other\x00", kind::A, &[192, 0, 2, 2]);
    record(&[0xc0, 16], kind::A, &[192, 0, 2]);
    let addresses = addresses_of(&query.name, &answer).unwrap();
    assert_eq!(addresses, [(Ipv4Addr::new(192, 0, 2, 1), 9)]);
    assert_eq!(query.hand_on(&answer).unwrap()[6..8], [0, 4]);
    let cut = &answer[..answer.len() - 1];
    assert_eq!((addresses_of(&query.name, cut), query.hand_on(cut)), (None, None));
    let text = Query { kind: kind::TXT, ..query };
    assert_eq!(text.hand_on(&answer), None, "not what was asked for");
}

#[test]
fn an_answer_is_told_from_a_guess() {
    let query = query();
    let mut answer = query.answer(Rcode::NoError);
    assert!(query.is_answered_by(0x1234, &answer));
    assert!(!query.is_answered_by(0x1235, &answer));
    answer[13] = b'x';
    assert!(!query.is_answered_by(0x1234, &answer));
    assert!(!query.is_answered_by(0x1234, &query.forward(0x1234)));
}

#[test]
fn what_is_too_long_for_a_datagram_is_cut_to_its_question() {
    let query = query();
    let addresses = vec![(Ipv4Addr::new(192, 0, 2, 1), 60); 99];
    let answer = query.addresses(&addresses);
    assert_eq!(for_udp(answer.clone()), answer, "so many always fit");
    let long = [&answer[..], &[0; 400]].concat();
    let cut = for_udp(long);
    assert!(is_truncated(&cut) && cut.len() <= UDP_BYTES_MAX);
    assert!(cut.ends_with(&query.question));
}

proptest! {
    #[test]
    fn no_message_is_too_strange(message in proptest::collection::vec(any::<u8>(), 0..300), seal: bool) {
        let mut message = message;
        if seal && message.len() > 12 {
            // A header that lets the rest be looked at.
            message[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0]);
        }
        let query = query();
        let _ = query.hand_on(&message);
        if let Some(addresses) = addresses_of(&query.name, &message) {
            prop_assert!(addresses.len() <= ADDRESSES_MAX);
        }
        if let Ok(query) = Query::parse(&message) {
            let again = Query::parse(&query.forward(query.id)).unwrap();
            prop_assert_eq!(again.name, query.name);
        }
        prop_assert!(for_udp(message).len() <= UDP_BYTES_MAX);
    }
}
