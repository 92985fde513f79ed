use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::launch::native::Process;
use crate::place::Place;

/// Which node `up` started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Port of 127.0.0.1 it serves.
    pub(crate) port: u16,
    /// How it runs.
    #[serde(flatten)]
    pub(crate) way: Way,
}

/// How a node runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "way", rename_all = "snake_case")]
pub(crate) enum Way {
    /// A process of this machine.
    Native {
        /// The daemon.
        process: Process,
    },
    /// In the portable host, which knows itself what runs.
    Portable,
}

impl Record {
    /// The record in `place`, if there is one that can be read.
    pub(crate) fn read(place: &Place) -> Result<Option<Self>> {
        let path = place.record();
        match fs::read(&path) {
            // One that does not parse was torn by a full disk, and describes nothing.
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    pub(crate) fn write(&self, place: &Place) -> Result<()> {
        let path = place.record();
        let partial = place.home.join("node.json.part");
        let text = serde_json::to_vec_pretty(self)?;
        fs::write(&partial, text).with_context(|| format!("write {}", partial.display()))?;
        fs::rename(&partial, &path).with_context(|| format!("write {}", path.display()))
    }

    pub(crate) fn remove(place: &Place) -> Result<()> {
        let path = place.record();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// What the node writes.
    pub(crate) fn log(&self, place: &Place) -> PathBuf {
        match self.way {
            Way::Native { .. } => place.log(),
            Way::Portable => portable_host::PortableHost::at(&portable_state(place)).console_log(),
        }
    }
}

/// Disks, logs and sockets of the portable host.
pub(crate) fn portable_state(place: &Place) -> PathBuf {
    place.home.join("portable")
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_record_survives_its_file_and_a_torn_one_is_none() {
        let home = tempfile::tempdir().unwrap();
        let place = Place {
            url: "http://127.0.0.1:1".into(),
            home: home.path().into(),
            key: None,
            ca: None,
        };
        assert_eq!(Record::read(&place).unwrap(), None);
        for way in [Way::Portable, Way::Native { process: Process { pid: 7, started_ticks: 99 } }] {
            let record = Record { port: 7878, way };
            record.write(&place).unwrap();
            assert_eq!(Record::read(&place).unwrap(), Some(record));
        }
        fs::write(place.record(), "{\"port\":").unwrap();
        assert_eq!(Record::read(&place).unwrap(), None);
        Record::remove(&place).unwrap();
        Record::remove(&place).unwrap();
    }
}
