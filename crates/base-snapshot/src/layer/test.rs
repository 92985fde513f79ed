use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

use expect_test::expect;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use tempfile::tempfile;

use super::*;
use crate::OpenError;

/// Pages of the memories below: some chunks, not a whole number of them.
const TOTAL: u64 = 70;

/// A page that differs from every other.
fn page(seed: u64) -> Vec<u8> {
    (0..PAGE_BYTES as u64 / 8).flat_map(|word| (seed * 1000 + word + 1).to_le_bytes()).collect()
}

fn writer(kind: LayerKind) -> LayerWriter {
    LayerWriter::new(tempfile().unwrap(), TOTAL, kind).unwrap()
}

/// Data on pages 2 to 22 and 40, zeros on 41 to 43.
fn sample() -> File {
    let mut layer = writer(LayerKind::Diff);
    let data: Vec<u8> = (2..23).flat_map(page).collect();
    layer.data(2, &data[..PAGE_BYTES]).unwrap();
    layer.data(3, &data[PAGE_BYTES..]).unwrap();
    layer.pages(40, &[page(40), vec![0; 3 * PAGE_BYTES]].concat()).unwrap();
    layer.finish().unwrap().0
}

fn bytes_of(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn refusal(bytes: &[u8]) -> String {
    Layer::open(file_of(bytes), TOTAL).unwrap_err().to_string()
}

#[test]
fn header_and_index_of_version_one_stay_as_they_are() {
    let bytes = bytes_of(&sample());
    let used = [&bytes[..112], &bytes[23 * PAGE_BYTES..]].concat();
    let hex: Vec<String> = used
        .chunks(16)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect())
        .collect();
    expect![[r#"
        73666c61796572000100000001000000
        46000000000000001600000000000000
        03000000000000000300000000000000
        635819e9e1adbe12f9b549a2ec95e1f2
        0c5e215cc81a99f2f9172d65e7212cee
        6c2586fc5c33451bd41cb5560ef136a1
        8859bbf5e33e5b05b5ecea87059bae05
        02000000150000000100000028000000
        01000000010000002900000003000000
        000000006dba210dd7ce0b27acd90e7a
        e92a93c860e69edb623d55d0"#]]
    .assert_eq(&hex.join("\n"));
}

#[test]
fn data_zeros_and_holes_are_told_apart() {
    let layer = Layer::open(sample(), TOTAL).unwrap();
    assert_eq!(layer.lookup(0), None);
    assert_eq!(layer.lookup(2), Some(Page::Data { offset: 4096 }));
    assert_eq!(layer.lookup(22), Some(Page::Data { offset: 21 * 4096 }));
    assert_eq!(layer.lookup(23), None);
    assert_eq!(layer.lookup(40), Some(Page::Data { offset: 22 * 4096 }));
    assert_eq!(layer.lookup(43), Some(Page::Zero));
    assert_eq!(layer.lookup(44), None);
    assert_eq!(layer.lookup(u64::MAX), None);
    let extents: Vec<_> = layer.extents().map(|extent| (extent.first_page, extent.pages)).collect();
    assert_eq!(extents, [(2, 21), (40, 1), (41, 3)]);
}

#[test]
fn a_chunk_is_at_most_64_kib_of_one_extent() {
    let layer = Layer::open(sample(), TOTAL).unwrap();
    let mut buf = [0; CHUNK_BYTES];
    let (first, bytes) = layer.chunk(17, &mut buf).unwrap();
    assert_eq!((first, bytes.len()), (2, CHUNK_BYTES));
    assert_eq!(bytes[15 * PAGE_BYTES..], page(17));
    let (first, bytes) = layer.chunk(18, &mut buf).unwrap();
    assert_eq!((first, bytes.len()), (18, 5 * PAGE_BYTES));
    assert_eq!(bytes[..PAGE_BYTES], page(18));
    assert!(matches!(layer.chunk(41, &mut buf), Err(LayerReadError::NotData(41))));
    assert!(matches!(layer.chunk(69, &mut buf), Err(LayerReadError::NotData(69))));
}

#[test]
fn any_range_of_data_is_read() {
    let layer = Layer::open(sample(), TOTAL).unwrap();
    for first in 2..23 {
        for end in first..=23 {
            let mut buf = vec![0; (end - first) as usize * PAGE_BYTES];
            layer.read(first, &mut buf).unwrap();
            assert!(buf == (first..end).flat_map(page).collect::<Vec<_>>(), "{first}..{end}");
        }
    }
    let mut buf = vec![0; 2 * PAGE_BYTES];
    assert!(matches!(layer.read(22, &mut buf), Err(LayerReadError::NotData(23))));
}

#[test]
fn an_empty_layer_is_fine() {
    for kind in [LayerKind::Base, LayerKind::Diff] {
        let mut layer = writer(kind);
        layer.pages(0, &[]).unwrap();
        layer.zero(5, 0).unwrap();
        let layer = Layer::open(layer.finish().unwrap().0, TOTAL).unwrap();
        assert_eq!((layer.kind(), layer.extents().len()), (kind, 0));
        layer.verify().unwrap();
    }
}

#[test]
fn a_base_layer_stores_no_zero_pages() {
    let mut layer = writer(LayerKind::Base);
    let memory = [vec![0; 3 * PAGE_BYTES], page(3), page(4), vec![0; PAGE_BYTES]].concat();
    layer.pages(0, &memory).unwrap();
    layer.pages(6, &vec![0; 64 * PAGE_BYTES]).unwrap();
    let (file, summary) = layer.finish().unwrap();
    assert_eq!((summary.data_pages, summary.zero_pages), (2, 0));
    assert_eq!(summary.file_bytes, file.metadata().unwrap().len());
    assert_eq!(summary.file_bytes, 3 * 4096 + 12 + 8);
}

#[test]
fn a_writer_refuses_pages_that_do_not_fit() {
    let mut layer = writer(LayerKind::Diff);
    layer.data(10, &page(10)).unwrap();
    let refused = [
        layer.data(10, &page(10)).unwrap_err(),
        layer.zero(9, 1).unwrap_err(),
        layer.zero(69, 2).unwrap_err(),
        layer.zero(11, u64::MAX).unwrap_err(),
        layer.pages(11, &[0; 100]).unwrap_err(),
        LayerWriter::new(tempfile().unwrap(), PAGES_MAX + 1, LayerKind::Base).unwrap_err(),
    ];
    let refused: Vec<_> = refused.iter().map(ToString::to_string).collect();
    expect![[r#"
        page 10 came after page 11 was next
        page 9 came after page 11 was next
        2 pages at page 69 are outside a memory of 70 pages
        18446744073709551615 pages at page 11 are outside a memory of 70 pages
        100 bytes of data are not whole pages
        a memory of 16777217 pages cannot be saved, 1 to 16777216 can"#]]
    .assert_eq(&refused.join("\n"));
}

#[test]
fn a_layer_that_was_never_finished_is_refused() {
    let file = tempfile().unwrap();
    let mut layer = LayerWriter::new(file.try_clone().unwrap(), TOTAL, LayerKind::Base).unwrap();
    layer.data(0, &vec![1; 2 << 20][..TOTAL as usize * PAGE_BYTES]).unwrap();
    drop(layer);
    assert!(matches!(
        Layer::open(file, TOTAL),
        Err(OpenError::NotASnapshot { .. } | OpenError::Truncated { .. })
    ));
}

#[test]
fn every_way_to_be_wrong_has_its_sentence() {
    let bytes = bytes_of(&sample());
    let changed = |at: usize, to: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = to;
        refusal(&bytes)
    };
    let sentences = [
        refusal(&[]),
        refusal(&[0; 8192]),
        changed(8, 9),
        refusal(&bytes[..100]),
        refusal(&bytes[..bytes.len() - 1]),
        refusal(&[&bytes[..], &[0]].concat()),
        changed(16, 0),
        changed(bytes.len() - 1, 0),
        Layer::open(sample(), 64).unwrap_err().to_string(),
    ];
    expect![[r#"
        this is not the memory layer of a snapshot, or it was never finished; make it again
        this is not the memory layer of a snapshot, or it was never finished; make it again
        the memory layer has format version 9, this program reads up to 1; upgrade it or make the snapshot again
        the memory layer is truncated to 100 of 4096 bytes; make the snapshot again
        the memory layer is truncated to 94267 of 94268 bytes; make the snapshot again
        the memory layer has 94269 bytes where 94268 belong; make the snapshot again
        the memory layer is damaged: its header fails the checksum; make the snapshot again
        the memory layer is damaged: its index fails the checksum; make the snapshot again
        the memory layer is for a memory of 70 pages, the machine has 64; restore it at the size it was made for"#]].assert_eq(&sentences.join("\n"));
}

#[test]
fn any_bit_flip_in_header_or_index_is_refused() {
    let bytes = bytes_of(&sample());
    let file = file_of(&bytes);
    let index = 23 * PAGE_BYTES..bytes.len();
    for at in (0..PAGE_BYTES).chain(index) {
        for bit in [0, 3, 7] {
            file.write_all_at(&[bytes[at] ^ (1 << bit)], at as u64).unwrap();
            let opened = Layer::open(file.try_clone().unwrap(), TOTAL);
            assert!(opened.is_err(), "byte {at} bit {bit}");
        }
        file.write_all_at(&bytes[at..=at], at as u64).unwrap();
    }
}

#[test]
fn any_truncation_is_refused() {
    let bytes = bytes_of(&sample());
    let file = file_of(&bytes);
    for end in (0..bytes.len()).rev().step_by(13) {
        file.set_len(end as u64).unwrap();
        assert!(Layer::open(file.try_clone().unwrap(), TOTAL).is_err(), "{end} bytes");
    }
}

#[test]
fn damaged_data_is_never_handed_out() {
    let bytes = bytes_of(&sample());
    let file = file_of(&bytes);
    let layer = Layer::open(file.try_clone().unwrap(), TOTAL).unwrap();
    for at in (PAGE_BYTES..23 * PAGE_BYTES).step_by(509) {
        file.write_all_at(&[bytes[at] ^ 4], at as u64).unwrap();
        let page = match at as u64 / 4096 - 1 {
            21 => 40,
            number => number + 2,
        };
        let damaged = |result| {
            matches!(result, Err(LayerReadError::Damaged { first, last })
            if (first..=last).contains(&page))
        };
        assert!(damaged(layer.chunk(page, &mut [0; CHUNK_BYTES]).map(drop)), "byte {at}");
        assert!(damaged(layer.read(page, &mut [0; PAGE_BYTES])), "byte {at}");
        assert!(damaged(layer.verify()), "byte {at}");
        file.write_all_at(&bytes[at..=at], at as u64).unwrap();
    }
    layer.verify().unwrap();
}

#[test]
fn an_index_that_lies_behind_good_checksums_is_refused() {
    // (extent, field of it, value), and the header's counts left as they were.
    let lies = [
        (0, 1, 0),
        (0, 1, 22),
        (0, 1, 70),
        (0, 1, u32::MAX),
        (0, 0, 20),
        (1, 0, 1),
        (1, 0, u32::MAX),
        (1, 2, 0),
        (2, 2, 1),
        (2, 2, 7),
        (2, 1, 100),
    ];
    for (extent, field, lie) in lies {
        let mut bytes = bytes_of(&sample());
        let at = 23 * PAGE_BYTES + extent * 12 + field * 4;
        bytes[at..at + 4].copy_from_slice(&lie.to_le_bytes());
        reseal(&mut bytes, 23 * PAGE_BYTES);
        let error = Layer::open(file_of(&bytes), TOTAL).unwrap_err();
        let text = format!("extent {extent} field {field} = {lie}: {error}");
        assert!(matches!(error, OpenError::Malformed { .. }), "{text}");
    }
}

#[test]
fn counts_that_lie_behind_a_good_checksum_allocate_nothing() {
    for field in [16, 24, 32, 40] {
        for lie in [0, PAGES_MAX, PAGES_MAX + 1, u64::MAX] {
            let mut bytes = bytes_of(&sample());
            bytes[field..field + 8].copy_from_slice(&lie.to_le_bytes());
            reseal(&mut bytes, 23 * PAGE_BYTES);
            assert!(Layer::open(file_of(&bytes), TOTAL).is_err(), "field {field} = {lie}");
        }
    }
}

/// Makes index and header checksums fit again.
fn reseal(bytes: &mut [u8], index: usize) {
    let hash = blake3::hash(&bytes[index..]);
    bytes[48..80].copy_from_slice(hash.as_bytes());
    let hash = blake3::hash(&bytes[..80]);
    bytes[80..112].copy_from_slice(hash.as_bytes());
}

#[test]
fn layers_that_do_not_fit_do_not_stack() {
    let layer = |kind, pages| {
        let writer = LayerWriter::new(tempfile().unwrap(), pages, kind).unwrap();
        Layer::open(writer.finish().unwrap().0, pages).unwrap()
    };
    let inside = Stack::new(vec![layer(LayerKind::Base, 8), layer(LayerKind::Diff, 8)]);
    assert_eq!(inside.unwrap_err(), StackError::BaseInside(0));
    let sizes = Stack::new(vec![layer(LayerKind::Diff, 8), layer(LayerKind::Base, 9)]);
    let error = StackError::MemorySize { layer: 1, found: 9, expected: 8 };
    assert_eq!(sizes.unwrap_err(), error);
    let empty = Stack::new(Vec::new()).unwrap();
    assert_eq!(empty.lookup(7), Source::Below);
    let mut buf = [0; CHUNK_BYTES];
    let resolved = empty.resolve(7, &mut buf).unwrap();
    assert!(matches!(resolved, Resolved::Below { .. }));
}

#[test]
fn a_page_outside_the_memory_is_nowhere() {
    let stack = Stack::new(vec![Layer::open(sample(), TOTAL).unwrap()]).unwrap();
    let mut buf = [0; CHUNK_BYTES];
    for page in [TOTAL, TOTAL + 1, u64::MAX] {
        let resolved = stack.resolve(page, &mut buf).unwrap();
        assert!(matches!(resolved, Resolved::Below { first_page, .. } if first_page == page));
    }
}

/// What a layer does to a page.
#[derive(Clone, Copy, Debug)]
enum Change {
    Keep,
    Zero,
    /// A page of zeros given as data.
    Blank,
    Data(u64),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => Just(Change::Keep),
        2 => Just(Change::Zero),
        1 => Just(Change::Blank),
        4 => (1..1000u64).prop_map(Change::Data),
    ]
}

/// Runs of changes, so that extents of more than one chunk appear.
fn changes() -> impl Strategy<Value = Vec<Change>> {
    vec((change(), 1..30usize), 1..12).prop_map(|runs| {
        let mut changes: Vec<_> =
            runs.into_iter().flat_map(|(change, len)| vec![change; len]).collect();
        changes.resize(TOTAL as usize, Change::Keep);
        changes
    })
}

fn write(kind: LayerKind, changes: &[Change], step: usize) -> Layer {
    let mut layer = writer(kind);
    let content = |at: usize, change: &Change| match change {
        Change::Data(seed) => page(seed + at as u64),
        Change::Keep | Change::Zero | Change::Blank => vec![0; PAGE_BYTES],
    };
    let mut at = 0;
    while at < changes.len() {
        let same = changes[at..]
            .iter()
            .take(step)
            .take_while(|change| {
                std::mem::discriminant(*change) == std::mem::discriminant(&changes[at])
            })
            .count();
        let run = &changes[at..at + same];
        let bytes: Vec<u8> = (at..).zip(run).flat_map(|(at, change)| content(at, change)).collect();
        match run[0] {
            Change::Keep => {}
            Change::Zero => layer.zero(at as u64, same as u64).unwrap(),
            Change::Blank => layer.data(at as u64, &bytes).unwrap(),
            Change::Data(_) => layer.pages(at as u64, &bytes).unwrap(),
        }
        at += same;
    }
    Layer::open(layer.finish().unwrap().0, TOTAL).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_stack_of_layers_equals_the_memory_they_were_made_of(
        layers in vec(changes(), 1..4),
        based: bool,
        step in 1..40usize,
    ) {
        // The model, lowest layer first.
        let mut memory: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let mut stack = Vec::new();
        for (height, changes) in layers.iter().enumerate() {
            let base = based && height == 0;
            for (at, change) in (0..).zip(changes) {
                match change {
                    Change::Keep if base => drop(memory.insert(at, vec![0; PAGE_BYTES])),
                    Change::Keep => {}
                    Change::Zero | Change::Blank => drop(memory.insert(at, vec![0; PAGE_BYTES])),
                    Change::Data(seed) => drop(memory.insert(at, page(seed + at))),
                }
            }
            let kind = if base { LayerKind::Base } else { LayerKind::Diff };
            stack.insert(0, write(kind, changes, step));
        }
        let stack = Stack::new(stack).unwrap();
        let mut buf = [0; CHUNK_BYTES];
        for at in 0..TOTAL {
            let looked_up = match stack.lookup(at) {
                Source::Below => None,
                Source::Zero => Some(vec![0; PAGE_BYTES]),
                Source::Layer { layer, offset } => {
                    let mut bytes = vec![0; PAGE_BYTES];
                    stack.layers()[layer].read(at, &mut bytes).unwrap();
                    let mut raw = vec![0; PAGE_BYTES];
                    stack.layers()[layer].file().read_exact_at(&mut raw, offset).unwrap();
                    prop_assert!(raw == bytes);
                    Some(bytes)
                }
            };
            prop_assert!(looked_up.as_ref() == memory.get(&at), "page {}", at);
            // What comes along with the page is right as well, and the page is among it.
            let (first, pages) = match stack.resolve(at, &mut buf).unwrap() {
                Resolved::Below { first_page, pages } => {
                    prop_assert!((first_page..first_page + pages).all(|at| !memory.contains_key(&at)));
                    (first_page, pages)
                }
                Resolved::Zero { first_page, pages } => {
                    let zeros = (first_page..first_page + pages).all(|at| crate::is_zero(&memory[&at]));
                    prop_assert!(zeros);
                    (first_page, pages)
                }
                Resolved::Data { first_page, bytes } => {
                    for (at, content) in (first_page..).zip(bytes.chunks(PAGE_BYTES)) {
                        prop_assert!(content == memory[&at], "page {}", at);
                    }
                    (first_page, (bytes.len() / PAGE_BYTES) as u64)
                }
            };
            prop_assert!((first..first + pages).contains(&at) && first + pages <= TOTAL);
        }

        // Loading the layers from the bottom up gives the same memory.
        let mut loaded: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        if based {
            loaded.extend((0..TOTAL).map(|at| (at, vec![0; PAGE_BYTES])));
        }
        for layer in stack.layers().iter().rev() {
            layer.load(&mut |run| {
                match run {
                    Run::Data { first_page, bytes } => {
                        loaded.extend((first_page..).zip(bytes.chunks(PAGE_BYTES).map(Vec::from)));
                    }
                    Run::Zero { first_page, pages } => loaded.extend(
                        (first_page..first_page + pages).map(|at| (at, vec![0; PAGE_BYTES])),
                    ),
                }
                Ok(())
            }).unwrap();
        }
        prop_assert!(loaded == memory);
    }
}

proptest! {
    // The plain variant of the fuzz target: always the same inputs.
    #![proptest_config(ProptestConfig {
        cases: 2000,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn arbitrary_bytes_never_panic(tail in vec(any::<u8>(), 0..200), counts in any::<[u8; 3]>(), seal: bool) {
        let mut bytes = vec![0; PAGE_BYTES];
        bytes[..16].copy_from_slice(b"sflayer\0\x01\0\0\0\x01\0\0\0");
        bytes[16] = TOTAL as u8;
        bytes[24] = counts[0] % 2;
        bytes[32] = counts[1] % 5;
        bytes[40] = counts[2] % 2;
        let index = PAGE_BYTES + bytes[24] as usize * PAGE_BYTES;
        let len = index + bytes[32] as usize * 12 + bytes[40] as usize * 8;
        bytes.resize(index, 7);
        bytes.extend_from_slice(&tail);
        bytes.resize(len.max(index), 0);
        if seal {
            reseal(&mut bytes, index);
        }
        if let Ok(layer) = Layer::open(file_of(&bytes), TOTAL) {
            layer.verify().ok();
        }
    }
}
