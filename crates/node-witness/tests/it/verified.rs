//! A node that is asked whether its own log is as it was written.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::{get, post, served};

fn verified(url: &str, head: Option<&str>) -> Value {
    let query = head.map(|head| format!("?head={head}")).unwrap_or_default();
    let answer = get(url, &format!("/v1/audit/verify{query}"));
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_says_that_its_log_is_whole_and_which_line_was_changed() {
    let node = served().await;
    let url = &node.url;
    for _ in 0..3 {
        post(url, "/v1/sandboxes", &json!({}));
    }
    let found = verified(url, None);
    // The log begins with an entry of its own.
    assert_eq!((&found["whole"], &found["entries"]), (&json!(true), &json!(4)), "{found}");
    assert_eq!((&found["first"], &found["last"]), (&json!(0), &json!(3)), "{found}");
    let head = found["head"].as_str().expect("a log has one").to_owned();
    assert!(head.starts_with("3:"), "{head}");
    assert!(found.get("fault").is_none(), "{found}");
    // What was noted is still there when the log goes on, and asking wrote nothing.
    post(url, "/v1/sandboxes", &json!({}));
    let found = verified(url, Some(&head));
    assert_eq!((&found["whole"], &found["entries"]), (&json!(true), &json!(5)), "{found}");
    // A head the log never had.
    let other = format!("1:{}", head.split_once(':').unwrap().1);
    let found = verified(url, Some(&other));
    assert_eq!((&found["whole"], &found["entries"]), (&json!(false), &json!(1)), "{found}");
    for wrong in ["x", "1:zz", "1:"] {
        assert_eq!(get(url, &format!("/v1/audit/verify?head={wrong}")).status, 400, "{wrong}");
    }
    // One letter of the third line.
    let file: PathBuf = node.audit_dir().join("audit-00000000000000000000.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    let at = text.match_indices("sandbox_create").nth(1).expect("three creates").0;
    let mut bytes = text.into_bytes();
    bytes[at] = b'S';
    fs::write(&file, bytes).unwrap();
    let found = verified(url, None);
    assert_eq!((&found["whole"], &found["entries"]), (&json!(false), &json!(2)), "{found}");
    assert_eq!((&found["last"], found.get("head")), (&json!(1), None), "{found}");
    let fault = found["fault"].as_str().expect("it says what is wrong");
    assert!(fault.contains("line 3 (entry 2)"), "{fault}");
}
