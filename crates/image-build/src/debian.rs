//! The Debian archive this machine uses, and taking packages from it.
//!
//! Signatures are always checked, against Debian's own keyring; only the mirror's address comes from the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command;
use crate::error::{BuildError, OnFile as _};

/// The suite kernels and root images come from.
pub const SUITE: &str = "trixie";

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";
const DEFAULT_SECURITY: &str = "http://deb.debian.org/debian-security";

/// Where packages come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mirror {
    main: String,
    security: String,
}

impl Mirror {
    /// The mirror this machine's apt uses for Debian, else Debian's own.
    pub(crate) fn of_this_machine() -> Self {
        let targets = command::run(
            Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)"]),
            "apt",
            "reading the machine's apt configuration",
            |_| {},
        );
        Self::among(
            &targets.map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default(),
        )
    }

    fn among(uris: &str) -> Self {
        let ending = |ending: &str| {
            let uri = uris.lines().map(|uri| uri.trim().trim_end_matches('/'));
            uri.filter(|uri| !uri.contains(char::is_whitespace))
                .find(|uri| uri.ends_with(ending))
                .map(str::to_owned)
        };
        Self {
            main: ending("/debian").unwrap_or_else(|| DEFAULT_MIRROR.to_owned()),
            security: ending("/debian-security").unwrap_or_else(|| DEFAULT_SECURITY.to_owned()),
        }
    }

    /// The lines of an apt `sources.list` for [`SUITE`] with its updates.
    pub(crate) fn sources(&self) -> String {
        let Self { main, security } = self;
        format!(
            "deb [signed-by={KEYRING}] {main} {SUITE} main\n\
             deb [signed-by={KEYRING}] {main} {SUITE}-updates main\n\
             deb [signed-by={KEYRING}] {security} {SUITE}-security main\n"
        )
    }
}

/// An apt of our own: its lists, cache and package state live in one directory and touch nothing of the machine's.
#[derive(Debug)]
pub(crate) struct PrivateApt {
    root: PathBuf,
}

impl PrivateApt {
    /// Prepares an apt in `root` and downloads the package lists.
    pub(crate) fn open(root: &Path) -> Result<Self, BuildError> {
        if !Path::new(KEYRING).exists() {
            return Err(BuildError::MissingProgram {
                program: KEYRING.to_owned(),
                package: "debian-archive-keyring",
            });
        }
        for directory in ["lists/partial", "archives/partial"] {
            let directory = root.join(directory);
            fs::create_dir_all(&directory).on("create", &directory)?;
        }
        let sources = root.join("sources.list");
        fs::write(&sources, Mirror::of_this_machine().sources()).on("write", &sources)?;
        let status = root.join("status");
        fs::write(&status, "").on("write", &status)?;
        let apt = Self { root: root.to_owned() };
        command::run(
            apt.command("apt-get").arg("update").arg("--error-on=any"),
            "apt",
            "downloading the Debian package lists",
            |_| {},
        )?;
        Ok(apt)
    }

    /// The first real package `package` depends on whose name starts with `prefix`, and its version.
    pub(crate) fn dependency(
        &self,
        package: &str,
        prefix: &str,
    ) -> Result<(String, String), BuildError> {
        let show = |package: &str| {
            command::run(
                self.command("apt-cache").args(["show", "--no-all-versions", package]),
                "apt",
                &format!("looking up package {package}"),
                |_| {},
            )
            .map(|text| String::from_utf8_lossy(&text).into_owned())
        };
        let missing = || BuildError::Archive { what: format!("package {package}") };
        let name = field(&show(package)?, "Depends")
            .and_then(|depends| first_with_prefix(&depends, prefix))
            .ok_or_else(missing)?;
        let version = field(&show(&name)?, "Version").ok_or_else(missing)?;
        Ok((name, version))
    }

    /// Downloads `package` (checked by hash against the signed lists) and unpacks its files into `into`.
    pub(crate) fn unpack(
        &self,
        package: &str,
        version: &str,
        into: &Path,
    ) -> Result<(), BuildError> {
        let archives = self.root.join("archives");
        let doing = format!("downloading package {package}");
        command::run(
            self.command("apt-get")
                .current_dir(&archives)
                .args(["download", &format!("{package}={version}")]),
            "apt",
            &doing,
            |_| {},
        )?;
        let mut found = None;
        for entry in fs::read_dir(&archives).on("read", &archives)? {
            let path = entry.on("read", &archives)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(&format!("{package}_")) && name.ends_with(".deb") {
                found = Some(path);
            }
        }
        let Some(archive) = found else {
            return Err(BuildError::Archive { what: format!("package {package}") });
        };
        command::run(
            Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(into),
            "dpkg",
            &format!("unpacking package {package}"),
            |_| {},
        )?;
        fs::remove_file(&archive).on("remove", &archive)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (name, path) in [
            ("Dir::Etc::SourceList", "sources.list"),
            ("Dir::State::Lists", "lists"),
            ("Dir::State::Status", "status"),
            ("Dir::Cache::Archives", "archives"),
        ] {
            command.arg("-o").arg(format!("{name}={}", self.root.join(path).display()));
        }
        // The caches would be shared with the machine's apt; the sandbox user cannot enter private directories.
        command.args([
            "-o",
            "Dir::Etc::SourceParts=/dev/null",
            "-o",
            "Dir::Cache::pkgcache=",
            "-o",
            "Dir::Cache::srcpkgcache=",
            "-o",
            "APT::Sandbox::User=",
            "-o",
            "APT::Architecture=amd64",
            "-o",
            "APT::Architectures=amd64",
            "-q",
        ]);
        command
    }
}

/// The value of `name:` in a Debian control paragraph.
fn field(paragraph: &str, name: &str) -> Option<String> {
    paragraph.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found == name).then(|| value.trim().to_owned())
    })
}

/// The first package of a dependency list whose name starts with `prefix`, without its version.
fn first_with_prefix(depends: &str, prefix: &str) -> Option<String> {
    depends
        .split([',', '|'])
        .filter_map(|dependency| dependency.split_whitespace().next())
        .find(|name| name.starts_with(prefix))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_mirror_is_used() {
        let uris = "http://mirror.example/apt/nodesource\nhttp://mirror.example/debian-security/\nhttp://mirror.example/debian/\n";
        let mirror = Mirror::among(uris);
        assert_eq!(mirror.main, "http://mirror.example/debian");
        assert_eq!(mirror.security, "http://mirror.example/debian-security");
    }

    #[test]
    fn without_a_mirror_debians_own_is_used() {
        assert_eq!(Mirror::among("").main, DEFAULT_MIRROR);
        assert_eq!(Mirror::among("http://x/debian [trusted=yes] y/debian").main, DEFAULT_MIRROR);
    }

    #[test]
    fn the_real_kernel_package_is_found_behind_the_metapackage() {
        let paragraph = "Package: linux-image-cloud-amd64\nVersion: 6.12.1-1\nDepends: linux-base, linux-image-6.12.1+deb13-cloud-amd64 (= 6.12.1-1)\n";
        let depends = field(paragraph, "Depends").unwrap();
        assert_eq!(
            first_with_prefix(&depends, "linux-image-").unwrap(),
            "linux-image-6.12.1+deb13-cloud-amd64"
        );
        assert_eq!(field(paragraph, "Version").unwrap(), "6.12.1-1");
        assert_eq!(field(paragraph, "Vers"), None);
    }
}
