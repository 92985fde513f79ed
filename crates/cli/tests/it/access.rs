use std::process::Output;

use node_sim::SimNode;

use crate::sandflare::Sandflare;

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap().trim().to_owned()
}

#[tokio::test]
async fn keys_and_projects_are_made_listed_and_removed_and_a_key_goes_no_further() {
    let node = SimNode::new();
    let (served, admin) = node.serve_with_keys().await;
    let home = tempfile::tempdir().unwrap();
    let sandflare = Sandflare { node, served, home };
    let ask = async |key: &str, args: &[&str]| {
        sandflare.command(args).env("SANDFLARE_API_KEY", key).output().await.unwrap()
    };
    let admin = admin.text();
    let project = text(&ask(&admin, &["projects", "create", "team", "--sandboxes", "1"]).await);
    assert!(project.starts_with("prj_"), "{project}");
    let create = ["keys", "create", "ci", "--project", "team", "--expires-in", "30d"];
    let key = text(&ask(&admin, &create).await);
    assert!(key.starts_with("sfk_") && key.len() == 68);
    let list = text(&ask(&admin, &["keys", "ls"]).await);
    assert!(list.contains("ci") && list.contains("team") && !list.contains("sfk_"), "{list}");
    assert!(list.contains("in 29 d 23 h"), "{list}");
    let list = text(&ask(&admin, &["projects", "ls", "-o", "json"]).await);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list["projects"][1]["quota"]["sandboxes"], 1);

    text(&ask(&key, &["ps"]).await);
    let refused = ask(&key, &["keys", "ls"]).await;
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("for administrators"), "{said}");

    // Without one given, the key of this machine's node is used; a bad one is not shown.
    std::fs::write(sandflare.home.path().join("api-key"), format!("{key}\n")).unwrap();
    text(&sandflare.output(&["ps"]).await);
    let bad = ask("sfk_hunter2", &["ps"]).await;
    let said = String::from_utf8_lossy(&bad.stderr).into_owned();
    assert!(said.contains("SANDFLARE_API_KEY") && !said.contains("hunter2"), "{said}");

    text(&ask(&admin, &["projects", "rm", "team"]).await);
    let gone = sandflare.output(&["ps"]).await;
    let said = String::from_utf8_lossy(&gone.stderr).into_owned();
    assert!(said.contains("not good here") && !said.contains(&key), "{said}");
}
