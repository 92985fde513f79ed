//! The key of this machine's node: made here, so that the node itself never has more than its hash.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use api_node::{SECRET_BYTES, Secret};

use crate::complaint::advise;

/// Name of the file in the home directory.
const FILE: &str = "api-key";

fn path(home: &Path) -> PathBuf {
    home.join(FILE)
}

/// The key in `home`, if there is one.
pub(crate) fn read(home: &Path) -> Result<Option<Secret>> {
    let path = path(home);
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse() {
            Ok(secret) => Ok(Some(secret)),
            Err(error) => Err(advise(
                format!("`{}` does not hold a key: {error}", path.display()),
                "remove it; the next `sandflare up` makes another",
            )),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        // Made by another user, such as root: it is not for this one.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// The key in `home`, made when there is none; its owner alone can read it.
pub(crate) fn ensure(home: &Path) -> Result<Secret> {
    if let Some(secret) = read(home)? {
        return Ok(secret);
    }
    let mut bytes = [0; SECRET_BYTES];
    let flags = rustix::rand::GetRandomFlags::empty();
    // Up to 256 bytes come whole, or not at all.
    rustix::rand::getrandom(&mut bytes, flags).context("get random bytes for a key")?;
    let secret = Secret::from_random(bytes);
    let path = path(home);
    secret.write(&path).with_context(|| format!("write {}", path.display()))?;
    Ok(secret)
}

#[cfg(test)]
mod test {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_reads_it() {
        let home = tempfile::tempdir().unwrap();
        assert!(read(home.path()).unwrap().is_none());
        let secret = ensure(home.path()).unwrap();
        assert_eq!(ensure(home.path()).unwrap().text(), secret.text());
        let mode = fs::metadata(home.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    #[test]
    fn a_file_with_something_else_is_named_and_its_content_is_not() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(FILE), "hunter2").unwrap();
        let error = format!("{:#}", read(home.path()).unwrap_err());
        assert!(error.contains("api-key") && !error.contains("hunter2"), "{error}");
    }
}
