//! The scripts people start.

use crate::repository::{File, Repository};

/// Scripts that cannot be started, or do not say what for.
pub(crate) fn are_executable_and_explained(repository: &Repository) -> Vec<String> {
    let scripts = repository.under("scripts/").chain(repository.under(".ci/"));
    scripts.flat_map(|script| faults(script).into_iter()).collect()
}

fn faults(script: &File) -> Vec<String> {
    let path = &script.path;
    let mut lines = script.text.lines();
    let mut findings = Vec::new();
    if !script.executable {
        findings.push(format!("{path} is not executable"));
    }
    if !lines.next().unwrap_or_default().starts_with("#!") {
        findings.push(format!("{path} does not start with `#!`"));
    }
    if !lines.next().unwrap_or_default().starts_with("# ") {
        findings.push(format!("{path} does not say in its second line what it is for"));
    }
    findings
}
