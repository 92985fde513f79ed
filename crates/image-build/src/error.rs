use std::io;
use std::path::{Path, PathBuf};

use crate::bzimage::ExtractError;
use crate::elf::ElfError;
use crate::modules::OrderError;

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Root images need device nodes, owners and chroot.
    #[error("building template `{template}` needs root; run the same command with sudo")]
    NotRoot {
        /// The template asked for.
        template: String,
    },
    /// A program this step runs is not installed.
    #[error("`{program}` is not installed; install the Debian package {package}")]
    MissingProgram {
        /// The program's name.
        program: String,
        /// The Debian package that holds it.
        package: &'static str,
    },
    /// A program this step runs failed.
    #[error("{doing} failed: {said}")]
    Program {
        /// What it was run for.
        doing: String,
        /// The last lines it wrote, or its exit status.
        said: String,
    },
    /// The disk is too full to begin.
    #[error(
        "only {free_mib} MiB are free at {path}, and building template `{template}` needs {needed_mib}; free some space"
    )]
    DiskFull {
        /// The template asked for.
        template: String,
        /// The file system that was asked, by a path on it.
        path: PathBuf,
        /// What is free, in MiB.
        free_mib: u64,
        /// What is needed, in MiB.
        needed_mib: u64,
    },
    /// A template nobody described.
    #[error("there is no recipe for template `{template}`; there are: {known}")]
    UnknownTemplate {
        /// The template asked for.
        template: String,
        /// The templates there are, separated by commas.
        known: String,
    },
    /// A binary that belongs into an image is not there.
    #[error("the {what} is not at {path}; build it first")]
    MissingBinary {
        /// Which binary.
        what: &'static str,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A file operation failed; a full disk shows here.
    #[error("cannot {doing} {path}")]
    File {
        /// The verb.
        doing: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The archive does not have what it should.
    #[error("the Debian archive gave no {what}; check the machine's apt configuration and network")]
    Archive {
        /// What was looked for.
        what: String,
    },
    /// The kernel package holds no kernel this program can boot.
    #[error("cannot use the kernel from package {package}")]
    Kernel {
        /// The package.
        package: String,
        /// What is wrong.
        source: ExtractError,
    },
    /// A kernel module is missing from the kernel package.
    #[error("kernel {release} has no module `{name}`")]
    MissingModule {
        /// The kernel's release.
        release: String,
        /// The module.
        name: String,
    },
    /// No load order of the kernel modules.
    #[error("cannot order the kernel modules")]
    Modules {
        /// What is wrong.
        source: OrderError<ModuleError>,
    },
    /// A description beside an image cannot be read.
    #[error("{path} is damaged; delete it and run again")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
}

/// Why a kernel module could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// Not in the kernel package.
    #[error("the module is not in the kernel package")]
    Missing,
    /// Cannot be read or decompressed.
    #[error("cannot unpack {path}")]
    Unpack {
        /// The file.
        path: PathBuf,
        /// What the system or the decoder said.
        source: io::Error,
    },
    /// Not a sound ELF64.
    #[error("cannot read the module's description")]
    Elf {
        /// What is wrong.
        source: ElfError,
    },
}

/// Adds to an input or output error what was being done to which file.
pub(crate) trait OnFile<T> {
    fn on(self, doing: &'static str, path: &Path) -> Result<T, BuildError>;
}

impl<T> OnFile<T> for io::Result<T> {
    fn on(self, doing: &'static str, path: &Path) -> Result<T, BuildError> {
        self.map_err(|source| BuildError::File { doing, path: path.to_owned(), source })
    }
}
