//! A frame of a guest is dropped, or is whole and the guest's own; segments near those that would be
//! right, and far from them, do not harm the connection's stack; messages of DNS are refused, or ask
//! the same when they are asked again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use node_gateway::{Packet, Query, Victim, addresses_of, read};

const GUEST: [u8; 4] = [10, 107, 0, 2];

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 3 {
        0 => match read(data) {
            Ok(Packet::Tcp(segment)) => {
                assert_eq!(segment.ip[12..16], GUEST);
                assert_eq!(segment.ip[16..20], segment.tuple.address.octets());
                assert!(segment.ip.len() <= data.len() - 14);
            }
            Ok(Packet::Udp(tuple, payload)) => {
                assert!(tuple.port != 0 && payload.len() <= data.len() - 42);
            }
            Ok(Packet::Arp | Packet::Echo(..)) | Err(_) => {}
        },
        1 => Victim::new().suffer(data),
        _ => {
            if let Ok(query) = Query::parse(data) {
                let _ = addresses_of(&query.name, data);
                assert!(query.question.len() <= data.len());
            }
        }
    }
});
