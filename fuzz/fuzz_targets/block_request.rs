//! A block request that is accepted lies inside the disk.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vmm_virtio::block::{Request, parse_range, parse_request};

fuzz_target!(|input: ([u8; 16], u64, u64, u64, u32)| {
    let (bytes, out_len, in_len, sectors, flags) = input;
    // No file has more bytes than this.
    let sectors = sectors % (1 << 54);
    let size = sectors * 512;
    if let Ok(Request::Read { offset, len } | Request::Write { offset, len }) =
        parse_request(&bytes, out_len, in_len, sectors)
    {
        assert!(offset.checked_add(len).is_some_and(|end| end <= size));
    }
    if let Ok((offset, len)) = parse_range(&bytes, flags, sectors) {
        assert!(offset.checked_add(len).is_some_and(|end| end <= size));
    }
});
