use std::collections::BTreeMap;

use crate::{
    ENV_BYTES_MAX, METADATA_ENTRIES_MAX, METADATA_NAME_BYTES_MAX, METADATA_VALUE_BYTES_MAX,
    PATH_BYTES_MAX,
};

/// A request that parses but cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// What must hold of a request beyond its types. The router checks before it calls the trait, so
/// an implementation never sees a request that breaks these.
pub trait Check {
    /// Looks only at the request itself.
    ///
    /// # Errors
    ///
    /// One sentence naming the field and its bound.
    fn check(&self) -> Result<(), Refused>;
}

pub(crate) fn refuse<T>(reason: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(reason.into()))
}

/// An absolute path in the guest.
pub(crate) fn path(field: &str, path: &str) -> Result<(), Refused> {
    if path.len() > PATH_BYTES_MAX {
        refuse(format!("`{field}` is {} bytes long; at most {PATH_BYTES_MAX} are", path.len()))
    } else if !path.starts_with('/') {
        refuse(format!("`{field}` must be an absolute path of the sandbox, such as /home/agent/x"))
    } else if path.contains('\0') {
        refuse(format!("`{field}` contains a zero byte"))
    } else {
        Ok(())
    }
}

/// What an environment takes, with a byte for the end of each text.
pub(crate) fn env_bytes(env: &BTreeMap<String, String>) -> usize {
    env.iter().map(|(name, value)| name.len() + value.len() + 2).sum()
}

/// Environment variables.
pub(crate) fn env(env: &BTreeMap<String, String>) -> Result<(), Refused> {
    let total = env_bytes(env);
    if total > ENV_BYTES_MAX {
        return refuse(format!("`env` is {total} bytes; at most {ENV_BYTES_MAX} are allowed"));
    }
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return refuse(format!(
                "`env` has a variable named {name:?}, which no process can have"
            ));
        }
        if value.contains('\0') {
            return refuse(format!("`env` variable `{name}` contains a zero byte"));
        }
    }
    Ok(())
}

/// What an owner finds a sandbox by.
pub(crate) fn metadata(metadata: &BTreeMap<String, String>) -> Result<(), Refused> {
    if metadata.len() > METADATA_ENTRIES_MAX {
        return refuse(format!(
            "`metadata` has {} entries; at most {METADATA_ENTRIES_MAX} are allowed",
            metadata.len()
        ));
    }
    for (name, value) in metadata {
        if name.is_empty() || name.len() > METADATA_NAME_BYTES_MAX {
            return refuse(format!(
                "`metadata` has a name of {} bytes; names are 1 to {METADATA_NAME_BYTES_MAX}",
                name.len()
            ));
        }
        if value.len() > METADATA_VALUE_BYTES_MAX {
            return refuse(format!(
                "`metadata` value of {name:?} is {} bytes long; at most {METADATA_VALUE_BYTES_MAX} are",
                value.len()
            ));
        }
    }
    Ok(())
}

/// A user of the guest, by name or number.
pub(crate) fn user(name: Option<&str>) -> Result<(), Refused> {
    // LIMIT: Linux user names are at most 32 characters.
    match name {
        Some(name) if name.is_empty() || name.len() > 32 || name.contains(['\0', ':', '/']) => {
            refuse(format!("`user` {name:?} is not a user name"))
        }
        _ => Ok(()),
    }
}

/// Permission bits.
pub(crate) fn mode(mode: Option<u32>) -> Result<(), Refused> {
    match mode {
        Some(mode) if mode > 0o7777 => {
            refuse(format!("`mode` {mode} is over 4095 (octal 7777); it is a decimal number"))
        }
        _ => Ok(()),
    }
}
