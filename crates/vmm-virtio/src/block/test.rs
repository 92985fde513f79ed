use std::{fs::File, os::unix::fs::FileExt as _};

use proptest::prelude::*;

use super::{Disk, DiskError, Refusal, Request, ThawBlockError, merge, parse_range, parse_request};
use crate::{
    Block, ThawTransportError,
    driver::{Guest, Part},
};

const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

const DISK_BYTES: u64 = 6 << 20;

/// The files of a disk; opening one twice is how a clone gets its own descriptors.
struct Files {
    layers: Vec<File>,
}

impl Files {
    /// A base whose every sector holds its own number, and `overlays` empty overlays.
    fn new(overlays: usize) -> Self {
        let base = tempfile::tempfile().unwrap();
        let contents: Vec<u8> =
            (0..DISK_BYTES / 8).flat_map(|word| (word / 64).to_le_bytes()).collect();
        base.write_all_at(&contents, 0).unwrap();
        let mut files = Files { layers: vec![base] };
        for _ in 0..overlays {
            let overlay = files.overlay();
            files.layers.push(overlay);
        }
        files
    }

    fn overlay(&self) -> File {
        let overlay = tempfile::tempfile().unwrap();
        base_overlay::create(&overlay, DISK_BYTES).unwrap();
        overlay
    }

    /// The chain once more, with `above` on top.
    fn chain(&self, above: &[&File]) -> Vec<File> {
        let layers = self.layers.iter().chain(above.iter().copied());
        layers.map(|file| file.try_clone().unwrap()).collect()
    }

    fn disk(&self) -> Disk {
        Disk::new(self.chain(&[])).unwrap()
    }

    /// Puts one overlay in the place of those at `run`.
    fn merge(&mut self, run: std::ops::Range<usize>) {
        let merged = self.overlay();
        let below = self.layers[..run.start].iter().map(|file| file.try_clone().unwrap());
        let above = self.layers[run.clone()].iter().map(|file| file.try_clone().unwrap());
        merge(below.collect(), above.collect(), merged.try_clone().unwrap()).unwrap();
        self.layers.splice(run, [merged]);
    }

    fn guest(&self) -> Guest<Block> {
        Guest::new(|_| Block::new(self.disk(), "root"))
    }
}

impl Guest<Block> {
    /// Carries out a request; says its status and what was read.
    fn request(&mut self, kind: u32, sector: u64, out: &[u8], in_len: usize) -> (u8, Vec<u8>) {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        let header_at = self.buffer_with(&header);
        let mut parts = vec![Part::Out(header_at, 16)];
        if !out.is_empty() {
            // In two pieces, so that no request is one run of memory.
            let (first, second) = out.split_at(out.len() / 3);
            let (first_at, second_at) = (self.buffer_with(first), self.buffer_with(second));
            parts.push(Part::Out(first_at, first.len() as u32));
            parts.push(Part::Out(second_at, second.len() as u32));
        }
        let in_at = self.buffer(in_len as u32);
        if in_len > 0 {
            parts.push(Part::In(in_at, in_len as u32 / 2));
            parts.push(Part::In(in_at + in_len as u64 / 2, (in_len - in_len / 2) as u32));
        }
        let status_at = self.buffer_with(&[0xee]);
        parts.push(Part::In(status_at, 1));
        let written = self.submit(0, &parts);
        let status = self.bytes(status_at, 1)[0];
        if kind == READ && status == OK {
            assert_eq!(written as usize, in_len + 1);
        }
        (status, self.bytes(in_at, in_len))
    }

    fn read(&mut self, sector: u64, sectors: usize) -> Vec<u8> {
        let (status, bytes) = self.request(READ, sector, &[], sectors * 512);
        assert_eq!(status, OK);
        bytes
    }

    fn write(&mut self, sector: u64, bytes: &[u8]) {
        assert_eq!(self.request(WRITE, sector, bytes, 0).0, OK);
    }

    fn flush(&mut self) {
        assert_eq!(self.request(FLUSH, 0, &[], 0).0, OK);
    }

    fn read_config<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.transport.read(0x100 + offset, &mut bytes);
        bytes
    }
}

fn number_of(sector: &[u8]) -> u64 {
    u64::from_le_bytes(*sector.first_chunk().unwrap())
}

#[test]
fn the_base_shows_through_overlays_until_it_is_written_over() {
    let files = Files::new(2);
    let mut guest = files.guest();
    assert_eq!(number_of(&guest.read(77, 1)), 77);
    let before = guest.read(76, 3);
    guest.write(77, &[0xab; 512]);
    let after = guest.read(76, 3);
    assert_eq!(after[..512], before[..512]);
    assert_eq!(after[512..1024], [0xab; 512]);
    assert_eq!(after[1024..], before[1024..]);
    let mut base = [0; 8];
    files.layers[0].read_exact_at(&mut base, 77 * 512).unwrap();
    assert_eq!(number_of(&base), 77, "the base is never written");
    assert_eq!(guest.transport.with(|block, _| block.stats().written_bytes), 512);
}

#[test]
fn the_guest_sees_size_and_serial() {
    let mut guest = Files::new(1).guest();
    assert_eq!(u64::from_le_bytes(guest.read_config(0)), DISK_BYTES / 512);
    assert_eq!(u32::from_le_bytes(guest.read_config(20)), 512);
    assert_eq!(guest.read_config::<4>(1 << 20), [0; 4]);
    let (status, id) = guest.request(GET_ID, 0, &[], 20);
    assert_eq!((status, id.as_slice()), (OK, b"root\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".as_slice()));
}

#[test]
fn what_was_flushed_is_there_for_whoever_opens_the_files_next() {
    let files = Files::new(1);
    let mut guest = files.guest();
    guest.write(100, &[1; 4096]);
    guest.write(9000, &[2; 65536]);
    guest.flush();
    let mut other = files.guest();
    assert_eq!(other.read(100, 8), [1; 4096]);
    assert_eq!(other.read(9000, 128), [2; 65536]);
    assert_eq!(number_of(&other.read(108, 1)), 108);
}

#[test]
fn an_overlay_that_was_written_is_flawless_to_the_reference_implementation() {
    let files = Files::new(0);
    let overlay = tempfile::NamedTempFile::new().unwrap();
    base_overlay::create(overlay.as_file(), DISK_BYTES).unwrap();
    let layers = vec![files.layers[0].try_clone().unwrap(), overlay.as_file().try_clone().unwrap()];
    let mut guest = Guest::new(|_| Block::new(Disk::new(layers).unwrap(), "x"));
    for sector in [0, 5, 640, 9999, 12000] {
        guest.write(sector, &[sector as u8; 8192]);
    }
    assert_eq!(guest.request(DISCARD, 0, &range(640, 128, 0), 0).0, OK);
    guest.flush();
    let check = std::process::Command::new("qemu-img")
        .args(["check", "-f", "qcow2"])
        .arg(overlay.path())
        .output()
        .expect("qemu-img is installed (Debian package qemu-utils)");
    assert!(check.status.success(), "{check:?}");
}

#[test]
fn a_pushed_overlay_keeps_the_old_moment() {
    let mut files = Files::new(1);
    let mut guest = files.guest();
    guest.write(10, &[1; 512]);
    guest.transport.drain_and_flush().unwrap();
    let overlay = files.overlay();
    guest.transport.go_on_over(files.chain(&[&overlay])).unwrap();
    let length_before = files.layers[1].metadata().unwrap().len();
    guest.write(10, &[2; 512]);
    guest.write(5000, &[3; 65536]);
    assert_eq!(guest.read(10, 1), [2; 512]);
    assert_eq!(number_of(&guest.read(11, 1)), 11);
    guest.flush();

    let mut then = files.guest();
    assert_eq!(then.read(10, 1), [1; 512], "the frozen layers are the old moment");
    assert_eq!(number_of(&then.read(5000, 1)), 5000);
    assert_eq!(files.layers[1].metadata().unwrap().len(), length_before);
    files.layers.push(overlay);
    let mut now = files.guest();
    assert_eq!(now.read(10, 1), [2; 512]);
    assert_eq!(now.read(5000, 128), [3; 65536]);
}

#[test]
fn an_overlay_can_be_pushed_before_the_disk_was_used() {
    let mut files = Files::new(1);
    let mut guest = files.guest();
    let overlay = files.overlay();
    guest.transport.drain_and_flush().unwrap();
    guest.transport.go_on_over(files.chain(&[&overlay])).unwrap();
    guest.write(1, &[9; 512]);
    guest.flush();
    assert_eq!(number_of(&files.guest().read(1, 1)), 1);
    files.layers.push(overlay);
    assert_eq!(files.guest().read(1, 1), [9; 512]);
}

#[test]
fn merged_overlays_hold_the_uppermost_of_each_cluster_and_every_zero() {
    let mut files = Files::new(1);
    let mut guest = files.guest();
    for round in 1..=4_u8 {
        guest.write(0, &[round; 512]);
        guest.write(u64::from(round) * 1000, &[round; 65536]);
        guest.transport.drain_and_flush().unwrap();
        let overlay = files.overlay();
        guest.transport.go_on_over(files.chain(&[&overlay])).unwrap();
        files.layers.push(overlay);
    }
    // What a lower layer has and an upper one zeroed must not shine through, nor the base.
    guest.request(DISCARD, 0, &range(1000, 128, 0), 0);
    guest.request(WRITE_ZEROES, 0, &range(6000, 128, 0), 0);
    guest.flush();
    files.layers.push(files.overlay());
    let before = files.guest().read(0, 10_000);

    for run in [3..6, 1..4] {
        files.merge(run);
        assert!(files.guest().read(0, 10_000) == before);
    }
    assert_eq!(files.layers.len(), 3, "the base, what was merged, and the one on top");
    let mut guest = files.guest();
    assert_eq!(guest.read(0, 1), [4; 512]);
    assert_eq!(guest.read(1000, 1), [0; 512]);
    assert_eq!(guest.read(6000, 1), [0; 512]);
    assert_eq!(number_of(&guest.read(200, 1)), 200);
    let mut check = std::process::Command::new("qemu-img");
    let merged = tempfile::NamedTempFile::new().unwrap();
    std::io::copy(&mut &files.layers[1], &mut merged.as_file()).unwrap();
    let check = check.args(["check", "-f", "qcow2"]).arg(merged.path()).output().unwrap();
    assert!(check.status.success(), "{check:?}");
}

#[test]
fn nothing_is_merged_into_an_overlay_of_another_disk() {
    let files = Files::new(2);
    let other = tempfile::tempfile().unwrap();
    base_overlay::create(&other, DISK_BYTES * 2).unwrap();
    let mut run = files.chain(&[]);
    let below = vec![run.remove(0)];
    assert!(matches!(merge(below, run, other), Err(DiskError::OtherSize { .. })));
    assert!(matches!(merge(vec![], vec![], files.overlay()), Err(DiskError::NoFiles)));
}

#[test]
fn an_overlay_that_does_not_fit_is_refused_and_the_disk_goes_on() {
    let files = Files::new(1);
    let mut guest = files.guest();
    guest.write(1, &[4; 512]);
    let other = tempfile::tempfile().unwrap();
    base_overlay::create(&other, DISK_BYTES * 2).unwrap();
    let refused = guest.transport.go_on_over(files.chain(&[&other])).unwrap_err();
    assert!(matches!(refused, DiskError::OtherSize { .. }));
    let none = tempfile::tempfile().unwrap();
    let refused = guest.transport.go_on_over(files.chain(&[&none])).unwrap_err();
    assert!(matches!(refused, DiskError::Size(_)));
    let mut damaged = files.chain(&[&files.overlay()]);
    damaged[1] = files.overlay();
    damaged[1].write_all_at(&[0x55; 4096], 0).unwrap();
    let refused = guest.transport.go_on_over(damaged).unwrap_err();
    assert!(matches!(refused, DiskError::Layer { layer: 1, .. }));
    guest.write(2, &[5; 512]);
    assert_eq!(guest.read(1, 2), [[4; 512], [5; 512]].concat());
}

#[test]
fn a_layer_that_names_a_file_is_not_followed() {
    let files = Files::new(1);
    // A backing file name, as any qcow2 tool would write it.
    let name = b"/etc/passwd";
    files.layers[1].write_all_at(&512_u64.to_be_bytes(), 8).unwrap();
    files.layers[1].write_all_at(&(name.len() as u32).to_be_bytes(), 16).unwrap();
    files.layers[1].write_all_at(name, 512).unwrap();
    let mut guest = files.guest();
    assert_eq!(number_of(&guest.read(3, 1)), 3, "what is below is what was given");
}

#[test]
fn a_layer_with_its_data_elsewhere_is_refused() {
    let files = Files::new(1);
    files.layers[1].write_all_at(&4_u64.to_be_bytes(), 72).unwrap();
    let mut guest = files.guest();
    assert_eq!(guest.request(READ, 0, &[], 512).0, IO_ERROR);
    assert!(guest.transport.take_host_failure().is_some());
}

#[test]
fn a_disk_that_cannot_be_opened_answers_errors_and_is_reported_once() {
    let files = Files::new(2);
    // The layer in the middle is no overlay; only opening finds out.
    files.layers[1].write_all_at(&[0x55; 4096], 0).unwrap();
    let mut guest = files.guest();
    for _ in 0..3 {
        assert_eq!(guest.request(READ, 0, &[], 512).0, IO_ERROR);
        assert_eq!(guest.request(WRITE, 0, &[0; 512], 0).0, IO_ERROR);
    }
    let failure = guest.transport.take_host_failure().unwrap();
    assert!(!failure.is_empty());
    guest.request(READ, 0, &[], 512);
    assert_eq!(guest.transport.take_host_failure(), None);
    assert!(guest.transport.drain_and_flush().is_err());
    assert!(!guest.transport.is_broken(), "it is not the guest's fault");
}

#[test]
fn a_host_that_cannot_take_more_is_an_error_for_the_guest_and_a_report() {
    let mut files = Files::new(1);
    // A memory file that may not grow stands in for a full file system.
    let overlay = File::from(
        rustix::fs::memfd_create("overlay", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap(),
    );
    base_overlay::create(&overlay, DISK_BYTES).unwrap();
    rustix::fs::fcntl_add_seals(&overlay, rustix::fs::SealFlags::GROW).unwrap();
    files.layers[1] = overlay;
    let mut guest = files.guest();
    for _ in 0..2 {
        assert_eq!(guest.request(WRITE, 50, &[1; 512], 0).0, IO_ERROR);
    }
    let failure = guest.transport.take_host_failure().unwrap();
    assert!(failure.contains("not permitted"), "{failure}");
    assert_eq!(guest.transport.take_host_failure(), None, "the same failure is reported once");
    assert_eq!(number_of(&guest.read(50, 1)), 50, "the disk goes on");
    assert!(!guest.transport.is_broken());
}

#[test]
fn requests_outside_the_disk_are_refused() {
    let mut guest = Files::new(1).guest();
    let end = DISK_BYTES / 512;
    assert_eq!(guest.request(READ, end - 1, &[], 512).0, OK);
    assert_eq!(guest.request(READ, end, &[], 512).0, IO_ERROR);
    assert_eq!(guest.request(READ, end - 1, &[], 1024).0, IO_ERROR);
    assert_eq!(guest.request(WRITE, u64::MAX, &[0; 512], 0).0, IO_ERROR);
    assert_eq!(guest.request(READ, 0, &[], 513).0, IO_ERROR);
    assert_eq!(guest.request(READ, 0, &[], 0).0, IO_ERROR);
    assert_eq!(guest.request(99, 0, &[], 0).0, UNSUPPORTED);
    assert_eq!(guest.transport.with(|block, _| block.stats().errors), 6);
    assert!(guest.transport.take_broken().is_none());
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

#[test]
fn discarded_and_zeroed_sectors_read_as_zeroes() {
    let mut guest = Files::new(1).guest();
    guest.write(64, &[7; 65536]);
    let ranges = [range(64, 64, 0), range(200, 3, 0)].concat();
    assert_eq!(guest.request(DISCARD, 0, &ranges, 0).0, OK);
    assert_eq!(guest.read(64, 64), [0; 32768]);
    assert_eq!(guest.read(128, 64), [7; 32768]);
    assert_eq!(number_of(&guest.read(203, 1)), 203);
    assert_eq!(guest.request(WRITE_ZEROES, 0, &range(1000, 5, 1), 0).0, OK);
    assert_eq!(guest.read(1000, 5), [0; 5 * 512]);
    assert_eq!(number_of(&guest.read(1005, 1)), 1005);
    assert_eq!(guest.request(DISCARD, 0, &range(0, 1, 1), 0).0, UNSUPPORTED);
    assert_eq!(guest.request(DISCARD, 0, &range(DISK_BYTES / 512, 1, 0), 0).0, IO_ERROR);
    assert_eq!(guest.request(DISCARD, 0, &[1, 2, 3], 0).0, IO_ERROR);
    assert_eq!(guest.request(WRITE_ZEROES, 0, &vec![0; 17 * 16], 0).0, IO_ERROR);
}

#[test]
fn a_request_without_header_or_status_breaks_the_device() {
    for (parts, reason) in [
        (vec![Part::Out(1 << 20, 15), Part::In(2 << 20, 1)], "header"),
        (vec![Part::Out(1 << 20, 16)], "status"),
        (vec![Part::In(1 << 20, 16)], "header"),
    ] {
        let mut guest = Files::new(1).guest();
        guest.offer(0, &parts);
        guest.notify(0);
        guest.pump();
        assert!(guest.transport.take_broken().unwrap().contains(reason));
    }
}

#[test]
fn many_requests_at_once_are_all_served() {
    let mut guest = Files::new(1).guest();
    let header = guest.buffer_with(&[0; 16]);
    let data = guest.buffer(512);
    let status = guest.buffer(1);
    let mut offered = 0;
    while guest
        .offer(0, &[Part::Out(header, 16), Part::In(data, 512), Part::In(status, 1)])
        .is_some()
    {
        offered += 1;
    }
    guest.transport.drain();
    let served = std::iter::from_fn(|| guest.used(0)).count();
    assert_eq!(served, offered);
}

#[test]
fn a_snapshot_of_another_disk_is_refused() {
    let files = Files::new(1);
    let mut guest = files.guest();
    let mut frozen = crate::Freeze::freeze(&guest.transport);
    frozen.device.sectors += 1;
    let refused = guest.thaw(frozen, |_| files.disk()).unwrap_err();
    assert!(matches!(
        refused,
        ThawTransportError::Device(ThawBlockError::OtherDisk { found, expected })
            if expected == found + 1
    ));
}

#[derive(Clone, Debug)]
enum Step {
    Write { sector: u64, sectors: usize, byte: u8 },
    Read { sector: u64, sectors: usize },
    Zero { sector: u64, sectors: u32, kind: u32 },
    Flush,
    Clone,
    Push,
    Merge { from: usize, layers: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let end = DISK_BYTES / 512;
    let step = prop_oneof![
        4 => (0..end - 300, 1..300_usize, any::<u8>())
            .prop_map(|(sector, sectors, byte)| Step::Write { sector, sectors, byte }),
        3 => (0..end - 300, 1..300_usize)
            .prop_map(|(sector, sectors)| Step::Read { sector, sectors }),
        1 => (0..end - 300, 1..300_u32, prop_oneof![Just(DISCARD), Just(WRITE_ZEROES)])
            .prop_map(|(sector, sectors, kind)| Step::Zero { sector, sectors, kind }),
        1 => Just(Step::Flush),
        1 => Just(Step::Clone),
        2 => Just(Step::Push),
        1 => (1..6_usize, 1..5_usize).prop_map(|(from, layers)| Step::Merge { from, layers }),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_disk_reads_as_a_plain_array_would(steps in steps()) {
        let mut files = Files::new(1);
        let mut model = vec![0; DISK_BYTES as usize];
        files.layers[0].read_exact_at(&mut model, 0).unwrap();
        let mut guest = files.guest();
        for step in steps {
            match step {
                Step::Write { sector, sectors, byte } => {
                    guest.write(sector, &vec![byte; sectors * 512]);
                    model[sector as usize * 512..][..sectors * 512].fill(byte);
                }
                Step::Read { sector, sectors } => {
                    let bytes = guest.read(sector, sectors);
                    prop_assert!(bytes == model[sector as usize * 512..][..sectors * 512]);
                }
                Step::Zero { sector, sectors, kind } => {
                    prop_assert_eq!(guest.request(kind, 0, &range(sector, sectors, 0), 0).0, OK);
                    model[sector as usize * 512..][..sectors as usize * 512].fill(0);
                }
                Step::Flush => guest.flush(),
                Step::Clone => {
                    guest.transport.drain_and_flush().unwrap();
                    guest.clone_machine(|_| files.disk());
                }
                Step::Push => {
                    guest.transport.drain_and_flush().unwrap();
                    let overlay = files.overlay();
                    guest.transport.go_on_over(files.chain(&[&overlay])).unwrap();
                    files.layers.push(overlay);
                }
                Step::Merge { from, layers } => {
                    // All but the base and the overlay that is written.
                    let frozen = files.layers.len() - 1;
                    let from = from.min(frozen);
                    let to = (from + layers).min(frozen);
                    files.merge(from..to);
                }
            }
        }
        for (index, expected) in model.chunks(1 << 17).enumerate() {
            let bytes = guest.read(index as u64 * 256, 256);
            prop_assert!(bytes == expected);
        }
    }

    #[test]
    fn an_accepted_request_lies_on_the_disk(
        header in any::<[u8; 16]>(),
        kind in prop_oneof![Just(READ), Just(WRITE), Just(DISCARD), 0..32_u32],
        sector in prop_oneof![0..100_u64, any::<u64>()],
        len in prop_oneof![0..64_u64, any::<u64>()],
        sectors in prop_oneof![0..100_u64, any::<u64>()],
    ) {
        let mut header = header;
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        let len = len.wrapping_mul(512);
        match parse_request(&header, len, len, sectors) {
            Ok(Request::Read { offset, len } | Request::Write { offset, len }) => {
                prop_assert!(len > 0);
                prop_assert!(u128::from(offset) + u128::from(len) <= u128::from(sectors) * 512);
            }
            Ok(Request::Discard { ranges } | Request::WriteZeroes { ranges }) => {
                prop_assert_eq!(ranges as u64 * 16, len);
            }
            Ok(Request::Flush | Request::GetId) | Err(Refusal::Io | Refusal::Unsupported) => (),
        }
    }

    #[test]
    fn an_accepted_range_lies_on_the_disk(
        range in any::<[u8; 16]>(),
        sectors in any::<u64>(),
        flags in 0..2_u32,
    ) {
        if let Ok((offset, len)) = parse_range(&range, flags, sectors) {
            prop_assert!(u128::from(offset) + u128::from(len) <= u128::from(sectors) * 512);
        }
    }
}
