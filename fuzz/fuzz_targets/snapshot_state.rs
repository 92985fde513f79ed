//! A state file of any content is refused or readable to its last section.
#![no_main]

use base_snapshot::{State, Tag};
use libfuzzer_sys::fuzz_target;

const TABLE: usize = 120;
const ENTRY: usize = 48;
const MACHINE: &str = "m";

fuzz_target!(|data: &[u8]| {
    let Some((mode, file)) = data.split_first() else { return };
    let mut file = file.to_vec();
    if mode & 1 != 0 {
        seal(&mut file);
    }
    let Ok(state) = State::from_bytes(file, MACHINE) else { return };
    for section in state.sections() {
        assert_eq!(state.find(section.tag), Some(section));
    }
    state.section(Tag(*b"vcpu"), 1).ok();
});

/// Puts right what random bytes never have right, to reach what is behind it: magic, version, machine
/// and all checksums. The counts and lengths stay what the fuzzer made them.
fn seal(file: &mut [u8]) {
    if file.len() < TABLE {
        return;
    }
    file[..12].copy_from_slice(b"sfstate\0\x01\0\0\0");
    let total = file.len() as u64;
    file[16..24].copy_from_slice(&total.to_le_bytes());
    file[24..88].fill(0);
    file[24..25].copy_from_slice(MACHINE.as_bytes());
    let count = usize::from(u16::from_le_bytes([file[12], file[13]]));
    let Some(mut start) = Some(TABLE + count * ENTRY).filter(|&start| start <= file.len()) else {
        return;
    };
    for number in 0..count {
        let at = TABLE + number * ENTRY;
        let len = usize::from(u16::from_le_bytes([file[at + 8], file[at + 9]]));
        let Some(payload) = file.get(start..start + len) else { break };
        let hash = blake3::hash(payload);
        file[at + 16..at + 48].copy_from_slice(hash.as_bytes());
        start += len;
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&file[..88]).update(&file[TABLE..TABLE + count * ENTRY]);
    file[88..TABLE].copy_from_slice(hasher.finalize().as_bytes());
}
