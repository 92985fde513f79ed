//! The tree as the checks see it: its text files, and what Cargo says about its crates.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Folders that hold nothing anyone wrote.
const NOT_OURS: [&str; 4] = ["target", ".git", "corpus", "artifacts"];
/// LIMIT: the longest text file, `Cargo.lock`, is under 200 KB; larger ones are not text.
const FILE_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// One text file.
#[derive(Debug)]
pub(crate) struct File {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) executable: bool,
}

impl File {
    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether all of it is test code: beside the code (`test.rs`, `tests.rs`) or in `tests/`.
    pub(crate) fn is_test(&self) -> bool {
        let mut parts = self.path.split('/').rev();
        let name = parts.next().unwrap_or_default();
        matches!(name, "test.rs" | "tests.rs") || parts.any(|part| matches!(part, "tests" | "test"))
    }

    /// Lines with their numbers, from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }
}

/// A dependency as a crate's manifest names it.
#[derive(Clone, Debug)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// Only for its tests and examples.
    pub(crate) dev: bool,
}

/// A crate of the workspace.
#[derive(Clone, Debug)]
pub(crate) struct Crate {
    pub(crate) name: String,
    /// The folder it lives in, relative to the root.
    pub(crate) folder: String,
    pub(crate) dependencies: Vec<Dependency>,
    /// Root files of its library and programs, relative to the root.
    pub(crate) roots: Vec<String>,
}

/// Everything the checks look at.
#[derive(Debug)]
pub(crate) struct Repository {
    pub(crate) files: BTreeMap<String, File>,
    pub(crate) crates: Vec<Crate>,
}

impl Repository {
    /// Reads the repository this program was built from.
    pub(crate) fn load() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let root = root.canonicalize().context("find the root of the repository")?;
        Ok(Self { files: read_files(&root)?, crates: read_crates(&root)? })
    }

    /// The files whose path starts with `prefix`.
    pub(crate) fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a File> {
        self.files.values().filter(move |file| file.path.starts_with(prefix))
    }

    /// The Rust files of all crates.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &File> {
        self.under("crates/").filter(|file| file.is_rust())
    }

    /// The text of a file, empty when there is none.
    pub(crate) fn text(&self, path: &str) -> &str {
        self.files.get(path).map_or("", |file| file.text.as_str())
    }

    /// The lines of a checked-in list, without comments and empty lines.
    pub(crate) fn list(&self, path: &str) -> Vec<&str> {
        let lines = self.text(path).lines().map(str::trim);
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
    }
}

fn read_files(root: &Path) -> Result<BTreeMap<String, File>> {
    let mut files = BTreeMap::new();
    let mut open: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("read {}", folder.display()))?;
            let path = entry.path();
            // A file another program removes while this one looks is not a file of ours.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                if !NOT_OURS.iter().any(|name| entry.file_name() == *name) {
                    open.push(path);
                }
            } else if metadata.is_file() && metadata.len() <= FILE_BYTES_MAX {
                let Ok(text) = fs::read_to_string(&path) else { continue };
                let relative = path.strip_prefix(root).context("stay inside the repository")?;
                let relative = relative.to_string_lossy().into_owned();
                let executable = metadata.permissions().mode() & 0o111 != 0;
                files.insert(relative.clone(), File { path: relative, text, executable });
            }
        }
    }
    Ok(files)
}

fn read_crates(root: &Path) -> Result<Vec<Crate>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--offline", "--no-deps", "--format-version", "1"])
        .current_dir(root)
        .output()
        .context("run cargo metadata")?;
    ensure!(
        output.status.success(),
        "cargo metadata failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    let mut crates = Vec::new();
    for package in array(&metadata, "packages") {
        let manifest = Path::new(text(package, "manifest_path"));
        let relative =
            |path: &Path| path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
        let dependencies = array(package, "dependencies").iter().map(|dependency| Dependency {
            name: text(dependency, "name").to_owned(),
            dev: text(dependency, "kind") == "dev",
        });
        let roots = array(package, "targets").iter().filter(|target| {
            array(target, "kind").iter().any(|kind| matches!(kind.as_str(), Some("lib" | "bin")))
        });
        crates.push(Crate {
            name: text(package, "name").to_owned(),
            folder: manifest.parent().map(relative).unwrap_or_default(),
            dependencies: dependencies.collect(),
            roots: roots.map(|target| relative(Path::new(text(target, "src_path")))).collect(),
        });
    }
    Ok(crates)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
