use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use api_guest::{
    Answer, Entry, FailCode, FileKind, List, MakeDir, Move, Remove, Request, Settle, Stat,
};

use crate::guest::{Guest, USER};

fn list(guest: &Guest, path: &str) -> Vec<Entry> {
    let mut talk = guest.ask(&Request::List(List { path: path.to_owned() }));
    let mut all = Vec::new();
    loop {
        match talk.next() {
            Answer::Entries(entries) => all.extend(entries.entries),
            Answer::Done => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(talk.is_over());
    all
}

fn remove(path: &str, recursive: bool) -> Request {
    Request::Remove(Remove { path: path.to_owned(), recursive })
}

#[test]
fn a_listing_is_in_order_and_follows_no_link() {
    let guest = Guest::start();
    let directory = guest.path("d");
    fs::create_dir_all(guest.path("d/b")).unwrap();
    fs::write(guest.path("d/a"), "12345").unwrap();
    symlink("/nowhere", guest.path("d/c")).unwrap();
    let entries = list(&guest, &directory);
    let seen: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.stat.kind)).collect();
    assert_eq!(seen, [("a", FileKind::File), ("b", FileKind::Directory), ("c", FileKind::Symlink)]);
    assert_eq!((entries[0].stat.size, entries[0].stat.user.as_deref()), (5, Some("root")));
    assert_eq!(entries[2].stat.link_target.as_deref(), Some("/nowhere"));
    guest.fails(&Request::List(List { path: guest.path("d/a") }), FailCode::NotADirectory);
    guest.fails(&Request::List(List { path: guest.path("x") }), FailCode::NotFound);
}

#[test]
fn a_large_directory_takes_several_frames() {
    let guest = Guest::start();
    fs::create_dir(guest.path("d")).unwrap();
    let name = |number: usize| format!("{number:05}-{}", "x".repeat(200));
    for number in 0..2000 {
        fs::write(guest.path(&format!("d/{}", name(number))), "").unwrap();
    }
    let entries = list(&guest, &guest.path("d"));
    assert_eq!(entries.len(), 2000);
    assert!(entries.iter().enumerate().all(|(number, entry)| entry.name == name(number)));
}

#[test]
fn stat_tells_a_link_from_what_it_points_at() {
    let guest = Guest::start();
    fs::write(guest.path("file"), "123").unwrap();
    symlink("file", guest.path("link")).unwrap();
    let kind = |follow| {
        let request = Request::Stat(Stat { path: guest.path("link"), follow });
        match guest.one(&request) {
            Answer::StatAnswer(answer) => answer.stat,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((kind(true).kind, kind(true).size), (FileKind::File, 3));
    assert_eq!(kind(false).kind, FileKind::Symlink);
    let real = fs::metadata(guest.path("file")).unwrap();
    assert_eq!(kind(true).modified_ns, real.mtime() * 1_000_000_000 + real.mtime_nsec());
    let missing = Request::Stat(Stat { path: guest.path("x"), follow: true });
    guest.fails(&missing, FailCode::NotFound);
}

#[test]
fn directories_are_made_with_owner_and_mode() {
    let guest = Guest::start();
    let request = |name: &str, parents| {
        Request::MakeDir(MakeDir { path: guest.path(name), mode: Some(0o770), user: None, parents })
    };
    assert_eq!(guest.one(&request("a", false)), Answer::Done);
    guest.fails(&request("a", false), FailCode::AlreadyExists);
    assert_eq!(guest.one(&request("a", true)), Answer::Done);
    guest.fails(&request("b/c", false), FailCode::NotFound);
    assert_eq!(guest.one(&request("b/c", true)), Answer::Done);
    fs::write(guest.path("file"), "").unwrap();
    guest.fails(&request("file", true), FailCode::AlreadyExists);
    guest.fails(&request("file/x", true), FailCode::NotADirectory);
    let entries = list(&guest, &guest.path("b"));
    assert_eq!((entries[0].stat.mode, entries[0].stat.user.as_deref()), (0o770, Some(USER)));
}

#[test]
fn a_move_replaces_a_file_and_nothing_else() {
    let guest = Guest::start();
    fs::write(guest.path("a"), "new").unwrap();
    fs::write(guest.path("b"), "old").unwrap();
    let request =
        |from: &str, to: &str| Request::Move(Move { from: guest.path(from), to: guest.path(to) });
    assert_eq!(guest.one(&request("a", "b")), Answer::Done);
    assert_eq!(fs::read(guest.path("b")).unwrap(), b"new");
    guest.fails(&request("a", "b"), FailCode::NotFound);
    fs::create_dir_all(guest.path("full/x")).unwrap();
    fs::create_dir(guest.path("empty")).unwrap();
    guest.fails(&request("b", "empty"), FailCode::IsADirectory);
    guest.fails(&request("empty", "full"), FailCode::DirectoryNotEmpty);
    assert_eq!(guest.one(&request("full", "empty")), Answer::Done);
    // What the kernel holds on to is nobody's to move.
    let root = Request::Move(Move { from: "/".to_owned(), to: "/".to_owned() });
    guest.fails(&root, FailCode::PermissionDenied);
}

#[test]
fn a_removal_takes_what_it_was_told_and_never_follows_a_link() {
    let guest = Guest::start();
    fs::create_dir_all(guest.path("tree/a/b")).unwrap();
    fs::write(guest.path("tree/a/file"), "").unwrap();
    fs::create_dir(guest.path("kept")).unwrap();
    fs::write(guest.path("kept/file"), "").unwrap();
    symlink("../kept", guest.path("tree/link")).unwrap();
    guest.fails(&remove(&guest.path("tree"), false), FailCode::DirectoryNotEmpty);
    assert_eq!(guest.one(&remove(&guest.path("tree"), true)), Answer::Done);
    assert!(!fs::exists(guest.path("tree")).unwrap());
    assert!(fs::exists(guest.path("kept/file")).unwrap());
    guest.fails(&remove(&guest.path("tree"), true), FailCode::NotFound);
    assert_eq!(guest.one(&remove(&guest.path("kept/file"), false)), Answer::Done);
    assert_eq!(guest.one(&remove(&guest.path("kept"), false)), Answer::Done);
    for root in ["/", "/proc/..", "//"] {
        guest.fails(&remove(root, true), FailCode::InvalidRequest);
    }
}

#[test]
fn a_deep_tree_is_removed() {
    let guest = Guest::start();
    let deep = format!("{}/{}", guest.path("deep"), "d/".repeat(900));
    fs::create_dir_all(deep).unwrap();
    assert_eq!(guest.one(&remove(&guest.path("deep"), true)), Answer::Done);
    assert!(!fs::exists(guest.path("deep")).unwrap());
}

#[test]
fn settling_is_always_possible() {
    let guest = Guest::start();
    assert_eq!(guest.one(&Request::Settle(Settle { drop_caches: true })), Answer::Done);
}
