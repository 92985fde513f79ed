use std::fs;

use base_audit::{HEAD_FILE, VerifyError, segment_name, segments, verify_log};
use proptest::prelude::*;

use super::*;

fn event(number: u64) -> Event {
    Event {
        time_ms: number,
        actor: "key_01".into(),
        action: "sandbox_kill".into(),
        object: Some(format!("sbx_{number:016x}")),
        result: "ok".into(),
        ..Event::default()
    }
}

fn actions(log: &AuditLog) -> Vec<String> {
    let page = log.page(None, 100).unwrap();
    page.entries.into_iter().map(|record| record.event.action).collect()
}

/// Closes a log and waits until its thread let go of the directory.
fn close(log: AuditLog, dir: &Path) {
    drop(log);
    let handle = fs::File::open(dir).unwrap();
    rustix::fs::flock(&handle, rustix::fs::FlockOperation::LockExclusive).unwrap();
}

#[tokio::test]
async fn what_was_appended_is_there_in_order_and_whole() {
    let dir = tempfile::tempdir().unwrap();
    let log = AuditLog::open_with(dir.path(), 7, 1000).unwrap();
    for number in 1..=20 {
        let link = log.append(event(number), Durability::Written).await.unwrap();
        assert_eq!(link.index, number);
    }
    let last = log.append(event(21), Durability::Flushed).await.unwrap();
    // Small files: it was rotated, and reads across them.
    assert!(segments(dir.path()).unwrap().len() > 3);
    assert_eq!(verify_log(dir.path(), Some(last)).unwrap().entries, 22);
    let page = log.page(Some(4), 10).unwrap();
    let indices: Vec<u64> = page.entries.iter().map(|record| record.index).collect();
    assert_eq!((indices, page.more), ((5..15).collect(), true));
    let newest = log.page(None, 3).unwrap();
    let indices: Vec<u64> = newest.entries.iter().map(|record| record.index).collect();
    assert_eq!((indices, newest.more), (vec![19, 20, 21], false));
    assert!(log.page(Some(21), 10).unwrap().entries.is_empty());
    assert!(log.page(Some(u64::MAX), 10).unwrap().entries.is_empty());
}

#[tokio::test]
async fn a_log_goes_on_where_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    let log = AuditLog::open(dir.path(), 1).unwrap();
    log.append(event(1), Durability::Written).await.unwrap();
    assert!(matches!(AuditLog::open(dir.path(), 1), Err(OpenAuditError::InUse(_))));
    close(log, dir.path());
    let log = AuditLog::open(dir.path(), 2).unwrap();
    assert_eq!(actions(&log), ["audit_begin", "sandbox_kill", "audit_open"]);
    close(log, dir.path());
    assert_eq!(verify_log(dir.path(), None).unwrap().entries, 3);
}

#[tokio::test]
async fn a_line_is_written_before_its_append_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let log = AuditLog::open(dir.path(), 1).unwrap();
    log.append(event(1), Durability::Written).await.unwrap();
    // What a killed daemon leaves is what is in the file now.
    let text = fs::read_to_string(dir.path().join(segment_name(0))).unwrap();
    assert!(text.lines().last().unwrap().contains("sbx_0000000000000001"));
}

#[tokio::test]
async fn a_torn_last_line_is_mended_and_noted() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(segment_name(0));
    let log = AuditLog::open(dir.path(), 1).unwrap();
    log.append(event(1), Durability::Written).await.unwrap();
    close(log, dir.path());
    let mut text = fs::read(&file).unwrap();
    text.extend_from_slice(br#"{"index":2,"time_m"#);
    fs::write(&file, text).unwrap();
    let log = AuditLog::open(dir.path(), 2).unwrap();
    assert_eq!(actions(&log), ["audit_begin", "sandbox_kill", "audit_mended"]);
    close(log, dir.path());
    assert_eq!(verify_log(dir.path(), None).unwrap().entries, 3);
}

#[tokio::test]
async fn what_the_disk_had_for_certain_is_never_mended() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(segment_name(0));
    let log = AuditLog::open(dir.path(), 1).unwrap();
    for number in 1..=3 {
        log.append(event(number), Durability::Flushed).await.unwrap();
    }
    close(log, dir.path());
    let whole = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = whole.lines().collect();

    fs::write(&file, whole.replace("sbx_0000000000000002", "sbx_0000000000000009")).unwrap();
    let error = AuditLog::open(dir.path(), 2).unwrap_err();
    assert!(error.to_string().contains("line 3"), "{error}");
    fs::write(&file, format!("{}\n", lines[..3].join("\n"))).unwrap();
    let error = AuditLog::open(dir.path(), 2).unwrap_err();
    assert!(matches!(error, OpenAuditError::Changed { .. }), "{error}");
    fs::write(&file, &whole[..whole.len() - 9]).unwrap();
    assert!(matches!(AuditLog::open(dir.path(), 2), Err(OpenAuditError::Changed { .. })));
    fs::write(&file, &whole).unwrap();
    fs::rename(dir.path().join(HEAD_FILE), dir.path().join("kept")).unwrap();
    assert!(matches!(AuditLog::open(dir.path(), 2), Err(OpenAuditError::Head(_))));
    fs::rename(dir.path().join("kept"), dir.path().join(HEAD_FILE)).unwrap();
    drop(AuditLog::open(dir.path(), 2).unwrap());
}

#[tokio::test]
async fn lines_that_could_not_be_written_are_counted_and_confessed() {
    let dir = tempfile::tempdir().unwrap();
    let log = AuditLog::open_with(dir.path(), 1, 600).unwrap();
    log.append(event(1), Durability::Flushed).await.unwrap();
    // The next file cannot be made: something else has its name.
    let next = dir.path().join(segment_name(2));
    fs::create_dir(&next).unwrap();
    log.writable().await.unwrap();
    for number in 2..=4 {
        assert!(log.append(event(number), Durability::Written).await.is_err());
    }
    assert!(log.writable().await.is_err());
    fs::remove_dir(&next).unwrap();
    log.writable().await.unwrap();
    log.append(event(5), Durability::Flushed).await.unwrap();
    let page = log.page(None, 2).unwrap();
    assert_eq!(page.entries[0].event.action, "audit_gap");
    let detail = page.entries[0].event.detail.as_deref().unwrap();
    assert!(detail.starts_with("3 entries"), "{detail}");
    assert_eq!(page.entries[1].event, event(5));
    assert_eq!(verify_log(dir.path(), None).unwrap().entries, 4);
}

#[tokio::test]
async fn many_writers_get_a_place_each() {
    let dir = tempfile::tempdir().unwrap();
    let log = AuditLog::open_with(dir.path(), 1, 4000).unwrap();
    let appends = (0..200).map(|number| {
        let log = log.clone();
        let durability = if number % 10 == 0 { Durability::Flushed } else { Durability::Written };
        tokio::spawn(async move { log.append(event(number), durability).await.unwrap().index })
    });
    let mut places = Vec::new();
    for append in appends.collect::<Vec<_>>() {
        places.push(append.await.unwrap());
    }
    places.sort_unstable();
    assert_eq!(places, (1..=200).collect::<Vec<_>>());
    close(log, dir.path());
    assert_eq!(verify_log(dir.path(), None).unwrap().entries, 201);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A power cut leaves the lines up to the head, and anything after them.
    #[test]
    fn any_end_after_the_head_is_mended(
        cut in 0..2000usize, rest in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(segment_name(0));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let log = AuditLog::open(dir.path(), 1).unwrap();
        let head = runtime.block_on(log.append(event(1), Durability::Flushed)).unwrap();
        let kept = fs::read(dir.path().join(HEAD_FILE)).unwrap();
        let whole = fs::read(&file).unwrap().len();
        for number in 2..5 {
            runtime.block_on(log.append(event(number), Durability::Written)).unwrap();
        }
        close(log, dir.path());
        fs::write(dir.path().join(HEAD_FILE), kept).unwrap();
        let mut bytes = fs::read(&file).unwrap();
        bytes.truncate((whole + cut).min(bytes.len()));
        bytes.extend_from_slice(&rest);
        fs::write(&file, bytes).unwrap();
        close(AuditLog::open(dir.path(), 2).unwrap(), dir.path());
        let verified = verify_log(dir.path(), Some(head)).unwrap();
        prop_assert!(verified.entries >= 3 && verified.torn_bytes == 0);
    }

    /// Whatever is in the directory, opening it ends with a log that is whole or an error.
    #[test]
    fn nothing_in_the_directory_makes_it_panic(
        lines in proptest::collection::vec(any::<u8>(), 0..3000),
        head in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(segment_name(0)), &lines).unwrap();
        if !head.is_empty() {
            fs::write(dir.path().join(HEAD_FILE), &head).unwrap();
        }
        if let Ok(log) = AuditLog::open(dir.path(), 2) {
            close(log, dir.path());
            let verified = verify_log(dir.path(), None);
            prop_assert!(!matches!(verified, Err(VerifyError::Bad { .. })), "{:?}", verified);
        }
    }
}
