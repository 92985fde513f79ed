use expect_test::expect;

use crate::sandflare::Sandflare;

#[tokio::test]
async fn a_benchmark_measures_everything_and_leaves_nothing() {
    let sandflare = Sandflare::new().await;
    let args = ["bench", "--runs", "3", "--parallel", "4", "--alive", "5", "--json"];
    let output = sandflare.output(&args).await;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["restore"].as_array().unwrap().len(), 2);
    for restore in report["restore"].as_array().unwrap() {
        assert_eq!(restore["create_us"]["count"], 3);
        // The node without machines always says the same.
        assert_eq!(restore["phases"]["total_us"]["p50"], 15_400);
        assert_eq!(restore["vmm_us"]["p50"], 8_400);
    }
    assert_eq!(report["parallel"]["create_us"]["count"], 4);
    assert_eq!(report["alive"]["answered"], 5);
    assert_eq!(report["cold_boot"]["p50"], 7_000_000);
    assert_eq!(report["targets"].as_array().unwrap().len(), 9);
    assert_eq!(sandflare.node.sandbox_count(), 0);
}

#[tokio::test]
async fn check_turns_a_missed_target_into_a_failure() {
    let sandflare = Sandflare::new().await;
    let args = ["bench", "--runs", "1", "--parallel", "0", "--alive", "0", "--cold", "0"];
    let output = sandflare.output(&args).await;
    assert_eq!(output.status.code(), Some(0));
    // The floor is 5.5 ms there and the restore 8.4 ms: every measured target is reached.
    let output = sandflare.output(&[&args[..], &["--check"]].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    let output = sandflare
        .output(&[
            "bench",
            "--runs",
            "1",
            "--parallel",
            "0",
            "--alive",
            "0",
            "--check",
            "--cold",
            "1",
        ])
        .await;
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let missed = shown.contains("NOT REACHED");
    assert_eq!(output.status.code(), Some(i32::from(missed)), "{shown}");
}

#[tokio::test]
async fn the_figures_can_be_kept_in_a_file_beside_the_table() {
    let sandflare = Sandflare::new().await;
    let file = sandflare.home.path().join("figures.json");
    let args = ["bench", "--runs", "1", "--parallel", "0", "--alive", "0", "--cold", "0"];
    let args = [&args[..], &["--report", file.to_str().unwrap()]].concat();
    let output = sandflare.output(&args).await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("restore by userfault, 1 runs"));
    let kept: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(kept["schema"], 1);
    // `-o` is for a format here as everywhere, and not for a file.
    let taken = sandflare.output(&["bench", "-o", "figures.json"]).await;
    assert_eq!(taken.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&taken.stderr).contains("table, json"), "{taken:?}");
}

#[tokio::test]
async fn a_quiet_sandbox_is_measured_beside_each_hog_and_beside_all_and_none_is_left() {
    let sandflare = Sandflare::new().await;
    let output = sandflare.output(&["bench", "--neighbours", "--runs", "2", "-o", "json"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["idle_us"]["count"], 12);
    let beside = report["beside"].as_array().unwrap();
    let names: Vec<_> = beside.iter().map(|one| one["hog"].as_str().unwrap()).collect();
    let alone = ["busy loop", "memory hog", "disk filler", "fork bomb"];
    assert_eq!(names, [&alone[..], &["all in one sandbox", "each in one, all at once"]].concat());
    for one in beside {
        assert_eq!(one["exec_us"]["count"], 2);
        assert_eq!(one["failures"], serde_json::json!([]));
    }
    assert_eq!(report["targets"].as_array().unwrap().len(), 6);
    assert_eq!(sandflare.node.sandbox_count(), 0);
}

#[tokio::test]
async fn without_the_python_sdk_the_way_from_it_is_not_measured_and_what_to_do_is_said() {
    let sandflare = Sandflare::new().await;
    let missing = sandflare.home.path().join("python");
    let bench = ["bench", "--api", "--python", missing.to_str().unwrap()];
    let shown = sandflare.shown(&bench).await.replace(missing.to_str().unwrap(), "PYTHON");
    expect![[r#"
        exit code: 1
        ----- stdout -----
        ----- stderr -----
        error: there is no Python at `PYTHON`
        hint: install python3, or name another with --python
    "#]]
    .assert_eq(&shown);

    // An interpreter as it ends when the package is not installed there.
    let script = "#!/bin/sh\necho 'Traceback (most recent call last):' >&2\n\
                  echo \"ModuleNotFoundError: No module named 'sandflare'\" >&2\nexit 1\n";
    std::fs::write(&missing, script).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&missing, executable).unwrap();
    let shown = sandflare.shown(&bench).await.replace(missing.to_str().unwrap(), "PYTHON");
    expect![[r#"
        exit code: 1
        ----- stdout -----
        ----- stderr -----
        error: `PYTHON` cannot use the Python SDK: ModuleNotFoundError: No module named 'sandflare'
        hint: install it there with `pip install ./sdk/python`, or name another with --python
    "#]]
    .assert_eq(&shown);
    assert_eq!(sandflare.node.sandbox_count(), 0);
}
