use std::fs;
use std::os::unix::fs::PermissionsExt;

use api_guest::{Change, ChangeKind, FailCode, Pack, ReadFile, Unpack, Watch};
use node_host::{GuestError, WatchReader};
use tokio::time::timeout;

use crate::guest::{Agent, PATIENCE};

async fn next(reader: &mut WatchReader) -> Result<Change, GuestError> {
    timeout(PATIENCE, reader.next()).await.unwrap()
}

#[tokio::test]
async fn a_directory_goes_out_and_in_again() {
    let agent = Agent::start();
    fs::create_dir_all(agent.path("from/sub")).unwrap();
    let content = vec![5; 1 << 20];
    fs::write(agent.path("from/sub/file"), &content).unwrap();
    let (_, mut reader) =
        agent.connect().await.pack(Pack { path: agent.path("from") }).await.unwrap();
    let unpack = Unpack { path: agent.path("to"), user: None };
    let mut writer = agent.connect().await.unpack(unpack).await.unwrap();
    while let Some(piece) = reader.next().await.unwrap() {
        writer.write(&piece).await.unwrap();
    }
    writer.finish().await.unwrap();
    assert!(fs::read(agent.path("to/sub/file")).unwrap() == content);
}

#[tokio::test]
async fn a_refused_archive_says_why_however_long_it_is() {
    let agent = Agent::start();
    let unpack = Unpack { path: agent.path("to"), user: None };
    let mut writer = agent.connect().await.unpack(unpack).await.unwrap();
    let error = loop {
        if let Err(error) = writer.write(&[b'x'; 100_000]).await {
            break error;
        }
    };
    assert!(matches!(error, GuestError::Failed { code: FailCode::InvalidRequest, .. }), "{error}");
    assert!(error.to_string().contains("no tar archive"), "{error}");
}

#[tokio::test]
async fn changes_come_until_the_directory_is_gone() {
    let agent = Agent::start();
    fs::create_dir(agent.path("watched")).unwrap();
    let watch = Watch { path: agent.path("watched"), recursive: true };
    let mut reader = agent.connect().await.watch(watch).await.unwrap();
    fs::create_dir(agent.path("watched/new")).unwrap();
    let change = next(&mut reader).await.unwrap();
    assert_eq!((change.what, change.path.as_str()), (ChangeKind::Created, "new"));
    fs::remove_dir_all(agent.path("watched")).unwrap();
    let error = loop {
        match next(&mut reader).await {
            Ok(change) => assert_eq!(change.what, ChangeKind::Removed),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, GuestError::Failed { code: FailCode::NotFound, .. }), "{error}");
}

#[tokio::test]
async fn a_users_rights_count_when_they_are_asked_for() {
    let agent = Agent::start();
    fs::write(agent.path("secret"), "x").unwrap();
    fs::set_permissions(agent.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let read = ReadFile { path: agent.path("secret"), offset: 0, length: None };
    let with = async |user: Option<&str>| {
        let agent = agent.connect().await.with_rights_of(user.map(str::to_owned)).await.unwrap();
        agent.read(read.clone()).await
    };
    assert!(with(None).await.is_ok());
    let error = with(Some("daemon")).await.unwrap_err();
    assert!(
        matches!(error, GuestError::Failed { code: FailCode::PermissionDenied, .. }),
        "{error}"
    );
}
