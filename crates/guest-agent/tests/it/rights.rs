use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use api_guest::{
    Answer, As, FailCode, List, Message, Pack, ReadFile, Remove, Request, Stat, Watch,
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

#[test]
fn nothing_is_changed_with_a_users_rights_and_nothing_twice() {
    let guest = Guest::start();
    let remove = Request::Remove(Remove { path: guest.path("x"), recursive: false });
    let answer = by(&guest, USER, &remove);
    assert!(matches!(answer, Answer::Failed(failed) if failed.code == FailCode::Unsupported));
    let again = Request::As(As { user: "root".to_owned() });
    assert!(matches!(by(&guest, USER, &again), Answer::Failed(_)));
    let [read, ..] = looks(&guest.path("x"));
    let answer = by(&guest, "nobody-here", &read);
    assert!(matches!(answer, Answer::Failed(failed) if failed.code == FailCode::UnknownUser));
    assert!(again.encode().is_ok());
}
