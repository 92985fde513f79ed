use api_node::{Flow, FlowProtocol, Verdict};
use expect_test::expect;
use serde_json::json;

use crate::sandbox::{json, text};
use crate::sandflare::Sandflare;

#[tokio::test]
async fn a_policy_is_shown_and_replaced() {
    let sandflare = Sandflare::new().await;
    let id = text(&sandflare.output(&["create"]).await);
    assert_eq!(text(&sandflare.output(&["policy", "get", &id]).await), "WHAT  RULE\nbase  default");
    let rules = ["--allow", "PyPI.org", "--allow", "*:443/tcp", "--deny", "203.0.113.0/24"];
    let set = [&["policy", "set", &id, "--base", "none"], &rules[..]].concat();
    expect![[r#"
        exit code: 0
        ----- stdout -----
        WHAT   RULE
        deny   203.0.113.0/24
        allow  pypi.org
        allow  *:443/tcp
        base   none
        ----- stderr -----
    "#]]
    .assert_eq(&sandflare.shown(&set).await);
    let held = json(&sandflare.output(&["policy", "get", &id, "-o", "json"]).await);
    let allow = ["pypi.org", "*:443/tcp"];
    assert_eq!(held, json!({"base": "none", "allow": allow, "deny": ["203.0.113.0/24"]}));
    // As a whole: what is not said again is gone.
    let set = json(&sandflare.output(&["policy", "set", &id, "--deny", "*:25", "--json"]).await);
    assert_eq!(set, json!({"base": "default", "allow": [], "deny": ["*:25"]}));
    for wrong in [
        &["policy", "set", &id][..],
        &["policy", "set", &id, "--base", "all"],
        &["policy", "set", &id, "--allow", "https://pypi.org"],
        &["policy", "set", &id, "--allow", "pypi.org:0"],
        &["create", "--network", "some"],
    ] {
        assert_eq!(sandflare.output(wrong).await.status.code(), Some(1), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_sandbox_is_made_with_the_network_it_was_asked_for() {
    let sandflare = Sandflare::new().await;
    let policy = async |args: &[&str]| {
        let id = text(&sandflare.output(&[&["create"], args].concat()).await);
        json(&sandflare.output(&["policy", "get", &id, "-o", "json"]).await)
    };
    assert_eq!(policy(&["--network", "none"]).await["base"], "none");
    let some = policy(&["--network", "none", "--allow", "a.org", "--allow", "b.org:80"]).await;
    assert_eq!(some, json!({"base": "none", "allow": ["a.org", "b.org:80"], "deny": []}));
    let most = policy(&["--deny", "*.ads.example"]).await;
    assert_eq!(most, json!({"base": "default", "allow": [], "deny": ["*.ads.example"]}));
}

#[tokio::test]
async fn a_command_runs_with_the_network_it_was_given() {
    let sandflare = Sandflare::new().await;
    let child = sandflare.spawn(&["run", "--network", "none", "--allow", "a.org", "--", "wait"]);
    sandflare.node.sandbox_exists().await;
    let list = json(&sandflare.output(&["ps", "-o", "json"]).await);
    let id = list["sandboxes"][0]["id"].as_str().unwrap();
    let held = json(&sandflare.output(&["policy", "get", id, "-o", "json"]).await);
    assert_eq!(held, json!({"base": "none", "allow": ["a.org"], "deny": []}));
    assert_eq!(text(&sandflare.output(&["kill", id]).await), id);
    child.wait_with_output().await.unwrap();
}

#[tokio::test]
async fn what_a_sandbox_reached_is_listed_without_escape_codes() {
    let sandflare = Sandflare::new().await;
    let id = text(&sandflare.output(&["create"]).await);
    let flow = Flow {
        at_ms: 1_772_323_199_000,
        name: Some("pypi.org".into()),
        address: Some([203, 0, 113, 7].into()),
        port: Some(443),
        protocol: FlowProtocol::Tcp,
        verdict: Verdict::Allowed,
        reason: "base default".into(),
        bytes_up: 1_500,
        bytes_down: 3 << 20,
        duration_ms: 250,
        count: 1,
    };
    let ping = Flow {
        name: None,
        address: Some([10, 0, 0, 1].into()),
        port: None,
        protocol: FlowProtocol::Icmp,
        verdict: Verdict::Denied,
        reason: "never: private".into(),
        bytes_up: 0,
        bytes_down: 0,
        count: 7,
        ..flow.clone()
    };
    let question = Flow {
        name: Some("\u{1b}[2J.example".into()),
        address: None,
        protocol: FlowProtocol::Dns,
        count: 1,
        ..ping.clone()
    };
    for flow in [flow, ping, question] {
        sandflare.node.flowed(id.parse().unwrap(), flow);
    }
    expect![[r#"
        exit code: 0
        ----- stdout -----
        INDEX  TIME (UTC)           VERDICT     BY    NAME               ADDRESS          UP       DOWN     REASON
        0      2026-02-28 23:59:59  allowed     tcp   pypi.org           203.0.113.7:443  1.5 KiB  3.0 MiB  base default
        1      2026-02-28 23:59:59  denied × 7  icmp  -                  10.0.0.1         0 B      0 B      never: private
        2      2026-02-28 23:59:59  denied      dns   \u{1b}[2J.example  -                0 B      0 B      never: private
        ----- stderr -----
    "#]].assert_eq(&sandflare.shown(&["policy", "log", &id]).await);
    let later = ["policy", "log", &id, "--after", "0", "--limit", "1", "-o", "json"];
    let later = json(&sandflare.output(&later).await);
    assert_eq!((&later["flows"][0]["index"], &later["more"]), (&json!(1), &json!(true)));
}
