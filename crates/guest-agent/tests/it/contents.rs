use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use api_guest::{Answer, FailCode, FileKind, Input, ReadFile, Request, WriteFile};

use crate::guest::{Guest, USER, reaches};

fn write(path: &str) -> WriteFile {
    WriteFile { path: path.to_owned(), mode: None, user: None, parents: false }
}

fn read(path: &str) -> Request {
    Request::ReadFile(ReadFile { path: path.to_owned(), offset: 0, length: None })
}

fn fetch(guest: &Guest, request: &Request) -> Vec<u8> {
    let mut talk = guest.ask(request);
    assert!(matches!(talk.next(), Answer::FileHead(head) if head.stat.kind == FileKind::File));
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

fn names(guest: &Guest) -> Vec<String> {
    let entries = fs::read_dir(guest.directory.path()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_file_of_any_size_comes_back_as_it_was() {
    let guest = Guest::start();
    let path = guest.path("file");
    for size in [0, 1, 65_536, 65_537, 64 * 1024 * 1024] {
        let content: Vec<u8> = (0..size).map(|i: usize| (i * 7 + i / 251) as u8).collect();
        let talk = guest.ask(&Request::WriteFile(write(&path)));
        assert_eq!(talk.content(&content), Answer::Done);
        assert!(fetch(&guest, &read(&path)) == content, "{size} bytes");
    }
    let status = fs::read_to_string(format!("/proc/{}/status", guest.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: usize = peak.split_whitespace().next().unwrap().parse().unwrap();
    assert!(peak_kib < 12 * 1024, "{peak_kib} KiB");
}

#[test]
fn a_part_of_a_file_can_be_read() {
    let guest = Guest::start();
    let path = guest.path("file");
    fs::write(&path, "0123456789").unwrap();
    let part = |offset, length| {
        let request = Request::ReadFile(ReadFile { path: path.clone(), offset, length });
        String::from_utf8(fetch(&guest, &request)).unwrap()
    };
    assert_eq!(part(3, Some(4)), "3456");
    assert_eq!(part(8, None), "89");
    assert_eq!(part(8, Some(100)), "89");
    assert_eq!(part(0, Some(0)), "");
    assert_eq!(part(100, None), "");
}

#[test]
fn a_file_without_a_size_is_read_to_its_end() {
    let guest = Guest::start();
    let version = fetch(&guest, &read("/proc/version"));
    assert_eq!(version, fs::read("/proc/version").unwrap());
}

#[test]
fn mode_and_owner_are_as_asked_or_as_before() {
    let guest = Guest::start();
    let path = guest.path("deep/er/file");
    let mut request = write(&path);
    assert!(matches!(
        guest.ask(&Request::WriteFile(request.clone())).content(b"x"),
        Answer::Failed(failed) if failed.code == FailCode::NotFound
    ));
    request.parents = true;
    assert_eq!(guest.ask(&Request::WriteFile(request.clone())).content(b"x"), Answer::Done);
    let seen = |path: &str| {
        let data = fs::metadata(path).unwrap();
        (data.mode() & 0o7777, data.uid())
    };
    let default = Command::new("id").args(["-u", USER]).output().unwrap().stdout;
    let default: u32 = String::from_utf8(default).unwrap().trim().parse().unwrap();
    assert_eq!(seen(&path), (0o644, default));
    assert_eq!(seen(&guest.path("deep/er")), (0o755, default));
    assert_eq!(seen(&guest.path("deep")), (0o755, default));

    request.mode = Some(0o4750);
    request.user = Some("nobody".into());
    assert_eq!(guest.ask(&Request::WriteFile(request)).content(b"y"), Answer::Done);
    assert_eq!(seen(&path), (0o4750, 65534));
    assert_eq!(guest.ask(&Request::WriteFile(write(&path))).content(b"z"), Answer::Done);
    assert_eq!(seen(&path), (0o4750, 65534));
    assert_eq!(fs::read(&path).unwrap(), b"z");
}

#[test]
fn a_link_is_written_through() {
    let guest = Guest::start();
    fs::write(guest.path("target"), "old").unwrap();
    symlink("target", guest.path("link")).unwrap();
    let talk = guest.ask(&Request::WriteFile(write(&guest.path("link"))));
    assert_eq!(talk.content(b"new"), Answer::Done);
    assert_eq!(fs::read(guest.path("target")).unwrap(), b"new");
    assert!(fs::symlink_metadata(guest.path("link")).unwrap().is_symlink());
}

#[test]
fn a_write_that_is_not_finished_leaves_nothing() {
    let guest = Guest::start();
    let path = guest.path("file");
    fs::write(&path, "old").unwrap();
    let mut talk = guest.ask(&Request::WriteFile(write(&path)));
    talk.send(&Input::Chunk(vec![7; 100_000]));
    reaches("the draft is there", || names(&guest).iter().any(|name| name.ends_with(".part")));
    drop(talk);
    reaches("the draft is gone", || !names(&guest).iter().any(|name| name.ends_with(".part")));
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[test]
fn a_full_disk_says_so_and_leaves_nothing() {
    let guest = Guest::start();
    let disk = guest.path("disk");
    fs::create_dir(&disk).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none", &disk]).status();
    assert!(mounted.unwrap().success());
    let talk = guest.ask(&Request::WriteFile(write(&format!("{disk}/file"))));
    let answer = talk.content(&vec![7; 8 * 1024 * 1024]);
    let left = fs::read_dir(&disk).unwrap().count();
    assert!(Command::new("umount").arg(&disk).status().unwrap().success());
    match answer {
        Answer::Failed(failed) => {
            assert_eq!(failed.code, FailCode::NoSpace);
            assert_eq!(failed.message, format!("cannot write {disk}/file: the disk is full"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(left, 0);
}

#[test]
fn what_is_not_a_file_is_neither_read_nor_written() {
    let guest = Guest::start();
    let fifo = guest.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for (path, code) in [
        (guest.path(""), FailCode::IsADirectory),
        (fifo.clone(), FailCode::NotAFile),
        ("/dev/null".to_owned(), FailCode::NotAFile),
        (guest.path("fifo/x"), FailCode::NotADirectory),
        ("a\0b".to_owned(), FailCode::InvalidRequest),
        (String::new(), FailCode::InvalidRequest),
        (guest.path(&"n".repeat(300)), FailCode::InvalidRequest),
    ] {
        guest.fails(&read(&path), code);
        let answer = guest.ask(&Request::WriteFile(write(&path))).content(b"x");
        assert!(
            matches!(&answer, Answer::Failed(failed) if failed.code == code),
            "{path} {answer:?}"
        );
    }
    assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());
    let missing = guest.path("missing");
    let message = guest.fails(&read(&missing), FailCode::NotFound);
    assert_eq!(message, format!("cannot read {missing}: no such file or directory"));
    let mut request = write(&guest.path("x"));
    request.mode = Some(0o10000);
    let answer = guest.ask(&Request::WriteFile(request)).content(b"");
    assert!(matches!(answer, Answer::Failed(failed) if failed.code == FailCode::InvalidRequest));
}

#[test]
fn a_place_where_no_file_can_be_made_is_refused_with_its_reason() {
    let guest = Guest::start();
    let disk = guest.path("disk");
    fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "ro", "none", &disk]).status();
    assert!(mounted.unwrap().success());
    let answer = guest.ask(&Request::WriteFile(write(&format!("{disk}/file")))).content(b"x");
    assert!(Command::new("umount").arg(&disk).status().unwrap().success());
    assert!(
        matches!(&answer, Answer::Failed(failed) if failed.code == FailCode::PermissionDenied),
        "{answer:?}"
    );
}

#[test]
fn a_relative_path_starts_at_home() {
    let guest = Guest::start();
    // The default user's home here is /usr/sbin.
    assert!(fs::metadata("/usr/sbin/chroot").unwrap().permissions().mode() & 0o100 != 0);
    assert_eq!(fetch(&guest, &read("chroot")), fs::read("/usr/sbin/chroot").unwrap());
}
