//! A vsock header is read and written back the same; a short one is none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vmm_virtio::vsock::{HEADER_BYTES, Operation, PacketHeader};

fuzz_target!(|data: &[u8]| {
    match PacketHeader::parse(data) {
        Some(header) => {
            assert_eq!(header.to_bytes()[..], data[..HEADER_BYTES]);
            if let Some(operation) = Operation::from_code(header.operation) {
                assert_eq!(operation.code(), header.operation);
            }
        }
        None => assert!(data.len() < HEADER_BYTES),
    }
});
