use serde::{Deserialize, Serialize};

use crate::check::{Check, Refused, mode, path, user};

/// A file or directory of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct FileEntry {
    /// Its name, without the directories above it. Bytes that are not UTF-8 are shown as U+FFFD.
    pub name: String,
    /// What it is.
    pub kind: FileKind,
    /// Bytes in it.
    pub size: u64,
    /// Permission bits, as a decimal number (420 is octal 644).
    pub mode: u32,
    /// Owner's number.
    pub uid: u32,
    /// Group's number.
    pub gid: u32,
    /// When it was last written, in milliseconds since the Unix epoch.
    pub modified_at_ms: i64,
    /// Where a symbolic link points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// What a directory entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, socket or pipe.
    Other,
}

/// The entries of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct DirectoryList {
    /// By name.
    pub entries: Vec<FileEntry>,
    /// Whether there were more than the node lists.
    #[serde(default)]
    pub truncated: bool,
}

/// Which file or directory, as whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "server", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct FileQuery {
    /// Absolute path in the sandbox.
    pub path: String,
    /// User whose rights count. Default: `root`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl FileQuery {
    /// This path, with the rights of root.
    pub fn at(path: impl Into<String>) -> Self {
        Self { path: path.into(), user: None }
    }
}

impl Check for FileQuery {
    fn check(&self) -> Result<(), Refused> {
        path("path", &self.path)?;
        user(self.user.as_deref())
    }
}

/// Where to unpack an archive, as whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "server", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct UnpackQuery {
    /// Absolute path of a directory in the sandbox. It and those above it are made.
    pub path: String,
    /// User whose rights count, and who owns what is made. Default: `agent` owns it, with root's rights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl Check for UnpackQuery {
    fn check(&self) -> Result<(), Refused> {
        path("path", &self.path)?;
        user(self.user.as_deref())
    }
}

/// Where to write, as whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "server", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct FileWriteQuery {
    /// Absolute path in the sandbox. Directories above it are made.
    pub path: String,
    /// Permission bits as a decimal number. Default: 420 (octal 644), or what the file has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// User whose rights count, and who owns the file. Default: `agent` owns it, or who owns the file that
    /// is there, with root's rights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl Check for FileWriteQuery {
    fn check(&self) -> Result<(), Refused> {
        path("path", &self.path)?;
        mode(self.mode)?;
        user(self.user.as_deref())
    }
}

/// A directory to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MakeDirectory {
    /// Absolute path in the sandbox. Directories above it are made; one that is there is fine.
    pub path: String,
    /// Permission bits as a decimal number. Default: 493 (octal 755).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// User whose rights count, and who owns what is made. Default: `agent` owns it, with root's rights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl Check for MakeDirectory {
    fn check(&self) -> Result<(), Refused> {
        path("path", &self.path)?;
        mode(self.mode)?;
        user(self.user.as_deref())
    }
}

/// A file or directory to move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MoveFile {
    /// Absolute path of what to move.
    pub from: String,
    /// Absolute path it gets; a file there is replaced.
    pub to: String,
    /// User whose rights count. Default: `root`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl Check for MoveFile {
    fn check(&self) -> Result<(), Refused> {
        path("from", &self.from)?;
        path("to", &self.to)?;
        user(self.user.as_deref())
    }
}

/// What to remove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "server", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct RemoveQuery {
    /// Absolute path in the sandbox.
    pub path: String,
    /// Whether a directory goes with all that is in it.
    #[serde(default)]
    pub recursive: bool,
    /// User whose rights count. Default: `root`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl Check for RemoveQuery {
    fn check(&self) -> Result<(), Refused> {
        path("path", &self.path)?;
        user(self.user.as_deref())
    }
}
