//! Content keys: what an output was made from, kept in a file beside it.
//!
//! A step whose key file holds the key of its present inputs, and whose outputs exist, has nothing to do.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use crate::error::{BuildError, OnFile as _};

/// Changes whenever this crate makes other images from the same inputs.
const FORMAT: &str = "1";

/// A key under construction.
#[derive(Debug)]
pub(crate) struct Key(blake3::Hasher);

impl Key {
    pub(crate) fn of(step: &str) -> Self {
        let mut key = Self(blake3::Hasher::new());
        key.add("format", FORMAT);
        key.add("step", step);
        key
    }

    /// Lengths go in too, so no two lists of parts run together into the same bytes.
    pub(crate) fn add(&mut self, name: &str, value: &str) {
        for part in [name, value] {
            self.0.update(&(part.len() as u64).to_le_bytes());
            self.0.update(part.as_bytes());
        }
    }

    pub(crate) fn finish(self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}

/// The key files of one images directory.
#[derive(Debug)]
pub(crate) struct Keys {
    directory: PathBuf,
}

impl Keys {
    pub(crate) fn in_directory(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Whether `step` was last finished with `key` and all `outputs` are still there.
    pub(crate) fn holds(&self, step: &str, key: &str, outputs: &[&Path]) -> bool {
        fs::read_to_string(self.directory.join(step)).is_ok_and(|found| found == key)
            && outputs.iter().all(|output| output.exists())
    }

    pub(crate) fn forget(&self, step: &str) -> Result<(), BuildError> {
        let path = self.directory.join(step);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(source).on("remove", &path)
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn record(&self, step: &str, key: &str) -> Result<(), BuildError> {
        fs::create_dir_all(&self.directory).on("create", &self.directory)?;
        replace(&self.directory.join(step), key.as_bytes())
    }
}

/// Writes `path` so that it is seen either as it was or complete.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), BuildError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(directory)
        .on("write in", directory)?;
    file.write_all(content).on("write", path)?;
    file.as_file().sync_all().on("write", path)?;
    set_mode(file.as_file(), 0o644).on("write", path)?;
    file.persist(path).map_err(|failed| failed.error).on("write", path)?;
    Ok(())
}

fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(fs::Permissions::from_mode(mode))
}

/// The BLAKE3 hash of a file's content, as lowercase hex. Holes count as the zeros they read as.
///
/// # Errors
/// When the file cannot be read.
pub fn hash_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0_u8; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize().to_hex().to_string()),
            Ok(read) => {
                hasher.update(&buffer[..read]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_depends_on_every_part_and_where_it_ends() {
        let key = |parts: &[(&str, &str)]| {
            let mut key = Key::of("step");
            for (name, value) in parts {
                key.add(name, value);
            }
            key.finish()
        };
        assert_eq!(key(&[("a", "b")]), key(&[("a", "b")]));
        assert_ne!(key(&[("a", "bc")]), key(&[("ab", "c")]));
        assert_ne!(key(&[("a", "b")]), key(&[("a", "b"), ("", "")]));
        assert_ne!(Key::of("one").finish(), Key::of("two").finish());
    }

    #[test]
    fn a_step_is_done_only_with_its_key_and_its_outputs() {
        let directory = tempfile::tempdir().unwrap();
        let keys = Keys::in_directory(directory.path().join("keys"));
        let output = directory.path().join("output");
        assert!(!keys.holds("step", "k", &[]));
        keys.record("step", "k").unwrap();
        assert!(keys.holds("step", "k", &[]));
        assert!(!keys.holds("step", "other", &[]));
        assert!(!keys.holds("step", "k", &[&output]));
        fs::write(&output, "").unwrap();
        assert!(keys.holds("step", "k", &[&output]));
        keys.forget("step").unwrap();
        keys.forget("step").unwrap();
        assert!(!keys.holds("step", "k", &[&output]));
    }

    #[test]
    fn a_replaced_file_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
