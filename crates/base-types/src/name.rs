use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that cannot name a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a template name; use 1 to 40 of a-z, 0-9 and `-`, starting with a letter")]
pub struct ParseNameError(String);

/// The name of a template: 1 to 40 characters of `a-z0-9-`, starting with a letter. Safe as a file
/// name by construction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TemplateName(String);

impl TemplateName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TemplateName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        let legal = text.len() <= 40
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if legal {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseNameError(text.chars().take(64).collect()))
        }
    }
}

impl TryFrom<String> for TemplateName {
    type Error = ParseNameError;

    fn try_from(text: String) -> Result<Self, ParseNameError> {
        text.parse()
    }
}

impl From<TemplateName> for String {
    fn from(name: TemplateName) -> Self {
        name.0
    }
}

impl fmt::Display for TemplateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_name_is_always_a_safe_file_name() {
        for text in ["agent", "py-313", "a"] {
            assert_eq!(text.parse::<TemplateName>().map(|n| n.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "-a", "../x", "A", "a/b", "a.b", &"a".repeat(41)] {
            assert!(text.parse::<TemplateName>().is_err(), "{text}");
        }
    }
}
