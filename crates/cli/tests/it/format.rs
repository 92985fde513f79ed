//! `-o json` of what prints little or nothing for people.

use serde_json::{Value, json};

use crate::sandbox::{json, text};
use crate::sandflare::Sandflare;

/// What it printed as JSON, whatever it said and however it ended.
async fn printed(sandflare: &Sandflare, args: &[&str]) -> (Value, Option<i32>) {
    let output = sandflare.output(&[args, &["-o", "json"]].concat()).await;
    let value = serde_json::from_slice(&output.stdout);
    (value.unwrap_or_else(|_| panic!("{output:?}")), output.status.code())
}

#[tokio::test]
async fn what_was_removed_is_told_and_what_was_not_fails_it() {
    let sandflare = Sandflare::new().await;
    let id = text(&sandflare.output(&["create"]).await);
    let snapshot = text(&sandflare.output(&["snapshot", &id]).await);
    let (rm, none) = (["snapshots", "rm"], "snap_00000000000000aa");
    let (gone, code) = printed(&sandflare, &[&rm[..], &[none, &snapshot]].concat()).await;
    assert_eq!((gone, code), (json!({ "removed": [snapshot] }), Some(1)));
    let killed = printed(&sandflare, &["sandbox", "kill", &id]).await;
    assert_eq!(killed, (json!({ "removed": [id] }), Some(0)));
    let again = printed(&sandflare, &["kill", &id, &id]).await;
    assert_eq!(again, (json!({ "removed": [] }), Some(1)));
}

#[tokio::test]
async fn keys_and_projects_that_are_gone_are_named() {
    let sandflare = Sandflare::new().await;
    let project = text(&sandflare.output(&["projects", "create", "team"]).await);
    let key =
        json(&sandflare.output(&["keys", "create", "ci", "--project", "team", "-o", "json"]).await);
    let key = key["id"].as_str().unwrap();
    let none = "key_00000000000000aa";
    let revoked = printed(&sandflare, &["keys", "rm", none, key]).await;
    assert_eq!(revoked, (json!({ "removed": [key] }), Some(1)));
    let deleted = printed(&sandflare, &["projects", "rm", "nobody", &project]).await;
    assert_eq!(deleted, (json!({ "removed": [project] }), Some(1)));
    assert_eq!(
        text(&sandflare.output(&["projects", "create", "other"]).await).len(),
        project.len()
    );
    assert_eq!(text(&sandflare.output(&["projects", "rm", "other"]).await), "other");
}

#[tokio::test]
async fn a_template_is_told_as_it_is_after_its_snapshot_was_made_or_deleted() {
    let sandflare = Sandflare::new().await;
    for (verb, state) in [("rm", "missing"), ("build", "ready")] {
        let (template, code) = printed(&sandflare, &["template", verb, "agent"]).await;
        assert_eq!(code, Some(0));
        assert_eq!((&template["name"], &template["size"]), (&"agent".into(), &"nano".into()));
        assert_eq!(template["state"], state, "{template}");
    }
}

#[tokio::test]
async fn a_copy_is_told_with_where_it_is_and_how_much_it_was() {
    let sandflare = Sandflare::new().await;
    let id = text(&sandflare.output(&["create"]).await);
    let here = sandflare.home.path().join("folder");
    std::fs::create_dir(&here).unwrap();
    std::fs::write(here.join("file"), "0123456789").unwrap();
    let (folder, file) = (here.to_str().unwrap(), here.join("file"));
    let (inside, back) = (format!("{id}:/home/agent/"), sandflare.home.path().join("back"));
    let back = back.to_str().unwrap();
    let (copied, _) = printed(&sandflare, &["cp", file.to_str().unwrap(), &inside]).await;
    let to = format!("{inside}file");
    let of_file = |to: &str| json!({ "to": to, "directory": false, "bytes": 10, "left_out": 0 });
    assert_eq!(copied, of_file(&to));
    assert_eq!(printed(&sandflare, &["cp", &to, back]).await.0, of_file(back));
    std::fs::remove_file(back).unwrap();
    let (copied, _) = printed(&sandflare, &["cp", folder, &inside]).await;
    let to = format!("{inside}folder");
    assert_eq!(copied, json!({ "to": to, "directory": true, "bytes": null, "left_out": 0 }));
    let (copied, _) = printed(&sandflare, &["cp", &to, back]).await;
    assert_eq!(copied, json!({ "to": back, "directory": true, "bytes": 10, "left_out": 0 }));

    let both = sandflare.output(&["cp", "-o", "json", &to, "-"]).await;
    assert_eq!((both.status.code(), both.stdout.len()), (Some(1), 0));
    assert!(String::from_utf8_lossy(&both.stderr).contains("cannot have both"), "{both:?}");
}

#[tokio::test]
async fn logs_are_an_object_a_line() {
    let sandflare = Sandflare::new().await;
    let id = text(&sandflare.output(&["create"]).await);
    for args in [&["logs", &id][..], &["sandbox", "logs", &id]] {
        let (line, _) = printed(&sandflare, args).await;
        assert_eq!(line, json!({ "line": format!("console of {id}") }));
    }
    std::fs::write(sandflare.home.path().join("node.log"), "one\n\"two\"").unwrap();
    let lines = text(&sandflare.output(&["logs", "-o", "json"]).await);
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, [json!({ "line": "one" }), json!({ "line": "\"two\"" })]);
    assert_eq!(text(&sandflare.output(&["logs"]).await), "one\n\"two\"");
}

#[tokio::test]
async fn a_node_is_told_as_it_was_found_and_as_it_was_left() {
    let sandflare = Sandflare::new().await;
    let (serving, code) = printed(&sandflare, &["up"]).await;
    let url = &sandflare.served.url;
    // Not started by this program, which therefore does not know how it runs.
    let found = json!({ "url": url, "version": "0.0.0-sim", "host": null, "started": false });
    assert_eq!((serving, code), (found, Some(0)));
    let down = printed(&sandflare, &["down"]).await;
    assert_eq!(down, (json!({ "ended": "before" }), Some(0)));
}
