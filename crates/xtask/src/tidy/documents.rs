//! Rules about what is written for people.

use std::collections::BTreeSet;

use crate::repository::{File, Repository};

const ARCHITECTURE: &str = "ARCHITECTURE.md";
const CONTRACT: &str = "CONTRACT.md";
/// LIMIT: an architecture that takes longer to read is read by nobody.
const ARCHITECTURE_LINES_MAX: usize = 400;
/// Made by tests of the crates that own them, which also compare them.
const GENERATED: [&str; 2] = ["openapi/node.json", "wire/guest-1.txt"];
/// Every document the root must have.
const DOCUMENTS: [&str; 8] = [
    "README.md",
    ARCHITECTURE,
    "STYLE.md",
    "SECURITY.md",
    CONTRACT,
    "CHANGELOG.md",
    "docs/status.md",
    "LICENSE",
];
/// Texts that belong to the place the code was written at, or to one reader's network.
const FOREIGN: [&str; 7] = [
    concat!("/wo", "rk/"),
    concat!("deb.", "debian.org"),
    concat!("crates.io", "/api"),
    concat!("index.", "crates.io"),
    concat!("static.", "crates.io"),
    concat!("pypi", ".org"),
    concat!("files.", "pythonhosted.org"),
];

/// Crates whose root file does not begin by saying what they are.
pub(crate) fn crates_explain_themselves(repository: &Repository) -> Vec<String> {
    let roots = repository.crates.iter().flat_map(|member| &member.roots);
    let silent = roots.filter(|root| {
        let first = repository.text(root).lines().find(|line| !line.starts_with("#!["));
        !first.is_some_and(|line| line.starts_with("//! ") && line.len() > "//! (to be)".len())
    });
    silent.map(|root| format!("{root} has no crate doc in its first line")).collect()
}

/// Crates without a line in the code map, and lines without a crate.
pub(crate) fn code_map_is_complete(repository: &Repository) -> Vec<String> {
    let text = repository.text(ARCHITECTURE);
    let mut findings = Vec::new();
    let rows: BTreeSet<&str> = map_rows(text).collect();
    let names: BTreeSet<&str> = repository.crates.iter().map(|c| c.name.as_str()).collect();
    for name in names.difference(&rows) {
        findings.push(format!("{ARCHITECTURE}: `{name}` has no row in the code map"));
    }
    for name in rows.difference(&names) {
        findings.push(format!("{ARCHITECTURE}: the code map has `{name}`, which is no crate"));
    }
    let lines = text.lines().count();
    if lines > ARCHITECTURE_LINES_MAX {
        findings.push(format!("{ARCHITECTURE} has {lines} lines, over {ARCHITECTURE_LINES_MAX}"));
    }
    for member in &repository.crates {
        if member.folder != format!("crates/{}", member.name) {
            findings.push(format!("`{}` does not live in a folder of its name", member.name));
        }
    }
    findings
}

/// Names in the first column of the table under the heading of the code map.
fn map_rows(text: &str) -> impl Iterator<Item = &str> {
    let section = text.split_once("\n## Code map").map_or("", |(_, rest)| rest);
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next())
}

/// Documents and generated files that are not there. That generated ones are up to date is tested
/// where they are made.
pub(crate) fn generated_files_exist(repository: &Repository) -> Vec<String> {
    let missing =
        GENERATED.iter().chain(&DOCUMENTS).filter(|path| repository.text(path).trim().is_empty());
    missing.map(|path| format!("{path} is missing")).collect()
}

/// Documents that speak of issues by number, of registries or of the place they were written at;
/// sources that name that place.
pub(crate) fn nothing_of_the_workplace(repository: &Repository) -> Vec<String> {
    let mut findings = Vec::new();
    for file in repository.files.values().filter(|file| file.path != "LICENSE") {
        let document = is_document(file);
        for (number, line) in file.lines() {
            let named = FOREIGN.iter().enumerate().find(|(index, foreign)| {
                // Sources and scripts may have to name a mirror to use it; never the workplace.
                (document || *index == 0) && line.contains(**foreign)
            });
            if let Some((_, foreign)) = named {
                findings.push(format!("{}:{number} names `{foreign}`", file.path));
            }
            if (document || is_comment(line)) && names_an_issue(line) {
                findings.push(format!("{}:{number} refers to an issue by number", file.path));
            }
        }
    }
    findings
}

fn is_document(file: &File) -> bool {
    file.path.ends_with(".md")
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

/// Whether a line of prose contains a number sign and a number, as trackers write it, or names an
/// issue by number.
pub(super) fn names_an_issue(line: &str) -> bool {
    let digit = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    let numbered = line.match_indices('#').any(|(at, _)| {
        let before = line[..at].chars().next_back();
        digit(&line[at + 1..]) && before.is_none_or(|c| c == ' ' || c == '(' || c == '/')
    });
    numbered || line.to_lowercase().split("issue ").skip(1).any(digit)
}

/// Tests that the contract names and nobody wrote.
pub(crate) fn contract_names_real_tests(repository: &Repository) -> Vec<String> {
    let sources: Vec<&File> = repository.sources().collect();
    let exists = |name: &str| {
        let definition = format!("fn {name}(");
        sources.iter().any(|file| file.text.contains(&definition))
    };
    let mut findings = Vec::new();
    for (number, line) in (1..).zip(repository.text(CONTRACT).lines()) {
        for name in tests_named(line).filter(|name| !exists(name)) {
            findings.push(format!("{CONTRACT}:{number}: there is no test `{name}`"));
        }
    }
    findings
}

/// What stands in backquotes in the third column and reads like the name of a test.
pub(super) fn tests_named(row: &str) -> impl Iterator<Item = &str> {
    let column = row.split(" | ").nth(2).unwrap_or_default();
    column.split('`').skip(1).step_by(2).filter(|text| {
        text.contains('_')
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    })
}

/// Links between documents that lead nowhere.
pub(crate) fn links_lead_somewhere(repository: &Repository) -> Vec<String> {
    let mut findings = Vec::new();
    for file in repository.files.values().filter(|file| is_document(file)) {
        let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (number, line) in file.lines() {
            let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
            for target in targets.filter(|target| !target.contains("://")) {
                let (path, place) = target.split_once('#').unwrap_or((target, ""));
                let path = normalized(folder, path.trim_end_matches('/'));
                let inside = format!("{path}/");
                let found = path.is_empty()
                    || repository.files.contains_key(&path)
                    || repository.under(&inside).next().is_some();
                let target_file = if path.is_empty() { &file.path } else { &path };
                let has_place = place.is_empty()
                    || repository
                        .files
                        .get(target_file)
                        .is_none_or(|file| has_heading(file, place));
                if !found || !has_place {
                    findings.push(format!("{}:{number}: `{target}` leads nowhere", file.path));
                }
            }
        }
    }
    findings
}

/// Whether one of a document's headings is what `place` in a link leads to.
pub(super) fn has_heading(file: &File, place: &str) -> bool {
    file.lines().filter_map(|(_, line)| line.strip_prefix('#')).any(|heading| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).eq(place.chars())
    })
}

/// Each guide is in the index of the documents, where people look for it.
pub(crate) fn guides_are_in_the_index(repository: &Repository) -> Vec<String> {
    let index = repository.files.get("docs/README.md").map_or("", |index| index.text.as_str());
    let guides = repository.under("docs/guides/");
    let missing = guides.filter_map(|file| file.path.strip_prefix("docs/"));
    let missing = missing.filter(|path| !index.contains(&format!("]({path})")));
    missing.map(|path| format!("docs/README.md does not link to `{path}`")).collect()
}

/// `path`, seen from `folder`, relative to the root.
pub(super) fn normalized(folder: &str, path: &str) -> String {
    if path.is_empty() {
        return String::new();
    }
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
