use expect_test::expect;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

const MACHINE: &str = "x86_64 test";

fn sample() -> Vec<u8> {
    StateWriter::new(MACHINE)
        .section(Tag(*b"vcpu"), 1, vec![1, 2, 3, 4, 5])
        .section(Tag(*b"none"), 7, Vec::new())
        .section(Tag(*b"pit "), 2, vec![0xff; 40])
        .finish()
        .unwrap()
}

#[test]
fn the_header_of_version_one_stays_as_it_is() {
    let file = StateWriter::new("m").section(Tag(*b"abcd"), 3, vec![9]).finish().unwrap();
    let hex: Vec<String> = file
        .chunks(16)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect())
        .collect();
    expect![[r#"
        73667374617465000100000001000000
        a9000000000000006d00000000000000
        00000000000000000000000000000000
        00000000000000000000000000000000
        00000000000000000000000000000000
        000000000000000010d2e0bd45f15ece
        02095130c527d68b070996fafc6be2bd
        9f9b7531aac7f3926162636403000000
        01000000000000007219aa1099ced744
        5c5bf949990ff7d9f6b71a94b8ec02b3
        eb61fb175a66ba2509"#]]
    .assert_eq(&hex.join("\n"));
}

#[test]
fn sections_come_back_by_name() {
    let state = State::from_bytes(sample(), MACHINE).unwrap();
    assert_eq!(state.machine(), MACHINE);
    assert_eq!(state.section(Tag(*b"vcpu"), 1).unwrap().bytes, [1, 2, 3, 4, 5]);
    assert_eq!(state.section(Tag(*b"none"), 9).unwrap().version, 7);
    assert_eq!(state.sections().len(), 3);
    assert_eq!(
        state.section(Tag(*b"pit "), 1),
        Err(SectionError::Newer { tag: Tag(*b"pit "), found: 2, supported: 1 })
    );
    assert_eq!(state.section(Tag(*b"gone"), 1), Err(SectionError::Missing(Tag(*b"gone"))));
}

#[test]
fn a_shared_descriptor_is_read_from_its_start() {
    use std::io::Write as _;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&sample()).unwrap();
    assert_eq!(State::open(&file, MACHINE).unwrap().sections().len(), 3);
}

#[test]
fn every_way_to_be_wrong_has_its_sentence() {
    let refuse = |file: Vec<u8>| State::from_bytes(file, MACHINE).unwrap_err().to_string();
    let file = sample();
    let changed = |at: usize, to: u8| {
        let mut file = file.clone();
        file[at] = to;
        file
    };
    let mut longer = file.clone();
    longer.push(0);
    let sentences = [
        refuse(Vec::new()),
        refuse(b"#!/bin/sh".to_vec()),
        refuse(changed(8, 2)),
        refuse(file[..50].to_vec()),
        refuse(file[..file.len() - 1].to_vec()),
        refuse(longer),
        refuse(changed(12, 4)),
        refuse(changed(14, 4)),
        refuse(changed(file.len() - 1, 0)),
        refuse(changed(file.len() - 41, 0)),
        State::from_bytes(file.clone(), "arm").unwrap_err().to_string(),
    ];
    expect![[r#"
        this is not the state file of a snapshot, or it was never finished; make it again
        this is not the state file of a snapshot, or it was never finished; make it again
        the state file has format version 2, this program reads up to 1; upgrade it or make the snapshot again
        the state file is truncated to 50 of 120 bytes; make the snapshot again
        the state file is truncated to 308 of 309 bytes; make the snapshot again
        the state file has 310 bytes where 309 belong; make the snapshot again
        the state file is truncated to 309 of 312 bytes; make the snapshot again
        the state file has 262147 sections, the limit is 256; it is not a usable snapshot
        the state file is damaged: its section `pit ` fails the checksum; make the snapshot again
        the state file is damaged: its section `vcpu` fails the checksum; make the snapshot again
        the snapshot was made on machine type `x86_64 test` and this is `arm`; make it again on this machine"#]].assert_eq(&sentences.join("\n"));
}

#[test]
fn a_writer_refuses_what_a_reader_would() {
    let two = StateWriter::new("m")
        .section(Tag(*b"same"), 1, Vec::new())
        .section(Tag(*b"same"), 2, Vec::new())
        .finish();
    assert_eq!(two, Err(StateEncodeError::Duplicate(Tag(*b"same"))));
    for tag in ["", "naïve", &"x".repeat(65)] {
        assert_eq!(StateWriter::new(tag).finish(), Err(StateEncodeError::MachineTag));
    }
    let mut many = StateWriter::new("m");
    for number in 0..=SECTIONS_MAX as u32 {
        many.section(Tag(number.to_le_bytes()), 1, Vec::new());
    }
    assert_eq!(many.finish(), Err(StateEncodeError::TooMany(SECTIONS_MAX + 1)));
    let large = vec![0; STATE_BYTES_MAX as usize];
    let large = StateWriter::new("m").section(Tag(*b"huge"), 1, large).finish();
    assert!(matches!(large, Err(StateEncodeError::TooLarge(_))));
}

#[test]
fn any_single_bit_flip_is_detected() {
    let file = sample();
    for at in 0..file.len() {
        for bit in 0..8 {
            let mut file = file.clone();
            file[at] ^= 1 << bit;
            assert!(State::from_bytes(file, MACHINE).is_err(), "byte {at} bit {bit}");
        }
    }
}

#[test]
fn any_truncation_is_detected() {
    let file = sample();
    for end in 0..file.len() {
        assert!(State::from_bytes(file[..end].to_vec(), MACHINE).is_err(), "{end} bytes");
    }
}

/// Makes a header valid again after its fields were changed, to reach the checks behind it.
fn reseal(file: &mut [u8]) {
    let count = u32::from_le_bytes(file[12..16].try_into().unwrap()) as usize;
    let table = HEADER_BYTES..HEADER_BYTES + count * ENTRY_BYTES;
    let checksum = header_checksum(&file[..CHECKED_BYTES], &file[table]);
    file[CHECKED_BYTES..HEADER_BYTES].copy_from_slice(checksum.as_bytes());
}

#[test]
fn lengths_that_lie_behind_a_good_checksum_are_refused() {
    let length = HEADER_BYTES + 8..HEADER_BYTES + 16;
    for lie in [0, 4, 6, 1 << 20, u64::MAX, u64::MAX - HEADER_BYTES as u64] {
        let mut file = sample();
        file[length.clone()].copy_from_slice(&lie.to_le_bytes());
        reseal(&mut file);
        assert!(State::from_bytes(file, MACHINE).is_err(), "length {lie}");
    }
    let mut file = sample();
    file.copy_within(HEADER_BYTES..HEADER_BYTES + 4, HEADER_BYTES + ENTRY_BYTES);
    reseal(&mut file);
    let error = State::from_bytes(file, MACHINE).unwrap_err();
    assert!(matches!(error, OpenError::Malformed { .. }), "{error}");
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        sections in btree_map(any::<[u8; 4]>(), (any::<u32>(), vec(any::<u8>(), 0..300)), 0..20),
        machine in "[ -~]{1,64}",
    ) {
        let mut writer = StateWriter::new(machine.clone());
        for (tag, (version, bytes)) in &sections {
            writer.section(Tag(*tag), *version, bytes.clone());
        }
        let state = State::from_bytes(writer.finish().unwrap(), &machine).unwrap();
        prop_assert_eq!(state.sections().len(), sections.len());
        for (tag, (version, bytes)) in &sections {
            let section = state.section(Tag(*tag), u32::MAX).unwrap();
            prop_assert_eq!(section.version, *version);
            prop_assert_eq!(section.bytes, &bytes[..]);
        }
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
    fn arbitrary_bytes_never_panic(mut bytes in vec(any::<u8>(), 0..600), magic: bool, seal: bool) {
        if magic && bytes.len() >= HEADER_BYTES {
            bytes[..8].copy_from_slice(MAGIC);
            let count = bytes[12] % 4;
            bytes[8..16].copy_from_slice(&[1, 0, 0, 0, count, 0, 0, 0]);
            let len = bytes.len() as u64;
            bytes[16..24].copy_from_slice(&len.to_le_bytes());
            bytes[24..88].copy_from_slice(&[b'm'; 64]);
            if seal && bytes.len() >= HEADER_BYTES + usize::from(count) * ENTRY_BYTES {
                reseal(&mut bytes);
            }
        }
        State::parse(bytes).ok();
    }
}
