//! The kernel every machine boots, portable host and microVM alike: Debian's cloud kernel, unpacked.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::bzimage;
use crate::cache::{self, Key, Keys};
use crate::debian::{PrivateApt, SUITE};
use crate::elf;
use crate::ensure::KERNEL_WORKING;
use crate::error::{BuildError, ModuleError, OnFile as _};
use crate::modules::{self, OrderError};
use crate::progress::{Outcome, Progress};

const METAPACKAGE: &str = "linux-image-cloud-amd64";
const STEP: &str = "kernel";

/// LIMIT: the biggest module in use, kvm, unpacks to about 1.5 MiB.
const MODULE_BYTES_MAX: u64 = 64 << 20;

/// What the portable host needs that the kernel does not have built in.
const PORTABLE_MODULES: [&str; 6] =
    ["virtio_pci", "virtio_blk", "virtio_net", "irqbypass", "kvm", "kvm-amd"];

/// What a microVM needs that the kernel does not have built in.
const GUEST_MODULES: [&str; 8] = [
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
    "virtio-rng",
    // Without it no root disk whose directories can be limited is mounted.
    "quota_v2",
];

/// A kernel unpacked from its package, in the cache.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Unpacked {
    pub(crate) release: String,
    pub(crate) package_version: String,
    pub(crate) vmlinux_blake3: String,
    /// File names under `modules/` in load order.
    pub(crate) guest_modules: Vec<String>,
    /// File names under `modules/` in load order.
    pub(crate) portable_modules: Vec<String>,
}

/// Makes sure `cache/vmlinux`, `cache/modules/*.ko` and their description exist.
pub(crate) fn ensure(
    cache: &Path,
    keys: &Keys,
    progress: &dyn Progress,
) -> Result<Unpacked, BuildError> {
    let step = "kernel";
    progress.begin(step);
    let mut key = Key::of(STEP);
    key.add("suite", SUITE);
    key.add("package", METAPACKAGE);
    for name in GUEST_MODULES.iter().chain(&PORTABLE_MODULES) {
        key.add("module", name);
    }
    let key = key.finish();
    let description = cache.join("kernel.json");
    if keys.holds(STEP, &key, &[&description, &cache.join("vmlinux"), &cache.join("modules")]) {
        let text = fs::read(&description).on("read", &description)?;
        let unpacked = serde_json::from_slice(&text)
            .map_err(|source| BuildError::Manifest { path: description, source })?;
        progress.end(step, Outcome::Reused);
        return Ok(unpacked);
    }
    keys.forget(STEP)?;
    let unpacked = unpack(cache, progress, step)?;
    let text = serde_json::to_vec_pretty(&unpacked)
        .map_err(|source| BuildError::Manifest { path: description.clone(), source })?;
    cache::replace(&description, &text)?;
    keys.record(STEP, &key)?;
    progress.end(step, Outcome::Built);
    Ok(unpacked)
}

fn unpack(cache: &Path, progress: &dyn Progress, step: &str) -> Result<Unpacked, BuildError> {
    let work =
        tempfile::Builder::new().prefix(KERNEL_WORKING).tempdir_in(cache).on("write in", cache)?;
    let apt = PrivateApt::open(&work.path().join("apt"))?;
    progress.advance(step, 0.3);
    let (package, package_version) = apt.dependency(METAPACKAGE, "linux-image-")?;
    let root = work.path().join("root");
    apt.unpack(&package, &package_version, &root)?;
    // Debian's signed kernels ship their modules in the image package; if a later one splits them, follow.
    progress.advance(step, 0.7);
    let release = package.trim_start_matches("linux-image-").to_owned();
    let bzimage = root.join("boot").join(format!("vmlinuz-{release}"));
    let content = fs::read(&bzimage).on("read", &bzimage)?;
    let vmlinux = bzimage::extract_vmlinux(&content)
        .map_err(|source| BuildError::Kernel { package: package.clone(), source })?;
    progress.advance(step, 0.9);
    cache::replace(&cache.join("vmlinux"), &vmlinux)?;
    let tree = ModuleTree::open(&root, &release)?;
    let into = cache.join("modules");
    if into.exists() {
        fs::remove_dir_all(&into).on("remove", &into)?;
    }
    fs::create_dir_all(&into).on("create", &into)?;
    let guest_modules = tree.extract(&GUEST_MODULES, &into)?;
    let portable_modules = tree.extract(&PORTABLE_MODULES, &into)?;
    Ok(Unpacked {
        release,
        package_version,
        vmlinux_blake3: blake3::hash(&vmlinux).to_hex().to_string(),
        guest_modules,
        portable_modules,
    })
}

/// The modules of an unpacked kernel package. `modules.dep` is made by depmod at installation, so
/// dependencies are read from the modules themselves, where depmod reads them too.
struct ModuleTree {
    release: String,
    files: BTreeMap<String, PathBuf>,
    built_in: Vec<String>,
}

impl ModuleTree {
    fn open(root: &Path, release: &str) -> Result<Self, BuildError> {
        let merged = root.join("usr/lib/modules").join(release);
        let base = if merged.exists() { merged } else { root.join("lib/modules").join(release) };
        let mut files = BTreeMap::new();
        let mut open = vec![base.join("kernel")];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(&directory).on("read", &directory)? {
                let entry = entry.on("read", &directory)?;
                let path = entry.path();
                if entry.file_type().on("read", &path)?.is_dir() {
                    open.push(path);
                } else if let Some(name) = module_name(&path) {
                    files.insert(name, path);
                }
            }
        }
        let list = base.join("modules.builtin");
        let built_in = fs::read_to_string(&list).on("read", &list)?;
        let built_in = built_in.lines().filter_map(|line| module_name(Path::new(line))).collect();
        Ok(Self { release: release.to_owned(), files, built_in })
    }

    /// Unpacks `wanted` and what they depend on into `into`; gives the file names in load order.
    fn extract(&self, wanted: &[&str], into: &Path) -> Result<Vec<String>, BuildError> {
        let order = modules::load_order(
            wanted,
            |name| self.built_in.iter().any(|built_in| built_in == name),
            |name| self.depends(name),
        )
        .map_err(|source| match source {
            OrderError::Depends { name, source: ModuleError::Missing } => {
                BuildError::MissingModule { release: self.release.clone(), name }
            }
            source => BuildError::Modules { source },
        })?;
        let mut names = Vec::new();
        for name in order {
            let file = format!("{name}.ko");
            let path = into.join(&file);
            let content = self.read(&name).map_err(|source| BuildError::Modules {
                source: OrderError::Depends { name, source },
            })?;
            fs::write(&path, content).on("write", &path)?;
            names.push(file);
        }
        Ok(names)
    }

    fn depends(&self, name: &str) -> Result<Vec<String>, ModuleError> {
        let content = self.read(name)?;
        let values =
            elf::module_info(&content, "depends").map_err(|source| ModuleError::Elf { source })?;
        let names = values.iter().flat_map(|value| value.split(','));
        Ok(names.filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, ModuleError> {
        let path = self.files.get(name).ok_or(ModuleError::Missing)?;
        let unpack = |source| ModuleError::Unpack { path: path.clone(), source };
        let packed = fs::read(path).map_err(unpack)?;
        if path.extension().is_some_and(|extension| extension == "ko") {
            return Ok(packed);
        }
        let mut content = Vec::new();
        lzma_rust2::XzReader::new(packed.as_slice(), false)
            .take(MODULE_BYTES_MAX)
            .read_to_end(&mut content)
            .map_err(unpack)?;
        Ok(content)
    }
}

/// `kvm_amd` for `…/kvm-amd.ko.xz` and `…/kvm-amd.ko`; nothing for other files.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let stem = file.strip_suffix(".xz").unwrap_or(file).strip_suffix(".ko")?;
    Some(modules::normalized(stem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_named_after_its_file() {
        assert_eq!(module_name(Path::new("kernel/kvm/kvm-amd.ko.xz")).as_deref(), Some("kvm_amd"));
        assert_eq!(module_name(Path::new("a/virtio_pci.ko")).as_deref(), Some("virtio_pci"));
        assert_eq!(module_name(Path::new("modules.order")), None);
    }
}
