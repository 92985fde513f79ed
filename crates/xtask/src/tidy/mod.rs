//! The checks. Each takes the repository and answers with findings: one sentence for each place
//! that breaks a rule. An empty answer means the rule holds.

mod dependencies;
mod documents;
mod scripts;
mod sources;
#[cfg(test)]
mod test;

use crate::repository::Repository;

/// A rule and how it is checked.
pub(crate) type Check = fn(&Repository) -> Vec<String>;

/// Every check, by the name it prints.
pub(crate) const CHECKS: &[(&str, Check)] = &[
    ("directions", dependencies::directions),
    ("exclusive crates", dependencies::exclusive),
    ("no OpenSSL", dependencies::no_openssl),
    ("crate docs", documents::crates_explain_themselves),
    ("code map", documents::code_map_is_complete),
    ("file length", sources::length),
    ("unsafe", sources::unsafe_is_listed),
    ("module names", sources::module_names),
    ("tests", sources::tests_always_run),
    ("scripts", scripts::are_executable_and_explained),
    ("generated files", documents::generated_files_exist),
    ("workplace", documents::nothing_of_the_workplace),
    ("contract", documents::contract_names_real_tests),
    ("links", documents::links_lead_somewhere),
    ("index of guides", documents::guides_are_in_the_index),
];
