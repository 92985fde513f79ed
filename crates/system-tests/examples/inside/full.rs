//! A full disk.

use std::fs::{self, File};

use api_node::ErrorCode;
use base_types::Size;
use client::ClientError;
use rustix::fs::FallocateFlags;

use crate::daemon::{BALLAST, Daemon, said};
use crate::left::{groups, half_made, sandboxes, until, until_nothing, vmms};

pub(crate) fn free_bytes() -> u64 {
    let stat = rustix::fs::statvfs("/data").unwrap();
    stat.f_bavail * stat.f_frsize
}

/// Takes all but `left` bytes of the disk; with 0, all that can be had.
pub(crate) fn fill(left: u64) {
    let ballast = File::options().create(true).append(true).open(BALLAST).unwrap();
    let length = ballast.metadata().unwrap().len();
    let more = free_bytes() - left;
    let filled = rustix::fs::fallocate(&ballast, FallocateFlags::empty(), length, more);
    // The file system takes some for itself while it is at it.
    assert!(left == 0 || filled.is_ok(), "{filled:?}");
}

pub(crate) async fn a_full_disk() {
    let daemon = Daemon::start(&["--pool", "nano=0", "--check-roots", "off"]).await;
    let (writer, other) = (daemon.sandbox().await, daemon.sandbox().await);

    // Too little for another sandbox or template, enough for the two.
    fill(40 << 20);
    let error = daemon.create().await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::DiskFull), "{error}");
    let refused = said::<()>(Err(error));
    assert!(refused.contains("the disk is full") && refused.contains("free some space"));
    let run = daemon.sandflare(&["run", "--template", "base", "--", "true"]).await;
    assert_eq!(run.code, 125);
    assert!(run.stderr.contains("the disk is full"), "{run:?}");
    let built = daemon.build(Size::Small).await.unwrap_err();
    println!("build: {built}");
    assert_eq!(built.code, ErrorCode::DiskFull, "{built}");
    until("half-made templates", vec![], half_made).await;
    let machines = || (vmms().len(), groups().len(), sandboxes().len());
    until("machines", (2, 2, 2), machines).await;

    // A guest that wants more than there is gets an error from its disk; the others notice nothing.
    let script = "dd if=/dev/zero of=/root/big bs=1M count=120 conv=fsync";
    let written = daemon.shell(writer, script).await;
    println!("dd: {written:?}");
    assert_ne!(written.code, 0, "{written:?}");
    assert_eq!(free_bytes() >> 20, 0);
    daemon.works(other).await;
    daemon.kill_sandbox(writer).await;
    daemon.works(other).await;
    until("VMM processes", 1, || vmms().len()).await;

    // Room again: everything works again.
    fs::remove_file(BALLAST).unwrap();
    let again = daemon.sandbox().await;
    daemon.works(other).await;
    for id in [again, other] {
        daemon.kill_sandbox(id).await;
    }
    until_nothing().await;

    // Room runs out in the middle of a build, after it was found to be enough.
    let mut events =
        daemon.client.template_build(&crate::daemon::base(), Size::Small).await.unwrap();
    let mut failure = None;
    while let Some(event) = events.next().await.unwrap() {
        match event.body {
            api_node::BuildBody::Step { percent: 5, .. } => fill(24 << 20),
            api_node::BuildBody::Step { .. } | api_node::BuildBody::Heartbeat => {}
            api_node::BuildBody::Error { failure: found } => failure = Some(found),
            other => panic!("{other:?}"),
        }
    }
    let failure = failure.unwrap();
    println!("build: {failure}");
    assert_eq!(failure.code, ErrorCode::DiskFull, "{failure}");
    until("half-made templates", vec![], half_made).await;
    until_nothing().await;
    fs::remove_file(BALLAST).unwrap();
    let error = daemon.client.sandbox_get(other).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused(_)), "{error}");
    daemon.sandbox().await;
    daemon.stop().await;
}
