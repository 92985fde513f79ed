use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use api_guest::{
    Answer, As, FailCode, List, MakeDir, Message, Move, Pack, ReadFile, Remove, Request, Settle,
    Stat, Unpack, Watch, WriteFile,
};

use crate::guest::{Guest, USER};

/// Everything that may be done with a user's rights, done to this path.
fn looks(path: &str) -> [Request; 4] {
    let path = path.to_owned();
    [
        Request::ReadFile(ReadFile { path: path.clone(), offset: 0, length: None }),
        Request::List(List { path: path.clone() }),
        Request::Pack(Pack { path: path.clone() }),
        Request::Watch(Watch { path, recursive: false }),
    ]
}

/// The first answer to a request made with a user's rights.
fn by(guest: &Guest, user: &str, request: &Request) -> Answer {
    let mut talk = guest.ask(&Request::As(As { user: user.to_owned() }));
    talk.send(request);
    talk.next()
}

fn refused(answer: &Answer) -> bool {
    matches!(answer, Answer::Failed(failed) if failed.code == FailCode::PermissionDenied)
}

/// A directory anybody may enter, as the one of a test is not.
pub(crate) fn open_up(guest: &Guest) {
    fs::set_permissions(guest.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
}

fn with_mode(path: &str, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_user_sees_only_what_it_may() {
    let guest = Guest::start();
    open_up(&guest);
    let (file, folder) = (guest.path("file"), guest.path("folder"));
    fs::write(&file, "secret").unwrap();
    fs::create_dir(&folder).unwrap();
    with_mode(&file, 0o600);
    with_mode(&folder, 0o700);
    let [read, ..] = looks(&file);
    let [_, list, pack, watch] = looks(&folder);
    for request in [&read, &list, &pack, &watch] {
        assert!(refused(&by(&guest, USER, request)), "{request:?}");
        assert!(refused(&by(&guest, "1", request)), "{request:?}");
        assert!(!matches!(by(&guest, "root", request), Answer::Failed(_)), "{request:?}");
    }
    let inside = Request::Stat(Stat { path: format!("{folder}/x"), follow: true });
    assert!(refused(&by(&guest, USER, &inside)));
    // Owner and group count as they do for every process.
    chown(&file, Some(1), None).unwrap();
    assert!(matches!(by(&guest, USER, &read), Answer::FileHead(_)));
    chown(&file, Some(0), Some(1)).unwrap();
    with_mode(&file, 0o640);
    assert!(matches!(by(&guest, USER, &read), Answer::FileHead(_)));
    assert!(refused(&by(&guest, "bin", &read)));
}

#[test]
fn an_archive_ends_at_what_its_user_may_not_read() {
    let guest = Guest::start();
    open_up(&guest);
    let folder = guest.path("folder");
    fs::create_dir(&folder).unwrap();
    fs::write(Path::new(&folder).join("hidden"), "secret").unwrap();
    with_mode(&format!("{folder}/hidden"), 0o600);
    let mut talk = guest.ask(&Request::As(As { user: USER.to_owned() }));
    talk.send(&Request::Pack(Pack { path: folder.clone() }));
    assert!(matches!(talk.next(), Answer::FileHead(_)));
    loop {
        match talk.next() {
            Answer::Chunk(data) => assert!(!data.windows(6).any(|part| part == b"secret")),
            Answer::Failed(failed) => {
                assert_eq!(failed.code, FailCode::PermissionDenied);
                assert_eq!(
                    failed.message,
                    format!("cannot read {folder}/hidden: permission denied")
                );
                return;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_agent_keeps_its_own_rights() {
    let guest = Guest::start();
    open_up(&guest);
    let file = guest.path("file");
    fs::write(&file, "secret").unwrap();
    with_mode(&file, 0o600);
    let [read, ..] = looks(&file);
    // More often than there are threads.
    for _ in 0..20 {
        assert!(refused(&by(&guest, USER, &read)));
        assert!(matches!(guest.ask(&read).next(), Answer::FileHead(_)));
    }
    let status = fs::metadata(format!("/proc/{}/task", guest.pid())).unwrap();
    assert_eq!(status.uid(), 0);
}

/// Everything that changes files, done to this path; what is sent takes content.
fn changes(path: &str) -> [Request; 5] {
    let path = path.to_owned();
    [
        Request::WriteFile(WriteFile { path: path.clone(), mode: None, user: None, parents: true }),
        Request::MakeDir(MakeDir {
            path: format!("{path}-made"),
            mode: None,
            user: None,
            parents: true,
        }),
        Request::Move(Move { from: path.clone(), to: format!("{path}-moved") }),
        Request::Remove(Remove { path: format!("{path}-moved"), recursive: false }),
        Request::Unpack(Unpack { path: format!("{path}-unpacked"), user: None }),
    ]
}

/// What becomes of a change made with a user's rights, with this content where it takes some.
fn change(guest: &Guest, user: &str, request: &Request, content: &[u8]) -> Answer {
    let mut talk = guest.ask(&Request::As(As { user: user.to_owned() }));
    talk.send(request);
    match request {
        Request::WriteFile(_) | Request::Unpack(_) => talk.content(content),
        _ => talk.next(),
    }
}

/// An archive of a directory that may only be read, and a file in it.
fn archive() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o555);
    header.set_size(0);
    archive.append_data(&mut header, "shut/", &[][..]).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o640);
    header.set_size(2);
    archive.append_data(&mut header, "shut/file", &b"hi"[..]).unwrap();
    archive.into_inner().unwrap()
}

#[test]
fn a_user_changes_only_what_it_may() {
    let guest = Guest::start();
    open_up(&guest);
    // In a directory of root's, nothing.
    let here = guest.path("root-file");
    fs::write(&here, "root's").unwrap();
    with_mode(&here, 0o666);
    fs::write(guest.path("root-file-moved"), "root's").unwrap();
    for request in &changes(&here) {
        let answer = change(&guest, USER, request, &archive());
        assert!(refused(&answer), "{request:?}: {answer:?}");
    }
    assert_eq!(fs::read_to_string(&here).unwrap(), "root's");
    assert!(!Path::new(&format!("{here}-made")).exists());
    // In its own, what is its own.
    let own = guest.path("own");
    fs::create_dir(&own).unwrap();
    chown(&own, Some(1), Some(1)).unwrap();
    let mine = format!("{own}/file");
    for request in &changes(&mine) {
        let answer = change(&guest, USER, request, &archive());
        assert_eq!(answer, Answer::Done, "{request:?}");
    }
    let owner = |path: &str| fs::symlink_metadata(path).map(|data| (data.uid(), data.mode()));
    assert!(owner(&mine).is_err() && owner(&format!("{mine}-moved")).is_err());
    assert_eq!(owner(&format!("{mine}-made")).unwrap(), (1, 0o40755));
    let shut = format!("{mine}-unpacked/shut");
    assert_eq!(owner(&shut).unwrap(), (1, 0o40555));
    assert_eq!(owner(&format!("{shut}/file")).unwrap(), (1, 0o100640));
    // A file of another in it is not written to, as it would not be by a program.
    let foreign = format!("{own}/foreign");
    fs::write(&foreign, "root's").unwrap();
    let [write, ..] = changes(&foreign);
    assert!(refused(&change(&guest, USER, &write, b"other")));
    with_mode(&foreign, 0o666);
    assert_eq!(change(&guest, USER, &write, b"other"), Answer::Done);
    assert_eq!(fs::read_to_string(&foreign).unwrap(), "other");
    // Nothing is given away.
    let away = WriteFile {
        path: format!("{own}/away"),
        mode: None,
        user: Some("root".to_owned()),
        parents: false,
    };
    assert!(refused(&change(&guest, USER, &Request::WriteFile(away), b"x")));
    assert!(!Path::new(&own).join("away").exists());
    assert_eq!(change(&guest, "root", &write, b"again"), Answer::Done);
}

#[test]
fn only_what_is_done_to_files_is_done_with_a_users_rights_and_nothing_twice() {
    let guest = Guest::start();
    let settle = Request::Settle(Settle { drop_caches: false });
    let answer = by(&guest, USER, &settle);
    assert!(matches!(answer, Answer::Failed(failed) if failed.code == FailCode::Unsupported));
    let again = Request::As(As { user: "root".to_owned() });
    assert!(matches!(by(&guest, USER, &again), Answer::Failed(_)));
    let [read, ..] = looks(&guest.path("x"));
    let answer = by(&guest, "nobody-here", &read);
    assert!(matches!(answer, Answer::Failed(failed) if failed.code == FailCode::UnknownUser));
    // Who is sending already learns of it too.
    let [write, ..] = changes(&guest.path("x"));
    let answer = change(&guest, "nobody-here", &write, &vec![7; 4 << 20]);
    assert!(matches!(answer, Answer::Failed(failed) if failed.code == FailCode::UnknownUser));
    assert!(again.encode().is_ok());
}
