//! Settings of this program, resolved once: flag over environment over default.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use api_node::Secret;
use client::{Client, Credentials};

use crate::complaint::advise;
use crate::key_file;

/// Which node to ask.
const API_URL: &str = "SANDFLARE_API_URL";
/// The key to ask it with.
const API_KEY: &str = "SANDFLARE_API_KEY";
/// Certificates to accept it by.
const CA: &str = "SANDFLARE_CA";
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
    /// The key given, which is not the one in the home directory.
    pub(crate) key: Option<Secret>,
    /// File of certificates to accept the node by.
    pub(crate) ca: Option<PathBuf>,
}

impl Place {
    pub(crate) fn resolve(url: Option<String>, ca: Option<PathBuf>) -> Result<Self> {
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
        let key = match text(API_KEY).map(|key| key.trim().parse()).transpose() {
            Ok(key) => key,
            Err(error) => {
                return Err(advise(
                    format!("SANDFLARE_API_KEY does not hold a key: {error}"),
                    "set it to a key, or unset it to use that of this machine's node",
                ));
            }
        };
        let ca = ca.or_else(|| text(CA).map(PathBuf::from));
        Ok(Self { url, home, key, ca })
    }

    /// A client of the node.
    pub(crate) fn client(&self) -> Result<Client> {
        self.client_of(&self.url)
    }

    /// A client of the node at `url`, with the key given, or else that of this machine's node, which
    /// goes to no other machine.
    pub(crate) fn client_of(&self, url: &str) -> Result<Client> {
        let key = match &self.key {
            Some(key) => Some(key.clone()),
            None if is_here(url) => key_file::read(&self.home)?,
            None => None,
        };
        let ca = match &self.ca {
            Some(path) => {
                Some(std::fs::read(path).with_context(|| format!("read {}", path.display()))?)
            }
            None => None,
        };
        Ok(Client::with(url, &Credentials { key, ca })?)
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

/// Whether `url` is on this machine.
fn is_here(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn only_an_address_of_this_machine_is_here() {
        for url in ["http://127.0.0.1:7878", "https://localhost/", "http://[::1]:1", "127.0.0.1:1"]
        {
            assert!(is_here(url), "{url}");
        }
        for url in [
            "http://10.0.0.1:7878",
            "http://127.0.0.1@10.0.0.1",
            "http://127.0.0.1.example",
            "http://10.0.0.1/127.0.0.1",
            "http://10.0.0.1?@127.0.0.1",
            "http://10.0.0.1#@127.0.0.1:1",
            "",
        ] {
            assert!(!is_here(url), "{url}");
        }
    }
}
