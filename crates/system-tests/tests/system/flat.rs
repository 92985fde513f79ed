//! Tests of other crates that need a KVM, run once more on the KVM inside a portable host: a real
//! one, where that of this machine may be a stand-in that runs flat guests only.

use std::path::{Path, PathBuf};
use std::process::Command;

use portable_host::{End, Once, run_once};

use crate::host::{images, private};

/// The test program of `krate` that has `test`, as `cargo test --no-run` built it beside this one.
fn test_program(krate: &str, test: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let mut found: Vec<PathBuf> = std::fs::read_dir(own.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap_or_default();
            name.rsplit_once('-').is_some_and(|(stem, hash)| stem == krate && !hash.contains('.'))
        })
        .collect();
    // Older builds lie beside the newest.
    found.sort_by_key(|path| std::cmp::Reverse(path.metadata().unwrap().modified().unwrap()));
    let has = |path: &&PathBuf| {
        let listed = Command::new(path).arg("--list").output();
        listed.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(test))
    };
    let program = found.iter().find(has).cloned();
    program.unwrap_or_else(|| {
        panic!("no test program `{krate}` with `{test}` lies beside this one; run `scripts/test`")
    })
}

/// Runs the tests of `program` whose name contains `filter`, inside; they must all pass.
async fn passes_inside(program: &Path, filter: &[&str]) {
    // A portable host of its own is enough work for two processors.
    let _session = private().await;
    let mut once = Once::new(images().to_owned(), "/bin/tests");
    once.files = vec![("/bin/tests".to_owned(), program.to_owned())];
    once.args = [filter, &["--test-threads=1"]].concat().iter().map(|&word| word.into()).collect();
    once.env = [("RUST_BACKTRACE".to_owned(), "0".to_owned())].into();
    let outcome = tokio::task::spawn_blocking(move || run_once(&once, |_| {})).await.unwrap();
    let outcome = outcome.unwrap_or_else(|error| panic!("{}", base_types::Chain(&error)));
    let said = String::from_utf8_lossy(&outcome.output);
    assert_eq!(outcome.end, End::Exit(0), "{said}");
    assert!(said.contains("test result: ok."), "{said}");
    assert!(!said.contains(" 0 passed"), "{said}");
}

#[tokio::test]
async fn flat_guests_run_and_are_restored_on_the_portable_hosts_kvm() {
    let program = test_program("vmm_core", "flat_guest::");
    passes_inside(&program, &["flat_guest::"]).await;
}
