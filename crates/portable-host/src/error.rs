use std::io;
use std::path::{Path, PathBuf};

/// Why the portable host could not be started, stopped or used.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// QEMU or a file system tool is missing.
    #[error("`{program}` is not installed; install the Debian package {package}")]
    MissingProgram {
        /// The program's name.
        program: &'static str,
        /// The Debian package that holds it.
        package: &'static str,
    },
    /// Another process starts or stops the same portable host right now.
    #[error(
        "the portable host in {state} is being started or stopped by another process; try again when it is done"
    )]
    Busy {
        /// The state directory.
        state: PathBuf,
    },
    /// Someone else listens on the port.
    #[error("port {port} on 127.0.0.1 is in use; stop what listens there or choose another port")]
    PortBusy {
        /// The port.
        port: u16,
    },
    /// The disk is nearly full.
    #[error(
        "only {free_mib} MiB are free at {path}, and the portable host needs {needed_mib}; free some space"
    )]
    DiskFull {
        /// The file system that was asked, by a path on it.
        path: PathBuf,
        /// What is free, in MiB.
        free_mib: u64,
        /// What is needed, in MiB.
        needed_mib: u64,
    },
    /// An image was never built.
    #[error("there is no {path}; build the images first")]
    MissingImage {
        /// The file.
        path: PathBuf,
    },
    /// An image is not what its manifest says.
    #[error(
        "{path} is damaged: it does not match its manifest; remove it and build the images again"
    )]
    CorruptImage {
        /// The file.
        path: PathBuf,
    },
    /// A manifest cannot be read.
    #[error("{path} is not a valid manifest; remove it and build the images again")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A path is too long for a Unix socket.
    #[error(
        "the path {state} is too long for the sockets in it; choose a state directory of at most {bytes_max} bytes"
    )]
    PathTooLong {
        /// The state directory.
        state: PathBuf,
        /// How long it may be.
        bytes_max: usize,
    },
    /// A tool failed.
    #[error("{doing} failed: {said}")]
    Program {
        /// What it was run for.
        doing: &'static str,
        /// The last of what it wrote.
        said: String,
    },
    /// QEMU did not come up.
    #[error("QEMU did not start: {said}")]
    Qemu {
        /// What it wrote.
        said: String,
    },
    /// The program did not end in the time given.
    #[error(
        "the portable host did not finish within {seconds} s; it was stopped, and this was its last output: {last}"
    )]
    TimedOut {
        /// The time given.
        seconds: u64,
        /// The end of its output.
        last: String,
    },
    /// QEMU ended without PID 1 reporting.
    #[error("the portable host ended before its program did: {last}")]
    Died {
        /// The end of its kernel log.
        last: String,
    },
    /// A file operation failed.
    #[error("cannot {doing} {path}")]
    File {
        /// The verb.
        doing: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Adds to an input or output error what was being done to which file.
pub(crate) trait OnFile<T> {
    fn on(self, doing: &'static str, path: &Path) -> Result<T, HostError>;
}

impl<T, E: Into<io::Error>> OnFile<T> for Result<T, E> {
    fn on(self, doing: &'static str, path: &Path) -> Result<T, HostError> {
        self.map_err(|source| HostError::File {
            doing,
            path: path.to_owned(),
            source: source.into(),
        })
    }
}
