//! What users get wrong, and machines that lack something: one sentence, an exit code, nothing left.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use crate::host::{Host, Said, images, private};
use crate::inside::passed;

#[tokio::test]
async fn an_unknown_template_size_or_sandbox_is_named_with_those_there_are() {
    passed("wrong_requests").await;
}

#[tokio::test]
async fn a_program_that_cannot_be_started_gives_one_line_and_127_or_126() {
    passed("a_program_that_cannot_be_started").await;
}

#[tokio::test]
async fn a_busy_port_or_data_directory_stops_a_second_daemon_and_not_the_first() {
    passed("a_busy_port_and_a_second_node").await;
}

/// Checks that `up` failed with a sentence that holds each of `parts`, and left nothing.
#[track_caller]
fn refused(host: &Host, said: &Said, parts: &[&str]) {
    let stderr = said.stderr();
    assert!(said.code.is_some_and(|code| code != 0), "{said:?}");
    let error = stderr.lines().find(|line| line.starts_with("error: "));
    let error = error.unwrap_or_else(|| panic!("no error line in:\n{stderr}"));
    for part in parts {
        assert!(stderr.contains(part), "no `{part}` in:\n{stderr}");
    }
    println!("{error}");
    assert_eq!(host.qemu(), None);
    for left in ["node.json", "portable/qemu.pid", "portable/boot.initrd.new"] {
        assert!(!host.home().join(left).exists(), "{left} is left");
    }
}

#[tokio::test]
async fn up_without_qemu_says_what_to_install() {
    let host = private().await;
    let port = host.port().to_string();
    let mut up = host.command(&["up", "--portable", "--port", &port]);
    let output = up.env("PATH", "/nonexistent").output().await.unwrap();
    let said = Said { code: output.status.code(), stdout: output.stdout, stderr: output.stderr };
    refused(&host, &said, &["`qemu-system-x86_64` is not installed", "install the Debian package"]);
}

#[tokio::test]
async fn up_on_a_busy_port_names_it() {
    let host = private().await;
    let _busy = TcpListener::bind(("127.0.0.1", host.port())).unwrap();
    let port = host.port().to_string();
    let said = host.sandflare(&["up", "--portable", "--port", &port]).await;
    refused(&host, &said, &[&port, "--port"]);
}

#[tokio::test]
async fn up_with_a_damaged_image_names_the_file() {
    let host = private().await;
    let home_images = host.home().join("images");
    fs::remove_file(&home_images).unwrap();
    copy_tree(images(), &home_images);
    let initrd = home_images.join("kernel/initrd");
    let mut bytes = fs::read(&initrd).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    // As a disk does it: the length and the time stay.
    let modified = fs::metadata(&initrd).unwrap().modified().unwrap();
    fs::remove_file(&initrd).unwrap();
    fs::write(&initrd, bytes).unwrap();
    fs::File::options().write(true).open(&initrd).unwrap().set_modified(modified).unwrap();
    let port = host.port().to_string();
    let said = host.sandflare(&["up", "--portable", "--port", &port]).await;
    if said.code == Some(0) {
        // Whoever notices at once may also make it again.
        assert_eq!(fs::read(&initrd).unwrap(), fs::read(images().join("kernel/initrd")).unwrap());
    } else {
        refused(&host, &said, &["kernel/initrd"]);
    }
}

/// A copy of everything, by links where that does.
fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&from, &to);
        } else if fs::hard_link(&from, &to).is_err() {
            fs::copy(&from, &to).unwrap();
        }
    }
}
