//! The default user, for images that lack it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;

use anyhow::Context;
use api_guest::DEFAULT_USER;

use crate::accounts::Accounts;

/// Debian's first id for people.
const FIRST_UID: u32 = 1000;

/// Makes the default user, its group and its home, as far as they are missing below `root`.
pub(super) fn ensure_default(root: &Path) -> anyhow::Result<()> {
    let etc = root.join("etc");
    let passwd = fs::read_to_string(etc.join("passwd")).unwrap_or_default();
    let group = fs::read_to_string(etc.join("group")).unwrap_or_default();
    let accounts = Accounts::parse(&passwd, &group);
    let (uid, gid, home) = match accounts.by_name(DEFAULT_USER) {
        Some(user) => (user.uid, user.gid, user.home.clone()),
        None => {
            let free =
                |id: &u32| accounts.by_uid(*id).is_none() && accounts.group_name(*id).is_none();
            let id = (FIRST_UID..).find(free).context("no user id is free")?;
            let shell = if root.join("bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
            let home = format!("/home/{DEFAULT_USER}");
            if !accounts.has_group(DEFAULT_USER) {
                append(&etc.join("group"), &group, &format!("{DEFAULT_USER}:x:{id}:"), 0o644)?;
                let shadow = fs::read_to_string(etc.join("gshadow")).unwrap_or_default();
                append(&etc.join("gshadow"), &shadow, &format!("{DEFAULT_USER}:!::"), 0o640)?;
            }
            let line = format!("{DEFAULT_USER}:x:{id}:{id}::{home}:{shell}");
            append(&etc.join("passwd"), &passwd, &line, 0o644)?;
            let shadow = fs::read_to_string(etc.join("shadow")).unwrap_or_default();
            let line = format!("{DEFAULT_USER}:*:20000:0:99999:7:::");
            append(&etc.join("shadow"), &shadow, &line, 0o640)?;
            (id, id, home)
        }
    };
    let home = root.join(home.trim_start_matches('/'));
    if !home.exists() {
        fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
        fs::set_permissions(&home, PermissionsExt::from_mode(0o755))
            .and_then(|()| copy_skeleton(&root.join("etc/skel"), &home, uid, gid))
            .and_then(|()| chown(&home, Some(uid), Some(gid)))
            .with_context(|| format!("cannot fill {}", home.display()))?;
    }
    Ok(())
}

/// Appends a line, after ending the last one if that was forgotten.
fn append(path: &Path, before: &str, line: &str, mode: u32) -> anyhow::Result<()> {
    let newline = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(format!("{newline}{line}\n").as_bytes()))
        .with_context(|| format!("cannot add user {DEFAULT_USER} to {}", path.display()))
}

/// Copies the regular files of `/etc/skel`; Debian's has no others.
fn copy_skeleton(skeleton: &Path, home: &Path, uid: u32, gid: u32) -> std::io::Result<()> {
    let Ok(entries) = fs::read_dir(skeleton) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let copy = home.join(entry.file_name());
            fs::copy(entry.path(), &copy)?;
            chown(&copy, Some(uid), Some(gid))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod test {
    use super::*;

    fn root_with(passwd: &str, group: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc/skel")).unwrap();
        fs::write(root.path().join("etc/skel/.profile"), "# hello\n").unwrap();
        fs::write(root.path().join("etc/passwd"), passwd).unwrap();
        fs::write(root.path().join("etc/group"), group).unwrap();
        root
    }

    fn accounts(root: &Path) -> Accounts {
        let read = |name: &str| fs::read_to_string(root.join("etc").join(name)).unwrap();
        Accounts::parse(&read("passwd"), &read("group"))
    }

    #[test]
    fn a_missing_user_is_made_once() {
        let root = root_with("root:x:0:0:root:/root:/bin/bash", "root:x:0:");
        ensure_default(root.path()).unwrap();
        let after = fs::read_to_string(root.path().join("etc/passwd")).unwrap();
        ensure_default(root.path()).unwrap();
        assert_eq!(fs::read_to_string(root.path().join("etc/passwd")).unwrap(), after);
        let user = accounts(root.path()).find("agent").unwrap();
        assert_eq!((user.uid, user.gid, user.home.as_str()), (1000, 1000, "/home/agent"));
        assert!(root.path().join("home/agent/.profile").exists());
        assert!(accounts(root.path()).find("root").is_ok());
    }

    #[test]
    fn an_id_that_is_taken_is_not_taken_again() {
        let root = root_with("debian:x:1000:1000::/home/debian:/bin/sh\n", "debian:x:1000:\n");
        ensure_default(root.path()).unwrap();
        assert_eq!(accounts(root.path()).find("agent").unwrap().uid, 1001);
    }
}
