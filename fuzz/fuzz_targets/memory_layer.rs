//! A memory layer of any content is refused, or all its extents can be looked up and read.
#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use base_snapshot::{CHUNK_BYTES, Layer, Page, Source, Stack};
use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, memfd_create};
use xxhash_rust::xxh3::xxh3_64;

const PAGE: usize = 4096;
const TOTAL: u64 = 64;
/// Header fields the fuzzer sets: kind, counts.
const FIELDS: usize = 8;

fuzz_target!(|data: &[u8]| {
    let Some((mode, rest)) = data.split_first() else { return };
    let file = match (mode % 3, rest.split_first_chunk::<FIELDS>()) {
        (1, Some((fields, index))) => sealed(fields, index),
        (2, _) => consistent(rest),
        _ => rest.to_vec(),
    };
    let memfd = memfd_create("layer", MemfdFlags::CLOEXEC).expect("memfd");
    let memfd = File::from(memfd);
    memfd.write_all_at(&file, 0).expect("memfd takes the file");
    let Ok(layer) = Layer::open(memfd, TOTAL) else { return };
    layer.verify().ok();
    let len = file.len() as u64;
    for page in 0..TOTAL + 2 {
        if let Some(Page::Data { offset }) = layer.lookup(page) {
            assert!(page < TOTAL && offset + PAGE as u64 <= len);
        }
    }
    let stack = Stack::new(vec![layer]).expect("one layer stacks");
    let mut buf = [0; CHUNK_BYTES];
    for page in 0..TOTAL + 2 {
        if stack.resolve(page, &mut buf).is_ok() {
            assert!(page < TOTAL || !matches!(stack.lookup(page), Source::Layer { .. }));
        }
    }
});

/// A file whose magic, version, lengths and checksums are right, with the fuzzer's header fields and
/// index. Data is all zero.
fn sealed(fields: &[u8; FIELDS], index: &[u8]) -> Vec<u8> {
    let [kind, data_pages, extents, chunks, ..] = *fields;
    let (extents, chunks) = (usize::from(extents) % 32, usize::from(chunks) % 8);
    let mut index = index.to_vec();
    index.resize(extents * 12 + chunks * 8, 0);
    assemble(kind, data_pages % 8, extents as u8, chunks as u8, &index)
}

/// A file whose counts and data checksums are right as well, with an extent for every three bytes: the
/// gap before it, its length and its kind. Most are whole layers, unless an extent is empty, of no
/// kind or past the end.
fn consistent(extents: &[u8]) -> Vec<u8> {
    let (extents, rest) = extents.as_chunks::<3>();
    let extents = &extents[..extents.len().min(24)];
    let (mut index, mut checksums) = (Vec::new(), Vec::new());
    let (mut next, mut data_pages) = (0u32, 0u32);
    for [gap, pages, kind] in extents {
        let first = next + u32::from(gap % 4);
        let pages = u32::from(pages % 40);
        let kind = u32::from(kind % 3);
        for field in [first, pages, kind] {
            index.extend_from_slice(&field.to_le_bytes());
        }
        if kind == 1 && data_pages + pages <= TOTAL as u32 {
            data_pages += pages;
            for chunk in vec![0; pages as usize * PAGE].chunks(CHUNK_BYTES) {
                checksums.push(xxh3_64(chunk));
            }
        }
        next = first + pages;
    }
    // One data checksum may be wrong.
    if let (Some(checksum), Some(flip)) = (checksums.last_mut(), rest.first()) {
        *checksum ^= u64::from(*flip);
    }
    let chunks = checksums.len() as u8;
    index.extend(checksums.iter().flat_map(|checksum| checksum.to_le_bytes()));
    assemble(1, data_pages as u8, extents.len() as u8, chunks, &index)
}

fn assemble(kind: u8, data_pages: u8, extents: u8, chunks: u8, index: &[u8]) -> Vec<u8> {
    let mut file = vec![0; PAGE * (1 + usize::from(data_pages))];
    file[..12].copy_from_slice(b"sflayer\0\x01\0\0\0");
    file[12] = kind;
    file[16] = TOTAL as u8;
    file[24] = data_pages;
    file[32] = extents;
    file[40] = chunks;
    file[48..80].copy_from_slice(blake3::hash(index).as_bytes());
    let header = blake3::hash(&file[..80]);
    file[80..112].copy_from_slice(header.as_bytes());
    file.extend_from_slice(index);
    file
}
