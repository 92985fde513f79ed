//! Kernel modules, from the initrd.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, bail};
use rustix::io::Errno;
use rustix::system::finit_module;

/// Loads the modules that `directory/order` names, one per line, and removes them from memory.
pub(super) fn load_all(directory: &Path) -> anyhow::Result<()> {
    let order = directory.join("order");
    let names = fs::read_to_string(&order)
        .with_context(|| format!("cannot read the list of modules {}", order.display()))?;
    for name in names.lines().map(str::trim).filter(|name| !name.is_empty()) {
        if name.contains('/') {
            bail!("the list of modules names `{name}`, which is not a file name");
        }
        let path = directory.join(name);
        let file =
            File::open(&path).with_context(|| format!("cannot open module {}", path.display()))?;
        match finit_module(&file, c"", 0) {
            // Built into the kernel, or loaded already.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot load module {name}"));
            }
        }
    }
    fs::remove_dir_all(directory).context("cannot remove the modules from the initrd")
}
