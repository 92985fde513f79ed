//! The audit log: read through the node, verified by it or where its files are.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use api_node::{AuditEntry, AuditQuery, AuditVerified, AuditVerifyQuery};
use base_audit::{Link, Verified, verify_file, verify_log};
use client::Client;

use crate::args::{AuditCommand, AuditLog, AuditVerify};
use crate::complaint::{End, advise};
use crate::table::{columns, print, print_json};

/// `sandflare audit`
pub(crate) async fn audit(client: &Client, command: AuditCommand) -> Result<End> {
    match command {
        AuditCommand::Log(log) => entries(client, &log).await,
        AuditCommand::Verify(args) => verify(client, args).await,
    }
}

async fn entries(client: &Client, args: &AuditLog) -> Result<End> {
    let query = AuditQuery { after: args.after, limit: Some(args.limit) };
    let list = client.audit_list(&query).await?;
    if args.format.is_json() {
        print_json(&list)?;
    } else {
        print(&table(&list.entries))?;
    }
    Ok(End::Done)
}

fn table(entries: &[AuditEntry]) -> String {
    let rows: Vec<_> = entries
        .iter()
        .map(|entry| {
            let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            [
                entry.index.to_string(),
                utc(entry.time_ms),
                entry.actor.clone(),
                or_dash(&entry.source),
                entry.action.clone(),
                or_dash(&entry.object),
                entry.result.clone(),
                entry.detail.clone().unwrap_or_default(),
            ]
        })
        .collect();
    columns(["INDEX", "TIME (UTC)", "WHO", "FROM", "ACTION", "OBJECT", "RESULT", "DETAIL"], &rows)
}

/// A time as `2026-01-31 23:59:59`. The calendar is that of days since 1970 in eras of 400 years.
pub(crate) fn utc(time_ms: u64) -> String {
    let seconds = Duration::from_millis(time_ms).as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March here, so that the day that comes and goes is the last one.
    let day = days + 719_468;
    let (era, day_of_era) = (day / 146_097, day % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day_of_month:02} {hour:02}:{minute:02}:{second:02}")
}

async fn verify(client: &Client, args: AuditVerify) -> Result<End> {
    let found = match args.path.clone() {
        None => {
            let query = AuditVerifyQuery { head: args.head.map(|link| link.to_string()) };
            client.audit_verify(&query).await?
        }
        Some(path) => {
            let checking = tokio::task::spawn_blocking(move || check(&path, args.head));
            checking.await.context("verify the log")??
        }
    };
    if args.format.is_json() {
        print_json(&found)?;
    } else {
        print(&text(&found))?;
    }
    Ok(if found.whole { End::Done } else { End::No })
}

fn check(path: &Path, head: Option<Link>) -> Result<AuditVerified> {
    let verified = if path.is_dir() { verify_log(path, head) } else { alone(path, head)? };
    Ok(match verified {
        Ok(Verified { entries, last, torn_bytes }) => AuditVerified {
            whole: true,
            entries,
            first: last.map(|link| (link.index + 1).saturating_sub(entries)),
            last: last.map(|link| link.index),
            head: last.map(|link| link.to_string()),
            torn_bytes,
            fault: None,
        },
        // Of a file alone it is not known here which its first entry was.
        Err(error) => AuditVerified {
            whole: false,
            entries: if path.is_dir() { error.entries_before() } else { 0 },
            first: None,
            last: None,
            head: None,
            torn_bytes: 0,
            fault: Some(base_types::Chain(&error).to_string()),
        },
    })
}

fn alone(path: &Path, head: Option<Link>) -> Result<Result<Verified, base_audit::VerifyError>> {
    if head.is_some() {
        return Err(advise(
            "a head is compared with a whole log, and this is one file",
            "give the directory, or leave out --head",
        ));
    }
    Ok(verify_file(path))
}

fn text(report: &AuditVerified) -> String {
    if let Some(fault) = &report.fault {
        return format!("changed: {fault}\n");
    }
    let mut text = format!("whole: {} entries\n", report.entries);
    if let Some(head) = &report.head {
        text.push_str(&format!("head:  {head}\n"));
    }
    if report.torn_bytes > 0 {
        text.push_str(&format!(
            "note:  {} bytes of an unfinished entry at the end; a crash leaves that, or a node that \
             is writing now\n",
            report.torn_bytes,
        ));
    }
    text
}

#[cfg(test)]
mod test {
    use std::fs;

    use base_audit::{Event, HEAD_FILE, Head, seal, segment_name};

    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00:00");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00");
        assert_eq!(utc(1_772_323_199_000), "2026-02-28 23:59:59");
        assert_eq!(utc(1_772_323_200_999), "2026-03-01 00:00:00");
        assert_eq!(utc(4_107_542_400_000), "2100-03-01 00:00:00");
    }

    #[test]
    fn a_log_here_is_whole_or_the_changed_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (mut line, link) = seal(&Event { action: "x".into(), ..Event::default() }, None);
        line.push(b'\n');
        let file = dir.path().join(segment_name(0));
        fs::write(&file, &line).unwrap();
        let head = serde_json::to_vec(&Head::from(link)).unwrap();
        fs::write(dir.path().join(HEAD_FILE), head).unwrap();
        let found = check(dir.path(), Some(link)).unwrap();
        assert!(found.whole && found.entries == 1, "{found:?}");
        assert_eq!((found.first, found.last), (Some(0), Some(0)));
        assert_eq!(found.head.unwrap().parse(), Ok(link));
        assert!(!check(dir.path(), Some(Link { index: 7, ..link })).unwrap().whole);
        fs::write(&file, String::from_utf8(line).unwrap().replace("\"x\"", "\"y\"")).unwrap();
        let found = check(dir.path(), None).unwrap();
        assert!(!found.whole && found.fault.unwrap().contains("line 1 (entry 0)"));
        assert!(check(&file, Some(link)).is_err());
    }
}
