use std::sync::LazyLock;

use super::*;
use crate::repository::File;

static REPOSITORY: LazyLock<Repository> = LazyLock::new(|| Repository::load().unwrap());

#[track_caller]
fn holds(check: Check) {
    let findings = check(&REPOSITORY);
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn dependencies_point_one_way() {
    holds(dependencies::directions);
}

#[test]
fn every_special_dependency_has_one_place() {
    holds(dependencies::exclusive);
}

#[test]
fn nothing_links_openssl() {
    holds(dependencies::no_openssl);
}

#[test]
fn every_crate_says_what_it_is() {
    holds(documents::crates_explain_themselves);
}

#[test]
fn every_crate_is_on_the_code_map() {
    holds(documents::code_map_is_complete);
}

#[test]
fn files_stay_short() {
    holds(sources::length);
}

#[test]
fn unsafe_code_is_only_where_the_list_says() {
    holds(sources::unsafe_is_listed);
}

#[test]
fn no_module_is_a_drawer() {
    holds(sources::module_names);
}

#[test]
fn no_test_can_be_passed_over() {
    holds(sources::tests_always_run);
}

#[test]
fn scripts_can_be_started_and_say_what_for() {
    holds(scripts::are_executable_and_explained);
}

#[test]
fn documents_and_generated_files_exist() {
    holds(documents::generated_files_exist);
}

#[test]
fn documents_speak_of_the_product_only() {
    holds(documents::nothing_of_the_workplace);
}

#[test]
fn the_contract_names_tests_that_exist() {
    holds(documents::contract_names_real_tests);
}

#[test]
fn links_between_documents_work() {
    holds(documents::links_lead_somewhere);
}

#[test]
fn every_guide_is_in_the_index() {
    holds(documents::guides_are_in_the_index);
}

#[test]
fn every_check_is_one_of_the_tests_above() {
    let tests =
        include_str!("test.rs").lines().filter(|line| line.starts_with("    holds(")).count();
    assert_eq!(tests, CHECKS.len());
}

#[test]
fn a_dependency_across_a_border_is_found() {
    let edges = [
        ("node-host", "api-vmm"),
        ("cli", "client"),
        ("node-host", "vmm-core"),
        ("vmm-core", "api-node"),
        ("node", "node-sim"),
        ("elsewhere", "base-types"),
        ("xtask", "vmm-core"),
    ];
    let found = dependencies::forbidden(edges);
    let expected = [
        "node-host -> vmm-core crosses a border",
        "vmm-core -> api-node crosses a border",
        "node -> node-sim crosses a border",
        "elsewhere -> base-types crosses a border",
    ];
    assert_eq!(found, expected);
}

#[test]
fn lines_of_a_test_module_do_not_count() {
    let text = "fn a() {}\n#[cfg(test)]\nmod test {\n    fn b() {}\n}\nfn c() {}\n";
    assert_eq!(sources::code_lines(text), 2);
    assert_eq!(sources::code_lines("#[cfg(test)]\nmod test;\nfn a() {}\n"), 3);
}

#[test]
fn an_issue_number_is_told_from_a_heading_and_a_colour() {
    for line in ["see #12", "(#7)", "as in Issue 3", "owner/name/#4"] {
        assert!(documents::names_an_issue(line), "{line}");
    }
    for line in ["# 1. Title", "## 2", "color: \"#112233\"", "issue a warning", "page.md#3-x"] {
        assert!(!documents::names_an_issue(line), "{line}");
    }
}

#[test]
fn only_the_third_column_of_a_contract_row_names_tests() {
    let row = "| `not_this` | 60 ms | `a_test_here`, `sandflare bench` | `nor_this` |";
    assert_eq!(documents::tests_named(row).collect::<Vec<_>>(), ["a_test_here"]);
}

#[test]
fn a_link_is_followed_from_its_document() {
    assert_eq!(documents::normalized("docs/guides", "../status.md"), "docs/status.md");
    assert_eq!(documents::normalized("", "./README.md"), "README.md");
    assert_eq!(documents::normalized("docs", ""), "");
}

#[test]
fn a_place_in_a_document_is_one_of_its_headings() {
    let text = "# Title\n\n## Keys, projects and `quotas`\n\nNo heading\n".to_owned();
    let file = File { path: "a.md".to_owned(), text, executable: false };
    for (place, there) in
        [("title", true), ("keys-projects-and-quotas", true), ("no-heading", false)]
    {
        assert_eq!(documents::has_heading(&file, place), there, "{place}");
    }
}
