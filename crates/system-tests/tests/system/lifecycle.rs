//! `sandflare up` and `down`.

use std::fs;
use std::process::Command;

use api_node::TemplateState;
use base_types::{Size, TemplateName};

use crate::host::{Host, private};

/// What may stay in the home of a node that is down.
const KEPT: [&str; 13] = [
    "api-key",
    "images",
    "up.lock",
    "portable/boot.initrd",
    "portable/console.log",
    "portable/console.log.1",
    "portable/data.ext4",
    "portable/images.ext4",
    "portable/images.key",
    "portable/images.lock",
    "portable/kernel.log",
    "portable/kernel.log.1",
    "portable/lock",
];

#[tokio::test]
async fn down_leaves_only_data_and_up_goes_on_with_it() {
    let host = private().await;
    host.up().await;
    let said = host.sandflare(&["up", "--portable", "--port", &host.port().to_string()]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stderr().contains("already running"), "{said:?}");

    assert!(host.qemu().is_some());
    let said = host.sandflare(&["run", "--template", "base", "--", "echo", "first"]).await;
    assert_eq!(said.succeeded(), "first\n");
    let base = "base".parse().unwrap();
    let built = host.client().template_get(&base, Size::Nano).await.unwrap();
    assert_eq!(built.state, TemplateState::Ready);
    let alive = host.sandbox("base").await;
    alive.root("echo kept > /etc/kept; sync").await;

    host.sandflare(&["down"]).await.succeeded();
    nothing_runs(&host);
    only_data_is_left(&host);
    let said = host.sandflare(&["down"]).await;
    assert_eq!(said.code, Some(0), "down may be repeated: {said:?}");
    let said = host.sandflare(&["ps"]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr().contains("no node is running"), "{said:?}");
    let sandboxes = inside_data_disk(&host, "/sandboxes");
    assert_eq!(sandboxes, [""; 0], "sandboxes end with their node");

    host.up().await;
    let again = host.client().template_get(&base, Size::Nano).await.unwrap();
    assert_eq!(again, built, "the snapshot is the one made before");
    assert!(host.client().sandbox_list().await.unwrap().sandboxes.is_empty());
    let said = host.sandflare(&["run", "--template", "base", "--", "echo", "second"]).await;
    assert_eq!((said.stdout().as_str(), said.stderr().as_str()), ("second\n", ""));
    let after = host.client().template_get(&base, Size::Nano).await.unwrap();
    assert_eq!(after.built_at_ms, built.built_at_ms);
    drop(alive);
    its_snapshot_is_deleted_when_nothing_stands_on_it(&host, &base).await;
}

async fn its_snapshot_is_deleted_when_nothing_stands_on_it(host: &Host, base: &TemplateName) {
    let alive = host.sandbox("base").await;
    let refused = host.client().template_delete(base, Size::Nano).await.unwrap_err();
    let refused = refused.to_string();
    let in_use = "template base, size nano, is in use (sandboxes: 1, snapshots: 0)";
    assert!(refused.contains(in_use), "{refused}");
    alive.root("true").await;
    alive.kill().await.unwrap();
    let said = host.sandflare(&["template", "rm", "base"]).await;
    assert_eq!(said.succeeded(), "");
    let gone = host.client().template_get(base, Size::Nano).await.unwrap();
    assert_eq!((gone.state, gone.snapshot_bytes), (TemplateState::Missing, 0));
    let said = host.sandflare(&["template", "rm", "base"]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr().contains("template base has no snapshot, size nano"), "{said:?}");
}

fn nothing_runs(host: &Host) {
    assert_eq!(host.qemu(), None);
    let home = host.home().to_str().unwrap();
    for entry in fs::read_dir("/proc").unwrap() {
        let line = fs::read(entry.unwrap().path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        assert!(!line.contains(home), "still there: {line}");
    }
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(home), "{mounts}");
}

fn only_data_is_left(host: &Host) {
    let mut left = Vec::new();
    for (folder, prefix) in [(host.home().to_owned(), ""), (host.state(), "portable/")] {
        for entry in fs::read_dir(folder).unwrap() {
            left.push(format!("{prefix}{}", entry.unwrap().file_name().to_str().unwrap()));
        }
    }
    left.retain(|name| name != "portable" && !KEPT.contains(&name.as_str()));
    assert_eq!(left, [""; 0], "left behind");
}

/// Names in a directory of the data disk of a portable host that is down.
fn inside_data_disk(host: &Host, path: &str) -> Vec<String> {
    let output = Command::new("debugfs")
        .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap()))
        .args(["-R", &format!("ls -p {path}")])
        .arg(host.state().join("data.ext4"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("/./"), "{path} is not on the data disk: {output:?}");
    // One entry per line: /inode/mode/uid/gid/name/size/
    let names = text.lines().filter_map(|line| line.split('/').nth(5).map(str::to_owned));
    names.filter(|name| !matches!(name.as_str(), "" | "." | "..")).collect()
}
