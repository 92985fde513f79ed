use std::io::Write as _;

use expect_test::expect;

use super::*;
use crate::{LayerWriter, StateWriter};

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[test]
fn each_kind_of_file_is_recognised_and_summed_up() {
    let state = StateWriter::new("m").section(Tag(*b"vcpu"), 1, vec![7; 9]).finish().unwrap();
    let set = WorkingSet::from_pages(8, [(1, true), (4, false)], 0).unwrap().encode();
    let mut layer = LayerWriter::new(tempfile::tempfile().unwrap(), 8, LayerKind::Diff).unwrap();
    layer.pages(2, &[1; 4096]).unwrap();
    layer.pages(3, &[0; 8192]).unwrap();
    let (layer, _) = layer.finish().unwrap();

    let summaries =
        [file_of(&state), file_of(&set), layer].map(|file| inspect(file).unwrap().to_string());
    expect![[r#"
        state file for machine type `m`
          section `vcpu` version 1, 9 bytes
        working set for 8 pages
          1 pages read, 1 pages written, 2 extents
        memory layer (diff) for 8 pages
          1 pages of data, 2 zero pages, 2 extents"#]]
    .assert_eq(&summaries.join("\n"));
}

#[test]
fn what_is_no_snapshot_file_is_refused() {
    for bytes in [&b""[..], b"sf", b"#!/bin/sh\necho no snapshot here\n"] {
        assert!(matches!(
            inspect(file_of(bytes)),
            Err(OpenError::NotASnapshot { .. }) | Err(OpenError::Truncated { .. })
        ));
    }
}
