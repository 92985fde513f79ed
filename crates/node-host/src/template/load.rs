//! A template from its directory. Every file is verified before anything of it is used.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use base_snapshot::{Layer, Run, inspect};
use base_types::{PAGE_SIZE, Size};
use rustix::fs::{MemfdFlags, SealFlags};

use super::{DamageError, Manifest, Template, TemplateError, bytes_in};
use crate::images::{RootImage, checksum, open};

/// LIMIT: ten fields.
const MANIFEST_BYTES_MAX: u64 = 64 * 1024;

/// Loads the template in `dir`, which must have the key `key`. Blocks: memory is read and verified.
pub(crate) fn load(
    dir: &Path,
    root: &RootImage,
    size: Size,
    key: &str,
) -> Result<Template, TemplateError> {
    let manifest = manifest(dir)?;
    if manifest.key != key || manifest.size != size {
        let path = dir.join("manifest.json");
        return Err(TemplateError::Damaged { path, source: DamageError::Foreign });
    }
    let state = verified(&dir.join("state"))?;
    let working_set = match manifest.working_set {
        true => Some(verified(&dir.join("working-set"))?),
        false => None,
    };
    let disk = dir.join("disk.qcow2");
    let found = checksum(open_in(&disk)?)
        .map_err(|source| TemplateError::File { path: disk.clone(), source })?;
    if found != manifest.disk_blake3 {
        return Err(TemplateError::Damaged { path: disk, source: DamageError::Checksum });
    }
    Ok(Template {
        root: open(&root.root)?,
        root_bytes: root.manifest.root_bytes,
        disk: open_in(&disk)?,
        state,
        memory: memory(&dir.join("memory"), size)?,
        working_set,
        manifest,
        bytes: bytes_in(dir),
    })
}

/// What is written beside the snapshot in `dir`.
pub(crate) fn manifest(dir: &Path) -> Result<Manifest, TemplateError> {
    let path = dir.join("manifest.json");
    let mut text = Vec::new();
    open_in(&path)?
        .take(MANIFEST_BYTES_MAX)
        .read_to_end(&mut text)
        .map_err(|source| TemplateError::File { path: path.clone(), source })?;
    serde_json::from_slice(&text)
        .map_err(|source| TemplateError::Damaged { path, source: source.into() })
}

/// A file of a snapshot; all of them are there, or it is damaged.
fn open_in(path: &Path) -> Result<File, TemplateError> {
    File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => {
            TemplateError::Damaged { path: path.into(), source: DamageError::Missing }
        }
        _ => TemplateError::File { path: path.into(), source },
    })
}

/// Opens a state or working-set file after reading all of it.
fn verified(path: &Path) -> Result<File, TemplateError> {
    inspect(open_in(path)?)
        .map_err(|source| TemplateError::Damaged { path: path.into(), source: source.into() })?;
    // The descriptor's offset is shared with every VMM that gets it, so it is a fresh one.
    open_in(path)
}

/// The memory of a template, in a memory file nobody can change any more.
pub(crate) fn memory(path: &Path, size: Size) -> Result<OwnedFd, TemplateError> {
    let bytes = u64::from(size.memory_mib()) << 20;
    let damaged = |source| TemplateError::Damaged { path: path.into(), source };
    let layer =
        Layer::open(open_in(path)?, bytes / PAGE_SIZE).map_err(|source| damaged(source.into()))?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = rustix::fs::memfd_create("template-memory", flags)
        .map_err(|errno| TemplateError::Memory(errno.into()))?;
    let memfd = File::from(memfd);
    memfd.set_len(bytes).map_err(TemplateError::Memory)?;
    let mut fill = |run: Run<'_>| match run {
        Run::Data { first_page, bytes } => memfd.write_all_at(bytes, first_page * PAGE_SIZE),
        // A base layer has none, and a new memory file is zero anyway.
        Run::Zero { .. } => Ok(()),
    };
    layer.load(&mut fill).map_err(|source| match source {
        base_snapshot::LayerReadError::Sink { source, .. } => TemplateError::Memory(source),
        other => damaged(DamageError::Read(other)),
    })?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&memfd, seals)
        .map_err(|errno| TemplateError::Memory(io::Error::from(errno)))?;
    Ok(memfd.into())
}

#[cfg(test)]
mod test;
