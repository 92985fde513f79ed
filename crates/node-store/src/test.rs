use rusqlite::Connection;

use super::*;

fn row(bits: u64) -> SandboxRow {
    SandboxRow {
        id: SandboxId::from_bits(bits),
        project: ProjectId::from_bits(bits),
        name: bits.is_multiple_of(2).then(|| format!("name of {bits}")),
        template: "agent".parse().unwrap(),
        size: Size::Nano,
        state: StoredState::Creating,
        created_at_ms: 1000 - bits,
        reason: None,
        env: [("TOKEN".to_owned(), format!("secret \"{bits}\""))].into(),
        times: String::new(),
        metadata: [("owner".to_owned(), format!("agent {bits}"))].into(),
        snapshot: (bits == 3).then(|| SnapshotId::from_bits(bits)),
        lease: LeaseRow::default(),
        network: format!("policy {bits}"),
        secrets: format!("secrets {bits}"),
        errand: (bits == 3).then_some([3; 32]),
    }
}

#[tokio::test]
async fn what_was_stored_survives_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.db");
    let store = Store::open(&path).unwrap();
    for bits in 1..=3 {
        store.sandbox_insert(row(bits)).await.unwrap();
    }
    let (one, two) = (SandboxId::from_bits(1), SandboxId::from_bits(2));
    store.sandbox_set_state(two, StoredState::Failed, Some("panic".into())).await.unwrap();
    store.sandbox_delete(one).await.unwrap();
    store
        .sandbox_set_running(SandboxId::from_bits(3), LeaseRow::default(), "a while".into())
        .await
        .unwrap();
    // Repeats are free.
    store.sandbox_delete(one).await.unwrap();
    store.sandbox_set_running(one, LeaseRow::default(), String::new()).await.unwrap();
    store.sandbox_set_state(one, StoredState::Running, None).await.unwrap();
    drop(store);

    let rows = Store::open(&path).unwrap().sandbox_list().await.unwrap();
    let failed = SandboxRow { state: StoredState::Failed, reason: Some("panic".into()), ..row(2) };
    let running = SandboxRow { state: StoredState::Running, times: "a while".into(), ..row(3) };
    assert_eq!(rows, [running, failed]);
}

#[tokio::test]
async fn requests_are_carried_out_in_the_order_they_were_made() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("node.db")).unwrap();
    let inserted = store.sandbox_insert(row(1));
    let deleted = store.sandbox_delete(SandboxId::from_bits(1));
    // Waited for the wrong way round.
    deleted.await.unwrap();
    inserted.await.unwrap();
    assert_eq!(store.sandbox_list().await.unwrap(), []);
}

#[tokio::test]
async fn an_id_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("node.db")).unwrap();
    store.sandbox_insert(row(1)).await.unwrap();
    assert!(matches!(store.sandbox_insert(row(1)).await, Err(StoreError::Sqlite(_))));
}

#[test]
fn a_database_of_a_newer_node_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.db");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 1000).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, OpenStoreError::FromTheFuture { found: 1000, .. }), "{error}");
    let version: u32 = Connection::open(&path)
        .unwrap()
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    assert_eq!(version, 1000);
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.db");
    std::fs::write(&path, vec![b'x'; 8192]).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(error.to_string().contains("node.db"), "{error}");
    let missing = Store::open(&dir.path().join("no/such/node.db")).unwrap_err();
    assert!(matches!(missing, OpenStoreError::Open { .. }), "{missing}");
}

#[tokio::test]
async fn a_row_this_build_cannot_read_is_an_error_with_its_value() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.db");
    let store = Store::open(&path).unwrap();
    store.sandbox_insert(row(1)).await.unwrap();
    Connection::open(&path).unwrap().execute("UPDATE sandboxes SET size = 'vast'", []).unwrap();
    let error = store.sandbox_list().await.unwrap_err();
    assert!(error.to_string().contains("size `vast`"), "{error}");
}

#[tokio::test]
async fn an_environment_that_cannot_be_read_is_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.db");
    let store = Store::open(&path).unwrap();
    store.sandbox_insert(row(1)).await.unwrap();
    let damage = "UPDATE sandboxes SET env = '{\"TOKEN\": \"hunter2\"'";
    Connection::open(&path).unwrap().execute(damage, []).unwrap();
    let error = base_types::Chain(&store.sandbox_list().await.unwrap_err()).to_string();
    assert!(error.contains("environment") && !error.contains("hunter2"), "{error}");
}

#[test]
fn nobody_but_the_node_reads_its_database() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.db");
    drop(Store::open(&path).unwrap());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn the_time_of_a_sandbox_and_its_pause_survive_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.db");
    let store = Store::open(&path).unwrap();
    let lease =
        LeaseRow { timeout_s: 5, idle_timeout_s: 7, pause: true, ends_at_ms: Some(1_000_005_000) };
    store.sandbox_insert(row(1)).await.unwrap();
    store.sandbox_insert(SandboxRow { lease, ..row(2) }).await.unwrap();
    let one = SandboxId::from_bits(1);
    store.sandbox_set_state(one, StoredState::Paused, None).await.unwrap();
    store.sandbox_set_lease(one, lease).await.unwrap();
    // Nothing is made by it.
    store.sandbox_set_lease(SandboxId::from_bits(9), lease).await.unwrap();
    drop(store);
    let rows = Store::open(&path).unwrap().sandbox_list().await.unwrap();
    let paused = SandboxRow { state: StoredState::Paused, lease, ..row(1) };
    assert_eq!(rows, [SandboxRow { lease, ..row(2) }, paused]);
}

#[tokio::test]
async fn a_sandbox_that_is_given_away_is_remembered_as_its_new_projects() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.db");
    let store = Store::open(&path).unwrap();
    store.sandbox_insert(SandboxRow { project: ProjectId::NODE, ..row(1) }).await.unwrap();
    store.sandbox_insert(row(2)).await.unwrap();
    let lease = LeaseRow { timeout_s: 5, idle_timeout_s: 7, pause: true, ends_at_ms: None };
    let (one, project) = (SandboxId::from_bits(1), ProjectId::from_bits(7));
    store.sandbox_give(one, project, Some("mine".to_owned()), lease).await.unwrap();
    drop(store);
    let rows = Store::open(&path).unwrap().sandbox_list().await.unwrap();
    let given = SandboxRow { project, name: Some("mine".to_owned()), lease, ..row(1) };
    assert!(rows.contains(&given) && rows.contains(&row(2)), "{rows:?}");
}

#[tokio::test]
async fn creates_are_counted_whatever_became_of_them_and_old_ones_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.db");
    let store = Store::open(&path).unwrap();
    for (bits, created_at_ms) in [(1, 1_000), (2, 130_000), (3, 130_001)] {
        store.sandbox_insert(SandboxRow { created_at_ms, ..row(bits) }).await.unwrap();
    }
    store.sandbox_delete(SandboxId::from_bits(3)).await.unwrap();
    drop(store);
    let store = Store::open(&path).unwrap();
    let of = |bits, at_ms| (ProjectId::from_bits(bits), at_ms);
    let both = [of(2, 130_000), of(3, 130_001)];
    assert_eq!(store.creates_since(0, 130_001).await.unwrap(), both);
    assert_eq!(store.creates_since(130_001, 130_001).await.unwrap(), [of(3, 130_001)]);
}

#[tokio::test]
async fn creates_of_a_clock_that_was_set_back_since_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("node.db")).unwrap();
    for (bits, created_at_ms) in [(1, 5_000), (2, 9_000_000)] {
        store.sandbox_insert(SandboxRow { created_at_ms, ..row(bits) }).await.unwrap();
    }
    store.sandbox_insert(SandboxRow { created_at_ms: 6_000, ..row(3) }).await.unwrap();
    let of = |bits, at_ms| (ProjectId::from_bits(bits), at_ms);
    assert_eq!(store.creates_since(0, 6_000).await.unwrap(), [of(3, 6_000)]);
    assert_eq!(store.creates_since(0, 10_000_000).await.unwrap(), [of(3, 6_000)]);
}

#[tokio::test]
async fn who_may_reach_ports_is_remembered_as_long_as_the_sandbox() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.db");
    let store = Store::open(&path).unwrap();
    let ports = |bits, token, public: &[u16]| PortsRow {
        id: SandboxId::from_bits(bits),
        token: [token; 16],
        public: public.iter().copied().collect(),
    };
    store.sandbox_insert(row(1)).await.unwrap();
    store.sandbox_insert(row(2)).await.unwrap();
    assert!(store.ports_set(ports(1, 1, &[80, 8000])).await.unwrap());
    assert!(store.ports_set(ports(1, 1, &[8000])).await.unwrap());
    assert!(store.ports_set(ports(2, 2, &[])).await.unwrap());
    // Of a sandbox that is not there nothing is kept, and that is said.
    assert!(!store.ports_set(ports(3, 3, &[80])).await.unwrap());
    store.sandbox_delete(SandboxId::from_bits(2)).await.unwrap();
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.ports_list().await.unwrap(), [ports(1, 1, &[8000])]);
    let shown = format!("{:?}", ports(1, 77, &[8000]));
    assert!(!shown.contains("77"), "{shown}");
}

#[tokio::test]
async fn what_a_sandbox_may_reach_is_remembered_as_it_was_set_last() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.db");
    let store = Store::open(&path).unwrap();
    let (one, two) = (SandboxId::from_bits(1), SandboxId::from_bits(2));
    store.sandbox_insert(row(1)).await.unwrap();
    store.sandbox_insert(row(2)).await.unwrap();
    for network in ["first", "second"] {
        assert!(store.sandbox_set_network(one, network.into()).await.unwrap());
    }
    store.sandbox_delete(two).await.unwrap();
    assert!(!store.sandbox_set_network(two, "third".into()).await.unwrap());
    drop(store);
    let rows = Store::open(&path).unwrap().sandbox_list().await.unwrap();
    assert_eq!(rows, [SandboxRow { network: "second".into(), ..row(1) }]);
}
