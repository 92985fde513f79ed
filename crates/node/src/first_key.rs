//! The key of a node that has none: shown once, and left in a file for its owner.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use api_node::SecretHash;
use node_access::Access;

/// Name of the file in the data directory.
const FILE: &str = "admin.key";

/// Makes sure that somebody can use the node: with the key whose hash its starter handed in, or with
/// one of its own.
pub(crate) async fn ensure(
    access: &Access,
    starter: Option<SecretHash>,
    data_dir: &Path,
) -> Result<()> {
    if let Some(hash) = starter {
        return access.starter_key(hash).await.context("take the starter's key");
    }
    let path = data_dir.join(FILE);
    // Written before it is good: a node that dies in between makes another key, and no key exists
    // that nobody has.
    let made = access.first_key(|secret| secret.write(&path)).await;
    let made = made.with_context(|| format!("make the first key, in `{}`", path.display()))?;
    if let Some(secret) = made {
        // Not to the log.
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "admin key, shown only now: {}", secret.text());
        let _ = writeln!(out, "it is also in {}", path.display());
        let _ = out.flush();
    }
    Ok(())
}

#[cfg(test)]
mod test {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use api_node::{AccessApi as _, Secret};
    use node_store::Store;

    use super::*;

    async fn start(dir: &Path) -> Access {
        let store = Store::open(&dir.join("node.db")).unwrap();
        Access::open(store, || 1, true).await.unwrap()
    }

    #[tokio::test]
    async fn a_first_start_leaves_a_key_for_its_owner_only_and_later_ones_leave_it() {
        let dir = tempfile::tempdir().unwrap();
        let access = start(dir.path()).await;
        ensure(&access, None, dir.path()).await.unwrap();
        let path = dir.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        assert!(access.caller(text.trim()).is_some());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        drop(access);
        let access = start(dir.path()).await;
        ensure(&access, None, dir.path()).await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    #[tokio::test]
    async fn a_key_that_cannot_be_written_down_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let access = start(dir.path()).await;
        let nowhere = dir.path().join("missing");
        let error = ensure(&access, None, &nowhere).await.unwrap_err();
        assert!(format!("{error:#}").contains("admin.key"), "{error:#}");
        assert!(access.key_list(api_node::PageQuery::default()).await.unwrap().keys.is_empty());
    }

    #[tokio::test]
    async fn a_starter_with_a_key_of_its_own_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let access = start(dir.path()).await;
        let secret = Secret::from_random([7; 32]);
        ensure(&access, Some(secret.hash()), dir.path()).await.unwrap();
        assert!(access.caller(&secret.text()).is_some());
        assert!(!dir.path().join(FILE).exists());
    }
}
