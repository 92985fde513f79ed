use super::*;
use crate::sandbox::Layout;

fn facts(bits: u64) -> SnapshotFacts {
    SnapshotFacts {
        id: SnapshotId::from_bits(bits),
        project: ProjectId::DEFAULT,
        name: Some("before".into()),
        sandbox: SandboxId::from_bits(7),
        template: "agent".parse().unwrap(),
        size: Size::Nano,
        created_at_ms: 100 - bits,
        errand: None,
        database: None,
        network: Policy::default(),
        secrets: Vec::new(),
        bytes: 0,
    }
}

/// Puts a moment where the snapshot is made.
fn write_moment(snapshots: &Snapshots, bits: u64) {
    let dir = snapshots.place(SnapshotId::from_bits(bits));
    fs::create_dir(&dir).unwrap();
    let mut layout = Layout::new(None);
    layout.state = Some(layout.fresh("state"));
    fs::write(dir.join(layout.state.as_ref().unwrap()), "registers").unwrap();
    layout.write(&dir, false).unwrap();
}

#[test]
fn what_was_kept_is_found_again_and_what_was_half_made_is_not() {
    let parent = tempfile::tempdir().unwrap();
    let open = || Snapshots::open(parent.path().join("snapshots")).unwrap();
    let snapshots = open();
    for bits in [1, 2, 3] {
        write_moment(&snapshots, bits);
    }
    for bits in [1, 2] {
        let kept = snapshots.keep(facts(bits)).unwrap();
        assert!(kept.bytes > 0);
    }
    let before = snapshots.list();
    drop(snapshots);
    let again = open();
    assert_eq!(again.list(), before);
    assert_eq!(before.iter().map(|f| f.id.bits()).collect::<Vec<_>>(), [2, 1]);
    assert!(!again.place(SnapshotId::from_bits(3)).exists());
}

#[test]
fn a_deleted_snapshot_is_gone_at_once_and_its_files_when_nobody_uses_them() {
    let parent = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(parent.path().to_owned()).unwrap();
    write_moment(&snapshots, 1);
    let id = snapshots.keep(facts(1)).unwrap().id;
    let (_, kept) = snapshots.get(id).unwrap();
    assert!(snapshots.delete(id).unwrap());
    assert!(!snapshots.delete(id).unwrap());
    assert!(snapshots.get(id).is_none());
    assert!(kept.moment.open().is_ok());
    drop(kept);
    assert!(!snapshots.place(id).exists());
}

#[test]
fn a_snapshot_whose_deletion_was_interrupted_does_not_come_back() {
    let parent = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(parent.path().to_owned()).unwrap();
    write_moment(&snapshots, 1);
    let id = snapshots.keep(facts(1)).unwrap().id;
    // The daemon dies after the first step.
    fs::remove_file(snapshots.place(id).join(FACTS_FILE)).unwrap();
    let again = Snapshots::open(parent.path().to_owned()).unwrap();
    assert_eq!(again.list(), []);
    assert!(!again.place(id).exists());
}

#[test]
fn a_damaged_snapshot_is_not_shown_and_not_thrown_away() {
    let parent = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(parent.path().to_owned()).unwrap();
    write_moment(&snapshots, 1);
    let id = snapshots.keep(facts(1)).unwrap().id;
    fs::remove_file(snapshots.place(id).join("files.json")).unwrap();
    let again = Snapshots::open(parent.path().to_owned()).unwrap();
    assert_eq!(again.list(), []);
    assert!(again.place(id).join("state-0").exists());
}

#[test]
fn a_snapshot_in_the_making_stands_on_its_template_before_it_is_listed() {
    let parent = tempfile::tempdir().unwrap();
    let snapshots = Arc::new(Snapshots::open(parent.path().to_owned()).unwrap());
    let count = |size| snapshots.count_of(&"agent".parse().unwrap(), size);
    let begin = || snapshots.begin("agent".parse().unwrap(), Size::Nano);
    let (begun, other) = (begin(), begin());
    assert_eq!((count(Size::Nano), count(Size::Micro)), (2, 0));
    drop(other);
    assert_eq!(count(Size::Nano), 1);
    write_moment(&snapshots, 1);
    snapshots.keep(facts(1)).unwrap();
    drop(begun);
    assert_eq!(count(Size::Nano), 1);
    assert!(snapshots.delete(SnapshotId::from_bits(1)).unwrap());
    assert_eq!(count(Size::Nano), 0);
}

#[test]
fn a_project_keeps_as_many_as_its_quota_says_those_in_the_making_with_them() {
    let parent = tempfile::tempdir().unwrap();
    let snapshots = Arc::new(Snapshots::open(parent.path().to_owned()).unwrap());
    let quota = Quota { snapshots: 2, ..Quota::default() };
    let begin =
        |project| snapshots.begin_kept(project, &quota, "agent".parse().unwrap(), Size::Nano);
    write_moment(&snapshots, 1);
    let id = snapshots.keep(facts(1)).unwrap().id;
    let begun = begin(ProjectId::DEFAULT).unwrap();
    let refused = begin(ProjectId::DEFAULT).unwrap_err();
    assert_eq!((refused.what, refused.used, refused.limit), ("snapshots", 2, 2));
    // Neither another project's nor the moments of forks count.
    drop((begin(ProjectId::from_bits(9)).unwrap(), begun));
    let _fork = snapshots.begin("agent".parse().unwrap(), Size::Nano);
    let begun = begin(ProjectId::DEFAULT).unwrap();
    assert!(begin(ProjectId::DEFAULT).is_err());
    snapshots.delete(id).unwrap();
    assert!(begin(ProjectId::DEFAULT).is_ok());
    drop(begun);
}

#[test]
fn a_snapshot_keeps_what_its_sandbox_might_reach() {
    let parent = tempfile::tempdir().unwrap();
    let open = || Snapshots::open(parent.path().to_owned()).unwrap();
    // As long as a policy can be.
    let rule = format!("*.{}:10000-20000/tcp", "a.".repeat(126).trim_end_matches('.'));
    let longest = vec![rule.parse().unwrap(); api_node::POLICY_RULES_MAX];
    let snapshots = open();
    for (bits, allow) in [(1, Vec::new()), (2, longest)] {
        write_moment(&snapshots, bits);
        let network = Policy { allow, ..nothing() };
        snapshots.keep(SnapshotFacts { network, ..facts(bits) }).unwrap();
    }
    let before = snapshots.list();
    assert_eq!(open().list(), before);
    // Of one that says nothing, it was nothing.
    let file = snapshots.place(SnapshotId::from_bits(1)).join(FACTS_FILE);
    let mut text: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    text.as_object_mut().unwrap().remove("network").unwrap();
    fs::write(&file, text.to_string()).unwrap();
    let again = open();
    assert_eq!(again.get(SnapshotId::from_bits(1)).unwrap().0.network, nothing());
}
