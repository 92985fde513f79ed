//! What a client of a database says first, from anybody who reaches the listener.
#![no_main]

use libfuzzer_sys::fuzz_target;
use node_database::{Opening, STARTUP_BYTES_MAX, opening};

fuzz_target!(|bytes: &[u8]| {
    let Ok(Some((opened, length))) = opening(bytes) else { return };
    assert!(length <= bytes.len() && length <= STARTUP_BYTES_MAX);
    if let Opening::Startup(startup) = opened {
        // What the server gets is a first packet too, of the same user.
        assert!(startup.packet.len() <= length);
        let Ok(Some((Opening::Startup(again), whole))) = opening(&startup.packet) else {
            panic!("the server gets something else");
        };
        assert_eq!((whole, again.role), (startup.packet.len(), startup.role));
    }
});
