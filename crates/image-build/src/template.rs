use std::path::Path;

use base_types::TemplateName;
use serde::{Deserialize, Serialize};

use crate::cache::Keys;
use crate::error::BuildError;
use crate::progress::Progress;

/// `templates/<name>/manifest.json`: what a root image is and what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateManifest {
    /// The template's name.
    pub name: TemplateName,
    /// The Debian suite it was built from.
    pub suite: String,
    /// Size of `root.ext4` in bytes, holes included.
    pub root_bytes: u64,
    /// BLAKE3 of `root.ext4`, lowercase hex.
    pub root_blake3: String,
    /// Commands to run in a fresh machine, as user `agent`, before its snapshot is taken.
    pub warm: Vec<Vec<String>>,
    /// Every Debian package inside, by name.
    pub packages: Vec<Package>,
}

/// One Debian package in a root image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

pub(crate) fn ensure(
    _templates: &Path,
    _cache: &Path,
    _keys: &Keys,
    name: &TemplateName,
    _progress: &dyn Progress,
) -> Result<(), BuildError> {
    Err(BuildError::UnknownTemplate { template: name.to_string(), known: String::new() })
}
