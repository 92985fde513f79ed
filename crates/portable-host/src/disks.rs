//! The two disks: images, read-only and rebuilt when they change; data, made once and kept.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::FlockOperation;

use crate::error::{HostError, OnFile as _};
use crate::manifest;

/// Size of the data disk, in bytes. Sparse: it takes what is written to it.
pub const DATA_BYTES_DEFAULT: u64 = 32 << 30;

/// Room beside the files themselves: metadata, and the roundings of a few dozen files.
const IMAGES_SLACK_BYTES: u64 = 64 << 20;

/// Smaller disks get the journal mke2fs finds right for them.
const JOURNAL_FROM_BYTES: u64 = 4 << 30;

/// How the directory begins in which the content of the images disk is laid out.
const STAGE: &str = ".images-";

const MKE2FS: &str = "mke2fs";

/// Makes sure `state/images.ext4` holds what `images` holds, checking every image it copies.
/// Gives the disk, and whether it had to be made.
pub(crate) fn images(images: &Path, state: &Path) -> Result<(PathBuf, bool), HostError> {
    let _lock = lock(&state.join("images.lock"))?;
    sweep(state)?;
    let disk = state.join("images.ext4");
    let key_file = state.join("images.key");
    let files = image_files(images)?;
    let key = key_of(images, &files)?;
    if disk.exists() && fs::read_to_string(&key_file).is_ok_and(|found| found == key) {
        return Ok((disk, false));
    }
    manifest::check_kernel(images)?;
    for file in &files {
        if let Some(template) = images.join(file).parent().filter(|_| file.ends_with("root.ext4")) {
            manifest::check_template(template)?;
        }
    }
    match fs::remove_file(&key_file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).on("remove", &key_file);
        }
        _ => {}
    }
    let stage = tempfile::Builder::new().prefix(STAGE).tempdir_in(state).on("write in", state)?;
    let mut bytes = IMAGES_SLACK_BYTES;
    for file in &files {
        let (from, to) = (images.join(file), stage.path().join(file));
        bytes += fs::metadata(&from).on("read", &from)?.blocks() * 512;
        let parent = to.parent().unwrap_or(stage.path());
        fs::create_dir_all(parent).on("create", parent)?;
        // A link where both are on one file system; the tree is only there to be copied from.
        if fs::hard_link(&from, &to).is_err() {
            fs::copy(&from, &to).on("copy", &from)?;
        }
    }
    bytes += bytes / 32;
    let fresh = state.join(".images.ext4");
    remove_if_there(&fresh)?;
    let made = mke2fs(
        &fresh,
        bytes,
        &[
            "-O".as_ref(),
            "^has_journal".as_ref(),
            "-N".as_ref(),
            "4096".as_ref(),
            "-d".as_ref(),
            stage.path().as_os_str(),
        ],
    );
    if made.is_err() {
        remove_if_there(&fresh)?;
    }
    made?;
    fs::rename(&fresh, &disk).on("write", &disk)?;
    fs::write(&key_file, key).on("write", &key_file)?;
    Ok((disk, true))
}

/// Several programs may share one images disk; only one at a time may make it.
fn lock(path: &Path) -> Result<File, HostError> {
    let file = OpenOptions::new().create(true).append(true).open(path).on("open", path)?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive).on("lock", path)?;
    Ok(file)
}

/// Removes what a build that was killed left.
fn sweep(state: &Path) -> Result<(), HostError> {
    for entry in fs::read_dir(state).on("read", state)? {
        let path = entry.on("read", state)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(STAGE) && path.is_dir() {
            fs::remove_dir_all(&path).on("remove", &path)?;
        }
    }
    Ok(())
}

/// Makes sure `file` is an ext4 disk; an existing one is left as it is. Says whether it had to be made.
pub(crate) fn data(file: &Path, bytes: u64) -> Result<bool, HostError> {
    if file.exists() {
        return Ok(false);
    }
    let fresh = file.with_extension("new");
    remove_if_there(&fresh)?;
    // An inode per 64 KiB: sandboxes are few big files, and inode tables cost memory and time.
    // The journal is written at once; 64 MiB is plenty for metadata.
    let options = ["-i", "65536", "-J", "size=64"].map(OsStr::new);
    let made =
        mke2fs(&fresh, bytes, if bytes < JOURNAL_FROM_BYTES { &options[..2] } else { &options });
    if made.is_err() {
        remove_if_there(&fresh)?;
    }
    made?;
    fs::rename(&fresh, file).on("write", file)?;
    Ok(true)
}

/// The files the inside needs, relative to the images directory, sorted.
fn image_files(images: &Path) -> Result<Vec<PathBuf>, HostError> {
    let mut files: Vec<PathBuf> = ["vmlinux", "initrd", "manifest.json"]
        .iter()
        .map(|name| Path::new("kernel").join(name))
        .collect();
    let templates = images.join("templates");
    match fs::read_dir(&templates) {
        Ok(entries) => {
            for entry in entries {
                let name = entry.on("read", &templates)?.file_name();
                let manifest = Path::new("templates").join(&name).join("manifest.json");
                // Without its manifest a template is not finished; names with a dot are being built.
                if !name.to_string_lossy().starts_with('.') && images.join(&manifest).exists() {
                    files.push(Path::new("templates").join(&name).join("root.ext4"));
                    files.push(manifest);
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).on("read", &templates),
    }
    files.sort();
    Ok(files)
}

/// Images are replaced whole, never written in place, so identity, length and time say whether they changed.
fn key_of(images: &Path, files: &[PathBuf]) -> Result<String, HostError> {
    let mut key = String::from("1\n");
    for file in files {
        let path = images.join(file);
        let Ok(found) = fs::metadata(&path) else {
            return Err(HostError::MissingImage { path });
        };
        key.push_str(&format!(
            "{} {} {} {} {}.{}\n",
            file.display(),
            found.dev(),
            found.ino(),
            found.len(),
            found.mtime(),
            found.mtime_nsec()
        ));
    }
    Ok(key)
}

fn mke2fs(file: &Path, bytes: u64, options: &[&OsStr]) -> Result<(), HostError> {
    let sparse = File::create(file).on("write", file)?;
    sparse.set_len(bytes).on("write", file)?;
    drop(sparse);
    // Debian keeps it in /usr/sbin, which is not in every user's search path.
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new(MKE2FS)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0"])
        .args(options)
        .arg(file)
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " | ");
            Err(HostError::Program { doing: "making a disk image with mke2fs", said })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(HostError::MissingProgram { program: MKE2FS, package: "e2fsprogs" })
        }
        Err(error) => Err(error).on("make a file system in", file),
    }
}

fn remove_if_there(path: &Path) -> Result<(), HostError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).on("remove", path),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_follows_every_image_and_unfinished_templates_do_not_count() {
        let images = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = images.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for name in ["vmlinux", "initrd", "manifest.json"] {
            write(&format!("kernel/{name}"), name);
        }
        let key = || key_of(images.path(), &image_files(images.path()).unwrap()).unwrap();
        let bare = key();
        assert_eq!(bare, key());
        write("templates/half/root.ext4", "r");
        write("templates/.new/manifest.json", "{}");
        assert_eq!(bare, key());
        write("templates/agent/root.ext4", "r");
        write("templates/agent/manifest.json", "{}");
        let with_template = key();
        assert_ne!(bare, with_template);
        write("templates/agent/root.ext4", "longer");
        assert_ne!(with_template, key());
    }

    #[test]
    fn a_data_disk_is_made_once_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("data.ext4");
        assert!(data(&file, 64 << 20).unwrap());
        let inode = fs::metadata(&file).unwrap().ino();
        assert!(!data(&file, 128 << 20).unwrap());
        let found = fs::metadata(&file).unwrap();
        assert_eq!((found.ino(), found.len()), (inode, 64 << 20));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_disk_that_cannot_be_made_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("data.ext4");
        let error = data(&file, 4096).unwrap_err();
        assert!(matches!(error, HostError::Program { .. }), "{error}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
