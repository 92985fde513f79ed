//! Deleting what was made of a template.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use base_types::{Chain, Size, TemplateName};

use super::{BUILDING_PREFIX, TemplateState, Templates};

/// Why a template's snapshot was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteTemplateError {
    /// It is being loaded, made or deleted.
    #[error("the snapshot of template {name}, size {size}, is at work: {doing}")]
    Busy {
        /// The template.
        name: TemplateName,
        /// Its size.
        size: Size,
        /// What is being done.
        doing: String,
    },
    /// Something stands on it.
    #[error(
        "template {name}, size {size}, is in use (sandboxes: {sandboxes}, snapshots: {snapshots})"
    )]
    InUse {
        /// The template.
        name: TemplateName,
        /// Its size.
        size: Size,
        /// Sandboxes made from it.
        sandboxes: usize,
        /// Snapshots of such sandboxes.
        snapshots: usize,
    },
    /// Its files cannot be removed.
    #[error("remove the files of template {name}, size {size}")]
    Files {
        /// The template.
        name: TemplateName,
        /// Its size.
        size: Size,
        /// Why.
        source: io::Error,
    },
    /// The node is stopping.
    #[error("the node is shutting down")]
    Stopping,
}

impl Templates {
    /// Deletes what was made of a template at one size, of its earlier versions too, and says whether
    /// there was anything. `users` counts the sandboxes and snapshots that stand on it; it is asked
    /// when nothing new can.
    pub(crate) async fn delete(
        &self,
        name: &TemplateName,
        size: Size,
        users: impl FnOnce() -> (usize, usize),
    ) -> Result<bool, DeleteTemplateError> {
        let before = self.hold(name, size)?;
        let (sandboxes, snapshots) = users();
        if (sandboxes, snapshots) != (0, 0) {
            self.put(name, size, before);
            let name = name.clone();
            return Err(DeleteTemplateError::InUse { name, size, sandboxes, snapshots });
        }
        if let TemplateState::Ready(template) = &before {
            self.shared.shells.forget(size, template);
        }
        drop(before);
        let (dir, prefix) = (self.shared.dir.clone(), format!("{name}-{size}-"));
        // A task of its own: a caller that leaves does not keep others from the template.
        let (templates, at) = (self.clone(), name.clone());
        let removing = self.shared.tasks.spawn_blocking(move || {
            let removed = remove(&dir, &prefix);
            templates.put(&at, size, TemplateState::Unloaded);
            removed
        });
        let removed = removing.await.map_err(|_| DeleteTemplateError::Stopping)?;
        removed.map_err(|source| DeleteTemplateError::Files { name: name.clone(), size, source })
    }

    /// Whoever asks for the template now waits. Returns what it was.
    fn hold(&self, name: &TemplateName, size: Size) -> Result<TemplateState, DeleteTemplateError> {
        let mut entries = self.shared.lock();
        let sender = entries.entry((name.clone(), size)).or_default();
        if let TemplateState::Building { message, .. } = &*sender.borrow() {
            let (name, doing) = (name.clone(), message.clone());
            return Err(DeleteTemplateError::Busy { name, size, doing });
        }
        let message = format!("delete template {name}, size {size}");
        Ok(sender.send_replace(TemplateState::Building { message, percent: 0 }))
    }

    fn put(&self, name: &TemplateName, size: Size, state: TemplateState) {
        let mut entries = self.shared.lock();
        entries.entry((name.clone(), size)).or_default().send_replace(state);
    }
}

/// Removes the directories in `dir` that are `prefix` and a key. Each is whole, or of the kind that the next
/// start removes.
fn remove(dir: &Path, prefix: &str) -> io::Result<bool> {
    let mut found = false;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Names of templates may hold hyphens, and go on where another one's ends; keys hold none.
        if name.strip_prefix(prefix).is_none_or(|key| key.contains('-')) {
            continue;
        }
        found = true;
        let doomed = dir.join(format!("{BUILDING_PREFIX}{name}"));
        if doomed.exists() {
            fs::remove_dir_all(&doomed)?;
        }
        fs::rename(entry.path(), &doomed)?;
        if let Err(error) = fs::remove_dir_all(&doomed) {
            tracing::warn!("the next start removes {}: {}", doomed.display(), Chain(&error));
        }
    }
    File::open(dir)?.sync_all()?;
    Ok(found)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn all_versions_of_one_size_go_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["agent-nano-1", "agent-nano-2", "agent-small-1", "agent-nano-micro-1"];
        for name in names {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("state"), "x").unwrap();
        }
        assert!(remove(dir.path(), "agent-nano-").unwrap());
        let left: Vec<_> = names.iter().filter(|name| dir.path().join(name).exists()).collect();
        assert_eq!(left, [&"agent-small-1", &"agent-nano-micro-1"]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        assert!(!remove(dir.path(), "agent-nano-").unwrap());
    }
}
