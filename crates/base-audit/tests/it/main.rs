//! What happens to a log is found, and named.

use std::fs;
use std::path::{Path, PathBuf};

use base_audit::{
    Event, Fault, HEAD_FILE, Head, LINE_BYTES_MAX, Line, Lines, Link, VerifyError, seal,
    segment_name, verify_file, verify_log,
};
use proptest::prelude::*;

fn event(number: u64) -> Event {
    Event {
        time_ms: 1_750_000_000_000 + number,
        actor: "key_01".into(),
        action: "sandbox_create".into(),
        object: Some(format!("sbx_{number:016x}")),
        result: "ok".into(),
        ..Event::default()
    }
}

/// The lines of a log, and the place of each.
fn lines(count: u64) -> (Vec<Vec<u8>>, Vec<Link>) {
    let (mut lines, mut links) = (Vec::new(), Vec::<Link>::new());
    for number in 0..count {
        let (line, link) = seal(&event(number), links.last().copied());
        lines.push(line);
        links.push(link);
    }
    (lines, links)
}

/// A directory with a log of these lines, split into files after every `per_file`.
struct Log {
    dir: tempfile::TempDir,
}

impl Log {
    fn new(lines: &[Vec<u8>], per_file: usize, head: Option<Link>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for (number, part) in lines.chunks(per_file).enumerate() {
            let mut text = part.join(&b'\n');
            text.push(b'\n');
            let first = (number * per_file) as u64;
            fs::write(dir.path().join(segment_name(first)), text).expect("a file in it");
        }
        if let Some(head) = head {
            let head = serde_json::to_vec(&Head::from(head)).expect("a file in it");
            fs::write(dir.path().join(HEAD_FILE), head).expect("a file in it");
        }
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn file(&self, first: u64) -> PathBuf {
        self.path().join(segment_name(first))
    }

    /// Index and fault of the first bad line.
    fn first_bad(&self) -> (u64, Fault) {
        match verify_log(self.path(), None) {
            Err(VerifyError::Bad { index, fault, .. }) => (index, fault),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_place_is_read_back_as_it_is_written() {
    let (_, links) = lines(3);
    for link in links {
        assert_eq!(link.to_string().parse(), Ok(link));
    }
    for wrong in ["", "1", "1:", ":00", "x:00", "1:zz"] {
        assert!(wrong.parse::<Link>().is_err(), "{wrong}");
    }
}

#[test]
fn a_log_as_it_was_written_is_whole() {
    let (lines, links) = lines(10);
    for per_file in [1, 3, 10, 11] {
        let log = Log::new(&lines, per_file, links.last().copied());
        let verified = verify_log(log.path(), None).unwrap();
        assert_eq!((verified.entries, verified.torn_bytes), (10, 0));
        assert_eq!(verified.last, links.last().copied());
    }
}

#[test]
fn every_changed_byte_is_found_at_its_line() {
    let (lines, links) = lines(5);
    for at in 0..lines[2].len() {
        let mut edited = lines.clone();
        edited[2][at] ^= 0x01;
        let log = Log::new(&edited, 10, links.last().copied());
        match verify_log(log.path(), None) {
            Err(VerifyError::Bad { index, .. }) => assert_eq!(index, 2, "byte {at}"),
            other => panic!("byte {at}: {other:?}"),
        }
    }
}

#[test]
fn an_edited_line_with_a_new_hash_is_found_at_the_next_one() {
    let (mut lines, links) = lines(5);
    let forged = Event { actor: "key_02".into(), ..event(2) };
    lines[2] = seal(&forged, Some(links[1])).0;
    let log = Log::new(&lines, 10, links.last().copied());
    assert_eq!(log.first_bad(), (3, Fault::Unlinked));
}

#[test]
fn a_log_written_anew_is_found_at_the_head() {
    let (mut lines, mut links) = lines(5);
    let head = links[4];
    for number in 2..5 {
        let forged = Event { actor: "key_02".into(), ..event(number as u64) };
        (lines[number], links[number]) = seal(&forged, Some(links[number - 1]));
    }
    let log = Log::new(&lines, 10, Some(head));
    assert_eq!(log.first_bad(), (4, Fault::NotTheHead));
    // With the head written anew as well only a head noted elsewhere tells.
    let log = Log::new(&lines, 10, Some(links[4]));
    verify_log(log.path(), None).unwrap();
    let error = verify_log(log.path(), Some(head)).unwrap_err();
    assert!(matches!(error, VerifyError::Bad { index: 4, fault: Fault::NotTheHead, .. }));
}

#[test]
fn a_removed_inserted_or_moved_line_is_named() {
    let (lines, links) = lines(6);
    let head = links.last().copied();
    let removed = [&lines[..2], &lines[3..]].concat();
    let fault = Fault::Misplaced { found: 3, expected: 2 };
    assert_eq!(Log::new(&removed, 10, head).first_bad(), (2, fault));

    let mut inserted = lines.clone();
    inserted.insert(3, seal(&event(99), Some(links[2])).0);
    let misplaced = Fault::Misplaced { found: 3, expected: 4 };
    assert_eq!(Log::new(&inserted, 10, head).first_bad(), (4, misplaced));

    let mut moved = lines.clone();
    moved.swap(1, 4);
    let misplaced = Fault::Misplaced { found: 4, expected: 1 };
    assert_eq!(Log::new(&moved, 10, head).first_bad(), (1, misplaced));
}

#[test]
fn a_missing_end_is_found_as_far_back_as_the_head() {
    let (lines, links) = lines(6);
    let log = Log::new(&lines[..4], 10, Some(links[5]));
    let error = verify_log(log.path(), None).unwrap_err();
    assert!(matches!(error, VerifyError::Shortened { head: 5, next: 4 }), "{error}");
    // What came after the head may be missing: a crash takes it as well.
    let log = Log::new(&lines[..4], 10, Some(links[3]));
    assert_eq!(verify_log(log.path(), None).unwrap().entries, 4);
    // Unless somebody noted it.
    assert!(verify_log(log.path(), Some(links[5])).is_err());
    // Without a head nothing is known of the end, and that is said.
    let log = Log::new(&lines, 10, None);
    assert!(matches!(verify_log(log.path(), None), Err(VerifyError::Head(_))));
}

#[test]
fn a_missing_file_is_named() {
    let (lines, links) = lines(9);
    let log = Log::new(&lines, 3, links.last().copied());
    fs::remove_file(log.file(3)).unwrap();
    let error = verify_log(log.path(), None).unwrap_err();
    assert!(matches!(error, VerifyError::FileMissing { found: 6, expected: 3, .. }), "{error}");
    fs::remove_file(log.file(0)).unwrap();
    let error = verify_log(log.path(), None).unwrap_err();
    assert!(matches!(error, VerifyError::FileMissing { found: 6, expected: 0, .. }), "{error}");
    // One file alone can still be looked at.
    assert_eq!(verify_file(&log.file(6)).unwrap().entries, 3);
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(verify_log(empty.path(), None), Err(VerifyError::NoLog(_))));
}

#[test]
fn a_torn_line_is_told_at_the_end_and_refused_elsewhere() {
    let (lines, links) = lines(6);
    let log = Log::new(&lines, 3, Some(links[4]));
    let cut = |first: u64| {
        let whole = fs::read(log.file(first)).unwrap();
        fs::write(log.file(first), &whole[..whole.len() - 7]).unwrap();
    };
    cut(3);
    let verified = verify_log(log.path(), None).unwrap();
    assert_eq!((verified.entries, verified.torn_bytes), (5, lines[5].len() as u64 - 6));
    cut(0);
    let error = verify_log(log.path(), None).unwrap_err();
    assert!(matches!(error, VerifyError::TornWithin { index: 2, .. }), "{error}");
}

#[test]
fn the_longest_event_has_a_line_that_fits() {
    let text = "\u{1}".repeat(10_000);
    let mut longest = Event {
        time_ms: u64::MAX,
        actor: text.clone(),
        project: Some(text.clone()),
        source: Some(text.clone()),
        request: Some(text.clone()),
        action: text.clone(),
        object: Some(text.clone()),
        result: text.clone(),
        detail: Some(text),
    };
    longest.cut();
    let (line, link) = seal(&longest, None);
    assert!(line.len() < LINE_BYTES_MAX, "{}", line.len());
    let log = Log::new(&[line], 1, Some(link));
    assert_eq!(verify_log(log.path(), None).unwrap().entries, 1);
}

#[test]
fn a_line_without_end_is_counted_and_not_kept() {
    let flood = vec![b'x'; 40 * LINE_BYTES_MAX];
    let mut lines = Lines::new(flood.as_slice());
    assert_eq!(lines.next_line().unwrap(), Some(Line::Torn(flood.len() as u64)));
    assert_eq!(lines.next_line().unwrap(), None);
    let flood = [flood.as_slice(), b"\nshort\n"].concat();
    let mut lines = Lines::new(flood.as_slice());
    assert_eq!(lines.next_line().unwrap(), Some(Line::TooLong));
    assert_eq!(lines.next_line().unwrap(), Some(Line::Whole(b"short")));
}

/// One thing done to the lines of a log.
#[derive(Clone, Debug)]
enum Deed {
    Flip { line: usize, byte: usize, bit: u8 },
    Remove(usize),
    Double(usize),
    Swap(usize, usize),
    Forge(usize),
}

fn deed() -> impl Strategy<Value = Deed> {
    let line = any::<usize>();
    prop_oneof![
        (line, any::<usize>(), 0..8u8).prop_map(|(line, byte, bit)| Deed::Flip { line, byte, bit }),
        line.prop_map(Deed::Remove),
        line.prop_map(Deed::Double),
        (line, line).prop_map(|(a, b)| Deed::Swap(a, b)),
        line.prop_map(Deed::Forge),
    ]
}

proptest! {
    #[test]
    fn whatever_is_done_to_the_lines_shows(count in 1..12u64, per_file in 1..5usize, deed in deed()) {
        let (original, links) = lines(count);
        let mut changed = original.clone();
        let length = changed.len();
        match deed {
            Deed::Flip { line, byte, bit } => {
                let line = &mut changed[line % length];
                let byte = byte % line.len();
                line[byte] ^= 1 << bit;
            }
            Deed::Remove(line) => drop(changed.remove(line % length)),
            Deed::Double(line) => changed.insert(line % length, original[line % length].clone()),
            Deed::Swap(a, b) => changed.swap(a % length, b % length),
            Deed::Forge(line) => {
                let line = line % length;
                let before = line.checked_sub(1).map(|before| links[before]);
                changed[line] = seal(&event(1000), before).0;
            }
        }
        let log = Log::new(&changed, per_file, links.last().copied());
        let whole = verify_log(log.path(), None).is_ok();
        prop_assert_eq!(whole, changed == original);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(segment_name(0)), &bytes).unwrap();
        fs::write(dir.path().join(HEAD_FILE), &bytes).unwrap();
        prop_assert!(verify_log(dir.path(), None).is_err());
    }

    #[test]
    fn no_mutation_of_a_real_line_is_taken_for_one(
        at in any::<usize>(), with in proptest::collection::vec(any::<u8>(), 0..20), over in 0..20usize,
    ) {
        let (lines, _) = lines(2);
        let mut line = lines[1].clone();
        let at = at % line.len();
        let end = (at + over).min(line.len());
        line.splice(at..end, with);
        let mut chain = base_audit::Chain::beginning();
        chain.take(&lines[0]).unwrap();
        prop_assert_eq!(chain.take(&line).is_ok(), line == lines[1]);
    }
}
