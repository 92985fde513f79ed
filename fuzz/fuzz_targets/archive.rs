//! An archive of any content makes nothing outside of its directory.
#![no_main]

use std::fs::{self, File};

use base_archive::Rules;
use libfuzzer_sys::fuzz_target;

const BLOCK: usize = 512;

fuzz_target!(|data: &[u8]| {
    let Some((mode, stream)) = data.split_first() else { return };
    let mut stream = stream.to_vec();
    if mode & 1 != 0 {
        for header in stream.chunks_exact_mut(BLOCK).filter(|block| block[0] != 0) {
            header[148..156].copy_from_slice(b"        ");
            let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        stream.extend_from_slice(&[0; 2 * BLOCK]);
    }
    let world = tempfile::tempdir().unwrap();
    let inside = world.path().join("inside");
    fs::create_dir(&inside).unwrap();
    std::os::unix::fs::symlink("..", inside.join("a")).unwrap();
    // Sparse files may be as long as they say.
    let long = stream.chunks_exact(BLOCK).any(|block| block[156] == b'S');
    if long {
        return;
    }
    let rules = if mode & 2 != 0 { Rules::Plain } else { Rules::Everything { uid: 0, gid: 0 } };
    let _ = base_archive::unpack(stream.as_slice(), File::open(&inside).unwrap(), rules);
    assert_eq!(fs::read_dir(world.path()).unwrap().count(), 1);
});
