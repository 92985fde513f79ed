use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::Path;

use api_guest::{Answer, As, Change, ChangeKind, FailCode, FileKind, Request, Watch};

use crate::guest::{Guest, Talk, USER, reaches};
use crate::rights::open_up;

use ChangeKind::{Attributes, Created, Missed, Modified, Moved, Removed};

fn watch(guest: &Guest, path: &str, recursive: bool) -> Talk {
    let path = path.to_owned();
    let mut talk = guest.ask(&Request::Watch(Watch { path, recursive }));
    assert!(matches!(talk.next(), Answer::StatAnswer(_)));
    talk
}

fn next(talk: &mut Talk) -> Change {
    match talk.next() {
        Answer::Change(change) => change,
        other => panic!("{other:?}"),
    }
}

/// The next change, of which this much is expected.
fn expect(talk: &mut Talk, what: ChangeKind, path: &str, kind: Option<FileKind>) {
    let change = next(talk);
    assert_eq!((change.what, change.path.as_str(), change.kind), (what, path, kind));
    assert!(change.at_ns > 1_700_000_000_000_000_000);
}

/// All changes until a file of this name is created, which a test does last.
fn until(talk: &mut Talk, last: &str) -> Vec<(ChangeKind, String)> {
    let mut all = Vec::new();
    loop {
        let Change { what, path, .. } = next(talk);
        if (what, path.as_str()) == (Created, last) {
            return all;
        }
        all.push((what, path));
    }
}

#[test]
fn what_happens_in_a_directory_is_told_in_order() {
    let guest = Guest::start();
    let folder = guest.path("folder");
    fs::create_dir(&folder).unwrap();
    let place = Path::new(&folder);
    let mut talk = watch(&guest, &folder, false);
    let file = Some(FileKind::File);
    let mut open = fs::File::create(place.join("a")).unwrap();
    expect(&mut talk, Created, "a", file);
    open.write_all(b"x").unwrap();
    expect(&mut talk, Modified, "a", file);
    fs::set_permissions(place.join("a"), fs::Permissions::from_mode(0o600)).unwrap();
    expect(&mut talk, Attributes, "a", file);
    fs::rename(place.join("a"), place.join("b")).unwrap();
    let moved = next(&mut talk);
    assert_eq!((moved.what, moved.path.as_str()), (Moved, "a"));
    assert_eq!((moved.to.as_deref(), moved.kind), (Some("b"), file));
    fs::remove_file(place.join("b")).unwrap();
    expect(&mut talk, Removed, "b", None);
    symlink("nowhere", place.join("link")).unwrap();
    expect(&mut talk, Created, "link", Some(FileKind::Symlink));
    fs::create_dir(place.join("inner")).unwrap();
    expect(&mut talk, Created, "inner", Some(FileKind::Directory));
    // Not recursive: what is in there is not told.
    fs::write(place.join("inner/x"), "").unwrap();
    fs::write(place.join("last"), "").unwrap();
    expect(&mut talk, Created, "last", file);
}

#[test]
fn what_is_moved_in_and_out_is_created_and_removed() {
    let guest = Guest::start();
    let folder = guest.path("folder");
    fs::create_dir_all(guest.path("folder/old/deep")).unwrap();
    fs::write(guest.path("outside"), "x").unwrap();
    let mut talk = watch(&guest, &folder, true);
    fs::rename(guest.path("outside"), guest.path("folder/in")).unwrap();
    expect(&mut talk, Created, "in", Some(FileKind::File));
    fs::rename(guest.path("folder/old"), guest.path("gone")).unwrap();
    expect(&mut talk, Removed, "old", Some(FileKind::Directory));
    // It is not watched any more.
    fs::write(guest.path("gone/deep/x"), "").unwrap();
    fs::write(guest.path("folder/last"), "").unwrap();
    expect(&mut talk, Created, "last", Some(FileKind::File));
}

#[test]
fn a_tree_is_watched_as_it_grows_and_moves() {
    let guest = Guest::start();
    let folder = guest.path("folder");
    fs::create_dir_all(guest.path("folder/there/deep")).unwrap();
    let mut talk = watch(&guest, &folder, true);
    fs::write(guest.path("folder/there/deep/x"), "").unwrap();
    expect(&mut talk, Created, "there/deep/x", Some(FileKind::File));
    fs::rename(guest.path("folder/there"), guest.path("folder/then")).unwrap();
    let moved = next(&mut talk);
    assert_eq!((moved.what, moved.to.as_deref()), (Moved, Some("then")));
    fs::write(guest.path("folder/then/deep/y"), "").unwrap();
    expect(&mut talk, Created, "then/deep/y", Some(FileKind::File));
    fs::create_dir_all(guest.path("folder/new/a/b/c")).unwrap();
    fs::write(guest.path("folder/new/a/b/c/z"), "").unwrap();
    fs::write(guest.path("folder/last"), "").unwrap();
    let all = until(&mut talk, "last");
    let expected = ["new", "new/a", "new/a/b", "new/a/b/c", "new/a/b/c/z"];
    assert_eq!(all, expected.map(|path| (Created, path.to_owned())));
}

#[test]
fn nothing_that_appears_in_new_directories_is_missed_or_told_twice() {
    let guest = Guest::start();
    let folder = guest.path("folder");
    fs::create_dir(&folder).unwrap();
    let mut talk = watch(&guest, &folder, true);
    let mut expected = Vec::new();
    for number in 0..300 {
        fs::create_dir_all(guest.path(&format!("folder/d{number}/e"))).unwrap();
        fs::write(guest.path(&format!("folder/d{number}/e/f")), "").unwrap();
        for path in ["", "/e", "/e/f"] {
            expected.push((Created, format!("d{number}{path}")));
        }
    }
    fs::write(guest.path("folder/last"), "").unwrap();
    let mut all = until(&mut talk, "last");
    all.sort_unstable_by(|a, b| a.1.cmp(&b.1));
    expected.sort_unstable_by(|a, b| a.1.cmp(&b.1));
    assert!(all == expected, "{} of {}", all.len(), expected.len());
}

#[test]
fn a_directory_is_watched_from_when_its_watcher_may_read_it() {
    let guest = Guest::start();
    open_up(&guest);
    let folder = guest.path("folder");
    fs::create_dir(&folder).unwrap();
    let mut talk = guest.ask(&Request::As(As { user: USER.to_owned() }));
    talk.send(&Request::Watch(Watch { path: folder, recursive: true }));
    assert!(matches!(talk.next(), Answer::StatAnswer(_)));
    let (directory, file) = (Some(FileKind::Directory), Some(FileKind::File));
    let closed = guest.path("folder/closed");
    fs::DirBuilder::new().mode(0o700).create(&closed).unwrap();
    fs::create_dir(guest.path("folder/closed/in")).unwrap();
    fs::write(guest.path("folder/closed/in/x"), "").unwrap();
    fs::write(guest.path("folder/mark"), "").unwrap();
    expect(&mut talk, Created, "closed", directory);
    expect(&mut talk, Created, "mark", file);
    let with_mode = |mode| fs::set_permissions(&closed, fs::Permissions::from_mode(mode)).unwrap();
    with_mode(0o755);
    expect(&mut talk, Attributes, "closed", directory);
    expect(&mut talk, Created, "closed/in", directory);
    expect(&mut talk, Created, "closed/in/x", file);
    fs::write(guest.path("folder/closed/in/y"), "").unwrap();
    expect(&mut talk, Created, "closed/in/y", file);
    // What is watched is not told anew.
    with_mode(0o711);
    with_mode(0o755);
    fs::write(guest.path("folder/closed/last"), "").unwrap();
    expect(&mut talk, Attributes, "closed", directory);
    expect(&mut talk, Attributes, "closed", directory);
    expect(&mut talk, Created, "closed/last", file);
}

#[test]
fn more_changes_than_the_kernel_holds_are_told_as_missed() {
    let guest = Guest::start();
    let folder = guest.path("folder");
    fs::create_dir(&folder).unwrap();
    let mut talk = watch(&guest, &folder, true);
    let bound = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let bound: usize = bound.trim().parse().unwrap();
    // While nobody reads, all of this is queued: by the connection, then by the kernel.
    for number in 0..bound * 3 {
        fs::write(guest.path(&format!("folder/{}", number % 500)), "").unwrap();
        fs::remove_file(guest.path(&format!("folder/{}", number % 500))).unwrap();
    }
    let mut seen = 0;
    while next(&mut talk).what != Missed {
        seen += 1;
    }
    assert!(seen < bound * 6);
    fs::create_dir(guest.path("folder/after")).unwrap();
    let mut change = next(&mut talk);
    while change.path != "after" {
        change = next(&mut talk);
    }
    fs::write(guest.path("folder/after/x"), "").unwrap();
    expect(&mut talk, Created, "after/x", Some(FileKind::File));
}

#[test]
fn a_watch_ends_when_its_directory_is_gone() {
    let guest = Guest::start();
    for leave in
        [|path: &str| fs::remove_dir(path), |path: &str| fs::rename(path, format!("{path}2"))]
    {
        let folder = guest.path("folder");
        fs::create_dir(&folder).unwrap();
        let mut talk = watch(&guest, &folder, true);
        leave(&folder).unwrap();
        expect(&mut talk, Removed, "", Some(FileKind::Directory));
        let Answer::Failed(failed) = talk.next() else { panic!() };
        assert_eq!(failed.message, format!("the watched directory {folder} is gone"));
        assert!(talk.is_over());
    }
}

#[test]
fn only_a_directory_is_watched() {
    let guest = Guest::start();
    fs::write(guest.path("file"), "x").unwrap();
    let request = |name| Request::Watch(Watch { path: guest.path(name), recursive: false });
    guest.fails(&request("file"), FailCode::NotADirectory);
    guest.fails(&request("missing"), FailCode::NotFound);
}

#[test]
fn a_tree_of_too_many_directories_is_refused() {
    let guest = Guest::start();
    let folder = guest.path("folder");
    fs::create_dir(&folder).unwrap();
    for number in 0..8192 {
        fs::create_dir(guest.path(&format!("folder/{number}"))).unwrap();
    }
    let request = Request::Watch(Watch { path: folder.clone(), recursive: true });
    let message = guest.fails(&request, FailCode::OutOfResources);
    assert_eq!(message, format!("cannot watch {folder}: there are too many directories in it"));
    // As one directory it is fine.
    let _ = watch(&guest, &folder, false);
}

#[test]
fn a_watch_nobody_listens_to_ends() {
    let guest = Guest::start();
    let queues = || {
        let open = fs::read_dir(format!("/proc/{}/fd", guest.pid())).unwrap();
        let target = |entry: std::io::Result<fs::DirEntry>| fs::read_link(entry.ok()?.path()).ok();
        open.filter_map(target).filter(|path| path.ends_with("anon_inode:inotify")).count()
    };
    let folder = guest.path("folder");
    fs::create_dir(&folder).unwrap();
    let talk = watch(&guest, &folder, true);
    assert_eq!(queues(), 1);
    drop(talk);
    reaches("the queue is closed", || queues() == 0);
}
