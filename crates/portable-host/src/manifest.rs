//! Checking images against what their builder wrote beside them.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{HostError, OnFile as _};

/// LIMIT: a manifest lists a few hundred packages; a hundred times that is not one.
const MANIFEST_BYTES_MAX: u64 = 8 << 20;

#[derive(Deserialize)]
struct Kernel {
    vmlinux_blake3: String,
    initrd_blake3: String,
}

#[derive(Deserialize)]
struct Template {
    root_bytes: u64,
    root_blake3: String,
}

/// Checks the kernel and the guest's initrd in the images directory.
pub(crate) fn check_kernel(images: &Path) -> Result<(), HostError> {
    let kernel: Kernel = read(&images.join("kernel/manifest.json"))?;
    check(&images.join("kernel/vmlinux"), &kernel.vmlinux_blake3)?;
    check(&images.join("kernel/initrd"), &kernel.initrd_blake3)
}

/// Checks one template's directory.
pub(crate) fn check_template(template: &Path) -> Result<(), HostError> {
    let manifest: Template = read(&template.join("manifest.json"))?;
    let root = template.join("root.ext4");
    let found = fs::metadata(&root).map_err(|_| HostError::MissingImage { path: root.clone() })?;
    if found.len() != manifest.root_bytes {
        return Err(HostError::CorruptImage { path: root });
    }
    check(&root, &manifest.root_blake3)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, HostError> {
    let file = File::open(path).map_err(|_| HostError::MissingImage { path: path.to_owned() })?;
    let mut text = Vec::new();
    file.take(MANIFEST_BYTES_MAX).read_to_end(&mut text).on("read", path)?;
    serde_json::from_slice(&text)
        .map_err(|source| HostError::Manifest { path: path.to_owned(), source })
}

fn check(path: &Path, expected: &str) -> Result<(), HostError> {
    let file = File::open(path).map_err(|_| HostError::MissingImage { path: path.to_owned() })?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file).on("read", path)?;
    if hasher.finalize().to_hex().as_str() == expected {
        return Ok(());
    }
    Err(HostError::CorruptImage { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_image_is_found() {
        let images = tempfile::tempdir().unwrap();
        let kernel = images.path().join("kernel");
        fs::create_dir(&kernel).unwrap();
        let missing = check_kernel(images.path()).unwrap_err();
        assert!(matches!(missing, HostError::MissingImage { .. }));
        fs::write(kernel.join("vmlinux"), "v").unwrap();
        fs::write(kernel.join("initrd"), "i").unwrap();
        let hash = |text: &str| blake3::hash(text.as_bytes()).to_hex();
        let manifest = format!(
            r#"{{"release":"r","package_version":"p","vmlinux_blake3":"{}","initrd_blake3":"{}"}}"#,
            hash("v"),
            hash("i")
        );
        fs::write(kernel.join("manifest.json"), &manifest).unwrap();
        check_kernel(images.path()).unwrap();
        fs::write(kernel.join("initrd"), "j").unwrap();
        let corrupt = check_kernel(images.path()).unwrap_err();
        assert!(matches!(corrupt, HostError::CorruptImage { path } if path.ends_with("initrd")));
        fs::write(kernel.join("manifest.json"), &manifest[..20]).unwrap();
        assert!(matches!(check_kernel(images.path()), Err(HostError::Manifest { .. })));
    }
}
