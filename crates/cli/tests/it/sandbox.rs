use std::process::Output;

use expect_test::expect;
use serde_json::Value;

use crate::sandflare::Sandflare;

/// What it printed, and nothing was said beside that.
pub(crate) fn text(output: &Output) -> String {
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap().trim().to_owned()
}

pub(crate) fn json(output: &Output) -> Value {
    serde_json::from_str(&text(output)).unwrap()
}

#[tokio::test]
async fn a_sandbox_is_made_as_it_was_asked_for() {
    let sandflare = Sandflare::new().await;
    let id = text(&sandflare.output(&["create"]).await);
    let plain = json(&sandflare.output(&["ps", "-o", "json"]).await)["sandboxes"][0].clone();
    assert_eq!(plain["id"], id.as_str());
    let created_at_ms = plain["created_at_ms"].as_u64().unwrap();
    assert_eq!(plain["timeout_at_ms"], created_at_ms + 3_600_000);

    let args = [
        "create",
        "--name",
        "charts",
        "--size",
        "small",
        "--env",
        "A=1",
        "--env",
        "HERE",
        "--metadata",
        "team:x:y",
        "--timeout",
        "8h",
        "--idle-timeout",
        "10m",
        "--on-timeout",
        "pause",
        "-o",
        "json",
    ];
    let made = json(&sandflare.command(&args).env("HERE", "2").output().await.unwrap());
    assert_eq!((&made["name"], &made["size"]), (&"charts".into(), &"small".into()));
    assert_eq!(made["metadata"]["team"], "x:y");
    assert_eq!(made["timeout_at_ms"], created_at_ms + 8 * 3_600_000);
    assert_eq!((&made["idle_timeout_s"], &made["on_timeout"]), (&600.into(), &"pause".into()));
    let id = made["id"].as_str().unwrap();
    let inside = text(&sandflare.output(&["exec", id, "--", "where"]).await);
    assert!(inside.starts_with(r#"{"A": "1", "HERE": "2"}"#), "{inside}");
    expect![[r#"
        exit code: 1
        ----- stdout -----
        ----- stderr -----
        error: `-e GONE` names a variable that is not set here
        hint: set it, or give its value: -e GONE=VALUE
    "#]]
    .assert_eq(&sandflare.shown(&["create", "-e", "GONE"]).await);
}

#[tokio::test]
async fn a_sandbox_sleeps_wakes_and_gets_another_lifetime() {
    let sandflare = Sandflare::new().await;
    let id = text(&sandflare.output(&["sandbox", "create"]).await);
    let state = async || {
        json(&sandflare.output(&["sandbox", "ls", "-o", "json"]).await)["sandboxes"][0]["state"]
            .clone()
    };
    assert_eq!(text(&sandflare.output(&["pause", &id]).await), id);
    assert_eq!(state().await, "paused");
    assert_eq!(text(&sandflare.output(&["resume", &id]).await), id);
    assert_eq!(state().await, "running");
    assert_eq!(
        json(&sandflare.output(&["sandbox", "pause", &id, "--json"]).await)["state"],
        "paused"
    );
    let resumed = json(&sandflare.output(&["sandbox", "resume", &id, "-o", "json"]).await);
    assert_eq!(resumed["state"], "running");

    let set = json(&sandflare.output(&["timeout", &id, "2h", "--json"]).await);
    let begun = set["created_at_ms"].as_u64().unwrap();
    assert_eq!(set["timeout_at_ms"], begun + 7_200_000);
    let set = json(&sandflare.output(&["timeout", &id, "never", "--json"]).await);
    assert_eq!(set.get("timeout_at_ms"), None);
    assert_eq!(text(&sandflare.output(&["sandbox", "kill", &id]).await), id);
    expect![[r#"
        exit code: 1
        ----- stdout -----
        ----- stderr -----
        error: there is no sandbox sbx_0000000000000001
        hint: `sandflare ps` shows those there are
    "#]]
    .assert_eq(&sandflare.shown(&["pause", &id]).await);
}

#[tokio::test]
async fn children_and_snapshots_are_made_of_a_moment() {
    let sandflare = Sandflare::new().await;
    let id = text(&sandflare.output(&["create", "--name", "parent"]).await);
    let children = text(&sandflare.output(&["fork", &id, "--count", "3"]).await);
    assert_eq!(children.lines().count(), 3, "{children}");
    let forked = json(&sandflare.output(&["fork", &id, "--name", "child", "-o", "json"]).await);
    assert_eq!(forked["sandboxes"][0]["name"], "child");
    assert_eq!(sandflare.node.sandbox_count(), 5);

    let snapshot = text(&sandflare.output(&["snapshot", &id, "--name", "before"]).await);
    assert!(snapshot.starts_with("snap_"), "{snapshot}");
    let shown = text(&sandflare.output(&["snapshots", "ls"]).await);
    assert!(shown.contains(&snapshot) && shown.contains("before"), "{shown}");
    let list = json(&sandflare.output(&["snapshots", "ls", "-o", "json"]).await);
    assert_eq!(list["snapshots"][0]["sandbox"], id.as_str());
    let made = json(&sandflare.output(&["create", "--snapshot", &snapshot, "--json"]).await);
    assert_eq!(made["snapshot"], snapshot.as_str());

    let rm = sandflare.shown(&["snapshots", "rm", "snap_00000000000000aa", &snapshot]).await;
    expect![[r#"
        exit code: 1
        ----- stdout -----
        snap_0000000000000006
        ----- stderr -----
        error: there is no snapshot snap_00000000000000aa
        hint: `GET /v1/snapshots` lists those there are
    "#]]
    .assert_eq(&rm);
    let list = json(&sandflare.output(&["snapshots", "ls", "--json"]).await);
    assert!(list["snapshots"].as_array().unwrap().is_empty(), "{list}");
}

#[tokio::test]
async fn what_a_sandbox_does_can_be_looked_at() {
    let sandflare = Sandflare::new().await;
    let id = text(&sandflare.output(&["create"]).await);
    for args in [&["logs", &id][..], &["sandbox", "logs", &id]] {
        assert_eq!(text(&sandflare.output(args).await), format!("console of {id}"));
    }
    expect![[r#"
        exit code: 0
        ----- stdout -----
        SINCE IT WAS MADE          VALUE
        memory of its own          3.9 MiB
        memory beside the guest's  2.9 MiB
        pages prefetched           700
        pages copied               800
        page faults served         900
        written to disk            4.0 KiB
        exits to user space        50
        processor time             1.5 s
        memory charged now         96 MiB of 1.1 GiB
        disk on the node now       8.0 MiB
        runs for                   1 min 1 s
        ----- stderr -----
    "#]]
    .assert_eq(&sandflare.shown(&["metrics", &id]).await);
    let stats = json(&sandflare.output(&["sandbox", "metrics", &id, "-o", "json"]).await);
    assert_eq!(stats["private_pages"], 1_000);

    let request = api_node::SpawnRequest {
        argv: vec!["cat".into()],
        env: std::collections::BTreeMap::new(),
        cwd: None,
        user: None,
        time_limit_ms: None,
        stdin: true,
        pty: None,
    };
    let sandbox = id.parse().unwrap();
    let process = sandflare.client().process_spawn(sandbox, &request).await.unwrap();
    let shown = text(&sandflare.output(&["processes", &id]).await);
    assert!(shown.lines().nth(1).is_some_and(|line| line.ends_with("running  cat")), "{shown}");
    let list = json(&sandflare.output(&["processes", &id, "-o", "json"]).await);
    assert_eq!(list["processes"][0]["id"], process.id.0);
}

#[tokio::test]
async fn the_codes_of_commands_pass_through_the_group_as_well() {
    let sandflare = Sandflare::new().await;
    let id = text(&sandflare.output(&["create"]).await);
    let ours = ["sandbox", "exec", "sbx_00000000000000aa", "--", "true"];
    for (args, code) in [
        (&["sandbox", "exec", &id, "--", "print", "out", "err", "7"][..], 7),
        (&ours, 125),
        (&["sandbox", "exec"], 125),
        (&["sandbox", "pause"], 1),
        (&["sandbox", "kill", "sbx_00000000000000aa"], 1),
    ] {
        assert_eq!(sandflare.output(args).await.status.code(), Some(code), "{args:?}");
    }
}

#[tokio::test]
async fn completions_name_the_verbs_in_the_shells_own_language() {
    let sandflare = Sandflare::new().await;
    for (shell, mark) in [
        ("bash", "complete -F _sandflare"),
        ("zsh", "#compdef sandflare"),
        ("fish", "complete -c sandflare"),
    ] {
        // A shell that starts has perhaps no home yet, or a key that is none.
        let mut command = sandflare.command(&["completions", shell]);
        command.env_remove("SANDFLARE_HOME").env("SANDFLARE_API_KEY", "none");
        let script = text(&command.output().await.unwrap());
        for word in [mark, "snapshots", "idle-timeout", "fork", "policy", "deny"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    // Bash takes it, and completes by it.
    let script = text(&sandflare.output(&["completions", "bash"]).await);
    let ask = "COMP_WORDS=(sandflare sandbox fo); COMP_CWORD=2; _sandflare sandflare fo sandbox; \
               echo \"${COMPREPLY[@]}\"";
    // As a file, which is how shells read it: it is longer than an argument may be.
    let file = sandflare.home.path().join("completions");
    std::fs::write(&file, format!("{script}\n{ask}")).unwrap();
    let output = sandflare.command_of("bash", &[file.to_str().unwrap()]).output().await;
    assert_eq!(text(&output.unwrap()), "fork");
}
