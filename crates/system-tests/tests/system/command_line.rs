//! The other commands of `sandflare`, against a node with real sandboxes.

use serde_json::Value;

use crate::host::shared;
use crate::random_bytes;

#[tokio::test]
async fn a_sandbox_is_listed_used_and_killed_from_the_command_line() {
    let host = shared().await;
    let sandbox = host.sandbox("base").await;
    let id = sandbox.id().to_string();

    let list = host.sandflare(&["ps"]).await.succeeded();
    let row = list.lines().find(|line| line.starts_with(&id)).unwrap();
    assert!(row.contains("base") && row.contains("nano") && row.ends_with("running"), "{list}");
    let list: Value =
        serde_json::from_str(&host.sandflare(&["ps", "--json"]).await.succeeded()).unwrap();
    let rows = list["sandboxes"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["id"] == id && row["state"] == "running"), "{list}");

    let script = "echo out; echo err >&2; exit 3";
    let said = host.sandflare(&["exec", &id, "--", "sh", "-c", script]).await;
    let streams = (said.stdout(), said.stderr());
    assert_eq!((said.code, streams), (Some(3), ("out\n".into(), "err\n".into())));

    let here = tempfile::tempdir().unwrap();
    let (from, to) = (here.path().join("from"), here.path().join("to"));
    let content = random_bytes(3_000_001);
    std::fs::write(&from, &content).unwrap();
    let inside = format!("{id}:/home/agent/copy");
    let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
    host.sandflare(&["cp", "--mode", "640", from, &inside]).await.succeeded();
    assert_eq!(sandbox.text("stat -c '%a %s %U' copy").await, "640 3000001 agent");
    host.sandflare(&["cp", &inside, to]).await.succeeded();
    assert!(std::fs::read(to).unwrap() == content);
    let out = host.sandflare(&["cp", &inside, "-"]).await;
    assert!(out.code == Some(0) && out.stdout == content);
    let said = host.sandflare(&["cp", &format!("{id}:/nowhere"), to]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr().contains("/nowhere"), "{said:?}");
    assert!(std::fs::read(to).unwrap() == content, "a failed copy leaves what was there");

    assert_eq!(host.sandflare(&["kill", &id]).await.succeeded(), format!("{id}\n"));
    let list = host.sandflare(&["ps"]).await.succeeded();
    assert!(!list.contains(&id), "{list}");
    let said = host.sandflare(&["exec", &id, "--", "true"]).await;
    assert_eq!(said.code, Some(125), "{said:?}");
    assert!(said.stderr().contains(&id) && said.stderr().contains("hint:"), "{said:?}");
}

#[tokio::test]
async fn status_describes_the_node() {
    let host = shared().await;
    let text = host.sandflare(&["status"]).await.succeeded();
    assert!(text.contains(env!("CARGO_PKG_VERSION")), "{text}");
    let node: Value =
        serde_json::from_str(&host.sandflare(&["status", "--json"]).await.succeeded()).unwrap();
    assert_eq!(node["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&node["kvm"]["usable"], &node["kvm"]["kind"]), (&true.into(), &"good".into()));
    assert_eq!(node["cpus"], 2);
    let total = node["memory"]["total_mib"].as_u64().unwrap();
    assert!((2000..=2560).contains(&total), "{node}");
    let list = host.sandflare(&["template", "ls"]).await.succeeded();
    for name in ["agent", "base"] {
        assert_eq!(list.lines().filter(|line| line.starts_with(name)).count(), 5, "{list}");
    }
}

#[tokio::test]
async fn doctor_judges_this_machine() {
    let host = shared().await;
    let said = host.sandflare(&["doctor", "--json"]).await;
    let report: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(report["ready"], said.code == Some(0), "{report}");
    let kinds = ["no_device", "no_permission", "cannot_run_linux", "good"];
    assert!(kinds.iter().any(|kind| report["kvm"] == *kind), "{report}");
    let native = report["kvm"] == "good";
    assert_eq!(report["way"], if native { "native" } else { "portable" }, "{report}");
    for check in report["checks"].as_array().unwrap() {
        let well = check["status"] == "ok";
        assert!(well || check["advice"].is_string(), "a finding without advice: {check}");
    }
}
