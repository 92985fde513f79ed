use std::fs;

use base_snapshot::{LayerKind, LayerWriter};
use base_types::Chain;

use super::*;

const PAGES: u64 = 512 << 20 >> 12;

fn layer_at(path: &Path) -> Vec<u8> {
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    let mut writer = LayerWriter::new(file, PAGES, LayerKind::Base).unwrap();
    let pages: Vec<u8> = (0..40 * 4096_u32).map(|n| (n / 7) as u8).collect();
    writer.pages(100, &pages).unwrap();
    writer.finish().unwrap();
    pages
}

#[test]
fn memory_is_what_was_saved_and_cannot_be_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("memory");
    let pages = layer_at(&path);
    let memfd = File::from(memory(&path, Size::Nano).unwrap());
    assert_eq!(memfd.metadata().unwrap().len(), 512 << 20);
    let mut read = vec![0; pages.len()];
    memfd.read_exact_at(&mut read, 100 * PAGE_SIZE).unwrap();
    assert_eq!(read, pages);
    assert!(memfd.write_all_at(b"x", 0).is_err());
    assert!(memfd.set_len(1).is_err());
    let seals = rustix::fs::fcntl_get_seals(&memfd).unwrap();
    assert!(seals.contains(SealFlags::SEAL | SealFlags::WRITE));
}

#[test]
fn a_flipped_bit_is_refused_with_the_file_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("memory");
    layer_at(&path);
    let length = fs::metadata(&path).unwrap().len();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, length / 2).unwrap();
    file.write_all_at(&[byte[0] ^ 4], length / 2).unwrap();
    let error = memory(&path, Size::Nano).unwrap_err();
    let text = Chain(&error).to_string();
    assert!(text.contains("memory` is damaged: "), "{text}");
}

#[test]
fn a_cut_file_another_size_and_nonsense_are_damage_not_crashes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("memory");
    layer_at(&path);
    let wrong_size = memory(&path, Size::Micro).unwrap_err();
    assert!(matches!(wrong_size, TemplateError::Damaged { .. }), "{wrong_size}");
    for length in [0, 1, 100, 5000] {
        let cut = dir.path().join("cut");
        fs::copy(&path, &cut).unwrap();
        File::options().write(true).open(&cut).unwrap().set_len(length).unwrap();
        let error = memory(&cut, Size::Nano).unwrap_err();
        assert!(matches!(error, TemplateError::Damaged { .. }), "{length}: {error}");
    }
    fs::write(dir.path().join("manifest.json"), "{").unwrap();
    assert!(matches!(manifest(dir.path()), Err(TemplateError::Damaged { .. })));
    fs::write(dir.path().join("state"), "no state at all").unwrap();
    let error = verified(&dir.path().join("state")).unwrap_err();
    assert!(matches!(error, TemplateError::Damaged { .. }), "{error}");
}
