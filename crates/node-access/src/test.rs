use std::sync::atomic::{AtomicU64, Ordering};

use api_node::{
    ANSWER_KEPT_MS, AccessApi, Begun, Caller, ChangeProject, CreateKey, CreateProject, CreatedKey,
    Errand, ErrorCode, KeptAnswer, PageQuery,
};
use tempfile::TempDir;

use super::*;

/// A clock for each test, which only it moves.
macro_rules! clock {
    () => {{
        static NOW: AtomicU64 = AtomicU64::new(1_750_000_000_000);
        (&NOW, (|| NOW.load(Ordering::SeqCst)) as Clock)
    }};
}

struct Node {
    dir: TempDir,
    clock: Clock,
}

impl Node {
    fn new(clock: Clock) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), clock }
    }

    async fn start(&self) -> Access {
        let store = Store::open(&self.dir.path().join("node.db")).unwrap();
        Access::open(store, self.clock, true).await.unwrap()
    }
}

async fn key(access: &Access, role: Role, expires_at_ms: Option<u64>) -> CreatedKey {
    let request = CreateKey { project: None, name: "k".into(), role, expires_at_ms };
    access.key_create(&Caller::ANYBODY, request).await.unwrap()
}

#[tokio::test]
async fn the_first_start_makes_one_key_and_later_ones_none() {
    let (_, clock) = clock!();
    let node = Node::new(clock);
    let access = node.start().await;
    let secret = access.first_key(|_| Ok(())).await.unwrap().unwrap();
    let caller = access.caller(&secret.text()).unwrap();
    assert_eq!((caller.project, caller.role), (ProjectId::DEFAULT, Role::Admin));
    assert!(access.first_key(|_| Ok(())).await.unwrap().is_none());
    drop(access);
    let access = node.start().await;
    assert!(access.first_key(|_| Ok(())).await.unwrap().is_none());
    assert_eq!(access.caller(&secret.text()), Some(caller));
    // What is on the disk does not contain the key. The store stays open, so that its files stay.
    for file in std::fs::read_dir(node.dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        let text = secret.text();
        let (bits, hex) = (secret_bytes(&text), &text.as_bytes()[4..]);
        assert!(!bytes.windows(64).any(|window| window == hex));
        assert!(!bytes.windows(32).any(|window| window == bits));
    }
}

fn secret_bytes(text: &str) -> [u8; 32] {
    std::array::from_fn(|at| u8::from_str_radix(&text[4 + 2 * at..6 + 2 * at], 16).unwrap())
}

#[tokio::test]
async fn the_starters_key_replaces_the_one_before() {
    let (_, clock) = clock!();
    let node = Node::new(clock);
    let access = node.start().await;
    let (old, new) = (Secret::from_random([1; 32]), Secret::from_random([2; 32]));
    access.starter_key(old.hash()).await.unwrap();
    access.starter_key(old.hash()).await.unwrap();
    assert!(access.caller(&old.text()).is_some());
    access.starter_key(new.hash()).await.unwrap();
    assert!(access.caller(&old.text()).is_none());
    assert_eq!(access.caller(&new.text()).unwrap().role, Role::Admin);
    assert_eq!(access.key_list(PageQuery::default()).await.unwrap().keys.len(), 1);
    assert!(access.first_key(|_| Ok(())).await.unwrap().is_none());
}

#[tokio::test]
async fn a_key_works_until_it_expires_or_is_revoked_also_after_a_restart() {
    let (now, clock) = clock!();
    let node = Node::new(clock);
    let access = node.start().await;
    let start = now.load(Ordering::SeqCst);
    let short = key(&access, Role::User, Some(start + 1000)).await;
    let long = key(&access, Role::User, None).await;
    assert!(access.caller(&short.secret).is_some());
    now.store(start + 999, Ordering::SeqCst);
    assert!(access.caller(&short.secret).is_some());
    now.store(start + 1000, Ordering::SeqCst);
    assert!(access.caller(&short.secret).is_none());
    assert!(access.caller(&long.secret).is_some());
    access.key_delete(long.facts.id).await.unwrap();
    assert!(access.caller(&long.secret).is_none());
    let again = access.key_delete(long.facts.id).await.unwrap_err();
    assert_eq!(again.code, ErrorCode::NotFound);
    drop(access);
    let access = node.start().await;
    assert!(access.caller(&long.secret).is_none());
    for nonsense in ["", "sfk_", "sfk_00", "bearer", &"x".repeat(10_000)] {
        assert_eq!(access.caller(nonsense), None);
    }
}

#[tokio::test]
async fn the_last_use_is_written_once_a_minute() {
    let (now, clock) = clock!();
    let node = Node::new(clock);
    let access = node.start().await;
    let start = now.load(Ordering::SeqCst);
    let made = key(&access, Role::User, None).await;
    let stored = async |access: &Access| {
        let rows = access.inner.store.key_list().await.unwrap();
        rows.into_iter().find(|row| row.id == made.facts.id).unwrap().last_used_at_ms
    };
    assert_eq!(stored(&access).await, None);
    for (later, expected) in [(0, 0), (59_999, 0), (60_000, 60_000), (60_001, 60_000)] {
        now.store(start + later, Ordering::SeqCst);
        access.caller(&made.secret).unwrap();
        assert_eq!(stored(&access).await, Some(start + expected), "{later}");
    }
}

#[tokio::test]
async fn a_project_goes_with_its_keys_and_its_name_is_its_own() {
    let (now, clock) = clock!();
    let node = Node::new(clock);
    let access = node.start().await;
    let create = |name: &str| CreateProject { name: name.into(), quota: Quota::default() };
    let made = access.project_create(&Caller::ANYBODY, create("team")).await.unwrap();
    let twice = access.project_create(&Caller::ANYBODY, create("team")).await.unwrap_err();
    assert_eq!(twice.code, ErrorCode::AlreadyExists);
    let request = CreateKey {
        project: Some(made.id),
        name: "k".into(),
        role: Role::User,
        expires_at_ms: None,
    };
    let key = access.key_create(&Caller::ANYBODY, request.clone()).await.unwrap();
    assert_eq!(access.caller(&key.secret).unwrap().project, made.id);
    assert_eq!(access.quota(made.id).unwrap().sandboxes, 10);
    access.project_delete(made.id).await.unwrap();
    assert!(access.caller(&key.secret).is_none());
    assert_eq!(access.quota(made.id), None);
    let gone = access.key_create(&Caller::ANYBODY, request.clone()).await.unwrap_err();
    assert_eq!(gone.code, ErrorCode::NotFound);
    let past =
        CreateKey { project: None, expires_at_ms: Some(now.load(Ordering::SeqCst)), ..request };
    let past = access.key_create(&Caller::ANYBODY, past).await.unwrap_err();
    assert_eq!(past.code, ErrorCode::InvalidRequest);
    let default = access.project_delete(ProjectId::DEFAULT).await.unwrap_err();
    assert_eq!(default.code, ErrorCode::Conflict);
}

#[tokio::test]
async fn a_quota_that_was_changed_holds_also_for_the_next_daemon() {
    let (_, clock) = clock!();
    let node = Node::new(clock);
    let access = node.start().await;
    let create = CreateProject { name: "team".into(), quota: Quota::default() };
    let made = access.project_create(&Caller::ANYBODY, create).await.unwrap();
    let change = |quota| ChangeProject { quota };
    let larger = QuotaChange { sandboxes: Some(30), ..QuotaChange::default() };
    let shorter = QuotaChange { disk_mib: Some(7), ..QuotaChange::default() };
    let (one, other) = tokio::join!(
        access.project_change(made.id, change(larger)),
        access.project_change(made.id, change(shorter)),
    );
    let expected = Quota { sandboxes: 30, disk_mib: 7, ..Quota::default() };
    assert!(one.is_ok() && other.is_ok());
    assert_eq!(access.quota(made.id), Some(expected));
    let nobody = ProjectId::from_bits(9);
    let gone = access.project_change(nobody, change(larger)).await.unwrap_err();
    assert_eq!(gone.code, ErrorCode::NotFound);
    drop(access);
    let access = node.start().await;
    assert_eq!(access.quota(made.id), Some(expected));
    assert_eq!(access.quota(ProjectId::DEFAULT), Some(WHOLE_NODE));
}

#[tokio::test]
async fn a_figure_that_is_newer_than_its_row_is_the_plans() {
    let (_, clock) = clock!();
    let node = Node::new(clock);
    let row = |bits, name: &str| ProjectRow {
        id: ProjectId::from_bits(bits),
        name: name.into(),
        quota: r#"{"sandboxes":3}"#.into(),
        created_at_ms: 1,
    };
    let store = Store::open(&node.dir.path().join("node.db")).unwrap();
    for row in [row(0, "default"), row(5, "team")] {
        store.project_insert(row).await.unwrap();
    }
    drop(store);
    let access = node.start().await;
    let team = access.quota(ProjectId::from_bits(5)).unwrap();
    assert_eq!(team, Quota { sandboxes: 3, ..Quota::default() });
    let default = access.quota(ProjectId::DEFAULT).unwrap();
    assert_eq!(default, Quota { sandboxes: 3, ..WHOLE_NODE });
}

#[tokio::test]
async fn what_an_errand_made_is_found_by_it_also_by_the_next_daemon() {
    let (now, clock) = clock!();
    let node = Node::new(clock);
    let access = node.start().await;
    let caller = |byte| Caller { errand: Some(Errand([byte; 32])), ..Caller::ANYBODY };
    let create = |name: &str| CreateProject { name: name.into(), quota: Quota::default() };
    let request =
        CreateKey { project: None, name: "k".into(), role: Role::User, expires_at_ms: None };
    let project = access.project_create(&caller(1), create("team")).await.unwrap();
    let key = access.key_create(&caller(2), request.clone()).await.unwrap();
    drop(access);
    // The daemon died before it could keep either answer.
    let access = node.start().await;
    assert_eq!(access.project_create(&caller(1), create("team")).await.unwrap(), project);
    let again = access.key_create(&caller(2), request.clone()).await.unwrap_err();
    assert_eq!(again.code, ErrorCode::Conflict);
    assert!(again.message.contains(&key.facts.id.to_string()), "{again}");
    let hint = again.hint.unwrap();
    assert!(hint.contains(&format!("keys rm {}", key.facts.id)), "{hint}");
    assert!(access.caller(&key.secret).is_some());
    // Others are others, and after a day nobody means the same create.
    let other = access.key_create(&caller(3), request.clone()).await.unwrap();
    now.fetch_add(ANSWER_KEPT_MS, Ordering::SeqCst);
    let later = access.key_create(&caller(2), request).await.unwrap();
    assert!(![key.facts.id, other.facts.id].contains(&later.facts.id));
}

#[tokio::test]
async fn creates_within_a_minute_are_counted_for_each_project() {
    let (now, clock) = clock!();
    let node = Node::new(clock);
    let access = node.start().await;
    let quota = Quota { creates_per_minute: 3, ..Quota::default() };
    let create = |name: &str| CreateProject { name: name.into(), quota };
    let one = access.project_create(&Caller::ANYBODY, create("one")).await.unwrap().id;
    let two = access.project_create(&Caller::ANYBODY, create("two")).await.unwrap().id;
    access.count_creates(one, 3).unwrap();
    let refused = access.count_creates(one, 1).unwrap_err();
    assert_eq!(refused.code, ErrorCode::QuotaExceeded);
    assert!(refused.message.contains("3 new sandboxes a minute; it has 3"), "{refused}");
    access.count_creates(two, 1).unwrap();
    assert_eq!(access.creates_within_a_minute(one), 3);
    now.fetch_add(61_000, Ordering::SeqCst);
    access.count_creates(one, 1).unwrap();
}

#[tokio::test]
async fn a_create_with_a_key_happens_once() {
    let (now, clock) = clock!();
    let node = Node::new(clock);
    let access = node.start().await;
    let (one, two) = (ProjectId::from_bits(1), ProjectId::from_bits(2));
    let answer = KeptAnswer { status: 201, body: b"{}".as_slice().into() };
    let fresh = |begun| match begun {
        Ok(Begun::Fresh(ticket)) => ticket,
        other => panic!("{other:?}"),
    };
    let ticket = fresh(access.create_begin(one, "a", [1; 32]).await);
    // Under way: refused, whoever asks for the same; another project's key is another key.
    let twice = access.create_begin(one, "a", [1; 32]).await.unwrap_err();
    assert_eq!(twice.code, ErrorCode::Conflict);
    drop(fresh(access.create_begin(two, "a", [1; 32]).await));
    // It failed: it may be tried again.
    drop(ticket);
    let ticket = fresh(access.create_begin(one, "a", [1; 32]).await);
    access.create_keep(ticket, answer.clone());
    // Whoever asks the same node comes after the answer; the next node would not wait for it.
    let kept = |begun| match begun {
        Ok(Begun::Kept(kept)) => kept,
        other => panic!("{other:?}"),
    };
    assert_eq!(kept(access.create_begin(one, "a", [1; 32]).await), answer);
    drop(access);
    let access = node.start().await;
    assert_eq!(kept(access.create_begin(one, "a", [1; 32]).await), answer);
    let other = access.create_begin(one, "a", [2; 32]).await.unwrap_err();
    assert_eq!(other.code, ErrorCode::Conflict);
    now.fetch_add(24 * 60 * 60 * 1000 + 1, Ordering::SeqCst);
    drop(fresh(access.create_begin(one, "a", [2; 32]).await));
}

#[tokio::test]
async fn creates_of_the_last_minute_count_under_the_next_node() {
    let (now, clock) = clock!();
    let node = Node::new(clock);
    let access = node.start().await;
    let quota = Quota { creates_per_minute: 2, ..Quota::default() };
    let project = CreateProject { name: "one".into(), quota };
    let project = access.project_create(&Caller::ANYBODY, project).await.unwrap().id;
    let start = now.load(Ordering::SeqCst);
    for (bits, created_at_ms) in [(1, start - 70_000), (2, start - 50_000), (3, start)] {
        let row = node_store::SandboxRow {
            id: base_types::SandboxId::from_bits(bits),
            project,
            name: None,
            template: "agent".parse().unwrap(),
            size: base_types::Size::Nano,
            env: Default::default(),
            metadata: Default::default(),
            snapshot: None,
            network: String::new(),
            secrets: "[]".to_owned(),
            lease: node_store::LeaseRow::default(),
            state: node_store::StoredState::Running,
            created_at_ms,
            reason: None,
            times: String::new(),
            errand: None,
        };
        access.inner.store.sandbox_insert(row).await.unwrap();
    }
    drop(access);
    let access = node.start().await;
    assert_eq!(access.creates_within_a_minute(project), 2);
    assert_eq!(access.count_creates(project, 1).unwrap_err().code, ErrorCode::QuotaExceeded);
    now.fetch_add(12_000, Ordering::SeqCst);
    access.count_creates(project, 1).unwrap();
}
