use expect_test::expect;
use serde_json::json;

use crate::sandbox::{json, text};
use crate::sandflare::Sandflare;

#[tokio::test]
async fn a_secret_is_set_listed_used_and_deleted_and_never_said() {
    let sandflare = Sandflare::new().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("value");
    std::fs::write(&file, "hunter2\n").unwrap();
    let file = file.to_str().unwrap();
    let set = ["secret", "set", "openai", "--host", "API.openai.com", "--value-file", file];
    expect![[r"
        exit code: 0
        ----- stdout -----
        openai
        ----- stderr -----
    "]]
    .assert_eq(&sandflare.shown(&set).await);
    let again = [&set[..], &["--host", "*.openai.com:8443", "-o", "json"]].concat();
    let set = sandflare.output(&again).await;
    assert_eq!(json(&set)["hosts"], json!(["api.openai.com", "*.openai.com:8443"]));
    let listed = sandflare.output(&["secret", "ls"]).await;
    assert!(
        text(&listed).contains("openai  api.openai.com *.openai.com:8443  2025-06-15"),
        "{listed:?}"
    );
    let listed_json = sandflare.output(&["secret", "ls", "--json"]).await;
    assert_eq!(json(&listed_json)["secrets"][0]["name"], "openai");
    for output in [&set, &listed, &listed_json] {
        let said = [&output.stdout[..], &output.stderr].concat();
        assert!(!String::from_utf8_lossy(&said).contains("hunter2"), "{output:?}");
    }
    let made = sandflare.output(&["create", "--secret", "OPENAI_API_KEY=openai"]).await;
    assert!(made.status.success(), "{made:?}");
    assert!(sandflare.output(&["secret", "rm", "openai"]).await.status.success());
    for (args, said) in [
        (&["secret", "rm", "openai"][..], "there is no secret `openai`"),
        (&["create", "--secret", "K=openai"], "there is no secret `openai`"),
        (
            &["create", "--secret", "SSL_CERT_FILE=openai"],
            "`SSL_CERT_FILE` is set in every sandbox",
        ),
        (
            &["secret", "set", "x", "--host", "a.example", "--value-file", "/nowhere"],
            "read the value",
        ),
    ] {
        let output = sandflare.output(args).await;
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains(said), "{args:?}: {stderr}");
    }
}
