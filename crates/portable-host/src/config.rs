use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::disks::DATA_BYTES_DEFAULT;

/// Memory of the portable host, in MiB. Thirty idle sandboxes of one template fit.
pub const MEMORY_MIB_DEFAULT: u32 = 2560;

/// Virtual CPUs that programs in the portable host run on, each a thread here.
pub const VCPUS_DEFAULT: u32 = 2;

/// What the portable host is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where its disks, logs and sockets live; created when missing. One portable host per directory.
    pub state: PathBuf,
    /// The images directory, with `kernel`, `portable` and `templates`.
    pub images: PathBuf,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Virtual CPUs that programs run on.
    pub vcpus: u32,
    /// Size of the data disk in bytes, used when it is first made; it takes only what is written to it.
    pub data_bytes: u64,
    /// The port on 127.0.0.1 that leads to [`Self::guest_port`] inside.
    pub port: u16,
    /// The port the program listens on, at [`crate::ADDRESS`].
    pub guest_port: u16,
    /// The program to run, an absolute path inside.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Files to bring along, executable: (absolute path under `/bin` or `/etc` inside, file outside).
    pub files: Vec<(String, PathBuf)>,
    /// How long the program may take to end when asked to, in seconds.
    pub stop_seconds: u64,
}

impl Config {
    /// A portable host of the usual size that runs the node daemon with `args`.
    pub fn new(state: PathBuf, images: PathBuf, port: u16, args: Vec<String>) -> Self {
        Self {
            state,
            images,
            memory_mib: MEMORY_MIB_DEFAULT,
            vcpus: VCPUS_DEFAULT,
            data_bytes: DATA_BYTES_DEFAULT,
            port,
            guest_port: 7878,
            program: "/bin/sandflared".to_owned(),
            args,
            env: BTreeMap::new(),
            files: Vec::new(),
            stop_seconds: 30,
        }
    }
}
