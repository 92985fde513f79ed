use std::collections::BTreeMap;

use expect_test::expect;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

fn sample() -> Vec<u8> {
    WorkingSet::from_pages(100, [(3, false), (4, false), (5, true), (80, false)], 0)
        .unwrap()
        .encode()
}

fn reseal(file: &mut [u8]) {
    let hash = checksum(&file[..CHECKED_BYTES], &file[HEADER_BYTES..]);
    file[CHECKED_BYTES..HEADER_BYTES].copy_from_slice(hash.as_bytes());
}

#[test]
fn the_file_of_version_one_stays_as_it_is() {
    let hex: Vec<String> = sample()
        .chunks(16)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect())
        .collect();
    expect![[r#"
        73667773657400000100000003000000
        64000000000000005bbaeafedb9b50a0
        d8019210e6114e11c48563c06b6e5b3c
        1e5d7dda6d65292c0300000002000000
        00000000050000000100000001000000
        500000000100000000000000"#]]
    .assert_eq(&hex.join("\n"));
}

#[test]
fn gaps_are_filled_between_pages_that_were_only_read() {
    let runs = |gap| {
        let pages = [(1, false), (4, false), (5, true), (6, false), (10, true), (13, true)];
        let set = WorkingSet::from_pages(20, pages, gap).unwrap();
        let runs = set.extents().iter().map(|run| (run.first_page, run.pages, run.written));
        runs.collect::<Vec<_>>()
    };
    assert_eq!(
        runs(0),
        [(1, 1, false), (4, 1, false), (5, 1, true), (6, 1, false), (10, 1, true), (13, 1, true)]
    );
    assert_eq!(runs(2), [(1, 4, false), (5, 1, true), (6, 1, false), (10, 1, true), (13, 1, true)]);
}

#[test]
fn pages_outside_the_memory_are_refused() {
    let error = WorkingSet::from_pages(10, [(10, false)], 0).unwrap_err();
    assert_eq!(error, WorkingSetEncodeError::OutOfRange { page: 10, total: 10 });
    let error = WorkingSet::from_pages(PAGES_MAX + 1, [], 0).unwrap_err();
    assert_eq!(error, WorkingSetEncodeError::MemorySize(PAGES_MAX + 1));
}

#[test]
fn a_set_for_another_memory_is_refused() {
    let error = WorkingSet::from_bytes(&sample(), 99).unwrap_err();
    assert!(matches!(error, OpenError::WrongMemorySize { found: 100, expected: 99, .. }));
}

#[test]
fn any_truncation_or_bit_flip_is_detected() {
    let file = sample();
    for end in 0..file.len() {
        assert!(WorkingSet::from_bytes(&file[..end], 100).is_err(), "{end} bytes");
    }
    for at in 0..file.len() {
        for bit in 0..8 {
            let mut file = file.clone();
            file[at] ^= 1 << bit;
            assert!(WorkingSet::from_bytes(&file, 100).is_err(), "byte {at} bit {bit}");
        }
    }
}

#[test]
fn extents_that_lie_behind_a_good_checksum_are_refused() {
    // (offset of the field, value): zero pages, past the end, overlapping, unknown flag.
    let lies = [(60, 0), (60, 98), (60, u32::MAX), (56, 5), (56, u32::MAX), (64, 2)];
    for (at, lie) in lies {
        let mut file = sample();
        file[at..at + 4].copy_from_slice(&lie.to_le_bytes());
        reseal(&mut file);
        let error = WorkingSet::from_bytes(&file, 100).unwrap_err();
        assert!(matches!(error, OpenError::Malformed { .. }), "{at} {lie}: {error}");
    }
}

#[test]
fn a_file_is_read_whatever_the_offset_of_its_descriptor() {
    use std::io::Write as _;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&sample()).unwrap();
    assert_eq!(WorkingSet::open(&file, 100).unwrap().pages(), 4);
}

proptest! {
    #[test]
    fn what_is_recorded_is_read(
        pages in btree_map(0..500u64, any::<bool>(), 0..200),
        gap in 0..5u64,
    ) {
        let set =
            WorkingSet::from_pages(500, pages.iter().map(|(&page, &written)| (page, written)), gap)
                .unwrap();
        prop_assert_eq!(&WorkingSet::from_bytes(&set.encode(), 500).unwrap(), &set);
        let mut found = BTreeMap::new();
        for extent in set.extents() {
            for page in extent.first_page..extent.end() {
                prop_assert_eq!(found.insert(page, extent.written), None);
            }
        }
        if gap == 0 {
            prop_assert_eq!(&found, &pages);
        }
        // Filling gaps adds pages that are only read, and changes nothing else.
        for (page, written) in &found {
            prop_assert_eq!(*written, pages.get(page).copied().unwrap_or(false));
        }
        prop_assert!(pages.keys().all(|page| found.contains_key(page)));
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
    fn arbitrary_bytes_never_panic(mut bytes in vec(any::<u8>(), 0..300), valid: bool) {
        if valid && bytes.len() >= HEADER_BYTES {
            bytes[..8].copy_from_slice(MAGIC);
            let count = (bytes.len() - HEADER_BYTES) / EXTENT_BYTES;
            bytes.truncate(HEADER_BYTES + count * EXTENT_BYTES);
            bytes[8..16].copy_from_slice(&[1, 0, 0, 0, count as u8, 0, 0, 0]);
            bytes[16..24].copy_from_slice(&PAGES_MAX.to_le_bytes());
            reseal(&mut bytes);
        }
        WorkingSet::parse(&bytes).ok();
    }
}
