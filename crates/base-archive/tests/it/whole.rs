use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use base_archive::{PackError, Rules};

use crate::world::{EVERYTHING, packed, unpacked};

/// What is told of a tree: of each name its kind and mode, its content or target, and its time.
fn seen(folder: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>, i64)> {
    let mut tree = BTreeMap::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(here) = waiting.pop() {
        for entry in fs::read_dir(here).unwrap() {
            let path = entry.unwrap().path();
            let data = fs::symlink_metadata(&path).unwrap();
            let (content, time) = if data.is_symlink() {
                (fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(), 0)
            } else if data.is_dir() {
                waiting.push(path.clone());
                (Vec::new(), 0)
            } else {
                (fs::read(&path).unwrap(), data.mtime())
            };
            let below = path.strip_prefix(folder).unwrap().to_owned();
            tree.insert(below, (data.mode(), content, time));
        }
    }
    tree
}

fn make_tree(folder: &Path) {
    let long = "n".repeat(200);
    fs::create_dir_all(folder.join("deep/er").join(&long)).unwrap();
    fs::create_dir(folder.join("empty")).unwrap();
    fs::write(folder.join("deep/er").join(&long).join("file"), b"deep").unwrap();
    fs::write(folder.join("empty file"), b"").unwrap();
    fs::write(folder.join("big"), vec![7; 300_000]).unwrap();
    fs::write(folder.join("program"), b"#!/bin/sh\n").unwrap();
    fs::set_permissions(folder.join("program"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(folder.join("empty"), fs::Permissions::from_mode(0o1777)).unwrap();
    symlink("deep/er", folder.join("inner")).unwrap();
    symlink("/usr/bin/python3", folder.join("absolute")).unwrap();
    symlink("l".repeat(180), folder.join("broken")).unwrap();
    fs::hard_link(folder.join("big"), folder.join("same")).unwrap();
    let weird = std::ffi::OsStr::new("new\nline \u{e9}");
    fs::write(folder.join(weird), b"odd").unwrap();
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make_tree(from.path());
    let made = unpacked(&packed(from.path()), to.path(), EVERYTHING).unwrap();
    assert!(seen(to.path()) == seen(from.path()));
    assert_eq!((made.files, made.left_out_count), (6, 0));
    let owner = fs::symlink_metadata(to.path().join("inner")).unwrap();
    assert_eq!((owner.uid(), owner.gid()), (1, 1));
}

#[test]
fn other_programs_read_and_write_the_same_archives() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make_tree(from.path());
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().write_all(&packed(from.path())).unwrap();
    let run = |arguments: &[&str], folder: &Path| {
        let mut tar = Command::new("tar");
        assert!(
            tar.args(arguments).arg(file.path()).arg("-C").arg(folder).status().unwrap().success()
        );
    };
    run(&["--no-same-owner", "-pxf"], to.path());
    assert!(seen(to.path()) == seen(from.path()));
    for format in ["gnu", "pax"] {
        let to = tempfile::tempdir().unwrap();
        let mut tar = Command::new("tar");
        tar.arg(format!("--format={format}")).arg("-C").arg(from.path());
        let stream = tar.args(["-c", "."]).output().unwrap().stdout;
        unpacked(&stream, to.path(), EVERYTHING).unwrap();
        assert!(seen(to.path()) == seen(from.path()), "{format}");
    }
}

#[test]
fn a_sparse_file_of_another_program_is_refused() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut file = fs::File::create(from.path().join("sparse")).unwrap();
    file.set_len(3_000_000).unwrap();
    io::Seek::seek(&mut file, io::SeekFrom::Start(1_000_000)).unwrap();
    file.write_all(b"in the middle").unwrap();
    let mut tar = Command::new("tar");
    let stream = tar.args(["-S", "--format=gnu", "-C"]).arg(from.path()).args(["-c", "."]);
    let stream = stream.output().unwrap().stdout;
    assert!(stream.len() < 100_000);
    for rules in [EVERYTHING, Rules::Plain] {
        let error = unpacked(&stream, to.path(), rules).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the archive has \"./sparse\" as a sparse file, which is not made; pack it without `--sparse`"
        );
        assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
    }
}

#[test]
fn sockets_and_fifos_are_left_out() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let _socket = UnixListener::bind(from.path().join("socket")).unwrap();
    assert!(Command::new("mkfifo").arg(from.path().join("fifo")).status().unwrap().success());
    fs::write(from.path().join("file"), "x").unwrap();
    unpacked(&packed(from.path()), to.path(), EVERYTHING).unwrap();
    assert_eq!(seen(to.path()).into_keys().collect::<Vec<_>>(), [PathBuf::from("file")]);
}

/// Does something when the first bytes of a file's content come by.
struct During<F: FnMut()> {
    stream: Vec<u8>,
    act: Option<F>,
}

impl<F: FnMut()> Write for During<F> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if data.contains(&b'c')
            && self.stream.len() >= 512
            && let Some(mut act) = self.act.take()
        {
            act();
        }
        self.stream.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_file_that_shrinks_or_grows_on_the_way_spoils_nothing() {
    for (length, then) in [(1 << 20, 1000), (1 << 20, 4 << 20)] {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = from.path().join("changing");
        fs::write(&file, vec![b'c'; length]).unwrap();
        let change = || fs::File::options().write(true).open(&file).unwrap().set_len(then).unwrap();
        let mut during = During { stream: Vec::new(), act: Some(change) };
        base_archive::pack(fs::File::open(from.path()).unwrap(), true, &mut during).unwrap();
        assert!(during.act.is_none(), "it was not changed on the way");
        unpacked(&during.stream, to.path(), EVERYTHING).unwrap();
        let copy = fs::read(to.path().join("changing")).unwrap();
        assert_eq!(copy.len(), length);
        assert!(copy.starts_with(&[b'c'; 1000]));
        assert_eq!(copy.ends_with(&[0; 1000]), then < length as u64);
    }
}

#[test]
fn a_tree_too_deep_is_not_packed() {
    let from = tempfile::tempdir().unwrap();
    fs::create_dir_all(from.path().join("d/".repeat(300))).unwrap();
    let folder = fs::File::open(from.path()).unwrap();
    let error = base_archive::pack(folder, true, io::sink()).unwrap_err();
    assert!(matches!(error, PackError::Deep { .. }), "{error}");
}

#[test]
fn what_stands_in_the_way_is_replaced_but_not_a_directory() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("a"), "new").unwrap();
    fs::write(to.path().join("a"), "old and longer").unwrap();
    let stream = packed(from.path());
    unpacked(&stream, to.path(), Rules::Plain).unwrap();
    assert_eq!(fs::read_to_string(to.path().join("a")).unwrap(), "new");
    fs::remove_file(to.path().join("a")).unwrap();
    fs::create_dir(to.path().join("a")).unwrap();
    let error = unpacked(&stream, to.path(), Rules::Plain).unwrap_err();
    assert_eq!(error.to_string(), "cannot make `a` of the archive");
}
