use std::io::Write as _;

use super::*;

#[test]
fn nothing_is_left_of_a_sandbox_and_nothing_of_one_that_could_not_be_made() {
    let parent = tempfile::tempdir().unwrap();
    let id = SandboxId::from_bits(5);
    let files = SandboxFiles::create(parent.path(), id, 1 << 30, Layout::new(None)).unwrap();
    assert_eq!(base_overlay::virtual_size(&files.overlay).unwrap(), 1 << 30);
    // The same id cannot be made twice, and trying does not harm the first.
    assert!(SandboxFiles::create(parent.path(), id, 1 << 30, Layout::new(None)).is_err());
    assert!(parent.path().join(id.to_string()).join("console.log").exists());
    drop(files);
    let error = SandboxFiles::create(parent.path(), id, 0, Layout::new(None)).unwrap_err();
    assert!(matches!(error, CreateError::File { .. }), "{error}");
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
}

/// A sandbox's directory as it is after a pause, let go.
fn paused(parent: &Path, id: SandboxId) -> Moment {
    let mut files = SandboxFiles::create(parent, id, 1 << 30, Layout::new(None)).unwrap();
    let mut layout = files.layout.clone();
    for kind in ["memory", "state"] {
        let name = layout.fresh(kind);
        create_file(&files.dir().join(&name)).unwrap().write_all(kind.as_bytes()).unwrap();
        match kind {
            "memory" => layout.memory.insert(0, name),
            _ => layout.state = Some(name),
        }
    }
    files.commit(layout, true).unwrap();
    let dir = files.dir().to_owned();
    files.let_go();
    Moment::read(dir).unwrap()
}

#[test]
fn what_was_let_go_is_found_again_without_what_was_half_made() {
    let parent = tempfile::tempdir().unwrap();
    let id = SandboxId::from_bits(5);
    let before = paused(parent.path(), id);
    let left_over = before.dir.join("memory-9");
    fs::write(&left_over, "half").unwrap();
    let files = SandboxFiles::open(parent.path(), id).unwrap();
    assert_eq!((files.layout.clone(), files.disk_bytes()), (before.layout, 1 << 30));
    assert!(!left_over.exists());
}

#[test]
fn only_a_kill_removes_what_is_paused_whoever_drops_it() {
    let parent = tempfile::tempdir().unwrap();
    let id = SandboxId::from_bits(5);
    let moment = paused(parent.path(), id);
    let open = || SandboxFiles::open(parent.path(), id).unwrap();
    drop(open());
    // Also when its chain was changed meanwhile.
    let mut files = open();
    files.commit(moment.layout.clone(), true).unwrap();
    drop(files);
    assert_eq!(Layout::read(&moment.dir).unwrap(), moment.layout);
    // Made again it is as any other that runs, also when its next pause fails.
    let mut files = open();
    files.commit(moment.layout.running(true), true).unwrap();
    files.commit(moment.layout.clone(), true).unwrap_err();
    drop(files);
    assert!(!moment.dir.exists());
    paused(parent.path(), id);
    open().remove();
    assert!(!moment.dir.exists());
}

#[test]
fn a_directory_that_cannot_be_used_is_left_as_it_is() {
    let parent = tempfile::tempdir().unwrap();
    let id = SandboxId::from_bits(5);
    let moment = paused(parent.path(), id);
    fs::remove_file(moment.dir.join(&moment.layout.disk[0])).unwrap();
    assert!(SandboxFiles::open(parent.path(), id).is_err());
    assert!(moment.dir.join(moment.layout.state.unwrap()).exists());
}

#[test]
fn a_branch_stands_when_what_it_was_made_of_is_gone() {
    let parent = tempfile::tempdir().unwrap();
    let moment = paused(parent.path(), SandboxId::from_bits(5));
    let child = |bits, lazy| {
        let id = SandboxId::from_bits(bits);
        SandboxFiles::branch(parent.path(), id, 1 << 30, &moment, lazy).unwrap()
    };
    let (lazy, eager) = (child(6, true), child(7, false));
    fs::remove_dir_all(&moment.dir).unwrap();
    let [memory] = lazy.layout.memory.as_slice() else { panic!("{:?}", lazy.layout) };
    assert_eq!(fs::read_to_string(lazy.dir().join(memory)).unwrap(), "memory");
    for files in [lazy, eager] {
        assert_eq!((files.frozen.len(), files.layout.disk.len()), (1, 2));
        assert_ne!(files.layout.disk[0], files.layout.disk[1]);
        assert_eq!(files.layout.state, None);
    }
}

#[test]
fn a_layout_that_cannot_be_written_changes_nothing_and_leaves_no_file() {
    let parent = tempfile::tempdir().unwrap();
    let id = SandboxId::from_bits(5);
    let before = paused(parent.path(), id).layout;
    let mut files = SandboxFiles::open(parent.path(), id).unwrap();
    let mut deeper = before.clone();
    let own = deeper.fresh("disk");
    deeper.disk.push(own.clone());
    let path = files.dir().join(own);
    // Nothing can be written where the new one would be.
    let new = files.dir().join("files.json.new");
    fs::create_dir(&new).unwrap();
    create_overlay(&path, 1 << 30).unwrap();
    assert!(files.commit(deeper.clone(), true).is_err());
    assert_eq!((&files.layout, &Layout::read(files.dir()).unwrap()), (&before, &before));
    assert!(!path.exists());
    // And with room again, as if nothing had been.
    fs::remove_dir(&new).unwrap();
    create_overlay(&path, 1 << 30).unwrap();
    files.commit(deeper.clone(), true).unwrap();
    files.reopen().unwrap();
    assert_eq!((files.frozen.len(), &files.layout), (before.disk.len(), &deeper));
}
