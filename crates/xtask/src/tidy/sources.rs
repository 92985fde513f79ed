//! Rules about Rust files.

use std::collections::BTreeMap;

use crate::repository::{File, Repository};

/// LIMIT: what a reader can hold in mind; past it, a file has more than one subject.
const CODE_LINES_MAX: usize = 500;
/// LIMIT: tests are read one at a time, so a file of them may be longer.
const TEST_LINES_MAX: usize = 800;
/// Files over a limit, with the length they may have at most. The list may only shrink.
const LONG_FILES: &str = "crates/xtask/lists/long-files.txt";
/// Modules that contain `unsafe`, each opened with a reason.
const UNSAFE_MODULES: &str = "crates/xtask/lists/unsafe-modules.txt";
/// Names of drawers, not of things.
const FORBIDDEN_NAMES: [&str; 8] =
    ["common", "helper", "helpers", "manager", "misc", "shared", "util", "utils"];

/// Files that grew over their limit, and entries of the exception list that are no longer needed.
pub(crate) fn length(repository: &Repository) -> Vec<String> {
    let mut findings = Vec::new();
    let mut excepted = BTreeMap::new();
    for line in repository.list(LONG_FILES) {
        match line.split_once(' ').and_then(|(path, most)| Some((path, most.parse().ok()?))) {
            Some((path, most)) => drop(excepted.insert(path, most)),
            None => findings.push(format!("{LONG_FILES}: `{line}` is not `path lines`")),
        }
    }
    for file in repository.sources() {
        let (lines, limit) = if file.is_test() {
            (file.text.lines().count(), TEST_LINES_MAX)
        } else {
            (code_lines(&file.text), CODE_LINES_MAX)
        };
        let path = &file.path;
        match excepted.remove(path.as_str()) {
            Some(_) if lines <= limit => {
                findings.push(format!("{path} is short enough now; remove it from {LONG_FILES}"));
            }
            Some(most) if lines > most => {
                findings.push(format!("{path} has {lines} lines, {LONG_FILES} allows {most}"));
            }
            None if lines > limit => {
                findings.push(format!("{path} has {lines} lines, over {limit}; split it"));
            }
            Some(_) | None => {}
        }
    }
    findings.extend(excepted.keys().map(|path| format!("{LONG_FILES}: there is no {path}")));
    findings
}

/// Lines of `text` that are not in a test module at its top level.
pub(super) fn code_lines(text: &str) -> usize {
    let mut count = 0;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let opens = |next: &&str| next.starts_with("mod ") && next.ends_with('{');
        if line == "#[cfg(test)]" && lines.peek().is_some_and(opens) {
            // The formatter puts the closing brace of a top-level item at the start of a line.
            lines.find(|line| *line == "}");
        } else {
            count += 1;
        }
    }
    count
}

/// `unsafe` outside the listed modules, and list entries without `unsafe`.
pub(crate) fn unsafe_is_listed(repository: &Repository) -> Vec<String> {
    let listed = repository.list(UNSAFE_MODULES);
    let opens = |file: &File| file.text.contains(concat!("expect(", "unsafe_code"));
    let allows = |file: &File| file.text.contains(concat!("allow(", "unsafe_code"));
    let mut findings = Vec::new();
    for file in repository.sources() {
        if opens(file) && !listed.contains(&file.path.as_str()) {
            findings.push(format!("{} is not in {UNSAFE_MODULES}", file.path));
        }
        if allows(file) {
            findings.push(format!("{}: say `expect` with a reason, not `allow`", file.path));
        }
    }
    for path in &listed {
        if !repository.files.get(*path).is_some_and(opens) {
            findings.push(format!("{UNSAFE_MODULES}: {path} has no `unsafe` any more"));
        }
    }
    if !listed.is_sorted() {
        findings.push(format!("{UNSAFE_MODULES} is not sorted"));
    }
    findings
}

/// Modules and crates named after nothing.
pub(crate) fn module_names(repository: &Repository) -> Vec<String> {
    let forbidden = |path: &str| {
        path.split('/').any(|part| {
            let name = part.strip_suffix(".rs").unwrap_or(part);
            FORBIDDEN_NAMES.contains(&name)
        })
    };
    let sources = repository.sources().filter(|file| forbidden(&file.path));
    sources.map(|file| format!("{} is named after no thing", file.path)).collect()
}

/// Tests that may be passed over, or that pass by panicking anywhere.
pub(crate) fn tests_always_run(repository: &Repository) -> Vec<String> {
    let marks = [concat!("#[", "ignore"), concat!("#[", "should_panic")];
    let mut findings = Vec::new();
    for file in repository.sources() {
        for (number, line) in file.lines() {
            if let Some(mark) = marks.iter().find(|mark| line.trim_start().starts_with(**mark)) {
                findings.push(format!("{}:{number}: {mark}] is not used here", file.path));
            }
        }
    }
    findings
}
