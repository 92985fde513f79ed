//! `sandflare run`: one command in a sandbox of its own, through the real command line.

use base_types::Size;

use crate::host::shared;

#[tokio::test]
async fn run_shows_the_guests_kernel_keeps_the_streams_apart_and_exits_with_its_code() {
    let host = shared().await;
    host.snapshot("base", Size::Nano).await;
    let script = "uname -r; echo err >&2; exit 7";
    let said = host.sandflare(&["run", "--template", "base", "--", "sh", "-c", script]).await;
    assert_eq!(said.code, Some(7), "{said:?}");
    let manifest = std::fs::read(crate::host::images().join("kernel/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(said.stdout().trim_end(), manifest["release"]);
    assert_eq!(said.stderr(), "err\n");
}
