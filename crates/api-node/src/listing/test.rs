use proptest::prelude::*;

use base_types::SandboxId;

use super::*;
use crate::paging::{CURSOR_VERSION, Place};

fn sandbox(bits: u64, created_at_ms: u64) -> Sandbox {
    let text = format!(
        r#"{{"id":"{}","template":"agent","size":"nano","state":"running",
        "created_at_ms":{created_at_ms},"phases":{{}}}}"#,
        SandboxId::from_bits(bits),
    );
    serde_json::from_str(&text).unwrap()
}

fn query(text: &str) -> SandboxListQuery {
    serde_json::from_str(text).unwrap()
}

#[test]
fn filters_all_have_to_match() {
    let mut charts = sandbox(1, 1);
    charts.name = Some("charts".into());
    charts.metadata.insert("team".into(), "a:b".into());
    let paused = Sandbox { state: SandboxState::Paused, ..sandbox(2, 2) };
    let all = vec![charts.clone(), paused.clone()];
    let found = |text: &str| SandboxList::page(all.clone(), &query(text)).sandboxes;
    assert_eq!(found("{}"), all);
    assert_eq!(found(r#"{"state":"paused"}"#), [paused]);
    assert_eq!(found(r#"{"name":"charts","metadata":"team:a:b"}"#), [charts]);
    assert!(found(r#"{"name":"charts","state":"paused"}"#).is_empty());
    assert!(found(r#"{"metadata":"team:a"}"#).is_empty());
}

#[test]
fn an_administrator_sees_all_and_may_ask_for_its_own() {
    let (mine, other) = (ProjectId::DEFAULT, ProjectId::from_bits(7));
    let admin = Caller::ANYBODY;
    let user = Caller { role: crate::Role::User, ..admin };
    let shown = |text: &str, caller| [mine, other].map(|one| query(text).shows(caller, one));
    assert_eq!(shown("{}", &admin), [true, true]);
    assert_eq!(shown(r#"{"own":true}"#, &admin), [true, false]);
    assert_eq!(shown("{}", &user), [true, false]);
    assert_eq!(shown(r#"{"own":true}"#, &user), [true, false]);
}

#[test]
fn a_state_is_written_the_way_it_is_serialised() {
    for state in SandboxState::ALL {
        assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for text in [
        r#"{"limit":0}"#,
        r#"{"limit":101}"#,
        r#"{"state":"asleep"}"#,
        r#"{"metadata":"team"}"#,
        r#"{"cursor":"x"}"#,
        r#"{"cursor":""}"#,
        r#"{"cursor":"AgAAAAAAAAAAAAAAAAAAAAA"}"#,
    ] {
        assert!(query(text).check().is_err(), "{text}");
    }
    assert!(query(r#"{"limit":100,"state":"failed","metadata":"a:"}"#).check().is_ok());
    assert!(LogsQuery { bytes: 0 }.check().is_err());
}

proptest! {
    #[test]
    fn pages_show_each_sandbox_once_whatever_comes_and_goes(
        times in proptest::collection::vec(0..5u64, 1..40),
        limit in 1..7u32,
        kills in proptest::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let first: Vec<Sandbox> =
            times.iter().zip(1..).map(|(time, bits)| sandbox(bits, *time)).collect();
        let gone: Vec<SandboxId> = kills.iter().map(|kill| kill.get(&first).id).collect();
        let (mut now, mut seen) = (first.clone(), Vec::new());
        let mut ask = SandboxListQuery { limit: Some(limit), ..SandboxListQuery::default() };
        loop {
            let page = SandboxList::page(now.clone(), &ask);
            prop_assert!(page.sandboxes.len() <= limit as usize);
            seen.extend(page.sandboxes.iter().map(|sandbox| sandbox.id));
            // Between two pages some are killed, and for a while a new one is made each time.
            now.retain(|sandbox| !gone.contains(&sandbox.id));
            if now.len() < 60 && seen.len() < 60 {
                now.push(sandbox(1000 + seen.len() as u64, 10));
            }
            match page.next_cursor {
                Some(cursor) => ask.cursor = Some(cursor),
                None => break,
            }
            prop_assert!(ask.check().is_ok());
        }
        for sandbox in first.iter().filter(|sandbox| !gone.contains(&sandbox.id)) {
            prop_assert_eq!(seen.iter().filter(|id| **id == sandbox.id).count(), 1);
        }
    }

    #[test]
    fn a_cursor_is_parsed_or_refused(cursor in ".{0,60}") {
        if let Some(place) = Place::parse(&cursor, CURSOR_VERSION) {
            prop_assert_eq!(place.to_cursor(CURSOR_VERSION), cursor);
        }
    }
}
