//! A working set of any content is refused or encodes to the same bytes.
#![no_main]

use base_snapshot::WorkingSet;
use libfuzzer_sys::fuzz_target;

const TOTAL: u64 = 1000;

fuzz_target!(|data: &[u8]| {
    let Some((mode, file)) = data.split_first() else { return };
    let mut file = file.to_vec();
    if mode & 1 != 0 && file.len() >= 56 {
        let count = (file.len() - 56) / 12;
        file.truncate(56 + count * 12);
        file[..12].copy_from_slice(b"sfwset\0\0\x01\0\0\0");
        file[12..16].copy_from_slice(&(count as u32).to_le_bytes());
        file[16..24].copy_from_slice(&TOTAL.to_le_bytes());
        let mut hasher = blake3::Hasher::new();
        hasher.update(&file[..24]).update(&file[56..]);
        file[24..56].copy_from_slice(hasher.finalize().as_bytes());
    }
    let Ok(set) = WorkingSet::from_bytes(&file, TOTAL) else { return };
    assert!(set.pages() <= TOTAL);
    assert_eq!(set.encode(), file);
});
