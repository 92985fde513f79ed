use crate::{
    Rng,
    driver::{Guest, Part},
    rng::REQUEST_BYTES_MAX,
};

#[test]
fn a_request_is_filled_to_the_last_byte_and_not_beyond() {
    let mut guest = Guest::new(|_| Rng::new());
    for len in [1, 7, 255, 256, 257, 4096, 65535, 65536] {
        let at = guest.buffer_with(&vec![0; len as usize + 64]);
        assert_eq!(guest.submit(0, &[Part::In(at, len)]), len);
        let bytes = guest.bytes(at, len as usize + 64);
        let (filled, beyond) = bytes.split_at(len as usize);
        assert!(beyond.iter().all(|&byte| byte == 0));
        if len > 64 {
            // 32 zeroes in a row come once in 2^256.
            assert!(filled.chunks_exact(32).all(|chunk| chunk.iter().any(|&byte| byte != 0)));
        }
    }
    assert_eq!(guest.transport.with(|rng, _| rng.stats().requests), 8);
}

#[test]
fn a_request_over_the_limit_is_filled_up_to_it() {
    let mut guest = Guest::new(|_| Rng::new());
    let at = guest.buffer(200_000);
    let filled = guest.submit(0, &[Part::In(at, 100_000), Part::In(at + 100_000, 100_000)]);
    assert_eq!(filled as usize, REQUEST_BYTES_MAX);
}

#[test]
fn clones_draw_different_bytes() {
    let mut guest = Guest::new(|_| Rng::new());
    let at = guest.buffer(32);
    guest.submit(0, &[Part::In(at, 32)]);
    let first = guest.bytes(at, 32);
    guest.clone_machine(|_| ());
    guest.submit(0, &[Part::In(at, 32)]);
    assert_ne!(guest.bytes(at, 32), first);
}

#[test]
fn a_request_without_a_buffer_to_fill_breaks_the_device() {
    let mut guest = Guest::new(|_| Rng::new());
    let at = guest.buffer(32);
    guest.offer(0, &[Part::Out(at, 32)]);
    guest.notify(0);
    guest.pump();
    assert!(guest.transport.take_broken().unwrap().contains("no buffer to fill"));
}
