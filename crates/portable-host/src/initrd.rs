//! The initrd of one start: the built one, and after it an archive with what this start adds.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use base_cpio::Archive;
use portable_init::{BOOT_FILE, Boot};

use crate::error::{HostError, OnFile as _};

/// Writes it to `to`. `files` are (path inside, file outside); all become executable.
pub(crate) fn write(
    base: &Path,
    boot: &Boot,
    files: &[(String, PathBuf)],
    to: &Path,
) -> Result<(), HostError> {
    if !base.is_file() {
        return Err(HostError::MissingImage { path: base.to_owned() });
    }
    let mut source = File::open(base).on("read", base)?;
    let mut file = File::create(to).on("write", to)?;
    io::copy(&mut source, &mut file).on("write", to)?;
    let mut archive = Archive::new(BufWriter::new(file));
    let mut parents = BTreeSet::new();
    let text = serde_json::to_vec(boot)
        .map_err(|source| HostError::Manifest { path: to.to_owned(), source })?;
    add(&mut archive, &mut parents, BOOT_FILE, 0o644, &text).on("write", to)?;
    for (inside, outside) in files {
        let content = fs::read(outside).on("read", outside)?;
        let inside = inside.trim_start_matches('/');
        add(&mut archive, &mut parents, inside, 0o755, &content).on("write", to)?;
    }
    archive.finish().on("write", to)?;
    Ok(())
}

fn add(
    archive: &mut Archive<BufWriter<File>>,
    parents: &mut BTreeSet<PathBuf>,
    path: &str,
    mode: u32,
    content: &[u8],
) -> io::Result<()> {
    let above: Vec<&Path> = Path::new(path).ancestors().skip(1).collect();
    for parent in above.into_iter().rev().filter(|parent| !parent.as_os_str().is_empty()) {
        if parents.insert(parent.to_owned()) {
            archive.directory(&parent.to_string_lossy(), 0o755)?;
        }
    }
    archive.file(path, mode, content)
}
