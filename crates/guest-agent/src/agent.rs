//! What all requests share.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;

use crate::accounts::AccountsCache;
use crate::children::Children;
use crate::identity::Identity;
use crate::process::Processes;

/// How an agent is told to behave; decided once, at its start.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Who commands run as and files belong to unless a request says otherwise.
    pub(crate) user: String,
    /// Where identity is kept: below this directory stand `etc` and `run`. `None`: nowhere.
    pub(crate) identity_root: Option<PathBuf>,
    /// The random device to reseed. `None`: none is.
    pub(crate) random_device: Option<PathBuf>,
    /// Whether this process owns the machine: sets its clock and host name, drops its caches, and
    /// serves nobody but its host.
    pub(crate) owns_machine: bool,
}

/// One agent.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) settings: Settings,
    pub(crate) accounts: AccountsCache,
    pub(crate) children: Arc<Children>,
    pub(crate) identity: Identity,
    pub(crate) processes: Processes,
    /// `/dev/null`, the standard input of commands that get none.
    pub(crate) nothing: File,
}

impl Agent {
    pub(crate) fn new(settings: Settings) -> anyhow::Result<Self> {
        Ok(Self {
            accounts: AccountsCache::new("/etc/passwd".into(), "/etc/group".into()),
            children: Arc::default(),
            processes: Processes::default(),
            identity: Identity::prepare(&settings)?,
            nothing: File::open("/dev/null").context("cannot open /dev/null")?,
            settings,
        })
    }
}
