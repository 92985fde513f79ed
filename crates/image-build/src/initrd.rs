//! The first root of a machine: its PID 1, its other programs and its kernel modules.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;

use crate::error::{BuildError, OnFile as _};
use base_cpio::Archive;

/// Writes an initrd to `path`: `programs` as (path inside, file outside), and `modules` from the
/// directory `modules_from` as `/modules/*` with their load order in `/modules/order`.
pub(crate) fn write(
    path: &Path,
    programs: &[(&str, &Path)],
    modules_from: &Path,
    modules: &[String],
) -> Result<(), BuildError> {
    let file = File::create(path).on("write", path)?;
    let mut archive = Archive::new(BufWriter::new(file));
    for directory in ["bin", "dev", "etc", "modules", "mnt", "proc", "run", "sys", "tmp"] {
        archive.directory(directory, 0o755).on("write", path)?;
    }
    for (inside, outside) in programs {
        let content = fs::read(outside).on("read", outside)?;
        archive.file(inside, 0o755, &content).on("write", path)?;
    }
    let mut order = String::new();
    for module in modules {
        let source = modules_from.join(module);
        let content = fs::read(&source).on("read", &source)?;
        archive.file(&format!("modules/{module}"), 0o644, &content).on("write", path)?;
        order.push_str(module);
        order.push('\n');
    }
    archive.file("modules/order", 0o644, order.as_bytes()).on("write", path)?;
    let file = archive.finish().and_then(|out| out.into_inner().map_err(|e| e.into_error()));
    file.and_then(|file| file.sync_all()).on("write", path)
}
