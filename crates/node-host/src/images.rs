//! The images a node is given: a kernel and the root disks of templates. Made outside, read here.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::machine::CMDLINE;
use base_types::{ParseNameError, Size, TemplateName};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// LIMIT: a manifest names a few thousand packages at most.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Changes when snapshots made by an earlier node must not be used any more.
const SNAPSHOT_FORMAT: u32 = 3;

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No such template.
    #[error("there is no template `{name}`; this node has {known}")]
    Unknown {
        /// What was asked for.
        name: TemplateName,
        /// What there is.
        known: String,
    },
    /// A file of an image is missing or cannot be read.
    #[error("read `{}`; build the images again", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A manifest is not what it should be.
    #[error("`{}` is damaged; build the images again", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Where.
        source: serde_json::Error,
    },
    /// A file is not the one its manifest describes.
    #[error("`{}` does not match its manifest ({what}); build the images again", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Size or checksum.
        what: &'static str,
    },
    /// A directory in the images is not named like a template.
    #[error("a template directory has a name no template can have")]
    Name(#[from] ParseNameError),
}

/// The directory with all images.
#[derive(Clone, Debug)]
pub struct Images {
    dir: PathBuf,
}

/// A kernel and the initial RAM disk that holds the agent.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// ELF file.
    pub vmlinux: PathBuf,
    /// cpio archive.
    pub initrd: PathBuf,
    /// What its manifest says.
    pub manifest: KernelManifest,
}

/// What the manifest of a kernel says.
#[derive(Clone, Debug, Deserialize)]
pub struct KernelManifest {
    /// As `uname -r` shows it.
    pub release: String,
    /// BLAKE3 of the ELF file, in hex.
    pub vmlinux_blake3: String,
    /// BLAKE3 of the archive, in hex.
    pub initrd_blake3: String,
}

/// The root disk of a template.
#[derive(Clone, Debug)]
pub struct RootImage {
    /// Raw ext4.
    pub root: PathBuf,
    /// What its manifest says.
    pub manifest: RootManifest,
}

/// What the manifest of a root disk says.
#[derive(Clone, Debug, Deserialize)]
pub struct RootManifest {
    /// Name of the template.
    pub name: TemplateName,
    /// Bytes of the disk.
    pub root_bytes: u64,
    /// BLAKE3 of the disk, in hex.
    pub root_blake3: String,
    /// Commands run once before the snapshot, so that what they load is in it.
    #[serde(default)]
    pub warm: Vec<Vec<String>>,
    /// Programs that run in the snapshot.
    #[serde(default)]
    pub services: Vec<Service>,
}

/// A program that runs from a template's first boot on, in its snapshot and in every clone.
#[derive(Clone, Debug, Deserialize)]
pub struct Service {
    /// The user it runs as.
    pub user: String,
    /// Program and arguments. It is started again whenever it ends.
    pub argv: Vec<String>,
    /// Commands run before it, as root.
    #[serde(default)]
    pub before: Vec<Vec<String>>,
    /// Run as root until it ends well: then the service is ready.
    pub ready: Vec<String>,
    /// Commands run when it is ready, as root.
    #[serde(default)]
    pub after: Vec<Vec<String>>,
    /// Commands run, as root, in the clone that shows what a clone touches first.
    #[serde(default)]
    pub touch: Vec<Vec<String>>,
}

impl Images {
    /// The images in `dir`. Nothing is read yet.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The kernel.
    pub fn kernel(&self) -> Result<Kernel, ImageError> {
        let dir = self.dir.join("kernel");
        let manifest = read_manifest(&dir)?;
        Ok(Kernel { vmlinux: dir.join("vmlinux"), initrd: dir.join("initrd"), manifest })
    }

    /// Names of all templates, sorted.
    pub fn names(&self) -> Result<Vec<TemplateName>, ImageError> {
        let path = self.dir.join("templates");
        let read = |source| ImageError::Read { path: path.clone(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).map_err(read)? {
            let entry = entry.map_err(read)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // Unfinished or foreign directories do not make the others unusable.
            if entry.path().join("manifest.json").is_file() && !name.starts_with('.') {
                names.push(name.parse()?);
            }
        }
        names.sort();
        Ok(names)
    }

    /// The root disk of template `name`.
    pub fn root(&self, name: &TemplateName) -> Result<RootImage, ImageError> {
        let dir = self.dir.join("templates").join(name.as_str());
        if !dir.join("manifest.json").exists() {
            let names = self.names().unwrap_or_default();
            let known = match names.as_slice() {
                [] => "no templates; build the images first".to_owned(),
                names => {
                    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
                }
            };
            return Err(ImageError::Unknown { name: name.clone(), known });
        }
        let manifest: RootManifest = read_manifest(&dir)?;
        let root = dir.join("root.ext4");
        let length = fs::metadata(&root)
            .map_err(|source| ImageError::Read { path: root.clone(), source })?
            .len();
        if length != manifest.root_bytes {
            return Err(ImageError::Mismatch { path: root, what: "size" });
        }
        Ok(RootImage { root, manifest })
    }
}

impl Kernel {
    /// Reads both files and compares them with the manifest. Blocks for a good part of a second.
    pub fn verify(&self) -> Result<(), ImageError> {
        verify(&self.vmlinux, &self.manifest.vmlinux_blake3)?;
        verify(&self.initrd, &self.manifest.initrd_blake3)
    }
}

impl RootImage {
    /// Reads the disk and compares it with the manifest. Blocks for seconds.
    pub fn verify(&self) -> Result<(), ImageError> {
        verify(&self.root, &self.manifest.root_blake3)
    }
}

fn verify(path: &Path, expected: &str) -> Result<(), ImageError> {
    let found = checksum(open(path)?)
        .map_err(|source| ImageError::Read { path: path.to_owned(), source })?;
    if found != expected {
        return Err(ImageError::Mismatch { path: path.to_owned(), what: "checksum" });
    }
    Ok(())
}

/// BLAKE3 of all of `file`, in hex.
pub(crate) fn checksum(file: File) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// What a snapshot depends on, as 16 hex digits: a snapshot with this key is as good as a new one.
pub(crate) fn snapshot_key(kernel: &Kernel, root: &RootImage, size: Size) -> String {
    let (vcpus, memory_mib) = (size.vcpus(), size.memory_mib());
    let (warm, services) = (&root.manifest.warm, &root.manifest.services);
    let text = format!(
        "{SNAPSHOT_FORMAT}\n{CMDLINE}\n{}\n{}\n{}\n{vcpus}\n{memory_mib}\n{warm:?}\n{services:?}\n",
        kernel.manifest.vmlinux_blake3, kernel.manifest.initrd_blake3, root.manifest.root_blake3,
    );
    blake3::hash(text.as_bytes()).to_hex().chars().take(16).collect()
}

/// Opens a file of an image.
pub(crate) fn open(path: &Path) -> Result<File, ImageError> {
    File::open(path).map_err(|source| ImageError::Read { path: path.into(), source })
}

fn read_manifest<T: DeserializeOwned>(dir: &Path) -> Result<T, ImageError> {
    let path = dir.join("manifest.json");
    let read = |source| ImageError::Read { path: path.clone(), source };
    if fs::metadata(&path).map_err(read)?.len() > MANIFEST_BYTES_MAX {
        return Err(ImageError::Mismatch { path, what: "size" });
    }
    let text = fs::read(&path).map_err(read)?;
    serde_json::from_slice(&text).map_err(|source| ImageError::Manifest { path, source })
}

#[cfg(test)]
mod test {
    use super::*;

    fn images_with(manifest: &str, root: &[u8]) -> (tempfile::TempDir, Images) {
        let dir = tempfile::tempdir().unwrap();
        let template = dir.path().join("templates/agent");
        fs::create_dir_all(&template).unwrap();
        fs::write(template.join("manifest.json"), manifest).unwrap();
        fs::write(template.join("root.ext4"), root).unwrap();
        let images = Images::new(dir.path().into());
        (dir, images)
    }

    const GOOD: &str = r#"{"name":"agent","suite":"trixie","root_bytes":4,"root_blake3":"aa",
        "warm":[["python3","-c","pass"]],"packages":[]}"#;

    #[test]
    fn an_unknown_template_is_refused_with_those_there_are() {
        let (_dir, images) = images_with(GOOD, b"root");
        let error = images.root(&"agnet".parse().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "there is no template `agnet`; this node has `agent`");
    }

    #[test]
    fn a_damaged_manifest_and_a_cut_disk_are_named() {
        let (_dir, images) = images_with("{\"name\":", b"root");
        let error = images.root(&"agent".parse().unwrap()).unwrap_err();
        assert!(matches!(error, ImageError::Manifest { .. }), "{error}");
        let (_dir, images) = images_with(GOOD, b"roo");
        let error = images.root(&"agent".parse().unwrap()).unwrap_err();
        assert!(matches!(error, ImageError::Mismatch { what: "size", .. }), "{error}");
    }

    #[test]
    fn a_changed_kernel_is_noticed() {
        let (dir, images) = images_with(GOOD, b"root");
        let kernel_dir = dir.path().join("kernel");
        fs::create_dir_all(&kernel_dir).unwrap();
        fs::write(kernel_dir.join("vmlinux"), b"kernel").unwrap();
        fs::write(kernel_dir.join("initrd"), b"initrd").unwrap();
        let manifest = |vmlinux: &[u8]| {
            format!(
                r#"{{"release":"6.12","package_version":"1","vmlinux_blake3":"{}","initrd_blake3":"{}"}}"#,
                blake3::hash(vmlinux).to_hex(),
                blake3::hash(b"initrd").to_hex()
            )
        };
        fs::write(kernel_dir.join("manifest.json"), manifest(b"kernel")).unwrap();
        images.kernel().unwrap().verify().unwrap();
        let before = snapshot_key(
            &images.kernel().unwrap(),
            &images.root(&"agent".parse().unwrap()).unwrap(),
            Size::Nano,
        );
        fs::write(kernel_dir.join("manifest.json"), manifest(b"another")).unwrap();
        let changed = images.kernel().unwrap();
        let error = changed.verify().unwrap_err();
        assert!(matches!(error, ImageError::Mismatch { what: "checksum", .. }), "{error}");
        let root = images.root(&"agent".parse().unwrap()).unwrap();
        assert_ne!(before, snapshot_key(&changed, &root, Size::Nano));
    }
}
