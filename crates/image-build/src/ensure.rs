use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use base_types::TemplateName;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::cache::{self, Key, Keys};
use crate::error::{BuildError, OnFile as _};
use crate::initrd;
use crate::kernel::{self, Unpacked};
use crate::progress::{Outcome, Progress};
use crate::template;

/// How the working directories in the cache begin.
pub(crate) const KERNEL_WORKING: &str = "kernel-";
pub(crate) const TEMPLATE_WORKING: &str = "template-";
const WORKING: [&str; 2] = [KERNEL_WORKING, TEMPLATE_WORKING];

/// What goes into the images beside Debian packages.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The guest's PID 1, `sandflare-agent`.
    pub agent: PathBuf,
    /// For the portable host; `None` where KVM is native and none is needed.
    pub portable: Option<PortableInputs>,
    /// Which templates' root images to make.
    pub templates: Vec<TemplateName>,
}

impl Inputs {
    /// Asked first, so that a forgotten binary does not show after minutes of downloads.
    fn check(&self) -> Result<(), BuildError> {
        let mut binaries = vec![("guest agent", &self.agent)];
        if let Some(portable) = &self.portable {
            binaries.push(("portable host's init", &portable.init));
            binaries.push(("node daemon", &portable.sandflared));
            binaries.push(("microVM monitor", &portable.vmm));
            binaries.extend(portable.extra.iter().map(|(_, path)| ("extra program", path)));
        }
        match binaries.into_iter().find(|(_, path)| !path.is_file()) {
            Some((what, path)) => Err(BuildError::MissingBinary { what, path: path.clone() }),
            None => Ok(()),
        }
    }
}

/// The programs of the portable host.
#[derive(Clone, Debug)]
pub struct PortableInputs {
    /// Its PID 1, `sandflare-portable-init`.
    pub init: PathBuf,
    /// The node daemon.
    pub sandflared: PathBuf,
    /// The microVM monitor.
    pub vmm: PathBuf,
    /// More programs, as (name in `/bin`, file): a shell for developers, for one.
    pub extra: Vec<(String, PathBuf)>,
}

/// `kernel/manifest.json`: what the kernel is and how its files must hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelManifest {
    /// The kernel's release, as `uname -r` shows it.
    pub release: String,
    /// The version of the Debian package it came from.
    pub package_version: String,
    /// BLAKE3 of `kernel/vmlinux`, lowercase hex.
    pub vmlinux_blake3: String,
    /// BLAKE3 of `kernel/initrd`, lowercase hex.
    pub initrd_blake3: String,
}

/// Makes everything in `images` that is missing or made from other inputs:
///
/// ```text
/// kernel/vmlinux  kernel/initrd  kernel/manifest.json
/// portable/initrd
/// templates/<name>/root.ext4  templates/<name>/manifest.json
/// .cache/            downloads and content keys; nothing reads it but this crate
/// ```
///
/// Every file is replaced whole, so whoever reads beside a build sees the old or the new one. Packages are taken
/// from the archive once; to get newer ones, remove `.cache`.
///
/// # Errors
/// See [`BuildError`]; what was there before stays usable, and the next call goes on where this one stopped.
pub fn ensure(images: &Path, inputs: &Inputs, progress: &dyn Progress) -> Result<(), BuildError> {
    inputs.check()?;
    let cache = images.join(".cache");
    for directory in
        [&cache, &images.join("kernel"), &images.join("portable"), &images.join("templates")]
    {
        fs::create_dir_all(directory).on("create", directory)?;
    }
    let _lock = lock(&cache)?;
    sweep(&cache)?;
    let keys = Keys::in_directory(cache.join("keys"));
    let unpacked = kernel::ensure(&cache, &keys, progress)?;
    guest_kernel(images, &cache, &keys, &unpacked, inputs, progress)?;
    if let Some(portable) = &inputs.portable {
        portable_initrd(images, &cache, &keys, &unpacked, portable, progress)?;
    }
    for name in &inputs.templates {
        template::ensure(&images.join("templates"), &cache, &keys, name, progress)?;
    }
    Ok(())
}

/// One build at a time in one directory; a second one waits, and then finds its work done.
fn lock(cache: &Path) -> Result<File, BuildError> {
    let path = cache.join("lock");
    let file = OpenOptions::new().create(true).append(true).open(&path).on("open", &path)?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)
        .map_err(std::io::Error::from)
        .on("lock", &path)?;
    Ok(file)
}

/// Removes the working directories of builds that were killed.
fn sweep(cache: &Path) -> Result<(), BuildError> {
    for entry in fs::read_dir(cache).on("read", cache)? {
        let path = entry.on("read", cache)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if WORKING.iter().any(|prefix| name.starts_with(prefix)) && path.is_dir() {
            fs::remove_dir_all(&path).on("remove", &path)?;
        }
    }
    Ok(())
}

fn guest_kernel(
    images: &Path,
    cache: &Path,
    keys: &Keys,
    unpacked: &Unpacked,
    inputs: &Inputs,
    progress: &dyn Progress,
) -> Result<(), BuildError> {
    let step = "guest initrd";
    progress.begin(step);
    let into = images.join("kernel");
    let (vmlinux, initrd, manifest) =
        (into.join("vmlinux"), into.join("initrd"), into.join("manifest.json"));
    let mut key = Key::of("guest-initrd");
    add_kernel(&mut key, unpacked, &unpacked.guest_modules);
    add_binary(&mut key, "guest agent", &inputs.agent)?;
    let key = key.finish();
    if keys.holds("guest-initrd", &key, &[&vmlinux, &initrd, &manifest]) {
        progress.end(step, Outcome::Reused);
        return Ok(());
    }
    keys.forget("guest-initrd")?;
    replace_with_copy(&cache.join("vmlinux"), &vmlinux)?;
    let fresh = into.join(".initrd");
    initrd::write(
        &fresh,
        &[("init", &inputs.agent)],
        &cache.join("modules"),
        &unpacked.guest_modules,
    )?;
    let description = KernelManifest {
        release: unpacked.release.clone(),
        package_version: unpacked.package_version.clone(),
        vmlinux_blake3: unpacked.vmlinux_blake3.clone(),
        initrd_blake3: cache::hash_file(&fresh).on("read", &fresh)?,
    };
    fs::rename(&fresh, &initrd).on("write", &initrd)?;
    let text = serde_json::to_vec_pretty(&description)
        .map_err(|source| BuildError::Manifest { path: manifest.clone(), source })?;
    cache::replace(&manifest, &text)?;
    keys.record("guest-initrd", &key)?;
    progress.end(step, Outcome::Built);
    Ok(())
}

fn portable_initrd(
    images: &Path,
    cache: &Path,
    keys: &Keys,
    unpacked: &Unpacked,
    inputs: &PortableInputs,
    progress: &dyn Progress,
) -> Result<(), BuildError> {
    let step = "portable host initrd";
    progress.begin(step);
    let initrd = images.join("portable/initrd");
    let mut key = Key::of("portable-initrd");
    add_kernel(&mut key, unpacked, &unpacked.portable_modules);
    add_binary(&mut key, "portable host's init", &inputs.init)?;
    add_binary(&mut key, "node daemon", &inputs.sandflared)?;
    add_binary(&mut key, "microVM monitor", &inputs.vmm)?;
    for (name, path) in &inputs.extra {
        key.add("name", name);
        add_binary(&mut key, "extra program", path)?;
    }
    let key = key.finish();
    if keys.holds("portable-initrd", &key, &[&initrd]) {
        progress.end(step, Outcome::Reused);
        return Ok(());
    }
    keys.forget("portable-initrd")?;
    let extra: Vec<(String, &Path)> =
        inputs.extra.iter().map(|(name, path)| (format!("bin/{name}"), path.as_path())).collect();
    let mut programs: Vec<(&str, &Path)> = vec![
        ("init", &inputs.init),
        ("bin/sandflared", &inputs.sandflared),
        ("bin/sandflare-vmm", &inputs.vmm),
    ];
    programs.extend(extra.iter().map(|(inside, outside)| (inside.as_str(), *outside)));
    let fresh = images.join("portable/.initrd");
    initrd::write(&fresh, &programs, &cache.join("modules"), &unpacked.portable_modules)?;
    fs::rename(&fresh, &initrd).on("write", &initrd)?;
    keys.record("portable-initrd", &key)?;
    progress.end(step, Outcome::Built);
    Ok(())
}

/// Adds a kernel and those of its modules that go with it.
fn add_kernel(key: &mut Key, unpacked: &Unpacked, modules: &[String]) {
    key.add("kernel", &unpacked.vmlinux_blake3);
    for module in modules {
        key.add("module", module);
    }
}

fn add_binary(key: &mut Key, what: &'static str, path: &Path) -> Result<(), BuildError> {
    key.add(what, &cache::hash_file(path).on("read", path)?);
    Ok(())
}

fn replace_with_copy(from: &Path, to: &Path) -> Result<(), BuildError> {
    let content = fs::read(from).on("read", from)?;
    cache::replace(to, &content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_build_left_is_removed_and_nothing_else() {
        let cache = tempfile::tempdir().unwrap();
        for directory in ["kernel-a1", "template-b2", "keys", "modules"] {
            fs::create_dir(cache.path().join(directory)).unwrap();
        }
        fs::write(cache.path().join("kernel-notes"), "a file").unwrap();
        sweep(cache.path()).unwrap();
        let mut left: Vec<_> = fs::read_dir(cache.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["kernel-notes", "keys", "modules"]);
    }

    #[test]
    fn another_module_makes_another_initrd() {
        let kernel = Unpacked {
            release: "6.12".to_owned(),
            package_version: "6.12-1".to_owned(),
            vmlinux_blake3: "aa".to_owned(),
            guest_modules: vec!["virtio_blk.ko".to_owned()],
            portable_modules: Vec::new(),
        };
        let key_with = |modules: &[String]| {
            let mut key = Key::of("initrd");
            add_kernel(&mut key, &kernel, modules);
            key.finish()
        };
        let more = [kernel.guest_modules.clone(), vec!["quota_v2.ko".to_owned()]].concat();
        assert_eq!(key_with(&kernel.guest_modules), key_with(&kernel.guest_modules));
        assert_ne!(key_with(&kernel.guest_modules), key_with(&more));
    }

    #[test]
    fn a_missing_binary_is_named_before_anything_is_downloaded() {
        let images = tempfile::tempdir().unwrap();
        let inputs =
            Inputs { agent: "/nowhere/agent".into(), portable: None, templates: Vec::new() };
        let error = ensure(images.path(), &inputs, &crate::Silent).unwrap_err();
        assert_eq!(error.to_string(), "the guest agent is not at /nowhere/agent; build it first");
    }
}
