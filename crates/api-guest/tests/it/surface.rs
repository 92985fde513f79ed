use std::path::Path;
use std::{env, fs};

use api_guest::{Answer, Message, raw_header};

/// Set it to write the file instead of comparing.
const REWRITE: &str = "SANDFLARE_REWRITE_SURFACE";

#[test]
fn the_surface_file_is_what_the_code_speaks() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wire/guest-1.txt");
    let now = api_guest::surface();
    if env::var_os(REWRITE).is_some() {
        fs::write(&path, &now).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap();
    assert_eq!(written, now, "append to the protocol, then set {REWRITE}=1 to write it down");
}

#[test]
fn no_number_is_used_twice() {
    let surface = api_guest::surface();
    let frames = surface.split("\nParts").next().unwrap();
    let mut numbers: Vec<u8> = frames
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next()?.parse().ok())
        .collect();
    let count = numbers.len();
    assert!(count > 20);
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), count);
}

#[test]
fn the_kinds_for_data_already_in_place_are_those_of_the_frames() {
    for (answer, kind) in [
        (Answer::Stdout(Vec::new()), Answer::STDOUT),
        (Answer::Stderr(Vec::new()), Answer::STDERR),
        (Answer::Chunk(Vec::new()), Answer::CHUNK),
    ] {
        assert_eq!(answer.kind(), kind);
        assert_eq!(answer.encode().unwrap(), raw_header(kind, 0).unwrap());
    }
}
