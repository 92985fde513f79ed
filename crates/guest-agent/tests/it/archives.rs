use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use api_guest::{Answer, FailCode, FileKind, Input, Pack, Request, Unpack};
use tar::{Archive, Builder, EntryType, Header};

use crate::guest::{Guest, USER};

fn pack(path: &str) -> Request {
    Request::Pack(Pack { path: path.to_owned() })
}

fn unpack(path: &str, user: Option<&str>) -> Request {
    Request::Unpack(Unpack { path: path.to_owned(), user: user.map(str::to_owned) })
}

/// The whole archive of a directory.
fn fetch(guest: &Guest, path: &str) -> Vec<u8> {
    let mut talk = guest.ask(&pack(path));
    assert!(matches!(talk.next(), Answer::FileHead(head) if head.stat.kind == FileKind::Directory));
    let mut content = Vec::new();
    loop {
        match talk.next() {
            Answer::Chunk(data) => content.extend(data),
            Answer::End => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(talk.is_over());
    content
}

fn one_file(name: &str, data: &[u8]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_size(data.len() as u64);
    header.set_mode(0o640);
    // As it is, also when it is no name one may use.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
    builder.append(&header, data).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn a_tree_goes_out_and_comes_in_again() {
    let guest = Guest::start();
    let (from, to) = (guest.path("from"), guest.path("to/below"));
    fs::create_dir_all(Path::new(&from).join("deep/er")).unwrap();
    for number in 0..1000 {
        let content = vec![number as u8; number * 3];
        fs::write(Path::new(&from).join(format!("deep/file{number}")), content).unwrap();
    }
    symlink("deep/er", Path::new(&from).join("link")).unwrap();
    let stream = fetch(&guest, &from);
    assert_eq!(guest.ask(&unpack(&to, None)).content(&stream), Answer::Done);
    for number in [0, 1, 500, 999] {
        let content = fs::read(Path::new(&to).join(format!("deep/file{number}"))).unwrap();
        assert!(content == vec![number as u8; number * 3]);
    }
    assert_eq!(fs::read_dir(Path::new(&to).join("deep")).unwrap().count(), 1001);
    assert_eq!(fs::read_link(Path::new(&to).join("link")).unwrap(), Path::new("deep/er"));
    let owner = fs::metadata(Path::new(&to).join("deep/file7")).unwrap();
    // The user is Debian's `daemon`, number 1.
    assert_eq!((USER, owner.uid(), owner.gid()), ("daemon", 1, 1));
}

#[test]
fn a_big_tree_takes_little_memory_both_ways() {
    let guest = Guest::start();
    let from = guest.path("from");
    fs::create_dir(&from).unwrap();
    for name in ["a", "b"] {
        fs::write(Path::new(&from).join(name), vec![9; 40 << 20]).unwrap();
    }
    let stream = fetch(&guest, &from);
    assert!(stream.len() > 80 << 20);
    assert_eq!(guest.ask(&unpack(&guest.path("to"), None)).content(&stream), Answer::Done);
    let peak = guest.memory_peak_kib();
    assert!(peak < 12 * 1024, "{peak} KiB");
}

#[test]
fn what_comes_in_belongs_to_who_was_asked_for() {
    let guest = Guest::start();
    let to = guest.path("to");
    let stream = one_file("sub/file", b"x");
    assert_eq!(guest.ask(&unpack(&to, Some("bin"))).content(&stream), Answer::Done);
    for name in ["", "sub", "sub/file"] {
        assert_eq!(fs::metadata(Path::new(&to).join(name)).unwrap().uid(), 2, "{name}");
    }
    guest.fails(&unpack(&to, Some("nobody-here")), FailCode::UnknownUser);
}

#[test]
fn an_archive_that_leads_out_is_refused_in_one_sentence() {
    let guest = Guest::start();
    let to = guest.path("to");
    let stream = one_file("../escaped", b"x");
    let Answer::Failed(failed) = guest.ask(&unpack(&to, None)).content(&stream) else { panic!() };
    assert_eq!(failed.code, FailCode::InvalidRequest);
    assert_eq!(
        failed.message,
        "the archive has an entry named \"../escaped\", which leads out of the directory"
    );
    assert!(!Path::new(&guest.path("escaped")).exists());
    let Answer::Failed(failed) = guest.ask(&unpack(&to, None)).content(b"no archive") else {
        panic!()
    };
    assert!(failed.message.starts_with("the archive is damaged, or is no tar archive: "));
}

#[test]
fn the_failure_of_a_long_upload_is_told_and_not_lost() {
    let guest = Guest::start();
    let mut stream = one_file("../escaped", b"x");
    stream.resize(8 << 20, 0);
    let answer = guest.ask(&unpack(&guest.path("to"), None)).content(&stream);
    assert!(matches!(answer, Answer::Failed(failed) if failed.message.contains("leads out")));
}

#[test]
fn only_a_directory_is_packed() {
    let guest = Guest::start();
    fs::write(guest.path("file"), "x").unwrap();
    guest.fails(&pack(&guest.path("file")), FailCode::NotADirectory);
    guest.fails(&pack(&guest.path("missing")), FailCode::NotFound);
    let mut talk = guest.ask(&unpack(&guest.path("file"), None));
    talk.send(&Input::End);
    let Answer::Failed(failed) = talk.next() else { panic!() };
    assert_eq!(failed.code, FailCode::NotADirectory);
}

#[test]
fn an_empty_directory_is_an_archive_without_entries() {
    let guest = Guest::start();
    fs::create_dir(guest.path("empty")).unwrap();
    let stream = fetch(&guest, &guest.path("empty"));
    assert_eq!(Archive::new(stream.as_slice()).entries().unwrap().count(), 0);
    let to = guest.path("to");
    assert_eq!(guest.ask(&unpack(&to, None)).content(&stream), Answer::Done);
    assert!(Path::new(&to).is_dir());
}
