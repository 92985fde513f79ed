use super::*;

#[test]
fn what_was_written_is_read_and_what_it_does_not_name_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(None);
    let (disk, memory) = (layout.fresh("disk"), layout.fresh("memory"));
    assert_ne!(disk, memory);
    for name in [&disk, &memory, &"state-7".to_owned(), &"console.log".to_owned()] {
        fs::write(dir.path().join(name), name).unwrap();
    }
    layout.disk.push(disk.clone());
    layout.write(dir.path(), true).unwrap();
    assert_eq!(Layout::read(dir.path()).unwrap(), layout);
    layout.sweep(dir.path()).unwrap();
    let mut left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    left.sort();
    assert_eq!(left, ["console.log", disk.as_str(), LAYOUT_FILE]);
}

#[test]
fn nothing_is_said_of_files_that_are_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(None);
    layout.state = Some(layout.fresh("state"));
    assert!(layout.write(dir.path(), true).is_err());
    assert!(!dir.path().join(LAYOUT_FILE).exists());
}

#[test]
fn names_that_lead_elsewhere_and_other_formats_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["../disk-0", "/etc/passwd", "", "files.json"] {
        let mut layout = Layout::new(None);
        layout.memory.push(name.to_owned());
        fs::write(dir.path().join(LAYOUT_FILE), serde_json::to_vec(&layout).unwrap()).unwrap();
        assert_eq!(Layout::read(dir.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
    let foreign = Layout { format: FORMAT + 1, ..Layout::new(None) };
    fs::write(dir.path().join(LAYOUT_FILE), serde_json::to_vec(&foreign).unwrap()).unwrap();
    assert!(Layout::read(dir.path()).is_err());
    let long = Layout { disk: vec!["disk-0".into(); OVERLAYS_MAX + 1], ..Layout::new(None) };
    fs::write(dir.path().join(LAYOUT_FILE), serde_json::to_vec(&long).unwrap()).unwrap();
    assert!(Layout::read(dir.path()).is_err());
}
