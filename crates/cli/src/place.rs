//! Settings of this program, resolved once: flag over environment over default.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::complaint::advise;

/// Which node to ask.
const API_URL: &str = "SANDFLARE_API_URL";
/// Where `up` keeps images and data.
const HOME: &str = "SANDFLARE_HOME";
/// Port of a node's API.
pub(crate) const PORT_DEFAULT: u16 = 7878;

/// Where things are.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The node's address.
    pub(crate) url: String,
    /// Directory of everything `up` makes.
    pub(crate) home: PathBuf,
}

impl Place {
    pub(crate) fn resolve(url: Option<String>) -> Result<Self> {
        let text = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let url = url
            .or_else(|| text(API_URL))
            .unwrap_or_else(|| format!("http://127.0.0.1:{PORT_DEFAULT}"));
        let home = match (text(HOME), text("HOME")) {
            (Some(home), _) => PathBuf::from(home),
            (None, Some(home)) => Path::new(&home).join(".local/share/sandflare"),
            (None, None) => {
                return Err(advise(
                    "neither SANDFLARE_HOME nor HOME is set",
                    "set SANDFLARE_HOME to a directory with a few GiB of room",
                ));
            }
        };
        if !home.is_absolute() {
            return Err(advise(
                format!("SANDFLARE_HOME is `{}`, which is relative", home.display()),
                "set it to an absolute path",
            ));
        }
        Ok(Self { url, home })
    }

    /// Kernel, initrds and root images.
    pub(crate) fn images(&self) -> PathBuf {
        self.home.join("images")
    }

    /// The node's data, or the disk image it is on.
    pub(crate) fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    /// What the node writes.
    pub(crate) fn log(&self) -> PathBuf {
        self.home.join("node.log")
    }

    /// Which node `up` started.
    pub(crate) fn record(&self) -> PathBuf {
        self.home.join("node.json")
    }
}
