use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use base_archive::{LEFT_OUT_NAMED_MAX, Rules, UnpackError};
use proptest::prelude::*;
use tar::EntryType;
use tempfile::TempDir;

use crate::world::{EVERYTHING, Forged, unpacked};

/// A directory to unpack into, with something beside it that nobody may touch.
fn world() -> (TempDir, std::path::PathBuf) {
    let world = tempfile::tempdir().unwrap();
    let inside = world.path().join("inside");
    fs::create_dir(&inside).unwrap();
    fs::create_dir(world.path().join("beside")).unwrap();
    fs::write(world.path().join("beside/kept"), "kept").unwrap();
    (world, inside)
}

fn is_untouched(world: &Path) -> bool {
    let beside = world.join("beside");
    let kept = fs::metadata(beside.join("kept")).unwrap();
    fs::read_to_string(beside.join("kept")).unwrap() == "kept"
        && kept.nlink() == 1
        && fs::read_dir(&beside).unwrap().count() == 1
        && fs::read_dir(world).unwrap().count() == 2
}

#[test]
fn no_name_leads_out_of_the_directory() {
    for name in ["../beside/new", "/tmp/new", "a/../../beside/new", "..", "a/.."] {
        for rules in [EVERYTHING, Rules::Plain] {
            let (world, inside) = world();
            let stream = Forged::new().file(name, "x").stream();
            let error = unpacked(&stream, &inside, rules).unwrap_err();
            assert!(matches!(error, UnpackError::Outside { .. }), "{name}: {error}");
            assert!(error.to_string().contains("leads out of the directory"));
            assert!(is_untouched(world.path()), "{name}");
        }
    }
}

#[test]
fn no_link_of_the_archive_is_followed_out() {
    let (world, inside) = world();
    let beside = world.path().join("beside");
    for target in ["../beside", beside.to_str().unwrap(), "/proc/self/root", "."] {
        let stream = Forged::new().link("way", target).file("way/../x", "").stream();
        assert!(unpacked(&stream, &inside, EVERYTHING).is_err());
        let stream = Forged::new().link("way", target).file("way/kept", "changed").stream();
        let outcome = unpacked(&stream, &inside, EVERYTHING);
        assert_eq!(outcome.is_ok(), target == ".", "{target}: {outcome:?}");
        assert!(is_untouched(world.path()), "{target}");
        // A file takes the place of a link, and is not written through it.
        let stream = Forged::new()
            .link("kept", &format!("{}/kept", beside.display()))
            .file("kept", "changed")
            .stream();
        unpacked(&stream, &inside, EVERYTHING).unwrap();
        assert_eq!(fs::read_to_string(inside.join("kept")).unwrap(), "changed");
        assert!(is_untouched(world.path()), "{target}");
    }
}

#[test]
fn no_link_that_was_there_before_is_followed_out() {
    let (world, inside) = world();
    symlink("../beside", inside.join("way")).unwrap();
    for rules in [EVERYTHING, Rules::Plain] {
        for name in ["way/kept", "way/new/file"] {
            let stream = Forged::new().file(name, "changed").stream();
            let error = unpacked(&stream, &inside, rules).unwrap_err();
            assert!(matches!(error, UnpackError::Outside { .. }), "{error}");
            assert!(is_untouched(world.path()));
        }
        let stream = Forged::new().entry(EntryType::Directory, "way/new", "", b"").stream();
        unpacked(&stream, &inside, rules).unwrap_err();
        assert!(is_untouched(world.path()));
    }
}

#[test]
fn no_hard_link_reaches_out() {
    let (world, inside) = world();
    symlink("../beside", inside.join("way")).unwrap();
    let absolute = world.path().join("beside/kept");
    for target in ["../beside/kept", "way/kept", absolute.to_str().unwrap(), ""] {
        let stream = Forged::new().entry(EntryType::Link, "x", target, b"").stream();
        let error = unpacked(&stream, &inside, EVERYTHING).unwrap_err();
        assert!(matches!(error, UnpackError::LinkOutside { .. }), "{target}: {error}");
        assert!(is_untouched(world.path()));
    }
    let stream = Forged::new().file("a", "one").entry(EntryType::Link, "b", "a", b"").stream();
    unpacked(&stream, &inside, EVERYTHING).unwrap();
    assert_eq!(fs::read_to_string(inside.join("b")).unwrap(), "one");
}

#[test]
fn devices_and_fifos_are_refused_or_left_out() {
    for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo] {
        let (_world, inside) = world();
        let stream = Forged::new().entry(kind, "odd", "", b"").file("file", "x").stream();
        let error = unpacked(&stream, &inside, EVERYTHING).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the archive has \"odd\", which is neither a file nor a directory nor a link"
        );
        let made = unpacked(&stream, &inside, Rules::Plain).unwrap();
        assert_eq!((made.files, made.left_out), (1, vec!["odd".into()]));
        assert!(fs::symlink_metadata(inside.join("odd")).is_err());
    }
}

#[test]
fn only_files_and_directories_come_out_plain() {
    let (_world, inside) = world();
    let mut forged = Forged::new().file("set", "x");
    for number in 0..=LEFT_OUT_NAMED_MAX {
        forged = forged.link(&format!("link{number}"), "set");
    }
    let made = unpacked(&forged.stream(), &inside, Rules::Plain).unwrap();
    assert_eq!((made.files, made.bytes), (1, 1));
    assert_eq!(made.left_out.len(), LEFT_OUT_NAMED_MAX);
    assert_eq!(made.left_out_count, LEFT_OUT_NAMED_MAX as u64 + 1);
    assert_eq!(fs::read_dir(&inside).unwrap().count(), 1);
}

#[test]
fn everything_keeps_its_set_id_bits() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("tool"), "x").unwrap();
    with_mode(&from.path().join("tool"), 0o6755);
    let (_world, inside) = world();
    unpacked(&crate::world::packed(from.path()), &inside, EVERYTHING).unwrap();
    assert_eq!(mode(&inside.join("tool")), 0o6755);
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn with_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_comes_out_plain_is_for_its_owner_alone_to_write() {
    let from = tempfile::tempdir().unwrap();
    for folder in ["new", "there"] {
        fs::create_dir(from.path().join(folder)).unwrap();
        fs::write(from.path().join(folder).join("tool"), "x").unwrap();
        with_mode(&from.path().join(folder).join("tool"), 0o6777);
        with_mode(&from.path().join(folder), 0o7777);
    }
    let (_world, inside) = world();
    fs::create_dir(inside.join("there")).unwrap();
    with_mode(&inside.join("there"), 0o710);
    unpacked(&crate::world::packed(from.path()), &inside, Rules::Plain).unwrap();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:")).unwrap();
    let expected = 0o755 & !u32::from_str_radix(umask.trim(), 8).unwrap();
    for path in ["new", "new/tool", "there/tool"] {
        assert_eq!(mode(&inside.join(path)), expected, "{path}");
    }
    assert_eq!(mode(&inside.join("there")), 0o710);
}

#[test]
fn the_umask_counts_for_what_comes_out_plain() {
    for umask in ["077", "000"] {
        let script = format!("umask {umask}; exec \"$0\" --exact \"$1\"");
        let output = Command::new("sh")
            .args(["-c", &script])
            .arg(env::current_exe().unwrap())
            .arg("hostile::what_comes_out_plain_is_for_its_owner_alone_to_write")
            .output()
            .unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && told.contains("1 passed"), "{umask}: {told}");
    }
}

#[test]
fn an_archive_that_is_cut_off_is_not_taken_for_a_whole_one() {
    for content in ["x".repeat(2000), "\0".repeat(1024), "\0".repeat(2000)] {
        for last in ["y", &content] {
            let stream = Forged::new().file("a", &content).file("b", last).stream();
            let (_world, inside) = world();
            // The first of the two blocks of zeros at its end is enough.
            for end in 0..stream.len() - 512 {
                let error = unpacked(&stream[..end], &inside, EVERYTHING).unwrap_err();
                assert!(
                    matches!(error, UnpackError::Cut | UnpackError::Damaged(_)),
                    "{end}: {error}"
                );
            }
            unpacked(&stream, &inside, EVERYTHING).unwrap();
        }
    }
}

#[test]
fn what_is_no_archive_is_refused() {
    let (_world, inside) = world();
    let error = unpacked(&[b'x'; 4096], &inside, EVERYTHING).unwrap_err();
    assert!(matches!(error, UnpackError::Damaged(_)), "{error}");
    assert_eq!(fs::read_dir(&inside).unwrap().count(), 0);
}

#[test]
fn a_name_without_an_end_does_not_fill_the_memory() {
    struct Endless {
        head: Vec<u8>,
        read: u64,
    }
    impl Read for Endless {
        fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
            if !self.head.is_empty() {
                let count = self.head.as_slice().read(room)?;
                self.head.drain(..count);
                return Ok(count);
            }
            room.fill(b'n');
            self.read += room.len() as u64;
            Ok(room.len())
        }
    }
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let (_world, inside) = world();
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(1 << 40);
        header.set_cksum();
        let mut endless = Endless { head: header.as_bytes().to_vec(), read: 0 };
        let folder = fs::File::open(&inside).unwrap();
        let error = base_archive::unpack(&mut endless, folder, EVERYTHING).unwrap_err();
        assert!(matches!(error, UnpackError::Damaged(_)), "{error}");
        assert!(endless.read < 1 << 20, "{} bytes", endless.read);
    }
}

#[test]
fn a_name_too_deep_is_refused() {
    let (_world, inside) = world();
    let mut stream = Vec::new();
    {
        let mut builder = tar::Builder::new(&mut stream);
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        builder.append_data(&mut header, "d/".repeat(300) + "x", io::empty()).unwrap();
        builder.finish().unwrap();
    }
    let error = unpacked(&stream, &inside, EVERYTHING).unwrap_err();
    assert!(matches!(error, UnpackError::Deep { .. }), "{error}");
}

/// A name or target made of the parts that could lead somewhere.
fn way() -> impl Strategy<Value = String> {
    const PARTS: &[&str] = &["..", ".", "", "a", "b", "link", "beside", "kept"];
    prop::collection::vec(prop::sample::select(PARTS), 1..5).prop_map(|parts| parts.join("/"))
}

proptest! {
    #[test]
    fn no_archive_at_all_changes_what_is_beside(
        entries in prop::collection::vec((0..5_u8, way(), way()), 1..12),
        plain: bool,
    ) {
        let (world, inside) = world();
        symlink("../beside", inside.join("link")).unwrap();
        let add = |forged: Forged, (kind, name, target): &(u8, String, String)| match kind {
            0 => forged.entry(EntryType::Directory, name, "", b""),
            1 => forged.link(name, target),
            2 => forged.entry(EntryType::Link, name, target, b""),
            _ => forged.file(name, "changed"),
        };
        let all = entries.iter().fold(Forged::new(), add);
        let rules = if plain { Rules::Plain } else { EVERYTHING };
        let _ = unpacked(&all.stream(), &inside, rules);
        // Each alone too, so that one that is refused does not spare the others.
        for entry in &entries {
            let _ = unpacked(&add(Forged::new(), entry).stream(), &inside, rules);
        }
        prop_assert!(is_untouched(world.path()));
    }

    #[test]
    fn no_bytes_at_all_make_it_panic(mut stream: Vec<u8>, flips in prop::collection::vec((0..4096_usize, any::<u8>()), 0..8)) {
        let (world, inside) = world();
        let _ = unpacked(&stream, &inside, EVERYTHING);
        stream = Forged::new().file("a", "one").link("b", "a").file("c/d", "two").stream();
        for (place, byte) in flips {
            let end = stream.len();
            stream[place % end] ^= byte;
        }
        let _ = unpacked(&stream, &inside, EVERYTHING);
        prop_assert!(is_untouched(world.path()));
    }
}
