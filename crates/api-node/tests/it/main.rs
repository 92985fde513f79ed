//! The checked-in document is the one this build makes.

use std::fs;
use std::path::Path;

/// Set to anything to write the document instead of comparing it.
const REWRITE: &str = "SANDFLARE_REWRITE";

#[test]
fn the_checked_in_document_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../openapi/node.json");
    let mut current = api_node::openapi().to_pretty_json().unwrap();
    current.push('\n');
    if std::env::var_os(REWRITE).is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &current).unwrap();
    }
    let checked_in = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        checked_in == current,
        "the API changed; look at it, then run this test again with {REWRITE}=1",
    );
}

#[test]
fn every_operation_says_how_it_fails() {
    let document = serde_json::to_value(api_node::openapi()).unwrap();
    for (path, methods) in document["paths"].as_object().unwrap() {
        assert!(path.starts_with(api_node::PREFIX), "{path}");
        for (method, operation) in methods.as_object().unwrap() {
            let failure = &operation["responses"]["default"]["content"]["application/json"];
            assert_eq!(
                failure["schema"]["$ref"], "#/components/schemas/Failure",
                "{method} {path} has no failure",
            );
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
        }
    }
}
